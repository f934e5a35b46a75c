import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.metrics import (
    SCORE_FIELDS,
    Scores,
    SegmentationScores,
    bin_confidences,
    confusion_matrix,
    copy_to_host,
    count_overlap,
    fetch_scores,
    resize_probabilities,
    scale_temperature,
    score_image,
)

CLASSES = 5
RECORDED = Path(__file__).parent.parent / "parity" / "scores.npz"
KEYS = ("miou", "accuracy", "ece", "classwise_ece", "brier", "nll")


def make_pairs(count: int = 4, size: tuple[int, int] = (13, 17), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws probabilities and masks; class 4 appears nowhere, class 3 only in predictions, 255 here and there."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, CLASSES, *size, generator=generator)
    logits[:, 4] = -50
    masks = torch.randint(0, 3, (count, *size), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = 255
    return logits.softmax(dim=1), masks


def score_all(probabilities: Tensor, masks: Tensor) -> Scores:
    pairs = zip(probabilities, masks, strict=True)
    return sum((score_image(p, m) for p, m in pairs), Scores.zeros(probabilities.shape[1]))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The expected calibration error, bin by bin; bin b holds (b / n, (b + 1) / n] and 0 belongs to the first."""
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if number == 0:
            inside |= confidence == 0
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def brier_and_nll(probabilities: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """The mean squared distance to the one-hot truth, and the mean of -log p of the truth, in float64."""
    listed, truth = np.moveaxis(probabilities, 1, -1)[masks != 255].astype(np.float64), masks[masks != 255]
    one_hot = np.eye(listed.shape[1])[truth]
    likelihood = np.maximum(listed[np.arange(len(truth)), truth], 2.0**-126)
    return float(((listed - one_hot) ** 2).sum(axis=1).mean()), float(-np.log(likelihood).mean())


def score_with_numpy(probabilities: np.ndarray, masks: np.ndarray) -> dict[str, float | list[float]]:
    """The scores once more, from their definitions."""
    labels, confidence = probabilities.argmax(1), probabilities.max(1).astype(np.float64)
    valid = masks != 255
    iou = []
    for c in range(probabilities.shape[1]):
        union = ((labels == c) | (masks == c)) & valid
        iou.append(((labels == c) & (masks == c)).sum() / union.sum() if union.any() else math.nan)
    classwise = []
    for c in range(probabilities.shape[1]):
        errors, pixels = [], []
        for label, mask, top in zip(labels, masks, confidence, strict=True):
            mine = mask == c
            if mine.any():
                errors.append(calibration_error(top[mine], label[mine] == c, 10))
                pixels.append(mine.sum())
        classwise.append(np.average(errors, weights=pixels) if errors else 0.0)
    brier, nll = brier_and_nll(probabilities, masks)
    return {
        "brier": brier,
        "nll": nll,
        "miou": float(np.nanmean(iou)),
        "iou": iou,
        "accuracy": (labels == masks)[valid].mean(),
        "ece": calibration_error(confidence[valid], (labels == masks)[valid], 15),
        "classwise_ece": float(np.mean(classwise)),
    }


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_an_independent_implementation(seed: int) -> None:
    probabilities, masks = make_pairs(seed=seed)
    ours, theirs = score_all(probabilities, masks).summarize(), score_with_numpy(probabilities.numpy(), masks.numpy())
    for key in KEYS:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-6), key
    np.testing.assert_allclose(ours["iou"], theirs["iou"], rtol=1e-12)


def test_brier_score_and_likelihood_of_recorded_logits() -> None:
    recorded = np.load(RECORDED)
    logits, masks = recorded["logits"].astype(np.float64), recorded["labels"][:, 0]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    brier, nll = brier_and_nll(exponentials / exponentials.sum(axis=1, keepdims=True), masks)
    probabilities = torch.from_numpy(recorded["logits"]).softmax(dim=1)
    summary = score_all(probabilities, torch.from_numpy(masks).long()).summarize()
    assert summary["brier"] == pytest.approx(brier, abs=1e-6) and summary["nll"] == pytest.approx(nll, abs=1e-6)
    # the logarithm of a sum of exponentials is another way to the same number
    losses = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(masks).long(), ignore_index=255)
    assert summary["nll"] == pytest.approx(losses.item(), abs=1e-6)


def test_brier_score_and_likelihood_of_known_cases() -> None:
    sure = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    right, wrong = (score_image(sure, torch.full((1, 2), label)).summarize() for label in (0, 1))
    assert (right["brier"], right["nll"]) == (0, 0)
    assert wrong["brier"] == 2 and wrong["nll"] == pytest.approx(126 * math.log(2), abs=1e-6)
    even = score_image(torch.full((4, 1, 2), 0.25), torch.tensor([[3, 255]])).summarize()
    assert even["brier"] == pytest.approx(0.75) and even["nll"] == pytest.approx(math.log(4), abs=1e-6)


def test_reliability_is_what_the_calibration_error_is_made_of() -> None:
    probabilities, masks = make_pairs()
    summary = score_all(probabilities, masks).summarize()
    confidence, labels = probabilities.max(dim=1)
    valid = masks != 255
    confidence, correct = confidence[valid].double().numpy(), (labels == masks)[valid].numpy()
    bins = np.minimum(np.ceil(confidence * 15) - 1, 14)  # no confidence here lies on an edge
    for number in range(15):
        inside = bins == number
        found = {key: values[number] for key, values in summary["reliability"].items()}
        assert found["pixels"] == inside.sum()
        if inside.any():
            assert found["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-6)
            assert found["accuracy"] == pytest.approx(correct[inside].mean(), abs=1e-9)
        else:
            assert math.isnan(found["confidence"]) and math.isnan(found["accuracy"])
    pixels, means, rates = (np.array(summary["reliability"][key]) for key in ("pixels", "confidence", "accuracy"))
    assert (pixels == 0).any() and np.nansum(pixels * abs(rates - means)) / pixels.sum() == pytest.approx(
        summary["ece"]
    )


def test_mean_iou_leaves_out_a_class_that_is_absent_and_counts_one_that_is_only_predicted() -> None:
    probabilities = F.one_hot(torch.tensor([[0, 0, 1, 1]]), 4).movedim(-1, 0).float()
    summary = score_image(probabilities, torch.tensor([[0, 0, 0, 255]])).summarize()
    assert summary["iou"][:2] == [pytest.approx(2 / 3), 0.0] and all(math.isnan(iou) for iou in summary["iou"][2:])
    assert summary["miou"] == pytest.approx(1 / 3) and summary["accuracy"] == pytest.approx(2 / 3)


def test_perfect_prediction_scores_1_with_no_calibration_error() -> None:
    mask = torch.arange(12).reshape(3, 4) % 3
    summary = score_image(F.one_hot(mask, 3).movedim(-1, 0).float(), mask).summarize()
    assert (summary["miou"], summary["accuracy"], summary["ece"], summary["classwise_ece"]) == (1, 1, 0, 0)


def test_calibration_error_of_a_known_case() -> None:
    # Two pixels in bin (0.6, 0.667] of 15: one right, confidence 0.65: |0.5 - 0.65|. Two right at 0.9: |1 - 0.9|.
    top = torch.tensor([[0.65, 0.65, 0.9, 0.9]])
    summary = score_image(torch.stack([top, 1 - top]), torch.tensor([[0, 1, 0, 0]])).summarize()
    assert summary["ece"] == pytest.approx((2 * 0.15 + 2 * 0.1) / 4, abs=1e-6)
    class_0, class_1 = (0.35 + 2 * 0.1) / 3, 0.65
    assert summary["classwise_ece"] == pytest.approx((class_0 + class_1) / 2, abs=1e-6)


@pytest.mark.parametrize("bins", [10, 15])
def test_confidences_of_exactly_0_and_1_have_a_bin_and_bins_have_equal_width(bins: int) -> None:
    assert bin_confidences(torch.tensor([0.0, 1e-9, 1 - 1e-6, 1.0]), bins).tolist() == [0, 0, bins - 1, bins - 1]
    edges = torch.arange(1, bins) / bins
    assert bin_confidences(edges - 1e-6, bins).tolist() == list(range(bins - 1))
    assert bin_confidences(edges + 1e-6, bins).tolist() == list(range(1, bins))


def test_confidence_on_an_edge_goes_to_the_bin_below() -> None:
    assert bin_confidences(torch.tensor([0.5]), 10).item() == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixel_that_is_not_finite_counts_as_class_0_with_confidence_0(value: float) -> None:
    probabilities = torch.tensor([[[0.1, 0.1]], [[0.9, 0.9]]])
    probabilities[0, 0, 1] = value
    scores = score_image(probabilities, torch.tensor([[1, 1]]))
    assert scores.bin_confidence.sum().item() == pytest.approx(0.9, abs=1e-5)
    assert scores.intersection.tolist() == [0, 1] and scores.union.tolist() == [1, 2]
    assert scores.brier.item() == pytest.approx(2 * 0.1**2 + 1, abs=1e-5)
    assert scores.nll.item() == pytest.approx(-math.log(0.9) + 126 * math.log(2), abs=1e-5)


def test_pixel_of_nothing_but_nan_counts_as_class_0_with_confidence_0() -> None:
    scores = score_image(torch.full((3, 2, 2), float("nan")), torch.ones(2, 2, dtype=torch.int64))
    assert scores.bin_pixels[0] == 4 and scores.bin_confidence.sum() == 0 and scores.union.tolist() == [4, 4, 0]


def test_nothing_to_score_is_nan_and_all_ignored_adds_nothing() -> None:
    summary = Scores.zeros(3).summarize()
    assert all(math.isnan(summary[key]) for key in KEYS)
    scores = score_image(torch.rand(3, 4, 4).softmax(dim=0), torch.full((4, 4), 255))
    assert all(not getattr(scores, name).any() for name in SCORE_FIELDS)


def test_sums_are_exact_in_any_order_and_split() -> None:
    probabilities, masks = make_pairs(12, (31, 37))
    singles = [score_image(p, m) for p, m in zip(probabilities, masks, strict=True)]
    expected = sum(singles, Scores.zeros(CLASSES)).to_record()
    for seed in range(5):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
        parts = [sum((singles[i] for i in order[start::3]), Scores.zeros(CLASSES)) for start in range(3)]
        assert (parts[2] + (parts[0] + parts[1])).to_record() == expected
    tiled = score_image(probabilities[0].repeat(1, 1, 2), torch.cat([masks[0], torch.full_like(masks[0], 255)], dim=1))
    assert tiled.to_record() == singles[0].to_record()


@pytest.mark.parametrize("column", [1, 8, 20, 36])
def test_sums_over_pixels_do_not_depend_on_where_an_image_is_cut(column: int) -> None:
    probabilities, masks = make_pairs(1, (31, 37))
    whole = score_image(probabilities[0], masks[0])
    left = score_image(probabilities[0, :, :, :column], masks[0, :, :column])
    both = left + score_image(probabilities[0, :, :, column:], masks[0, :, column:])
    for name in set(SCORE_FIELDS) - {"class_gap"}:  # that one is per image by definition
        assert torch.equal(getattr(both, name), getattr(whole, name)), name


def test_metric_sums_what_scores_sum_and_can_be_reset() -> None:
    probabilities, masks = make_pairs()
    metric = SegmentationScores(CLASSES)
    for _ in range(2):
        for p, m in zip(probabilities, masks, strict=True):
            metric.update(score_image(p, m))
        assert str(metric.compute()) == str(score_all(probabilities, masks).summarize())
        metric.reset()
    states = metric.metric_state
    assert set(states) == set(SCORE_FIELDS)
    assert all(state.dtype in (torch.int64, torch.float64) for state in states.values())


def test_record_gives_back_every_digit() -> None:
    import json

    scores = score_all(*make_pairs())
    again = Scores.from_record(json.loads(json.dumps(scores.to_record())))
    for name in SCORE_FIELDS:
        assert torch.equal(getattr(again, name), getattr(scores, name))
        assert getattr(again, name).dtype == getattr(scores, name).dtype


def test_adding_leaves_the_terms_alone() -> None:
    first, second = (score_all(*make_pairs(seed=seed)) for seed in (0, 1))
    before = first.to_record(), second.to_record()
    zeros = Scores.zeros(CLASSES)
    _ = zeros + first + second
    assert (first.to_record(), second.to_record()) == before
    assert all(not getattr(zeros, name).any() for name in SCORE_FIELDS)


@pytest.mark.parametrize("value", [3, 254, -1])
def test_value_that_is_no_class_is_a_clear_error(value: int) -> None:
    mask = torch.zeros(2, 2, dtype=torch.int64)
    mask[1, 1] = value
    for call in (
        lambda: fetch_scores([score_image(torch.rand(3, 2, 2), mask)], mask[None]),
        lambda: confusion_matrix(torch.zeros_like(mask), mask, 3),
    ):
        with pytest.raises(ValueError, match=rf"holds the values \[{value}\], the network has 3 classes"):
            call()


def test_value_that_is_no_class_does_not_count_until_it_is_refused() -> None:
    probabilities, masks = make_pairs(1)
    odd = masks[0].clone()
    odd[odd == 255] = 77
    assert score_image(probabilities[0], odd).to_record() == score_image(probabilities[0], masks[0]).to_record()
    assert torch.equal(count_overlap(probabilities[0], odd), count_overlap(probabilities[0], masks[0]))


def test_scoring_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value, and every operation whose result has a size that only the values tell, waits on a GPU."""
    probabilities, masks = make_pairs(1)
    waits = []
    for name in (
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "item",
        "tolist",
        "numpy",
        "nonzero",
        "unique",
        "cpu",
    ):
        original = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            waits.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, noted)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            masked = name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            if masked or name in ("_local_scalar_dense", "nonzero", "bincount", "_unique2", "masked_select", "equal"):
                waits.append(name)
            return func(*args, **(kwargs or {}))

    with Watch():
        for size in (masks.shape[1:], (20, 30)):
            score_image(F.interpolate(probabilities, tuple(size))[0], masks[0])
            count_overlap(F.interpolate(probabilities, tuple(size))[0], masks[0])
    assert waits == []


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_scores_are_the_same_under_deterministic_algorithms(device: str, deterministic: None) -> None:
    probabilities, masks = (tensor.to(device) for tensor in make_pairs())
    small = F.interpolate(probabilities, (7, 9))
    found = [score_image(p, m) for p, m in zip((*probabilities, *small), (*masks, *masks), strict=True)]
    overlap = count_overlap(probabilities[0], masks[0])
    torch.use_deterministic_algorithms(False)
    plain = [score_image(p, m) for p, m in zip((*probabilities, *small), (*masks, *masks), strict=True)]
    assert [score.to_record() for score in found] == [score.to_record() for score in plain]
    assert torch.equal(overlap, count_overlap(probabilities[0], masks[0]))


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_scores_of_a_batch_come_to_the_host_in_one_copy(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    original = Tensor.cpu

    def noted(self: Tensor) -> Tensor:
        copies.append(self.numel())
        return torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else original(self)

    monkeypatch.setattr(Tensor, "cpu", noted)
    probabilities, masks = make_pairs(2)
    tensors = [torch.arange(3.0).double(), torch.tensor(7), torch.rand(2, 3), torch.tensor(True)]
    fetched = copy_to_host([tensor.to(device) for tensor in tensors])
    assert len(copies) == 1 and [(f.shape, f.dtype) for f in fetched] == [(t.shape, t.dtype) for t in tensors]
    if device == "cuda":
        assert all(torch.equal(*pair) for pair in zip(fetched, tensors, strict=True))
        scores = [score_image(p.cuda(), m.cuda()) for p, m in zip(probabilities, masks, strict=True)]
        copies.clear()
        found = fetch_scores(scores, masks.cuda())
        expected = [score_image(p, m).to_record() for p, m in zip(probabilities, masks, strict=True)]
        assert len(copies) == 1 and [score.to_record() for score in found] == expected


def test_confusion_matrix_has_truth_in_rows_and_predictions_in_columns() -> None:
    matrix = confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 255]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]] and matrix.dtype == torch.int64


