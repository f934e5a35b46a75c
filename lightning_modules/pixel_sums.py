"""Sums over pixels that are exact in any order, computed without waiting for the device.

Counts are int64. All other values are rounded per pixel to a multiple of 2^-20 (an error of at most 5e-7), and summed
in float64. This is exact while a sum stays below 2^33: the confidences of 8e9 pixels, the Brier scores (at most 2 per
pixel) of 4e9, or the negative log-likelihoods of 8e9 pixels with 1 nat on average (of 9e7 with the maximum of 87.3).
Larger sums have the precision of float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 2**20
ECE_BINS = 15
CLASSWISE_ECE_BINS = 10


def quantize(values: Tensor) -> Tensor:
    """Rounds values to multiples of 2^-20, in float64: their sum is exact in any order while it is below 2^33."""
    return values.double().mul(STEPS).round().div(STEPS)


def sum_by(keys: Sequence[Tensor], values: Tensor, shape: Sequence[int]) -> Tensor:
    """Sums values by several keys; exact in any order and, unlike a bincount, without waiting for the device.

    Args:
        keys: One (...) int64 tensor per dimension of the result, each in [0, size of that dimension).
        values: (...) int64.
        shape: Shape of the result.

    Returns:
        int64 sums of that shape.
    """
    cells = torch.zeros_like(values)
    for key, size in zip(keys, shape, strict=True):
        cells = cells * size + key
    sums = torch.zeros(math.prod(shape), dtype=torch.int64, device=values.device)
    return sums.scatter_add_(0, cells.flatten(), values.flatten()).reshape(tuple(shape))


def count_confusion(labels: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Counts pixels by ground truth and prediction, (K, K) int64; pixels with ground truth K are ignored."""
    return sum_by((truth, labels), torch.ones_like(truth), (num_classes + 1, num_classes))[:-1]


def bin_confidences(confidence: Tensor, num_bins: int) -> Tensor:
    """Returns the equal-width bin of each confidence in [0, 1]; bin b is (b / n, (b + 1) / n], and 0 is in bin 0."""
    edges = torch.linspace(0, 1, num_bins + 1, device=confidence.device, dtype=confidence.dtype)
    return torch.bucketize(confidence, edges[1:-1])


def sum_squares(probabilities: Tensor) -> Tensor:
    """Sums the squares of (K, H, W) values over K, one class at a time to save memory; returns (H, W) float64."""
    total = torch.zeros_like(probabilities[0], dtype=torch.float64)
    for plane in probabilities:
        total += plane.double().square()
    return total


def sum_calibration(confidence: Tensor, correct: Tensor, truth: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Sums pixels and confidences in the 15 bins of the data set's ECE and the 10 bins of each class's.

    Args:
        confidence: (H, W) float32 in [0, 1].
        correct: (H, W) bool.
        truth: (H, W) int64, class in [0, K), or K if the pixel is ignored.
        num_classes: Number of classes K.

    Returns:
        ``bin_pixels``, ``bin_correct``, ``bin_confidence`` and ``class_gap`` of `Scores`.
    """
    keys = (truth, correct, bin_confidences(confidence, ECE_BINS), bin_confidences(confidence, CLASSWISE_ECE_BINS))
    shape = (num_classes + 1, 2, ECE_BINS, CLASSWISE_ECE_BINS)
    steps = (confidence * STEPS).round().to(torch.int64)  # exact: STEPS is a power of 2
    pixels = sum_by(keys, torch.ones_like(steps), shape)[:-1]
    confidences = sum_by(keys, steps, shape)[:-1]
    gaps = STEPS * pixels[:, 1].sum(dim=1) - confidences.sum(dim=(1, 2))  # (K, 10)
    return {
        "bin_pixels": pixels.sum(dim=(0, 1, 3)),
        "bin_correct": pixels[:, 1].sum(dim=(0, 2)),
        "bin_confidence": confidences.sum(dim=(0, 1, 3)).double() / STEPS,
        "class_gap": gaps.abs().sum(dim=1).double() / STEPS,  # the class's ECE times its pixels
    }
