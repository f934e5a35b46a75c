"""Seg-TTT: a few SGD steps on the pseudo labels of the single test image, then the prediction, then a reset.

Source: paper, Sec. 4, Eq. 5-8; Sec. 5.2 and Appendix C for the settings.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.adaptation.alpha import Alpha, read_alpha
from callbacks.adaptation.arguments import check_number, check_refine, check_steps, check_trust
from callbacks.adaptation.parameters import select_parameters
from callbacks.adaptation.passes import Passes
from callbacks.adaptation.refinement import refine_edges
from callbacks.adaptation.steps import evaluating, in_float16, moving, seeded, take_step, try_loss_scales
from callbacks.adaptation.stopping import Deadline, Pace
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Adaptation, Method
from callbacks.pseudo_labels import IGNORED, check_psi, fuse_views, pseudo_labels
from callbacks.stages import stage
from callbacks.views import Normalization, Resampling, View, check_resampling, make_views
from lightning_modules.predictor import predict_logits
from lightning_modules.semantics import Semantics, check_semantics

DEFAULT_TRAINABLE = ("layer3", "layer4", "head")
# Arguments that do not affect the mean over the label views; and those that do not affect the steps.
NOT_IN_THE_VIEWS = ("psi", "num_steps", "lr", "trainable", "final_views", "trust", "refine")
NOT_IN_THE_STEPS = ("num_steps", "trust", "refine")
SWITCHES = {"flip": True, "grayscale": False, "autocontrast": False}  # defaults of a view set
UNLABELLED = "no pixel passed the confidence threshold, so no step was taken"

ViewSets = dict[str, Any] | list[dict[str, Any]]
Numbered = tuple[int, "SegTTT"]


class SegTTT(Method):
    """Test-time training on pseudo labels, with IaBN.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]; 0 turns IaBN off and accepts any network.
        psi: Confidence threshold of the pseudo labels in [0, 1], relative to the most confident pixel of a class.
        num_steps: Number of SGD steps, N_t.
        lr: Learning rate of SGD, eta; no momentum, no weight decay.
        trainable: Names of the modules to train, e.g. ``layer4`` or ``backbone.layer4``; a name matches anywhere in a
            path, so ``conv2`` trains that of every block. None means the network's own ``adapted_layers`` if it has
            them (under released semantics ``released_layers``, where the authors' code trains other layers), else
            layer3, layer4 and head (conv4_x, conv5_x, head).
        scales: Factors on the image's size for the views that give the pseudo labels, each above 0.
        flip: Whether the second view of each scale is mirrored.
        grayscale: Whether the second view of each scale is gray.
        semantics: ``paper`` follows the text: steps normalise with alpha, like the prediction. ``released`` follows the
            authors' code, which produced the published numbers: steps run in training mode, so they normalise by the
            image's own statistics, update the running ones and apply dropout; the confidence threshold is strict;
            Pillow makes the views; and a network with BatchNorm after global pooling gets the image twice.
        resampling: How to resize views: ``pillow`` or ``device``. None means ``pillow`` under released semantics, else
            ``device``.
        normalization: Mean and standard deviation used to normalise images; None means ImageNet's.
        time_budget_ms: Time limit per image in milliseconds: takes as many steps, up to `num_steps`, as are expected to
            leave time for the prediction. A single step or pass may exceed it. None means no limit.
        label_views: Views for the pseudo labels, in place of `scales`, `flip` and `grayscale`: a set, or a list of sets
            whose views are all averaged. A set has ``scales`` and optionally ``flip`` (default true), ``grayscale``
            (false) and ``autocontrast`` (false), see `View`.
        final_views: Views over which to average the adapted network's prediction, given like `label_views`. None
            predicts the image alone, as the paper does.
        trust: Weight of the adapted prediction in [0, 1]; the rest is IaBN's prediction without adaptation. Values
            below 1 hurt fewer images and gain a little less. The paper uses 1.
        refine: Number of iterations that align the prediction with the image's edges, as `refine_edges` does; 0 is
            the paper's.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        alpha: Alpha = 0.1,
        psi: float = 0.7,
        num_steps: int = 10,
        lr: float = 0.05,
        trainable: Sequence[str] | None = None,
        scales: Sequence[float] = (0.25, 0.5, 0.75),
        flip: bool = True,
        grayscale: bool = True,
        semantics: Semantics = "paper",
        resampling: Resampling | None = None,
        normalization: Normalization | None = None,
        time_budget_ms: float | None = None,
        label_views: ViewSets | None = None,
        final_views: ViewSets | None = None,
        trust: float = 1.0,
        refine: int = 0,
    ) -> None:
        super().__init__()
        check_psi(psi)
        check_steps(num_steps, lr)
        check_resampling(resampling)
        check_semantics(semantics)
        check_trust(trust)
        check_refine(refine)
        if time_budget_ms is not None:
            check_number("time_budget_ms", time_budget_ms, 1e-9, expected="milliseconds above 0, e.g. 500, or null")
        if isinstance(trainable, str):
            raise ValueError(f"trainable is the string {trainable!r}: expected a list of names, e.g. [{trainable!r}]")
        self.alpha = read_alpha(alpha)
        self.psi = psi
        self.num_steps = num_steps
        self.lr = lr
        self.trainable = None if trainable is None else tuple(trainable)
        self.flip = flip
        self.grayscale = grayscale
        self.semantics = semantics
        self.resampling: Resampling = resampling or ("pillow" if semantics == "released" else "device")
        self.normalization = normalization or Normalization()
        self.time_budget_ms = time_budget_ms
        self._pace: Pace = {}
        self.label_views = label_views
        self.final_views = final_views
        self.trust = trust
        self.refine = refine
        self.views = make_views(scales, flip, grayscale) if label_views is None else read_views(label_views)
        self.scales = tuple(scales)
        self._final = None if final_views is None else read_views(final_views)
        self._released = semantics == "released"

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if a name in `trainable` matches nothing, or alpha is above 0 and there is no BatchNorm."""
        self._select(network)
        check_batch_norm(network, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Adaptation:
        """Predicts one image; see `Method.adapt`."""
        ((_, outcome),) = self.adapt_variants(network, image, [self])
        return outcome

    def adapt_variants(
        self, network: nn.Module, image: Tensor, variants: Sequence[Method]
    ) -> Iterator[tuple[int, Adaptation]]:
        """Predicts the views once where settings share them, and takes steps once where only their number differs.

        See `Method.adapt_variants`. A time limit covers the whole image, so nothing is shared with one. In float16 each
        number of steps finds its own loss scale.
        """
        numbered = [(number, one) for number, one in enumerate(variants) if isinstance(one, SegTTT)]
        not_in_the_steps = [name for name in NOT_IN_THE_STEPS if name != "num_steps" or not in_float16(image.device)]
        for same_views in _group(numbered, NOT_IN_THE_VIEWS):
            method = same_views[0][1]
            deadline = Deadline(method.time_budget_ms, method._pace, image)
            with evaluating(network), adaptive_batch_norm(network, method.alpha):
                fused, copies = method._fuse(network, image)
                distrusted = any(one.trust < 1 for _, one in same_views)
                own = predict_logits(network, image).float().softmax(dim=1) if distrusted else None
                for same_steps in _group(same_views, not_in_the_steps):
                    method = same_steps[0][1]
                    target = method._label(fused).repeat(copies, 1, 1)
                    counts = sorted({one.num_steps for _, one in same_steps})
                    take_steps = partial(method._take_steps, network, image, target, counts, deadline)
                    for count, outcome in zip(counts, try_loss_scales(take_steps, image.device), strict=True):
                        for number, one in same_steps:
                            if one.num_steps == count:
                                yield number, one._finish(outcome, own, image)

    def _fuse(self, network: nn.Module, image: Tensor) -> tuple[Tensor, int]:
        """Returns the (1, K, H, W) mean over views, and the number of copies of the image in each step's batch."""
        values: dict[nn.Module, int] = {}  # the most values per channel that each BatchNorm normalises

        def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values[layer] = max(inputs[0].numel() // inputs[0].shape[1], values.get(layer, 0))

        norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and self._released]
        with ExitStack() as hooks:
            for layer in norms:
                hooks.enter_context(layer.register_forward_pre_hook(count))
            predict = partial(predict_logits, network)
            fused = fuse_views(predict, image, self.views, self.normalization, self.resampling)
        # A single value has no variance: after global pooling the image is doubled, as the authors do for DeepLabv3+.
        return fused, 2 if 1 in values.values() else 1

    def _label(self, fused: Tensor) -> Tensor:
        """Returns the (1, H, W) pseudo labels."""
        with stage("fusion"):
            return pseudo_labels(fused, self.psi, strict=self._released)

    def _take_steps(
        self, network: nn.Module, image: Tensor, target: Tensor, counts: Sequence[int], deadline: Deadline, scale: float
    ) -> Iterator[Adaptation]:
        """Trains on R copies of the image with (R, H, W) labels; predicts after each of the ascending step counts."""
        labelled = bool((target != IGNORED).any())
        losses: list[Tensor] = []
        with moving(network, self._select(network), self._released) as parameters:
            optimizer = torch.optim.SGD(parameters, lr=self.lr)
            passes = Passes(network, image.repeat(len(target), 1, 1, 1), parameters)
            for count in counts:
                while labelled and deadline.allows_step() and len(losses) < count:
                    network.train(self._released)  # uses batch statistics, updates running ones, applies dropout
                    with stage("step"), seeded(image.device, len(losses)), torch.enable_grad():
                        loss = passes.compute_loss(target)
                        take_step(loss, parameters, optimizer, scale)
                    losses.append(loss.detach())
                network.eval()
                with stage("final"), seeded(image.device):
                    if self._released:
                        passes.move_statistics(len(losses))
                    probabilities = self._predict(network, image, passes)
                note = None if labelled or count == 0 else UNLABELLED
                yield Adaptation(probabilities, torch.stack(losses).tolist() if losses else [], note)
        deadline.end()

    def _predict(self, network: nn.Module, image: Tensor, passes: Passes) -> Tensor:
        """Returns the (1, K, H, W) probabilities of the adapted network."""
        if self._final is not None:
            predict = partial(predict_logits, network)
            return fuse_views(predict, image, self._final, self.normalization, self.resampling)
        logits = predict_logits(network, image) if self._released else passes.predict()
        return logits.float().softmax(dim=1)

    def _finish(self, outcome: Adaptation, own: Tensor | None, image: Tensor) -> Adaptation:
        """Mixes an outcome with IaBN's unadapted (1, K, H, W) prediction if trust is below 1, then refines it."""
        if own is not None and self.trust < 1:
            outcome = outcome.temper(own, self.trust)
        return replace(outcome, probabilities=refine_edges(outcome.probabilities, image, self.refine))

    def _select(self, network: nn.Module) -> list[str]:
        """Returns the full names of the parameters to train."""
        own = getattr(network, "adapted_layers", DEFAULT_TRAINABLE)
        if self._released:
            own = getattr(network, "released_layers", own)
        return select_parameters(network, own if self.trainable is None else self.trainable)


