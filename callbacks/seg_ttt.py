"""Seg-TTT: a few SGD steps on the pseudo labels of the one test image; then predict, then forget.

Source: paper, Sec. 4, Eq. 5-8; Sec. 5.2 and Appendix C for the settings.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.iabn import adaptive_batch_norm, check_alpha
from callbacks.method import Adaptation, Method, seeded
from callbacks.pseudo_labels import IGNORED, check_psi, fuse_views, pseudo_labels
from callbacks.substitution import substituted
from callbacks.updates import State, copy_state, loss_scales, take_steps
from callbacks.views import Normalization, Resampling, check_resampling, make_views
from lightning_modules.predictor import predict_logits

DEFAULT_TRAINABLE = ("layer3", "layer4", "head")

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
        released = self.semantics == "released"
        with adaptive_batch_norm(network, self.alpha, required=self.alpha > 0):
            with counting_values(network) as counts:
                fused = fuse_views(
                    partial(predict_logits, network), image, self.views, self.normalization, self.resampling
                )
            target = pseudo_labels(fused, self.psi, strict=released)
            if self.num_steps == 0 or (target == IGNORED).all():
                note = "no pixel passed the confidence threshold, no step was taken" if self.num_steps else None
                return Adaptation(predict_logits(network, image).float().softmax(dim=1), note=note)
            # One value has no variance: behind a global pooling the image is doubled, as the authors do for DeepLabv3+.
            repeats = 2 if released and 1 in counts.values() else 1
            for scale in loss_scales(image.device):
                state, losses = self._update(
                    network, image.repeat(repeats, 1, 1, 1), target.repeat(repeats, 1, 1), scale
                )
                with substituted(network, state):
                    logits = predict_logits(network, image)
                if logits.isfinite().all():  # else the scaled gradients were too large for float16
                    break
        return Adaptation(logits.float().softmax(dim=1), self.num_steps, losses[0].item(), losses[-1].item())

    def _update(self, network: nn.Module, image: Tensor, target: Tensor, scale: float) -> tuple[State, Tensor]:
        """Takes the steps; returns the adapted state and the (num_steps,) losses before each step."""
        released = self.semantics == "released"
        state = copy_state(network, select_parameters(network, self._trainable_names(network)))
        optimizer = torch.optim.SGD([tensor for tensor in state.values() if tensor.requires_grad], lr=self.lr)

        def compute_loss() -> Tensor:
            return F.cross_entropy(predict_logits(network, image).float(), target, ignore_index=IGNORED)

        network.train(released)  # batch statistics, which move the running ones, and dropout: all live
        with seeded():
            losses = take_steps(network, state, optimizer, compute_loss, self.num_steps, scale)
        network.eval()
        return state, losses

    def _trainable_names(self, network: nn.Module) -> Sequence[str]:
        if self.trainable is not None:
            return self.trainable
        own = getattr(network, "adapted_layers", DEFAULT_TRAINABLE)
        return getattr(network, "released_layers", own) if self.semantics == "released" else own


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