@pytest.mark.parametrize("size", [(26, 34), (40, 21), (7, 9)])
def test_resized_probabilities_are_the_softmax_of_resized_logits(size: tuple[int, int]) -> None:
    logits = 5 * torch.randn(2, 6, 13, 17, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(dim=1)
    torch.testing.assert_close(resize_probabilities(logits.softmax(dim=1), size), expected, rtol=1e-4, atol=1e-5)
    assert resize_probabilities(logits, (13, 17)) is logits


def test_resizing_probabilities_of_0_stays_finite() -> None:
    probabilities = F.one_hot(torch.tensor([[0, 1], [2, 0]]), 3).movedim(-1, 0).float()[None]
    resized = resize_probabilities(probabilities, (5, 7))
    assert resized.isfinite().all()
    torch.testing.assert_close(resized.sum(dim=1), torch.ones(1, 5, 7))


@pytest.mark.parametrize("temperature", [0.3, 0.9, 1.5, 4.0])
def test_scaled_probabilities_are_the_softmax_of_scaled_logits_and_keep_their_order(temperature: float) -> None:
    logits = 5 * torch.randn(2, 6, 13, 17, generator=torch.Generator().manual_seed(0))
    scaled = scale_temperature(logits.softmax(dim=1), temperature)
    torch.testing.assert_close(scaled, (logits / temperature).softmax(dim=1), rtol=1e-4, atol=1e-6)
    assert torch.equal(scaled.argmax(dim=1), logits.argmax(dim=1))
    torch.testing.assert_close(scaled.sum(dim=1), torch.ones(2, 13, 17))


def test_temperature_1_gives_back_the_very_tensor_and_probabilities_of_0_stay_finite() -> None:
    probabilities = F.one_hot(torch.tensor([[0, 1], [2, 0]]), 3).movedim(-1, 0).float()[None]
    assert scale_temperature(probabilities, 1.0) is probabilities
    for temperature in (0.01, 100.0):
        scaled = scale_temperature(probabilities, temperature)
        assert scaled.isfinite().all() and torch.equal(scaled.argmax(dim=1), probabilities.argmax(dim=1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_that_is_none_is_a_clear_error(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}: expected a finite number above 0"):
        scale_temperature(torch.rand(1, 3, 2, 2), temperature)


def test_prediction_is_scored_at_the_size_of_the_truth() -> None:
    probabilities, _ = make_pairs(1)
    mask = torch.randint(0, 3, (40, 31), generator=torch.Generator().manual_seed(1))
    expected = score_image(resize_probabilities(probabilities, (40, 31))[0], mask)
    assert score_image(probabilities[0], mask).to_record() == expected.to_record()
    assert expected.pixels.sum() == 40 * 31


@pytest.mark.cuda
def test_scores_on_cuda_are_those_on_the_cpu() -> None:
    probabilities, masks = make_pairs()
    metric = SegmentationScores(CLASSES).cuda()
    for p, m in zip(probabilities.cuda(), masks.cuda(), strict=True):
        metric.update(score_image(p, m))
    found, expected = metric.compute(), score_all(probabilities, masks).summarize()
    reliability, other = found.pop("reliability"), expected.pop("reliability")
    for key, value in {**found, **reliability}.items():
        assert value == pytest.approx({**expected, **other}[key], rel=1e-6, nan_ok=True), key
