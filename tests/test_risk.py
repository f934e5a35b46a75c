"""How far an adaptation is trusted, on hand-made scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.risk import TRUSTS, choose_trust, score_images
from experiments.study import Study
from tests.tiny import EXPERIMENT

NAN = float("nan")


def make_scores(n: int, hurt: dict[float, int]) -> dict[float, list[float]]:
    """Of n images, so many are two points worse at each trust, the others three better."""
    return {0.0: [30.0] * n} | {trust: [28.0] * bad + [33.0] * (n - bad) for trust, bad in hurt.items()}


@pytest.mark.parametrize(
    ("n", "hurt", "most_hurt", "trust"),
    [
        (99, {0.5: 0, 0.8: 2, 1.0: 3}, 0.03, 0.8),
        (40, {0.5: 1, 1.0: 0}, 0.03, 0.0),  # what hurts at a smaller trust is not trusted at a larger one
        (40, {0.5: 1, 1.0: 0}, 0.05, 1.0),
        *((n, {1.0: hurt}, (hurt + 1) / (n + 1), 1.0) for n in (33, 66, 99, 132, 199, 232) for hurt in range(5)),
    ],
)
def test_the_largest_trust_that_keeps_the_promise_at_every_smaller_one_is_chosen(
    n: int, hurt: dict[float, int], most_hurt: float, trust: float
) -> None:
    found = choose_trust(make_scores(n, hurt), most_hurt)
    assert found["trust"] == trust and found["images"] == n
    for tried, bad in hurt.items():
        figures = found["tried"][tried]
        assert figures["hurt"] == bad / n and figures["bound"] == pytest.approx((bad + 1) / (n + 1))
        assert figures["gain"] == pytest.approx((bad * -2 + (n - bad) * 3) / n)


def test_too_few_images_promise_nothing() -> None:
    for unlabelled in ([], [NAN]):
        scores = {trust: [*found, *unlabelled] for trust, found in make_scores(32, {1.0: 0}).items()}
        with pytest.raises(ValueError, match=r"has 32 labelled images: expected 33 or more to .* 3 %"):
            choose_trust(scores, 0.03)
    # A point worse is not hurt.
    assert choose_trust({0.0: [30.0] * 33, 1.0: [29.0] * 33}, 0.03)["trust"] == 1.0


def test_images_are_scored_at_every_point_over_the_classes_that_are_there() -> None:
    overlap = [[[1, 0, 3], [2, 0, 4]], [[0, 0, 4], [4, 0, 4]]]  # 2 points, intersections and unions of 3 classes
    (scores,) = score_images([{"search": {"overlap": overlap}}])
    assert scores == pytest.approx([100 * (1 / 2 + 3 / 4) / 2, 50.0])
    assert torch.tensor(score_images([{"search": {"overlap": [[[0], [0]]]}}])).isnan().all()


def test_a_refined_method_is_compared_with_the_prediction_without_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []
    monkeypatch.setattr(Study, "choose", lambda self, *given: grids.append(given[-1]))
    scores = [50.0] * len(TRUSTS) + [60.0] * (len(TRUSTS) - 1) + [55.0]  # of refine 0 and 10, by trust
    record = {"domain": "x", "search": {"overlap": [[[score], [100.0]] for score in scores]}}
    place = tmp_path / "development" / "trust"
    place.mkdir(parents=True)
    (place / "records.jsonl").write_text("".join(json.dumps(record | {"name": str(n)}) + "\n" for n in range(40)))
    risk = Study(tmp_path, EXPERIMENT).choose_trust("SegTTT", {"refine": 10}, 0.1)
    assert grids == [{"refine": [0, 10], "trust": TRUSTS}]
    assert risk["trust"] == 1 and risk["tried"][1.0]["gain"] == pytest.approx(5)