def read_views(given: ViewSets) -> tuple[View, ...]:
    """Makes views from one or several sets of ``scales`` and the switches of `SWITCHES`.

    Raises:
        ValueError: If there is no set, or one has no scales, an unknown key or a value of the wrong type.
    """
    sets = given if isinstance(given, list | tuple) else [given]
    if not sets or not all(map(_is_view_set, sets)):
        raise ValueError(
            f"views are {given}: expected a set with scales and optionally flip, grayscale and autocontrast, e.g. "
            "{scales: [0.75, 1.0, 1.25], flip: true}, or a list of such sets; or null"
        )
    return tuple(view for one in sets for view in make_views(**{**SWITCHES, **one}))


def _is_view_set(given: Any) -> bool:
    return (
        isinstance(given, Mapping)
        and given.keys() <= {"scales", *SWITCHES}
        and isinstance(given.get("scales"), list | tuple)
        and all(isinstance(given.get(name, True), bool) for name in SWITCHES)
    )


def _group(numbered: Iterable[Numbered], left_out: Iterable[str]) -> list[list[Numbered]]:
    """Groups numbered variants that differ only in the arguments left out; each with a time limit is alone."""
    groups: dict[tuple[str, int | None], list[Numbered]] = {}
    for number, variant in numbered:
        alone = None if variant.time_budget_ms is None else number
        groups.setdefault((str(variant.settings() | dict.fromkeys(left_out)), alone), []).append((number, variant))
    return list(groups.values())
