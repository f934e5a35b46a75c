"""Repeated passes of a network over one image, in which the stages before the first trained one run only once."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from callbacks.adaptation.loss import compute_loss
from lightning_modules.networks.base import SegmentationNetwork, Stage
from lightning_modules.predictor import lay_out, predict_logits, run_network


class Passes:
    """Repeated passes over one image while some parameters are trained.

    A `SegmentationNetwork` lists its stages in order. Those before the first stage with trained parameters or active
    dropout have the same output in every pass, so they run only once, without gradients. Any other network runs whole.

    In training mode a pass also updates running statistics. Stages that run once would see the same batch in every
    pass, so n passes have a closed form: r_n = r_0 + (r_1 - r_0) * (1 - (1 - m)^n) / m with momentum m.

    Args:
        network: Any module, in the mode in which it will run, with IaBN in place.
        image: (B, 3, H, W) float, normalised.
        moving: The trained parameters.
    """

    def __init__(self, network: nn.Module, image: Tensor, moving: Iterable[Tensor]) -> None:
        self._network = network
        self._image = lay_out(network, image)
        self._as_listed = isinstance(network, SegmentationNetwork) and _runs_as_listed(network)
        self._moving = set(map(id, moving))
        self._state: Any = None
        self._stages: list[Stage] | None = None  # the stages that run in every pass; None before the first
        self._statistics: list[Statistics] = []  # those of the stages that run once

    def compute_loss(self, target: Tensor) -> Tensor:
        """Runs a pass; returns its () mean cross-entropy over the labelled pixels of (B, H, W) labels."""
        network = self._network
        if not isinstance(network, SegmentationNetwork) or not self._as_listed:
            return compute_loss(run_network(network, self._image), target, align_corners=False)
        logits = self._run_stages()
        if type(network).upsample is not SegmentationNetwork.upsample:
            logits = network.upsample(logits, *target.shape[-2:])
        return compute_loss(logits, target, network.align_corners)

    def predict(self) -> Tensor:
        """Runs a pass; returns the (B, K, H, W) logits."""
        network = self._network
        if not isinstance(network, SegmentationNetwork) or not self._as_listed:
            return predict_logits(network, self._image)
        return network.upsample(self._run_stages(), *self._image.shape[-2:])

    def move_statistics(self, passes: int) -> None:
        """Sets the running statistics of the stages that ran once to those after a number of training-mode passes."""
        for statistics in self._statistics:
            statistics.move(passes)

    def _run_stages(self) -> Tensor:
        if self._stages is None:
            self._stages = self._begin()
        state = self._state
        for stage in self._stages:
            state = stage.run(state)
        return state

    @torch.no_grad()
    def _begin(self) -> list[Stage]:
        """Runs the stages whose output is the same in every pass; returns the others."""
        assert isinstance(self._network, SegmentationNetwork)
        self._state, stages = self._image, self._network.list_stages()
        while stages and _is_constant(stages[0], self._moving):
            layers = [layer for part in stages[0].layers for layer in part.modules()]
            statistics = [Statistics(layer) for layer in layers if _moves_statistics(layer)]
            self._state = stages.pop(0).run(self._state)
            for one in statistics:
                one.note_first_pass()
            self._statistics += statistics
        return stages


class Statistics:
    """The running statistics of a layer before the first pass, and after any number of passes over the same batch.

    Args:
        layer: A layer with buffers ``running_mean`` and ``running_var``, and a ``momentum``.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._before = self._read()
        self._after = self._before

    def note_first_pass(self) -> None:
        """Stores the statistics after the first pass."""
        self._after = self._read()

    def move(self, passes: int) -> None:
        """Sets the layer's statistics to those after some number of passes over the same batch."""
        momentum: Any = self._layer.momentum
        factor: float | Tensor = float(passes)
        if momentum is None:  # cumulative average over all batches
            count = self._before["num_batches_tracked"].double()
            factor = passes * (count + 1) / (count + passes)
        elif momentum > 0:
            factor = (1 - (1 - momentum) ** passes) / momentum
        for name, before in self._before.items():
            change = (self._after[name] - before).double()
            moved = before.double() + change * (passes if name == "num_batches_tracked" else factor)
            self._layer._buffers[name].copy_(moved)  # type: ignore[union-attr]

    def _read(self) -> dict[str, Tensor]:
        names = ("running_mean", "running_var", "num_batches_tracked")
        buffers = {name: self._layer._buffers.get(name) for name in names}
        return {name: buffer.clone() for name, buffer in buffers.items() if buffer is not None}


def _moves_statistics(layer: nn.Module) -> bool:
    """Returns whether a forward pass of a layer in its current mode updates running statistics."""
    return layer.training and layer._buffers.get("running_mean") is not None and hasattr(layer, "momentum")


def _is_constant(stage: Stage, moving: set[int]) -> bool:
    """Returns whether a stage has neither trained parameters nor active dropout."""
    layers = [layer for part in stage.layers for layer in part.modules()]
    return not any(
        any(id(parameter) in moving for parameter in layer._parameters.values())
        or (isinstance(layer, _DropoutNd) and layer.training and layer.p > 0)
        for layer in layers
    )


def _runs_as_listed(network: SegmentationNetwork) -> bool:
    """Returns whether calling a network only runs its stages and upsamples their logits."""
    if network._forward_hooks or network._forward_pre_hooks or getattr(network, "_compiled_call_impl", None):
        return False
    own: Callable[..., Any] = SegmentationNetwork.forward
    return (
        type(network).forward is own
        and type(network).compute_logits is SegmentationNetwork.compute_logits
        and "forward" not in vars(network)
    )
