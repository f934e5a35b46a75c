"""Rows of scores: what a table makes of them, and what images are compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.scores import Column, compare_images, format_scores
from lightning_modules.metrics import Scores


def test_a_line_is_a_mean_over_seeds() -> None:
    rows = [{"method": "A", "miou": 40.0, "ece": None}, {"method": "B", "miou": 1.0}, {"method": "A", "miou": 42.0}]
    columns = [Column("mean", "miou", spread=True), Column("ECE", "ece", "{:.0f}")]
    assert format_scores(rows, ["method"], columns).splitlines()[2:] == ["| A | 41.0 ± 1.4 | - |", "| B | 1.0 |  |"]


def write_records(folder: Path, hits: list[int]) -> Path:
    """Writes a record per image, of ten pixels of which so many are right; 0 is an image without a labelled pixel."""
    records = []
    for number, right in enumerate(hits):
        one = torch.tensor([10 if right else 0])
        scores = replace(Scores.zeros(1), intersection=torch.tensor([right]), union=one, pixels=one)
        records.append({"domain": "x", "name": str(number), **scores.to_record()})
    folder.with_suffix(".jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder.with_suffix(".jsonl")


def test_images_without_a_labelled_pixel_are_not_compared(tmp_path: Path) -> None:
    before = write_records(tmp_path / "before", [5, 5, 0])
    found = compare_images(before, write_records(tmp_path / "after", [4, 9, 0]))
    assert found.pop("gain") == pytest.approx(15) and found == {"lower": 50.0, "worse": 50.0, "better": 50.0}
    assert compare_images(*[write_records(tmp_path / "none", [0, 0])] * 2) == {}
