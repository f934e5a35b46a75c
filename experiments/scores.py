"""Flattens scores of runs into rows, and formats tables of their means over training seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.pages import format_markdown

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table of scores.

    Attributes:
        title: Heading.
        key: Key of the score in the rows.
        form: Format of the mean over seeds.
        spread: Whether to add the standard deviation over seeds, if there are several.
    """

    title: str
    key: str
    form: str = "{:.1f}"
    spread: bool = False

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


def list_columns(row: Row) -> list[Column]:
    """Lists the columns of mean IoU: one per domain, and their mean."""
    return [Column(key.removeprefix("miou."), key, spread=True) for key in row if key.startswith("miou.")]


def format_scores(rows: Sequence[Row], words: Sequence[str], columns: Sequence[Column]) -> str:
    """Formats a Markdown table.

    Args:
        rows: One per training seed; rows with the same words are averaged into one line.
        words: Keys of the first columns, which hold text; also their headings.
        columns: Columns of numbers.
    """
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
