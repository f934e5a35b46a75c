"""Scores against their definitions, and that they are exact, however they are summed."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.metrics import (
    SCORE_FIELDS,
    Scores,
    SegmentationScores,
    bin_confidences,
    count_overlap,
    fetch_scores,
    score_image,
)
from lightning_modules.probabilities import copy_to_host, resize_probabilities, scale_temperature

CLASSES = 5
KEYS = ("miou", "accuracy", "ece", "classwise_ece", "brier", "nll")


def make_pairs(count: int = 4, size: tuple[int, int] = (13, 17), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws probabilities and masks; class 4 appears nowhere, class 3 only in predictions, 255 here and there."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, CLASSES, *size, generator=generator)
    logits[:, 4] = -50
    masks = torch.randint(0, 3, (count, *size), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = 255
    return logits.softmax(dim=1), masks


def score_each(probabilities: Tensor, masks: Tensor) -> list[Scores]:
    return [score_image(*pair) for pair in zip(probabilities, masks, strict=True)]


def score_all(probabilities: Tensor, masks: Tensor) -> Scores:
    return sum(score_each(probabilities, masks), Scores.zeros(probabilities.shape[1]))


def measure_reliability(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[dict[str, np.ndarray], float]:
    """Pixels, mean confidence and accuracy of each bin, of which bin b holds (b / n, (b + 1) / n]; and their error."""
    rows = []
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        means = (confidence[inside].mean(), correct[inside].mean()) if inside.any() else (math.nan, math.nan)
        rows.append((inside.sum(), *means))
    pixels, mean, accuracy = np.array(rows).T
    error = np.nansum(pixels * abs(accuracy - mean)) / len(confidence)
    return {"pixels": pixels, "confidence": mean, "accuracy": accuracy}, error


def score_with_numpy(probabilities: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """The scores once more, from their definitions."""
    labels, confidence = probabilities.argmax(1), probabilities.max(1).astype(np.float64)
    valid = masks != 255
    iou, classwise = [], []
    for c in range(probabilities.shape[1]):
        union = ((labels == c) | (masks == c)) & valid
        iou.append(((labels == c) & (masks == c)).sum() / union.sum() if union.any() else math.nan)
        errors, pixels = [], []
        for label, mask, top in zip(labels, masks, confidence, strict=True):
            if (mask == c).any():
                errors.append(measure_reliability(top[mask == c], label[mask == c] == c, 10)[1])
                pixels.append((mask == c).sum())
        classwise.append(np.average(errors, weights=pixels) if errors else 0.0)
    listed, truth = np.moveaxis(probabilities, 1, -1)[valid].astype(np.float64), masks[valid]
    likelihood = np.maximum(listed[np.arange(len(truth)), truth], 2.0**-126)
    reliability, error = measure_reliability(confidence[valid], (labels == masks)[valid], 15)
    return {
        "brier": ((listed - np.eye(listed.shape[1])[truth]) ** 2).sum(axis=1).mean(),
        "nll": -np.log(likelihood).mean(),
        "miou": np.nanmean(iou),
        "iou": iou,
        "accuracy": (labels == masks)[valid].mean(),
        "ece": error,
        "reliability": reliability,
        "classwise_ece": np.mean(classwise),
    }


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_an_independent_implementation(seed: int) -> None:
    probabilities, masks = make_pairs(seed=seed)
    ours, theirs = score_all(probabilities, masks).summarize(), score_with_numpy(probabilities.numpy(), masks.numpy())
    for key in KEYS:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-6), key
    np.testing.assert_allclose(ours["iou"], theirs["iou"], rtol=1e-12)
    assert 0 in ours["reliability"]["pixels"]
    for key, values in theirs["reliability"].items():
        np.testing.assert_allclose(ours["reliability"][key], values, atol=1e-6)


def test_mean_iou_leaves_out_what_is_absent_or_ignored_and_counts_a_class_that_is_only_predicted() -> None:
    probabilities = F.one_hot(torch.tensor([[0, 0, 1, 1]]), 4).movedim(-1, 0).float()
    summary = score_image(probabilities, torch.tensor([[0, 0, 0, 255]])).summarize()
    assert summary["iou"][:2] == [pytest.approx(2 / 3), 0.0] and all(math.isnan(iou) for iou in summary["iou"][2:])
    assert summary["miou"] == pytest.approx(1 / 3) and summary["accuracy"] == pytest.approx(2 / 3)
    mask = torch.arange(12).reshape(3, 4) % 3
    perfect = score_image(F.one_hot(mask, 3).movedim(-1, 0).float(), mask).summarize()
    assert [perfect[key] for key in KEYS] == [1, 1, 0, 0, 0, 0]
    nothing = Scores.zeros(3)
    assert all(math.isnan(nothing.summarize()[key]) for key in KEYS)
    ignored = score_image(torch.rand(3, 4, 4).softmax(dim=0), torch.full((4, 4), 255))
    assert ignored.to_record() == nothing.to_record()


@pytest.mark.parametrize("bins", [10, 15])
def test_bins_have_equal_width_and_0_and_1_have_one(bins: int) -> None:
    assert bin_confidences(torch.tensor([0.0, 1e-9, 1 - 1e-6, 1.0]), bins).tolist() == [0, 0, bins - 1, bins - 1]
    edges = torch.arange(1, bins) / bins
    assert bin_confidences(edges - 1e-6, bins).tolist() == list(range(bins - 1))
    assert bin_confidences(edges + 1e-6, bins).tolist() == list(range(1, bins))
    assert bin_confidences(torch.tensor([0.5]), 10).item() == 4  # on an edge: the bin below


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pixel_that_is_not_finite_counts_as_class_0_with_confidence_0(value: float) -> None:
    probabilities = torch.tensor([[[0.1, 0.1]], [[0.9, 0.9]]])
    probabilities[0, 0, 1] = value
    scores = score_image(probabilities, torch.tensor([[1, 1]]))
    assert scores.bin_confidence.sum().item() == pytest.approx(0.9, abs=1e-5)
    assert scores.intersection.tolist() == [0, 1] and scores.union.tolist() == [1, 2]
    assert scores.brier.item() == pytest.approx(2 * 0.1**2 + 1, abs=1e-5)
    assert scores.nll.item() == pytest.approx(-math.log(0.9) + 126 * math.log(2), abs=1e-5)


def test_sums_are_exact_in_any_order_and_wherever_images_are_cut() -> None:
    probabilities, masks = make_pairs(12, (31, 37))
    singles = score_each(probabilities, masks)
    expected = sum(singles, Scores.zeros(CLASSES)).to_record()
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
        parts = [sum((singles[i] for i in order[start::3]), Scores.zeros(CLASSES)) for start in range(3)]
        assert (parts[2] + (parts[0] + parts[1])).to_record() == expected
    for column in (1, 20, 36):
        left = score_image(probabilities[0, :, :, :column], masks[0, :, :column])
        both = (left + score_image(probabilities[0, :, :, column:], masks[0, :, column:])).to_record()
        assert {**both, "class_gap": singles[0].class_gap.tolist()} == singles[0].to_record()  # a gap is per image


def test_record_gives_back_every_digit_and_adding_leaves_the_terms_alone() -> None:
    scores = score_all(*make_pairs())
    record = json.dumps(scores.to_record())
    again = Scores.from_record(json.loads(record))
    for name in SCORE_FIELDS:
        torch.testing.assert_close(getattr(again, name), getattr(scores, name), rtol=0, atol=0)  # the type, too
    assert (scores + again).brier == 2 * scores.brier
    assert json.dumps(scores.to_record()) == json.dumps(again.to_record()) == record


@pytest.mark.parametrize("value", [CLASSES, 254, -1])
def test_value_that_is_no_class_does_not_count_and_is_refused_when_scores_are_fetched(value: int) -> None:
    (probabilities,), (mask,) = make_pairs(1)
    odd = torch.where(mask == 255, value, mask)
    scores = score_image(probabilities, odd)
    assert scores.to_record() == score_image(probabilities, mask).to_record()
    assert torch.equal(count_overlap(probabilities, odd), count_overlap(probabilities, mask))
    with pytest.raises(ValueError, match=rf"contains the values \[{value}\], the network has 5 classes"):
        fetch_scores([scores], odd[None])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_scores_and_their_sums_are_the_same_on_every_device_also_under_deterministic_algorithms(device: str) -> None:
    probabilities, masks = make_pairs()
    expected, metric = score_each(probabilities, masks), SegmentationScores(CLASSES).to(device)
    small = F.interpolate(probabilities, (7, 9))
    torch.use_deterministic_algorithms(True)
    try:
        scores = score_each(probabilities.to(device), masks.to(device))
        overlap = count_overlap(probabilities[0].to(device), masks[0].to(device))
        score_each(small.to(device), masks.to(device))
    finally:
        torch.use_deterministic_algorithms(False)
    fetched = fetch_scores(scores, masks.to(device))
    assert [score.to_record() for score in fetched] == [score.to_record() for score in expected]
    assert overlap.tolist() == [expected[0].intersection.tolist(), expected[0].union.tolist()]
    summary = score_all(probabilities, masks).summarize()
    for _ in range(2):
        for score in scores:
            metric.update(score)
        found = metric.compute()
        assert [found[key] for key in KEYS] == pytest.approx([summary[key] for key in KEYS], rel=1e-6)
        for key, values in summary["reliability"].items():
            assert found["reliability"][key] == pytest.approx(values, rel=1e-6, nan_ok=True), key
        metric.reset()
    assert all(state.dtype in (torch.int64, torch.float64) for state in metric.metric_state.values())


def test_scores_of_a_batch_come_to_the_host_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def note(self: Tensor) -> Tensor:
        copies.append(self.numel())
        return torch.zeros(self.shape, dtype=self.dtype)

    monkeypatch.setattr(Tensor, "cpu", note)
    tensors = [torch.arange(3.0).double(), torch.tensor(7), torch.rand(2, 3), torch.tensor(True)]
    fetched = copy_to_host([tensor.to("meta") for tensor in tensors])
    assert len(copies) == 1 and [(f.shape, f.dtype) for f in fetched] == [(t.shape, t.dtype) for t in tensors]


@pytest.mark.parametrize("size", [(26, 34), (40, 21), (7, 9)])
def test_resized_probabilities_are_the_softmax_of_resized_logits(size: tuple[int, int]) -> None:
    logits = 5 * torch.randn(2, 6, 13, 17, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=1)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(dim=1)
    torch.testing.assert_close(resize_probabilities(probabilities, size), expected, rtol=1e-4, atol=1e-5)
    assert resize_probabilities(logits, (13, 17)) is logits
    mask = torch.randint(0, 6, size, generator=torch.Generator().manual_seed(1))
    resized = score_image(resize_probabilities(probabilities[:1], size)[0], mask)
    assert score_image(probabilities[0], mask).to_record() == resized.to_record()


def test_scaled_probabilities_are_the_softmax_of_scaled_logits_and_stay_finite() -> None:
    logits = 5 * torch.randn(2, 6, 13, 17, generator=torch.Generator().manual_seed(0))
    for temperature in (0.3, 1.5, 4.0):
        scaled = scale_temperature(logits.softmax(dim=1), temperature)
        torch.testing.assert_close(scaled, (logits / temperature).softmax(dim=1), rtol=1e-4, atol=1e-6)
    probabilities = F.one_hot(torch.tensor([[0, 1], [2, 0]]), 3).movedim(-1, 0).float()[None]
    torch.testing.assert_close(resize_probabilities(probabilities, (5, 7)).sum(dim=1), torch.ones(1, 5, 7))
    for temperature in (0.01, 100.0):
        scaled = scale_temperature(probabilities, temperature)
        assert scaled.isfinite().all() and torch.equal(scaled.argmax(dim=1), probabilities.argmax(dim=1))
    assert scale_temperature(probabilities, 1.0) is probabilities
    for none in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {none}: expected a finite number above 0"):
            scale_temperature(probabilities, none)
