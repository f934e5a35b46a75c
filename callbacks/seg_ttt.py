"""Seg-TTT: a few SGD steps on the pseudo labels of the one test image; then predict, then forget.

Source: paper, Sec. 4, Eq. 5-8; Sec. 5.2 and Appendix C for the settings.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.frozen import replaying
from callbacks.iabn import adaptive_batch_norm, check_alpha
from callbacks.method import Adaptation, Method, Report, is_out_of_memory, seeded
from callbacks.pseudo_label_loss import LossResolution, PseudoLabelLoss
from callbacks.pseudo_labels import IGNORED, check_psi, fuse_views, pseudo_labels, sample_labels
from callbacks.stages import stage
from callbacks.stopping import Convergence, Deadline, Pace
from callbacks.substitution import substituted
from callbacks.updates import copy_state, loss_scales, take_steps
from callbacks.views import Normalization, Resampling, View, check_resampling, make_views
from lightning_modules.predictor import lay_out, predict_coarse_logits, predict_logits

DEFAULT_TRAINABLE = ("layer3", "layer4", "head")
SHRINKING = 2**-0.5  # from one scale to the next where the memory does not suffice: half the pixels
SMALLEST_SCALE = 0.25
NOTHING_LEFT = "no labelled pixel is left at the resolution of the steps, no step was taken"

Semantics = Literal["paper", "released"]


class SegTTT(Method):
    """Test-time training on pseudo labels, with IaBN.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]; 0 is without IaBN and takes any network.
        psi: Confidence threshold of the pseudo labels in [0, 1], relative to the most confident pixel of a class.
        num_steps: Number of SGD steps, N_t.
        lr: Learning rate of SGD, eta; no momentum, no weight decay.
        trainable: Names of the modules whose parameters move, e.g. ``layer4`` or ``backbone.layer4``; a name matches
            wherever it stands in a path, so that ``conv2`` alone moves that of every block. None takes the network's
            own ``adapted_layers`` if it has them (under released semantics ``released_layers``, where the
            authors' code moves others), else layer3, layer4 and head (conv4_x, conv5_x, head).
        scales: Factors on the image's size for the views behind the pseudo labels, each above 0.
        flip: Whether the second view of each scale is mirrored.
        grayscale: Whether the second view of each scale is gray.
        semantics: ``paper`` follows the text: each step normalises with alpha as the prediction does. ``released``
            follows the authors' code, which made the published numbers: the steps run in training mode, so that they
            normalise by the image's own statistics and move the running ones, dropout is live, the confidence
            threshold is strict, and views are made by Pillow; a network with BatchNorm behind a global pooling gets
            the image twice.
        resampling: How views are resized; None is ``pillow`` under released semantics and ``device`` else.
        normalization: How images were normalised; None is ImageNet's mean and deviation.
        stop_agreement: Share of the labelled pixels in (0, 1]: once the adapted prediction agrees with the pseudo
            labels on so many, no further step is taken. None never stops for it.
        stop_change: Share of the pixels in [0, 1): once a step changes the labels of so few, no further step is taken.
            None never stops for it.
        time_budget_ms: Milliseconds that an image may take: as many steps are taken, up to `num_steps`, as are expected
            to fit. The number depends on the machine, and is in the records. None is no limit.
        loss_resolution: ``image`` compares upsampled logits with the pseudo labels, as the paper does; ``output``
            compares the network's coarse logits with the pseudo labels at their places.
        adapt_scale: Factor in (0, 1] on the size of the image that the steps see. The prediction is at full size.
        on_out_of_memory: ``error`` says which image size would fit; ``shrink`` adapts at a smaller `adapt_scale` and
            notes so in the record.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        alpha: float = 0.1,
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
        stop_agreement: float | None = None,
        stop_change: float | None = None,
        time_budget_ms: float | None = None,
        loss_resolution: LossResolution = "image",
        adapt_scale: float = 1.0,
        on_out_of_memory: Literal["error", "shrink"] = "error",
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        check_psi(psi)
        if num_steps < 0:
            raise ValueError(f"num_steps is {num_steps}: expected 0 or more update steps, e.g. 10")
        if not 0 <= lr < float("inf"):
            raise ValueError(f"lr is {lr}: expected a learning rate of 0 or more, e.g. 0.05")
        if semantics not in ("paper", "released"):
            raise ValueError(f"semantics is {semantics!r}: expected 'paper' or 'released'")
        if stop_agreement is not None and not 0 < stop_agreement <= 1:
            raise ValueError(
                f"stop_agreement is {stop_agreement}: expected a share of pixels in (0, 1], e.g. 0.99, or null"
            )
        if stop_change is not None and not 0 <= stop_change < 1:
            raise ValueError(f"stop_change is {stop_change}: expected a share of pixels in [0, 1), e.g. 0.001, or null")
        if time_budget_ms is not None and not 0 < time_budget_ms < float("inf"):
            raise ValueError(f"time_budget_ms is {time_budget_ms}: expected milliseconds above 0, e.g. 500, or null")
        if loss_resolution not in get_args(LossResolution):
            raise ValueError(f"loss_resolution is {loss_resolution!r}: expected 'image' or 'output'")
        if not 0 < adapt_scale <= 1:
            raise ValueError(f"adapt_scale is {adapt_scale}: expected a factor in (0, 1], e.g. 0.5")
        if on_out_of_memory not in ("error", "shrink"):
            raise ValueError(f"on_out_of_memory is {on_out_of_memory!r}: expected 'error' or 'shrink'")
        if isinstance(trainable, str):
            raise ValueError(f"trainable is the string {trainable!r}: expected a list of names, e.g. [{trainable!r}]")
        self.alpha = alpha
        self.psi = psi
        self.num_steps = num_steps
        self.lr = lr
        self.trainable = None if trainable is None else tuple(trainable)
        self.flip = flip
        self.grayscale = grayscale
        self.semantics = semantics
        if resampling is not None:
            check_resampling(resampling)
        self.resampling: Resampling = resampling or ("pillow" if semantics == "released" else "device")
        self.normalization = normalization or Normalization()
        self.views = make_views(scales, flip, grayscale)
        self.scales = tuple(scales)
        self.stop_agreement = stop_agreement
        self.stop_change = stop_change
        self.time_budget_ms = time_budget_ms
        self.loss_resolution = loss_resolution
        self.adapt_scale = adapt_scale
        self.on_out_of_memory = on_out_of_memory
        self._pace = Pace()

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if `trainable` matches nothing, or alpha is above 0 and there is no BatchNorm."""
        select_parameters(network, self._trainable_names(network))
        with adaptive_batch_norm(network, self.alpha, required=self.alpha > 0):
            pass

    def adapt(self, network: nn.Module, image: Tensor) -> Adaptation:
        """Predicts one image; see `Method.adapt`.

        The network's own tensors are never written: the steps work on copies of what moves, and the network is called
        with these in place of its own.
        """
        outcomes: dict[int, Adaptation] = {}
        deadline = Deadline(self.time_budget_ms, self._pace, image)
        with adaptive_batch_norm(network, self.alpha, required=self.alpha > 0):
            fused, repeats = self._fuse(network, image)
            self._adapt_to(network, Task(image, repeats, deadline, [self.num_steps], outcomes.__setitem__), fused)
        return outcomes[self.num_steps]

    def adapt_variants(self, network: nn.Module, image: Tensor, variants: Sequence[Method], report: Report) -> None:
        """Shares the views of settings that have the same, and one run of steps where only their number differs.

        See `Method.adapt_variants`. Not shared are steps under a time budget, which counts the whole image, and under
        float16 autocast, where each run finds its own scale of the loss.
        """
        fixed_scale = len(loss_scales(image.device)) == 1
        numbered = [(number, variant) for number, variant in enumerate(variants) if isinstance(variant, SegTTT)]
        for same_views in group(numbered, SegTTT._describe_views):
            first = same_views[0][1]
            with adaptive_batch_norm(network, first.alpha, required=first.alpha > 0):
                fused, repeats = first._fuse(network, image)
                for same_steps in group(same_views, SegTTT._describe_steps):
                    one = same_steps[0][1]
                    if one.time_budget_ms is not None or not (fixed_scale or len(same_steps) == 1):
                        continue

                    def report_all(
                        count: int, outcome: Adaptation, alike: list[tuple[int, SegTTT]] = same_steps
                    ) -> None:
                        for number, variant in alike:
                            if variant.num_steps == count:
                                report(number, outcome)

                    counts = sorted({variant.num_steps for _, variant in same_steps})
                    deadline = Deadline(None, one._pace, image)
                    one._adapt_to(network, Task(image, repeats, deadline, counts, report_all), fused)

    def _describe_views(self) -> tuple[Any, ...]:
        """Returns what the mean over views depends on."""
        return self.alpha, self.views, self.resampling, self.normalization, self.semantics

    def _describe_steps(self) -> dict[str, Any]:
        """Returns what the steps depend on, all but their number."""
        return self.settings() | {"num_steps": None}

    def _fuse(self, network: nn.Module, image: Tensor) -> tuple[Tensor, int]:
        """Returns the (1, K, H, W) mean over views, and how often the steps are to see the image at once."""
        with counting_values(network) as counts:
            fused = fuse_views(partial(predict_logits, network), image, self.views, self.normalization, self.resampling)
        # One value has no variance: behind a global pooling the image is doubled, as the authors do for DeepLabv3+.
        return fused, 2 if self.semantics == "released" and 1 in counts.values() else 1

    def _adapt_to(self, network: nn.Module, task: "Task", fused: Tensor) -> None:
        """Makes the pseudo labels of the (1, K, H, W) mean over views, takes the steps, and predicts."""
        with stage("fusion"):
            target = pseudo_labels(fused, self.psi, strict=self.semantics == "released")
            labelled = bool((target != IGNORED).any())
        stepping = [count for count in task.counts if count > 0 and labelled]
        for count in task.counts:
            if count not in stepping:
                note = "no pixel passed the confidence threshold, no step was taken" if count else None
                task.report(count, predict_unadapted(network, task.image, note))
        if stepping:
            self._adapt_within_memory(network, replace(task, counts=stepping), target)

    def _adapt_within_memory(self, network: nn.Module, task: "Task", target: Tensor) -> None:
        """Takes the steps and predicts; if asked to, at a smaller scale where the memory does not suffice."""
        scale = self.adapt_scale
        while True:
            shrunk = f"the steps saw the image at scale {scale:.2g}: more did not fit into memory"
            noted = task if scale == self.adapt_scale else task.noting(shrunk)
            try:
                self._adapt_at(network, noted, target, scale)
                return
            except RuntimeError as error:
                shrinks = self.on_out_of_memory == "shrink" and len(task.counts) == 1
                if not (is_out_of_memory(error) and shrinks and scale * SHRINKING >= SMALLEST_SCALE):
                    raise
            scale *= SHRINKING  # behind the except block, whose traceback keeps what the memory is full of

    def _adapt_at(self, network: nn.Module, task: "Task", target: Tensor, scale: float) -> None:
        """Takes the steps on the image at a scale, and predicts the image itself."""
        seen = task.image
        if scale < 1:
            seen = View(scale).apply(seen, self.normalization)
            target = sample_labels(target, seen.shape[-2:])
            if not (target != IGNORED).any():
                for count in task.counts:
                    task.report(count, predict_unadapted(network, task.image, NOTHING_LEFT))
                return
        if task.repeats > 1:
            seen, target = seen.repeat(task.repeats, 1, 1, 1), target.repeat(task.repeats, 1, 1)
        seen = lay_out(network, seen)
        *larger, smallest = loss_scales(seen.device)
        for loss_scale in larger:  # under float16, which shares no steps: one count
            held: dict[int, Adaptation] = {}
            self._update(network, replace(task, report=held.__setitem__), seen, target, loss_scale)
            if all(outcome.probabilities.isfinite().all() for outcome in held.values()):
                for count, outcome in held.items():
                    task.report(count, outcome)
                return  # else the scaled gradients were too large for float16
        self._update(network, task, seen, target, smallest)

    def _update(self, network: nn.Module, task: "Task", seen: Tensor, target: Tensor, loss_scale: float) -> None:
        """Takes the steps and predicts with the adapted network.

        Args:
            network: In evaluation mode, with IaBN in place.
            task: What to predict; all counts are 1 or more.
            seen: (B, 3, h, w) that the steps see.
            target: (B, h, w) pseudo labels.
            loss_scale: On the loss in the backward pass.
        """
        released = self.semantics == "released"
        names = select_parameters(network, self._trainable_names(network))
        parameters = dict(network.named_parameters())
        state = copy_state(network, names)
        optimizer = torch.optim.SGD([state[name] for name in names], lr=self.lr)
        loss = PseudoLabelLoss(target, self.loss_resolution, Convergence(self.stop_agreement, self.stop_change))
        moved = [state[name] for name, _ in network.named_buffers()] if released and loss.may_end else []

        network.train(released)  # batch statistics, which move the running ones, and dropout: all live
        with replaying(network, [parameters[name] for name in names]) as replay:

            def compute_loss() -> Tensor | None:
                if not task.deadline.allows_step():
                    return None
                before = [buffer.clone() for buffer in moved]
                with replay.next_pass():
                    value = loss.compare(*predict_coarse_logits(network, seen))
                if value is None:  # the pass that found this out was none of the steps
                    for buffer, saved in zip(moved, before, strict=True):
                        buffer.copy_(saved)
                return value

            def predict_adapted() -> Adaptation:
                network.eval()
                # The frozen layers say of the image what they said in the steps, unless these ran in training mode.
                with stage("final"), substituted(network, state), replay.paused() if released else replay.next_pass():
                    logits = predict_logits(network, task.image)
                network.train(released)
                values = [value for part in losses for value in part.tolist()]
                return Adaptation(logits.float().softmax(dim=1), values, NOTHING_LEFT if loss.nothing_left else None)

            losses: list[Tensor] = []
            ended = False
            with seeded():
                for earlier, count in pairwise([0, *task.counts]):
                    if not ended:
                        losses.append(take_steps(network, state, optimizer, compute_loss, count - earlier, loss_scale))
                        ended = len(losses[-1]) < count - earlier
                        with seeded():  # so that no later step depends on what is predicted in between
                            outcome = predict_adapted()
                    task.report(count, outcome)
        network.eval()
        task.deadline.end()

    def _trainable_names(self, network: nn.Module) -> Sequence[str]:
        if self.trainable is not None:
            return self.trainable
        own = getattr(network, "adapted_layers", DEFAULT_TRAINABLE)
        return getattr(network, "released_layers", own) if self.semantics == "released" else own


@dataclass(frozen=True)
class Task:
    """What is asked of the steps on one image.

    Attributes:
        image: (1, 3, H, W) to predict.
        repeats: How often the steps see the image at once.
        deadline: Whether another step fits.
        counts: The numbers of steps after which the image is predicted, rising.
        report: Called with each of them and the outcome.
    """

    image: Tensor
    repeats: int
    deadline: Deadline
    counts: Sequence[int]
    report: Report

    def noting(self, note: str) -> "Task":
        """Returns the same task, whose outcomes get a note."""

        def report(count: int, outcome: Adaptation) -> None:
            self.report(count, replace(outcome, note=note))

        return replace(self, report=report)


def predict_unadapted(network: nn.Module, image: Tensor, note: str | None) -> Adaptation:
    """Predicts a (1, 3, H, W) image without a step."""
    with stage("final"):
        return Adaptation(predict_logits(network, image).float().softmax(dim=1), note=note)


Numbered = tuple[int, SegTTT]


def group(numbered: Iterable[Numbered], describe: Callable[[SegTTT], Any]) -> list[list[Numbered]]:
    """Groups numbered settings whose descriptions are equal, in the order they come."""
    groups: list[tuple[Any, list[Numbered]]] = []
    for number, variant in numbered:
        description = describe(variant)
        members = next((members for known, members in groups if known == description), None)
        if members is None:
            groups.append((description, [(number, variant)]))
        else:
            members.append((number, variant))
    return [members for _, members in groups]


@contextmanager
def counting_values(network: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Counts the values per channel that each BatchNorm normalises within a ``with`` block, at most."""
    counts: dict[nn.Module, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].numel() // inputs[0].shape[1]
        counts[layer] = max(values, counts.get(layer, 0))

    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def select_parameters(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Lists the parameters that lie in the modules named.

    Args:
        network: Any module.
        names: Dotted names of modules or parameters; each matches anywhere in a parameter's path, part by part.

    Returns:
        Full names of the parameters, in the network's order.

    Raises:
        ValueError: If no name is given, or one matches nothing; lists the modules there are.
    """
    paths: dict[int, list[str]] = {}  # all names of each parameter, which may be shared
    for path, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            paths.setdefault(id(parameter), []).append(path)
    every = [path for aliases in paths.values() for path in aliases]
    unmatched = [name for name in names if not any(_lies_in(path, name) for path in every)]
    if unmatched or not names:
        children = [name for name, _ in network.named_children()]
        children += [
            f"{name}.{inner}" for name, child in network.named_children() for inner, _ in child.named_children()
        ]
        found = f"{unmatched} match no parameter" if unmatched else "the list is empty"
        raise ValueError(
            f"trainable names what moves, but {found}: expected names of modules of {type(network).__name__}, such as "
            f"{children[:20]}"
        )
    return [aliases[0] for aliases in paths.values() if any(_lies_in(path, name) for path in aliases for name in names)]


def _lies_in(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."
