"""Repeated passes of a network over one image, in which the stages before the first trained one run only once."""

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from callbacks.adaptation.loss import upsampled_cross_entropy
from lightning_modules.networks.base import SegmentationNetwork, Stage
from lightning_modules.predictor import lay_out, predict_logits, run_network

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


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
        self._listed = network if _runs_as_listed(network) else None
        self._image = lay_out(network, image)
        self._moving = set(map(id, moving))
        self._state: Any = None
        self._stages: list[Stage] | None = None  # the stages that run in every pass; None before the first
        # Each layer with statistics in the stages that run once, and these before and after the first pass.
        self._statistics: list[tuple[Any, dict[str, Tensor], dict[str, Tensor]]] = []

    def compute_loss(self, target: Tensor) -> Tensor:
        """Runs a pass; returns its () mean cross-entropy over the labelled pixels of (B, H, W) labels."""
        network = self._listed
        if network is None:
            return upsampled_cross_entropy(run_network(self._network, self._image), target, align_corners=False)
        logits = self._run_stages(network)
        if type(network).upsample is not SegmentationNetwork.upsample:
            logits = network.upsample(logits, *target.shape[-2:])
        return upsampled_cross_entropy(logits, target, network.align_corners)

    def predict(self) -> Tensor:
        """Runs a pass; returns the (B, K, H, W) logits."""
        if self._listed is None:
            return predict_logits(self._network, self._image)
        return self._listed.upsample(self._run_stages(self._listed), *self._image.shape[-2:])

    def move_statistics(self, passes: int) -> None:
        """Sets the running statistics of the stages that ran once to those after a number of training-mode passes."""
        for layer, before, after in self._statistics:
            factor: Any
            if layer.momentum is None:  # cumulative average over all batches
                count = before["num_batches_tracked"].double()
                factor = passes * (count + 1) / (count + passes)
            else:
                momentum = layer.momentum or 1.0  # without momentum nothing changes
                factor = (1 - (1 - momentum) ** passes) / momentum
            for name, value in before.items():
                change = (after[name] - value).double() * (passes if name == "num_batches_tracked" else factor)
                layer._buffers[name].copy_(value.double() + change)

    def _run_stages(self, network: SegmentationNetwork) -> Tensor:
        if self._stages is None:
            self._state, self._stages = self._image, network.list_stages()
            while self._stages and _is_constant(self._stages[0], self._moving):
                self._run_once(self._stages.pop(0))
        state = self._state
        for stage in self._stages:
            state = stage.run(state)
        return state

    @torch.no_grad()
    def _run_once(self, stage: Stage) -> None:
        layers = [layer for part in stage.layers for layer in part.modules() if _moves_statistics(layer)]
        before = [_copy_statistics(layer) for layer in layers]
        self._state = stage.run(self._state)
        self._statistics += zip(layers, before, map(_copy_statistics, layers), strict=True)


def _moves_statistics(layer: nn.Module) -> bool:
    """Returns whether a forward pass of a layer in its current mode updates running statistics."""
    return layer.training and layer._buffers.get("running_mean") is not None and hasattr(layer, "momentum")


def _copy_statistics(layer: nn.Module) -> dict[str, Tensor]:
    buffers = {name: layer._buffers.get(name) for name in STATISTICS}
    return {name: buffer.clone() for name, buffer in buffers.items() if buffer is not None}


def _is_constant(stage: Stage, moving: set[int]) -> bool:
    """Returns whether a stage has neither trained parameters nor active dropout."""
    layers = [layer for part in stage.layers for layer in part.modules()]
    dropout = any(isinstance(layer, _DropoutNd) and layer.training and layer.p > 0 for layer in layers)
    trained = any(id(parameter) in moving for part in stage.layers for parameter in part.parameters())
    return not (dropout or trained)


def _runs_as_listed(network: nn.Module) -> TypeGuard[SegmentationNetwork]:
    """Returns whether calling a network only runs its stages and upsamples their logits."""
    base = SegmentationNetwork
    return (
        isinstance(network, base)
        and type(network).forward is base.forward
        and type(network).compute_logits is base.compute_logits
        and "forward" not in vars(network)
        and not (network._forward_hooks or network._forward_pre_hooks)
        and getattr(network, "_compiled_call_impl", None) is None
    )
