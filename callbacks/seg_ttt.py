"""Seg-TTT: a few SGD steps on the pseudo labels of the one test image; then predict, then forget.

Source: paper, Sec. 4, Eq. 5-8; Sec. 5.2 and Appendix C for the settings.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.iabn import adaptive_batch_norm, check_alpha
from callbacks.method import Adaptation, Method
from callbacks.pseudo_labels import IGNORED, check_psi, fuse_views, pseudo_labels
from callbacks.substitution import substituted
from callbacks.views import Normalization, Resampling, check_resampling, make_views
from lightning_modules.predictor import predict_logits

DEFAULT_TRAINABLE = ("layer3", "layer4", "head")
HALF_LOSS_SCALES = (2.0**12, 2.0**6, 1.0)  # lift the gradients of single pixels above the smallest float16

Semantics = Literal["paper", "released"]
State = dict[str, Tensor]


class SegTTT(Method):
    """Test-time training on pseudo labels, with IaBN.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]; 0 is without IaBN and takes any network.
        psi: Confidence threshold of the pseudo labels in [0, 1], relative to the most confident pixel of a class.
        num_steps: Number of SGD steps, N_t.
        lr: Learning rate of SGD, eta; no momentum, no weight decay.
        trainable: Names of the modules whose parameters move, e.g. ``layer4`` or ``backbone.layer4``. None takes the
            network's own ``adapted_layers`` if it has them, else layer3, layer4 and head (conv4_x, conv5_x, head).
        scales: Factors on the image's size for the views behind the pseudo labels, each above 0.
        flip: Whether the second view of each scale is mirrored.
        grayscale: Whether the second view of each scale is gray.
        semantics: ``paper`` follows the text: each step normalises with alpha as the prediction does. ``released``
            follows the authors' code, which made the published numbers: the steps run in training mode, so that they
            normalise by the image's own statistics and move the running ones, dropout is live, the confidence
            threshold is strict, and views are made by Pillow.
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
        with adaptive_batch_norm(network, self.alpha, required=self.alpha > 0):
            fused = fuse_views(partial(predict_logits, network), image, self.views, self.normalization, self.resampling)
            target = pseudo_labels(fused, self.psi, strict=self.semantics == "released")
            if self.num_steps == 0 or (target == IGNORED).all():
                note = "no pixel passed the confidence threshold, no step was taken" if self.num_steps else None
                return Adaptation(predict_logits(network, image).float().softmax(dim=1), note=note)
            for scale in HALF_LOSS_SCALES if _in_half_precision(image) else (1.0,):
                state, losses = self._update(network, image, target, scale)
                with substituted(network, state):
                    logits = predict_logits(network, image)
                if logits.isfinite().all():  # else the scaled gradients were too large for float16
                    break
        return Adaptation(logits.float().softmax(dim=1), self.num_steps, losses[0].item(), losses[-1].item())

    def _update(self, network: nn.Module, image: Tensor, target: Tensor, scale: float) -> tuple[State, Tensor]:
        """Takes the steps; returns the adapted state and the (num_steps,) losses before each step.

        The loss is scaled for the backward pass and the gradients are scaled back.
        """
        moving = select_parameters(network, self._trainable_names(network))
        state: State = {name: parameter.detach() for name, parameter in network.named_parameters()}
        state |= {name: buffer.clone() for name, buffer in network.named_buffers()}
        device = image.device.type
        losses = []
        released = self.semantics == "released"
        seeded = torch.random.fork_rng(range(torch.cuda.device_count()), enabled=released)
        # A cast that autocast kept from the step before would be of weights that have moved since: no cache.
        uncached = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
        )
        with seeded, uncached:
            if released:
                torch.manual_seed(0)  # dropout is live, and must not depend on the images before
            network.train(released)
            for _ in range(self.num_steps):
                moved = {name: state[name].clone().requires_grad_() for name in moving}
                with torch.enable_grad(), substituted(network, state | moved):
                    logits = predict_logits(network, image)
                    loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORED)
                    gradients = torch.autograd.grad(loss * scale, list(moved.values()), allow_unused=True)
                losses.append(loss.detach())
                for name, gradient in zip(moved, gradients, strict=True):
                    if gradient is not None:
                        state[name] = state[name] - (self.lr / scale) * gradient
            network.eval()
        return state, torch.stack(losses)

    def _trainable_names(self, network: nn.Module) -> Sequence[str]:
        if self.trainable is not None:
            return self.trainable
        return getattr(network, "adapted_layers", DEFAULT_TRAINABLE)


def _in_half_precision(image: Tensor) -> bool:
    device = image.device.type
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16


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
