"""Rows of scores: what a table makes of them, and what images are compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.scores import Column, format_scores
from experiments.study import Study
from lightning_modules.metrics import Scores


def test_a_line_is_a_mean_over_seeds() -> None:
    rows = [{"method": "A", "miou": 40.0, "ece": None}, {"method": "B", "miou": 1.0}, {"method": "A", "miou": 42.0}]
    columns = [Column("mean", "miou", spread=True), Column("ECE", "ece", "{:.0f}")]
    assert format_scores(rows, ["method"], columns).splitlines()[2:] == ["| A | 41.0 ± 1.4 | - |", "| B | 1.0 |  |"]


def write_records(folder: Path, hits: list[int]) -> None:
    """Writes a record per image, of ten pixels of which so many are right; 0 is an image without a labelled pixel."""
    records = []
    for number, right in enumerate(hits):
        one = torch.tensor([10 if right else 0])
        scores = replace(Scores.zeros(1), intersection=torch.tensor([right]), union=one, pixels=one)
        records.append({"domain": "x", "name": str(number), **scores.to_record()})
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_images_without_a_labelled_pixel_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path / "test" / "A", [5, 5, 0])
    write_records(tmp_path / "test" / "B", [4, 9, 0])
    summary = {"domains": {"x": {"miou": 65.0}}, "mean": {"miou": 65.0, "ece": 3.0}}
    monkeypatch.setattr(Study, "test", lambda *_: summary)
    row = Study(tmp_path, []).score("B", [], "A")
    expected = {"miou.x": 65.0, "miou.mean": 65.0, "ece": 3.0, "lower": 50.0, "worse": 50.0, "better": 50.0}
    assert {key: row[key] for key in expected} == expected and row["gain"] == pytest.approx(15)
    write_records(tmp_path / "test" / "none", [0, 0, 0])
    assert "gain" not in Study(tmp_path, []).score("none", [], "none")
