"""The study of Seg-TTT's cheaper ways: how it chooses, and that its settings are settings of the method."""

from pathlib import Path
from typing import Any

import pytest

from callbacks import SegTTT
from experiments.tradeoffs import (
    CURVES,
    GRID,
    choose_preset,
    format_shares,
    measure_shares,
    name_settings,
    resolve_factors,
)

USUAL = {"alpha": 0.3, "lr": 0.1, "scales": [0.5]}


def make_row(miou: float, steps: int, lr: float = 1.0) -> dict[str, Any]:
    return {"miou": miou, "settings": {"num_steps": steps, "lr": lr}}


def test_the_preset_is_the_most_accurate_that_is_good_and_fast_enough() -> None:
    rows = [make_row(48.9, 1), make_row(49.2, 2), make_row(49.4, 2, 2.0), make_row(50.0, 3)]
    shares = {1: 0.2, 2: 0.3, 3: 0.4}
    assert choose_preset(rows, iabn=40, full=50, shares=shares) is rows[2]
    assert choose_preset(rows[:1], iabn=40, full=50, shares=shares) is None  # 89 % of the gain
    assert choose_preset(rows[3:], iabn=40, full=50, shares=shares) is None  # too slow


def test_factors_are_of_the_usual_rate() -> None:
    assert resolve_factors({"lr": 2.0}, USUAL) == {"alpha": 0.3, "lr": 0.2, "scales": [0.5]}
    assert resolve_factors({"num_steps": 3}, USUAL) == USUAL | {"num_steps": 3}


@pytest.mark.parametrize("way", [*(way for ways in CURVES.values() for way in ways), *GRID], ids=name_settings)
def test_every_way_is_one_of_the_method(way: dict[str, Any]) -> None:
    SegTTT(**resolve_factors(way, USUAL))


def test_fewer_steps_take_a_smaller_share_of_the_time() -> None:
    shares = measure_shares((1, 5), (64, 64), "resnet10")
    assert 0 < shares[1] < shares[5] < 1.5
    assert format_shares({1: 0.2, 3: 0.391}) == "1 step takes 0.20, 3 steps take 0.39"


def test_the_page_of_the_preset_is_there() -> None:
    text = (Path(__file__).parent.parent / "docs" / "tradeoffs.md").read_text(encoding="utf-8")
    assert "configs/method/seg_ttt_fast.yaml" in text and "tradeoffs.png" in text
