"""From the predictions for several views to the pseudo labels of an image.

Source: paper, Sec. 4, Eq. 5-8.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from callbacks.stages import stage
from callbacks.views import IMAGENET, Normalization, Resampling, View
from lightning_modules.metrics import IGNORED


def fuse_views(
    predict_logits: Callable[[Tensor], Tensor],
    image: Tensor,
    views: Sequence[View],
    normalization: Normalization = IMAGENET,
    resampling: Resampling = "device",
) -> Tensor:
    """Averages the softmax over the views of an image, each brought back to the image's geometry (Eq. 5).

    The mean is a running one: one (B, K, H, W) map is held, not one per view. The views go through the network one by
    one, on a GPU too: statistics of IaBN are each sample's own, so that a batch would save little.

    Args:
        predict_logits: The network: (B, 3, h, w) -> (B, K, h, w) logits.
        image: (B, 3, H, W) float, normalised.
        views: One or more.
        normalization: How the image was normalised.
        resampling: How views are resized, see `View.apply`.

    Returns:
        (B, K, H, W) float32 probabilities.

    Raises:
        ValueError: If a view is too small for the network; names the view.
    """
    if not views:
        raise ValueError("there are no views to fuse: expected one or more")
    total: Tensor | None = None
    for view in views:
        try:
            with stage("views"):
                logits = predict_logits(view.apply(image, normalization, resampling))
        except ValueError as error:
            raise type(error)(f"the network cannot predict the image's {view}: {error}") from error
        with stage("fusion"):
            undone = view.invert(logits.float().softmax(dim=1), image.shape[-2:])
            total = undone if total is None else total.add_(undone)
    assert total is not None
    return total.div_(len(views))


def pseudo_labels(probabilities: Tensor, psi: float, strict: bool = False) -> Tensor:
    """Labels the pixels that are confident for their class and ignores the rest (Eq. 6-8).

    The threshold of class c is psi times the highest probability that any pixel of the image has for c.

    Args:
        probabilities: (B, K, H, W) or (K, H, W), the mean over views.
        psi: Confidence threshold in [0, 1].
        strict: Whether a pixel on the threshold is ignored (the authors' code) or kept (their text).

    Returns:
        (B, H, W) or (H, W) int64 labels, 255 where ignored.

    Raises:
        ValueError: If psi is outside [0, 1].
    """
    check_psi(psi)
    thresholds = psi * probabilities.amax(dim=(-2, -1))
    confidence, labels = probabilities.max(dim=-3)
    threshold = thresholds.gather(-1, labels.flatten(-2)).view_as(confidence)
    kept = confidence > threshold if strict else confidence >= threshold
    return torch.where(kept, labels, IGNORED)


def check_psi(psi: float) -> None:
    """Raises ValueError if psi is outside [0, 1]."""
    if not 0 <= psi <= 1:
        raise ValueError(f"psi is {psi}: expected a confidence threshold in [0, 1], e.g. 0.7")
