"""Segmentation scores: mean IoU, pixel accuracy and calibration, from summed integer and float64 states.

Scoring only uses tensors of fixed sizes and never waits for the device: `score_image` leaves its sums there, and
`fetch_scores` copies those of a batch to the host in one transfer and checks the labels at the same time. All
operations also work on a GPU with `trainer.deterministic=true`.

Sums are exact in any order, so the scores of a data set do not depend on how it is split into batches or over
processes: counts are int64, and all other values are rounded per pixel to a multiple of 2^-20 (an error of at most
5e-7) and summed in float64. This is exact while a sum stays below 2^33: the confidences of 8e9 pixels, the Brier scores
(at most 2 per pixel) of 4e9, or the negative log-likelihoods of 8e9 pixels with 1 nat on average.

Source: paper, Sec. 5 (mean IoU, ECE); Naeini et al. (2015) for the expected calibration error; Brier (1950); Guo et al.
(2017) for reliability diagrams and temperature scaling.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.probabilities import SMALLEST, copy_to_host, resize_probabilities

IGNORED = 255
ECE_BINS = 15
CLASSWISE_ECE_BINS = 10
STEPS = 2**20  # values are rounded to multiples of 1 / STEPS
LOGGED = {"miou": 100, "accuracy": 100, "ece": 100, "classwise_ece": 100, "brier": 1, "nll": 1}  # 100: percent


@dataclass
class Scores:
    """The sums, over the pixels of one image or of many, from which scores are computed.

    Attributes:
        intersection: (K,) int64, correctly predicted pixels of the class.
        union: (K,) int64, pixels that belong to the class or are predicted as it.
        pixels: (K,) int64, ground-truth pixels of the class.
        bin_pixels: (15,) int64, pixels per bin of top confidence.
        bin_correct: (15,) int64, correctly labelled pixels per bin.
        bin_confidence: (15,) float64, summed confidence per bin.
        class_gap: (K,) float64, the ECE (10 bins) of a class in an image times its pixels, summed over images.
        brier: () float64, summed squared distance, in [0, 2] per pixel, of the probabilities from the one-hot truth.
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
        """Returns sums that are all 0."""
        classes, bins = torch.zeros(num_classes, dtype=torch.int64), torch.zeros(ECE_BINS, dtype=torch.int64)
        total = torch.zeros((), dtype=torch.float64)
        return cls(classes, classes, classes, bins, bins, bins.double(), classes.double(), total, total)

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(*(getattr(self, name) + getattr(other, name) for name in SCORE_FIELDS))

    def to_record(self) -> dict[str, list[int] | list[float] | float]:
        """Returns the sums as plain lists and numbers for JSON; floats keep all their digits."""
        return {name: getattr(self, name).tolist() for name in SCORE_FIELDS}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Scores":
        """Restores the sums from the result of `to_record`."""
        zeros = cls.zeros(len(record["pixels"]))
        return cls(*(torch.tensor(record[name], dtype=getattr(zeros, name).dtype) for name in SCORE_FIELDS))

    def summarize(self) -> dict[str, Any]:
        """Computes the scores, as fractions in [0, 1] unless stated otherwise.

        Returns:
            ``miou`` over the classes present in prediction or ground truth, ``iou`` per class (NaN where absent),
            ``accuracy`` over pixels, ``ece`` (data-set level, 15 bins; Naeini et al., 2015) and ``classwise_ece`` (the
            paper's: per image and ground-truth class with 10 bins, averaged over images, weighted by the class's
            pixels, then over all classes, where an absent class counts as 0); ``brier`` in [0, 2] and ``nll`` in nats,
            both means over pixels; ``reliability``: ``pixels``, mean ``confidence`` and ``accuracy``, each a list over
            the 15 bins of confidence. NaN where there are no pixels to score.
        """
        iou = self.intersection.double() / self.union  # 0 / 0 is NaN: the class is absent
        total = self.pixels.sum()
        gaps = (self.bin_correct - self.bin_confidence).abs()
        classwise = self.class_gap / self.pixels.clamp_min(1)
        return {
            "miou": iou.nanmean().item(),
            "accuracy": (self.intersection.sum().double() / total).item(),
            "ece": (gaps.sum() / total).item(),
            "classwise_ece": classwise.mean().item() if total else math.nan,
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


class SegmentationScores(Metric):
    """Sums the `Scores` of K classes over images and, under DDP, over processes."""

    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name, zero in vars(Scores.zeros(num_classes)).items():
            self.add_state(name, default=zero, dist_reduce_fx="sum")

    def update(self, scores: Scores) -> None:
        """Adds the sums of one image."""
        for name in SCORE_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(scores, name).to(self.device))

    def compute(self) -> dict[str, Any]:
        """Returns `Scores.summarize` over everything added on all processes."""
        return Scores(*(getattr(self, name) for name in SCORE_FIELDS)).summarize()


