"""Scores of a segmentation: mean IoU, pixel accuracy and calibration, from summed integer and float64 states.

Scoring queues operations on tensors of fixed sizes and never waits for the device: `score_image` leaves its sums there,
and `fetch_scores` brings those of a batch to the host in one copy, by which it also checks the labels. Nothing here
needs an operation that `trainer.deterministic=true` refuses on a GPU.

Counts are int64. What each pixel adds to the other sums is rounded to a multiple of 2^-20 before it is summed in
float64, so that sums are exact in any order: the scores of a data set do not depend on how it was split over batches or
processes. This holds while a sum stays below 2^33: confidences of 8e9 pixels, Brier scores (at most 2 per pixel) of
4e9, a negative log-likelihood of 1 nat per pixel on average over 8e9 pixels (of its maximum, 87.3, over 9e7). Beyond
that, sums are as exact as float64 is. One pixel's rounding is at most 5e-7.

Source: paper, Sec. 5 (mean IoU, ECE); Naeini et al. (2015) for the expected calibration error; Brier (1950); Guo et al.
(2017) for reliability diagrams and temperature scaling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

IGNORED = 255
STEPS = 2**20
SMALLEST = torch.finfo(torch.float32).tiny
ECE_BINS = 15
CLASSWISE_ECE_BINS = 10


def resize_probabilities(probabilities: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes class probabilities as bilinear upsampling (align_corners=False) of the logits behind them would.

    The logarithm of a softmax is the logits minus one number per pixel. Interpolation is linear and that number is the
    same for all classes, so softmax(resize(log p)) equals softmax(resize(logits)): the protocol's upsampling of logits
    to ground-truth size needs no logits.

    Args:
        probabilities: (B, K, h, w) float in [0, 1].
        size: (H, W) of the result.

    Returns:
        (B, K, H, W) probabilities.
    """
    if tuple(probabilities.shape[-2:]) == tuple(size):
        return probabilities
    logs = probabilities.float().clamp_min(SMALLEST).log()
    return F.interpolate(logs, size=tuple(size), mode="bilinear", align_corners=False).softmax(dim=1)


def scale_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Divides the logits behind probabilities by a temperature: p^(1/T), normalised again.

    Equals softmax(logits / T), because log p is the logits minus one number per pixel. Above 1 it makes predictions
    less confident, below 1 more; the order of the classes stays, but for ties that rounding makes.

    Args:
        probabilities: (B, K, H, W) float in [0, 1].
        temperature: T, above 0.

    Returns:
        (B, K, H, W) float32 probabilities; the very tensor given if T is 1.

    Raises:
        ValueError: If the temperature is not a finite number above 0.

    Source: Guo et al. (2017), Sec. 4.2, "Temperature scaling".
    """
    check_temperature(temperature)
    if temperature == 1:
        return probabilities
    return (probabilities.float().clamp_min(SMALLEST).log() / temperature).softmax(dim=1)


def check_temperature(temperature: float) -> None:
    """Raises ValueError if a temperature is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: expected a finite number above 0; 1 leaves predictions alone")


def quantize(values: Tensor) -> Tensor:
    """Rounds values to multiples of 2^-20, in float64: their sum is exact in any order while it is below 2^33."""
    return values.double().mul(STEPS).round().div(STEPS)


