"""What programs write: tables, and pages whose measured part changes while all else stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.pages import escape_latex, format_markdown, insert_report
from experiments.scores import Column, compare_images, format_scores
from lightning_modules.metrics import Scores


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page, own = tmp_path / "new" / "page.md", "<!-- {0}: begin -->{1}<!-- {0}: end -->\n"
    insert_report(page, "first")  # makes the page
    page.write_text("above\n" + own.format("a", "\nold\n") + page.read_text())
    for report in ("second", "third"):
        insert_report(page, report, "a")
    assert page.read_text() == "above\n" + own.format("a", "\n\nthird\n") + own.format("measured", "\n\nfirst\n")
    page.write_text("mine")
    with pytest.raises(ValueError, match=r"page\.md does not have the lines <!-- measured: begin --> and"):
        insert_report(page, "report")
    assert page.read_text() == "mine"


def test_tables_are_aligned_and_escaped() -> None:
    table = format_markdown(["a", "b"], [["x", "1"]], numbers=range(1, 2))
    assert table == "| a | b |\n|---|---:|\n| x | 1 |"
    assert escape_latex("a_b & 5 % {x} — † −1") == r"a\_b \& 5 \% \{x\} --- $^{\dagger}$ $-$1"


def test_a_line_is_a_mean_over_seeds() -> None:
    rows = [{"method": "A", "miou": 40.0, "ece": None}, {"method": "B", "miou": 1.0}, {"method": "A", "miou": 42.0}]
    columns = [Column("mean", "miou", spread=True), Column("ECE", "ece", "{:.0f}")]
    assert format_scores(rows, ["method"], columns).splitlines()[2:] == ["| A | 41.0 ± 1.4 | - |", "| B | 1.0 |  |"]


def test_images_without_a_labelled_pixel_are_not_compared(tmp_path: Path) -> None:
    def write_records(name: str, *hits: int) -> Path:
        """Writes a record per image, of ten pixels of which so many are right; 0 is an image without labels."""
        records = []
        for number, right in enumerate(hits):
            one = torch.tensor([10 if right else 0])
            scores = replace(Scores.zeros(1), intersection=torch.tensor([right]), union=one, pixels=one)
            records.append(json.dumps({"domain": "x", "name": str(number), **scores.to_record()}))
        (tmp_path / name).write_text("".join(f"{record}\n" for record in records))
        return tmp_path / name

    found = compare_images(write_records("before", 5, 5, 0), write_records("after", 4, 9, 0))
    assert found.pop("gain") == pytest.approx(15) and found == {"lower": 50.0, "worse": 50.0, "better": 50.0}
    assert compare_images(*[write_records("none", 0, 0)] * 2) == {}
