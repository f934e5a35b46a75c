"""Flattens scores of runs into rows, and formats tables of their means over training seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.report.summary import score_record
from callbacks.run.records import read_records
from experiments.pages import format_markdown

Row = Mapping[str, Any]
MARGIN = 1.0  # points of mean IoU by which an image has to be worse to count as hurt


@dataclass(frozen=True)
class Column:
    """A column of a table of scores."""

    title: str
    key: str  # of the score in the rows
    form: str = "{:.1f}"  # of the mean over seeds
    spread: bool = False  # whether to add the standard deviation over seeds, if there are several

    def format(self, rows: Sequence[Row]) -> str:
        """Formats a cell: empty if no row has the score, a dash if a score is None (no labelled pixel)."""
        values = [row[self.key] for row in rows if self.key in row]
        if not values or None in values:
            return "-" if values else ""
        text = self.form.format(statistics.mean(values))
        return f"{text} ± {statistics.stdev(values):.1f}" if self.spread and len(values) > 1 else text


COST = (Column("ECE", "ece"), Column("ms/image", "ms_per_image", "{:.0f}"))


def flatten_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens results.json into a row: ``miou.DOMAIN``, ``miou.mean``, and the means of the other scores."""
    means = dict(summary["mean"])
    miou = {domain: scores["miou"] for domain, scores in summary["domains"].items()} | {"mean": means.pop("miou")}
    return {f"miou.{name}": value for name, value in miou.items()} | means


def compare_images(before: Path, after: Path) -> dict[str, float]:
    """Compares the records of two runs on the same images, image by image.

    Returns:
        ``gain``, the mean difference in points of mean IoU, and the percentages of images that are ``lower``, and that
        are ``worse`` or ``better`` by more than a point; empty if no image has a labelled pixel.
    """
    first, second = (
        {(record["domain"], record["name"]): score_record(record) for record in read_records(path)}
        for path in (before, after)
    )
    gains = np.array([second[image] - first[image] for image in first])
    gains = gains[~np.isnan(gains)]  # NaN without a labelled pixel
    if not gains.size:
        return {}
    shares = {"lower": gains < 0, "worse": gains < -MARGIN, "better": gains > MARGIN}
    return {"gain": float(gains.mean()), **{key: 100 * float(hit.mean()) for key, hit in shares.items()}}


def list_columns(row: Row) -> list[Column]:
    """Lists the columns of mean IoU: one per domain, and their mean."""
    return [Column(key.removeprefix("miou."), key, spread=True) for key in row if key.startswith("miou.")]


def format_scores(rows: Sequence[Row], words: Sequence[str], columns: Sequence[Column]) -> str:
    """Formats a Markdown table: columns of text, and columns of numbers averaged over the rows with the same text."""
    lines = [[*named, *(column.format(own) for column in columns)] for named, own in group_rows(rows, words)]
    titles = [*words, *(column.title for column in columns)]
    return format_markdown(titles, lines, numbers=range(len(words), len(titles)))


def group_rows(rows: Sequence[Row], words: Sequence[str]) -> list[tuple[list[str], list[Row]]]:
    """Groups rows by their values of some keys, in order of first occurrence."""
    named = [[row[word] for word in words] for row in rows]
    distinct = [one for number, one in enumerate(named) if one not in named[:number]]
    return [(one, [row for row, own in zip(rows, named, strict=True) if own == one]) for one in distinct]


def find_row(rows: Sequence[Row], **words: Any) -> Row | None:
    """Returns the first row with these values, or None."""
    return next((row for row in rows if all(row[key] == value for key, value in words.items())), None)