def confusion_matrix(labels: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Counts pixels by ground-truth class (rows) and predicted class (columns).

    Args:
        labels: (...) int64 predicted classes in [0, K).
        target: Same shape, int64 ground truth in [0, K), or 255 where ignored.
        num_classes: Number of classes K.

    Returns:
        (K, K) int64 counts.

    Raises:
        ValueError: If the ground truth holds a value that is neither a class nor 255.
    """
    if find_unknown(target, num_classes).any():
        raise ValueError(explain_unknown(target, num_classes))
    return _count_confusion(labels, _number_truth(target, num_classes), num_classes)


def find_unknown(target: Tensor, num_classes: int) -> Tensor:
    """Marks the pixels of int64 ground truth that are neither a class in [0, K) nor 255: bool of the same shape."""
    return (target != IGNORED) & ((target < 0) | (target >= num_classes))


def explain_unknown(target: Tensor, num_classes: int) -> str:
    """Returns the message about ground truth with values that are neither a class nor 255."""
    found = target[find_unknown(target, num_classes)].unique().tolist()
    return (
        f"the ground truth holds the values {found}, the network has {num_classes} classes (0 to "
        f"{num_classes - 1}, 255 is ignored): data and network disagree on the label space"
    )


def _number_truth(target: Tensor, num_classes: int) -> Tensor:
    """Numbers the row of each pixel's ground truth: its class, or K if it does not count."""
    return torch.where((target >= 0) & (target < num_classes), target, num_classes)


def _count_confusion(labels: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Counts pixels by truth and prediction, (K, K) int64; those with truth K do not count."""
    cells = truth * num_classes + labels
    return sum_cells(cells, torch.ones_like(cells), (num_classes + 1) * num_classes).reshape(-1, num_classes)[:-1]


def sum_cells(cells: Tensor, values: Tensor, size: int) -> Tensor:
    """Sums values by cell, as a weighted bincount does: exact in any order, and without waiting for the device.

    Args:
        cells: (...) int64 in [0, size).
        values: Same shape, int64.
        size: Number of cells.

    Returns:
        (size,) int64.
    """
    sums = torch.zeros(size, dtype=torch.int64, device=cells.device)
    return sums.scatter_add_(0, cells.flatten(), values.flatten())


def bin_confidences(confidence: Tensor, num_bins: int) -> Tensor:
    """Numbers the equal-width bin of each confidence in [0, 1]; bin b holds (b / n, (b + 1) / n], 0 goes to bin 0."""
    return torch.bucketize(confidence, _inner_edges(confidence, num_bins))


def _inner_edges(confidence: Tensor, num_bins: int) -> Tensor:
    return torch.linspace(0, 1, num_bins + 1, device=confidence.device, dtype=confidence.dtype)[1:-1]


@dataclass
class Scores:
    """What one image, or the sum of many, contributes to the scores of a data set.

    Attributes:
        intersection: (K,) int64, pixels of the class that are predicted as it.
        union: (K,) int64, pixels that are the class or predicted as it.
        pixels: (K,) int64, ground-truth pixels of the class.
        bin_pixels: (15,) int64, pixels per bin of top confidence.
        bin_correct: (15,) int64, correctly labelled pixels per bin.
        bin_confidence: (15,) float64, summed confidence per bin.
        class_gap: (K,) float64, per image and ground-truth class the ECE with 10 bins times the class's pixels, summed.
        brier: () float64, summed squared distance in [0, 2] of the probabilities to the truth's one-hot vector.
        nll: () float64, summed negative log-likelihood of the truth, in nats; at most 87.3 per pixel (p >= 2^-126).
    """

    intersection: Tensor
    union: Tensor
    pixels: Tensor
    bin_pixels: Tensor
    bin_correct: Tensor
    bin_confidence: Tensor
    class_gap: Tensor
    brier: Tensor
    nll: Tensor

    @classmethod
    def zeros(cls, num_classes: int) -> "Scores":
        """Returns the scores of no image at all."""
        classes, bins = torch.zeros(num_classes, dtype=torch.int64), torch.zeros(ECE_BINS, dtype=torch.int64)
        total = torch.zeros((), dtype=torch.float64)
        return cls(classes, classes, classes, bins, bins, bins.double(), classes.double(), total, total)

    def __add__(self, other: "Scores") -> "Scores":
        """Adds the sums of other images."""
        return Scores(*(getattr(self, name) + getattr(other, name) for name in SCORE_FIELDS))

    def to_record(self) -> dict[str, list[int] | list[float] | float]:
        """Returns the sums as plain lists and numbers for JSON; floats keep all their digits."""
        return {name: getattr(self, name).tolist() for name in SCORE_FIELDS}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Scores":
        """Reads what `to_record` wrote."""
        floats = ("bin_confidence", "class_gap", "brier", "nll")
        dtypes = {name: torch.float64 if name in floats else torch.int64 for name in SCORE_FIELDS}
        return cls(*(torch.tensor(record[name], dtype=dtypes[name]) for name in SCORE_FIELDS))

    def summarize(self) -> dict[str, Any]:
        """Computes the scores, as fractions in [0, 1] if not said otherwise.

        Returns:
            ``miou`` over the classes present in prediction or ground truth, ``iou`` per class (NaN where absent),
            ``accuracy`` over pixels, ``ece`` (data-set level, 15 bins; Naeini et al., 2015) and ``classwise_ece`` (the
            paper's: per image and ground-truth class with 10 bins, averaged over images by the class's pixels, then
            over all classes, where a class that appears nowhere counts as 0); ``brier`` in [0, 2] and ``nll`` in
            nats, both means over pixels; ``reliability``: for the 15 bins of confidence lists of their ``pixels``, mean
            ``confidence`` and ``accuracy``. NaN where there was nothing to score.
        """
        iou = self.intersection.double() / self.union  # 0 / 0 is NaN: the class is absent
        total = self.pixels.sum()
        gaps = (self.bin_correct - self.bin_confidence).abs()
        classwise = self.class_gap / self.pixels.clamp_min(1)
        return {
            "miou": iou.nanmean().item(),
            "accuracy": (self.intersection.sum().double() / total).item(),
            "ece": (gaps.sum() / total).item(),
            "classwise_ece": classwise.mean().item() if total else float("nan"),
            "brier": (self.brier / total).item(),
            "nll": (self.nll / total).item(),
            "iou": iou.tolist(),
            "reliability": {
                "pixels": self.bin_pixels.tolist(),
                "confidence": (self.bin_confidence / self.bin_pixels).tolist(),
                "accuracy": (self.bin_correct.double() / self.bin_pixels).tolist(),
            },
        }


SCORE_FIELDS = tuple(field.name for field in fields(Scores))


def score_image(probabilities: Tensor, target: Tensor) -> Scores:
    """Scores one prediction, on its device and without waiting for it.

    Args:
        probabilities: (K, h, w) class probabilities; resized to the ground truth's size if that differs.
        target: (H, W) int64 ground truth in [0, K), or 255 where ignored. Pixels with other values do not count;
            `fetch_scores` refuses them.

    Returns:
        The sums of this image. A pixel whose probabilities are not finite counts as class 0 with confidence 0; its
        probabilities are taken as 0.
    """
    num_classes = probabilities.shape[0]
    resized = resize_probabilities(probabilities[None], target.shape)[0]
    finite = resized.isfinite().all(dim=0)
    resized = torch.where(finite, resized.float(), 0.0)
    confidence, labels = resized.max(dim=0)
    truth = _number_truth(target, num_classes)
    confusion = _count_confusion(labels, truth, num_classes)
    intersection, pixels = confusion.diagonal(), confusion.sum(dim=1)
    calibration = _sum_calibration(confidence, labels == truth, truth, num_classes)
    valid = truth < num_classes
    likelihood = resized.gather(0, truth.clamp_max(num_classes - 1)[None])[0].double()
    distances = quantize(1 - 2 * likelihood + sum_squares(resized))  # sum over k of (p_k - [k = y])^2
    surprises = quantize(-likelihood.clamp_min(SMALLEST).log())
    return Scores(
        intersection=intersection,
        union=confusion.sum(dim=0) + pixels - intersection,
        pixels=pixels,
        **calibration,
        brier=torch.where(valid, distances, 0.0).sum(),
        nll=torch.where(valid, surprises, 0.0).sum(),
    )


def fetch_scores(scores: Sequence[Scores], target: Tensor) -> list[Scores]:
    """Brings the scores of a batch to the host, in one copy.

    Args:
        scores: Of each image, on the device.
        target: (B, H, W) int64 ground truth that they were scored with.

    Returns:
        The same on the CPU.

    Raises:
        ValueError: If the ground truth holds a value that is neither a class nor 255.
    """
    num_classes = len(scores[0].pixels)
    values = [getattr(score, name) for score in scores for name in SCORE_FIELDS]
    *fetched, known = copy_to_host([*values, ~find_unknown(target, num_classes).any()])
    if not known:
        raise ValueError(explain_unknown(target, num_classes))
    size = len(SCORE_FIELDS)
    return [Scores(*fetched[start : start + size]) for start in range(0, len(fetched), size)]


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies tensors to the CPU as one, so that the host waits once.

    Args:
        tensors: On one device, of any dtypes and sizes; those of larger items first.

    Returns:
        The same on the CPU.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    data = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]).cpu()
    parts = data.split([tensor.numel() * tensor.element_size() for tensor in tensors])
    return [part.view(tensor.dtype).reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def count_overlap(probabilities: Tensor, target: Tensor) -> Tensor:
    """Counts what the mean IoU of one prediction needs, as `score_image` does and nothing more.

    Args:
        probabilities: (K, h, w) finite.
        target: (H, W) int64 ground truth in [0, K), or 255 where ignored. Pixels with other values do not count.

    Returns:
        (2, K) int64: intersection and union of each class.
    """
    num_classes = probabilities.shape[0]
    resized = resize_probabilities(probabilities[None], target.shape)[0]
    labels = resized.float().max(dim=0).indices
    confusion = _count_confusion(labels, _number_truth(target, num_classes), num_classes)
    intersection = confusion.diagonal()
    return torch.stack([intersection, confusion.sum(dim=0) + confusion.sum(dim=1) - intersection])


def sum_squares(probabilities: Tensor) -> Tensor:
    """Sums the squares of (K, H, W) values over K, one class at a time (a second map of K is large): (H, W) float64."""
    total = torch.zeros_like(probabilities[0], dtype=torch.float64)
    for plane in probabilities:
        total += plane.double().square()
    return total


def _sum_calibration(confidence: Tensor, correct: Tensor, truth: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Sums pixels and confidences over the 15 bins of the data set's ECE, and over the 10 of each class's.

    Each pixel is put once, into the cells of class, right or wrong, and the bins that the edges of both make together.

    Args:
        confidence: (H, W) float32 in [0, 1].
        correct: (H, W) bool.
        truth: (H, W) int64, class in [0, K), or K if the pixel does not count.
        num_classes: Number of classes K.

    Returns:
        ``bin_pixels``, ``bin_correct``, ``bin_confidence`` and ``class_gap`` of `Scores`.
    """
    edges = torch.cat([_inner_edges(confidence, bins) for bins in (ECE_BINS, CLASSWISE_ECE_BINS)]).sort().values
    cells = (truth * 2 + correct) * (len(edges) + 1) + torch.bucketize(confidence, edges)
    shape = (num_classes + 1, 2, len(edges) + 1)
    steps = (confidence * STEPS).round().to(torch.int64)  # exact: STEPS is a power of 2
    pixels, confidences = (
        sum_cells(cells, values, math.prod(shape)).reshape(shape)[:-1] for values in (torch.ones_like(cells), steps)
    )
    ends = F.pad(edges, (0, 1), value=1.0)  # of each cell, by which its bin is known
    wide, narrow = bin_confidences(ends, ECE_BINS), bin_confidences(ends, CLASSWISE_ECE_BINS)
    gaps = _merge_bins(STEPS * pixels[:, 1] - confidences.sum(dim=1), narrow, CLASSWISE_ECE_BINS)
    return {
        "bin_pixels": _merge_bins(pixels.sum(dim=(0, 1)), wide, ECE_BINS),
        "bin_correct": _merge_bins(pixels[:, 1].sum(dim=0), wide, ECE_BINS),
        "bin_confidence": _merge_bins(confidences.sum(dim=(0, 1)), wide, ECE_BINS).double() / STEPS,
        "class_gap": gaps.abs().sum(dim=1).double() / STEPS,  # the class's ECE times its pixels
    }


def _merge_bins(sums: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    """Adds up (..., F) int64 sums of narrow bins to (..., num_bins), given the (F,) bin that each lies in."""
    members = bins[:, None] == torch.arange(num_bins, device=bins.device)
    return (sums[..., None] * members).sum(dim=-2)


class SegmentationScores(Metric):
    """Sums `Scores` over images and, under DDP, over processes.

    Args:
        num_classes: Number of classes K.
    """

    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        zeros = Scores.zeros(num_classes)
        for name in SCORE_FIELDS:
            self.add_state(name, default=getattr(zeros, name), dist_reduce_fx="sum")

    def update(self, scores: Scores) -> None:
        """Adds the sums of one image."""
        for name in SCORE_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(scores, name))

    def compute(self) -> dict[str, Any]:
        """Returns `Scores.summarize` over everything added on all processes."""
        return Scores(*(getattr(self, name) for name in SCORE_FIELDS)).summarize()
