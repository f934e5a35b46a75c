"""Pseudo labels of an image from the averaged predictions of its views.

Source: paper, Sec. 4, Eq. 5-8.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks.adaptation.arguments import check_number
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
    """Averages the softmax over the views of an image, each mapped back to the image's geometry (Eq. 5).

    The mean is accumulated, so only one (B, K, H, W) map is in memory, not one per view. The views go through the
    network one by one, even on a GPU: IaBN computes statistics per sample, so a batch would save little.

    Args:
        predict_logits: The network: (B, 3, h, w) -> (B, K, h, w) logits.
        image: (B, 3, H, W) float, normalised.
        views: One or more views.
        normalization: Mean and standard deviation used to normalise the image.
        resampling: ``device`` or ``pillow``, see `View.apply`.

    Returns:
        (B, K, H, W) float32 probabilities.

    Raises:
        ValueError: If there is no view, or one is too small for the network (the message names it).
    """
    if not views:
        raise ValueError("there are no views to fuse: expected one or more")
    total: Any = 0
    for view in views:
        try:
            with stage("views"):
                logits = predict_logits(view.apply(image, normalization, resampling))
        except ValueError as error:
            raise type(error)(f"the network cannot predict the image's {view}: {error}") from error
        with stage("fusion"):
            total += view.invert(logits.float().softmax(dim=1), image.shape[-2:])
    return total.div_(len(views))


def pseudo_labels(probabilities: Tensor, psi: float, strict: bool = False) -> Tensor:
    """Labels the confident pixels with their most probable class and ignores the rest (Eq. 6-8).

    The threshold of class c is psi times the highest probability that any pixel of the image has for c.

    Args:
        probabilities: (B, K, H, W) or (K, H, W) in [0, 1], the mean over views.
        psi: Confidence threshold in [0, 1].
        strict: Whether a pixel exactly at the threshold is ignored (as in the authors' code) or kept (as in the paper).

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
    check_number("psi", psi, 0, 1, expected="a confidence threshold in [0, 1], e.g. 0.7")