def average_scores(summaries: Collection[Mapping[str, Any]]) -> dict[str, float]:
    """Averages the `Scores.summarize` of several data sets; all in percent except ``brier`` and ``nll``."""
    return {key: unit * sum(summary[key] for summary in summaries) / len(summaries) for key, unit in LOGGED.items()}


def name_scores(
    stage: str, summaries: Mapping[str, Mapping[str, Any]], class_names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Names the `Scores.summarize` of a run's data sets as they are logged; the stage is ``val`` or ``test``.

    Returns:
        ``STAGE/miou``, ..., averaged over the data sets, and for several sets also ``STAGE/SET/miou``, ...; and
        the IoU of each class that is present, ``STAGE/iou/CLASS`` or ``STAGE/SET/iou/CLASS``, in percent.
    """
    scores = {f"{stage}/{key}": value for key, value in average_scores(summaries.values()).items()}
    classes: dict[str, float] = {}
    for domain, summary in summaries.items():
        prefix = f"{stage}/{domain}" if len(summaries) > 1 else stage
        scores |= {f"{prefix}/{key}": value for key, value in average_scores([summary]).items()}
        for name, iou in zip(class_names, summary["iou"], strict=True):
            if not math.isnan(iou):
                classes[f"{prefix}/iou/{name}"] = 100 * iou
    return scores, classes


def score_image(probabilities: Tensor, target: Tensor) -> Scores:
    """Scores one prediction on its device, without waiting for it.

    Args:
        probabilities: (K, h, w) class probabilities; resized to the ground truth's size if that differs.
        target: (H, W) int64 ground truth in [0, K), or 255 where ignored. Other values are ignored here, and rejected
            by `fetch_scores`.

    Returns:
        The sums of this image. A pixel whose probabilities are not all finite counts as class 0 with confidence 0 and
        probabilities 0.
    """
    num_classes = probabilities.shape[0]
    resized = resize_probabilities(probabilities[None], target.shape)[0]
    finite = resized.isfinite().all(dim=0)
    resized = torch.where(finite, resized.float(), 0.0)
    confidence, labels = resized.max(dim=0)
    truth, valid = number_truth(target, num_classes)
    intersection, union, pixels = count_pixels(labels, truth, num_classes)
    likelihood = resized.gather(0, truth.clamp_max(num_classes - 1)[None])[0].double()
    squares = torch.zeros_like(likelihood)
    for plane in resized:  # one class at a time saves memory
        squares += plane.double().square()
    distances = quantize(1 - 2 * likelihood + squares)  # sum over k of (p_k - [k = y])^2
    surprises = quantize(-likelihood.clamp_min(SMALLEST).log())
    brier, nll = (torch.where(valid, values, 0.0).sum() for values in (distances, surprises))
    calibration = sum_calibration(confidence, labels == truth, truth, num_classes)
    return Scores(intersection, union, pixels, *calibration, brier, nll)


def count_overlap(probabilities: Tensor, target: Tensor) -> Tensor:
    """Returns the (2, K) int64 intersections and unions of one prediction, as `score_image` does.

    All (K, h, w) probabilities must be finite; any ground truth outside [0, K) is ignored.
    """
    num_classes = probabilities.shape[0]
    labels = resize_probabilities(probabilities[None], target.shape)[0].float().max(dim=0).indices
    truth, _ = number_truth(target, num_classes)
    return torch.stack(count_pixels(labels, truth, num_classes)[:2])


def fetch_scores(scores: Sequence[Scores], target: Tensor) -> list[Scores]:
    """Copies the scores of a batch to the host in one transfer, and checks the ground truth.

    Args:
        scores: Scores of each image, on the device.
        target: (B, H, W) int64 ground truth that was used for scoring.

    Returns:
        The same scores on the CPU.

    Raises:
        ValueError: If the ground truth holds a value that is neither a class nor 255.
    """
    num_classes = len(scores[0].pixels)
    unknown = (target != IGNORED) & ((target < 0) | (target >= num_classes))
    values = [value for score in scores for value in vars(score).values()]
    *fetched, known = copy_to_host([*values, ~unknown.any()])
    if not known:
        raise ValueError(
            f"the ground truth contains the values {target[unknown].unique().tolist()}, the network has {num_classes} "
            f"classes (0 to {num_classes - 1}, 255 is ignored): data and network disagree on the label space"
        )
    size = len(SCORE_FIELDS)
    return [Scores(*fetched[start : start + size]) for start in range(0, len(fetched), size)]


def number_truth(target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns each pixel's class, or K where there is none, and where there is one."""
    valid = (target >= 0) & (target < num_classes)
    return torch.where(valid, target, num_classes), valid


def count_confusion(labels: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Counts pixels by ground truth and prediction, (K, K) int64; pixels with ground truth K are ignored."""
    return sum_by((truth, labels), torch.ones_like(truth), (num_classes + 1, num_classes))[:-1]


def count_pixels(labels: Tensor, truth: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the (K,) int64 intersections, unions and ground-truth pixels of the classes."""
    confusion = count_confusion(labels, truth, num_classes)
    intersection, pixels = confusion.diagonal(), confusion.sum(dim=1)
    return intersection, confusion.sum(dim=0) + pixels - intersection, pixels


def quantize(values: Tensor) -> Tensor:
    """Rounds values to multiples of 2^-20, in float64: their sum is exact in any order while it is below 2^33."""
    return values.double().mul(STEPS).round().div(STEPS)


def sum_by(keys: Sequence[Tensor], values: Tensor, shape: Sequence[int]) -> Tensor:
    """Sums int64 values by several int64 keys, one per dimension of the result, each in [0, size of that dimension).

    Exact in any order and, unlike a bincount, without waiting for the device.
    """
    cells = torch.zeros_like(values)
    for key, size in zip(keys, shape, strict=True):
        cells = cells * size + key
    sums = torch.zeros(math.prod(shape), dtype=torch.int64, device=values.device)
    return sums.scatter_add_(0, cells.flatten(), values.flatten()).reshape(tuple(shape))


def bin_confidences(confidence: Tensor, num_bins: int) -> Tensor:
    """Returns the equal-width bin of each confidence in [0, 1]; bin b is (b / n, (b + 1) / n], and 0 is in bin 0."""
    edges = torch.linspace(0, 1, num_bins + 1, device=confidence.device, dtype=confidence.dtype)
    return torch.bucketize(confidence, edges[1:-1])


def sum_calibration(
    confidence: Tensor, correct: Tensor, truth: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ``bin_pixels``, ``bin_correct``, ``bin_confidence`` and ``class_gap`` of `Scores`.

    All arguments are (H, W): float32 confidences in [0, 1], bool, and the ground truth of `number_truth`.
    """
    keys = (truth, correct, bin_confidences(confidence, ECE_BINS), bin_confidences(confidence, CLASSWISE_ECE_BINS))
    shape = (num_classes + 1, 2, ECE_BINS, CLASSWISE_ECE_BINS)
    steps = (confidence * STEPS).round().to(torch.int64)  # exact: STEPS is a power of 2
    pixels = sum_by(keys, torch.ones_like(steps), shape)[:-1]
    confidences = sum_by(keys, steps, shape)[:-1]
    gaps = STEPS * pixels[:, 1].sum(dim=1) - confidences.sum(dim=(1, 2))  # (K, 10)
    return (
        pixels.sum(dim=(0, 1, 3)),
        pixels[:, 1].sum(dim=(0, 2)),
        confidences.sum(dim=(0, 1, 3)).double() / STEPS,
        gaps.abs().sum(dim=1).double() / STEPS,  # the class's ECE times its pixels
    )
