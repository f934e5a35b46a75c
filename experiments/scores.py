"""Scores of runs as flat rows, and tables of their means over training seeds."""

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
        title: Its heading.
        key: Of the score in the rows.
        form: How the mean over seeds is written.
        spread: Whether the standard deviation over several seeds stands beside.
    """

    title: str
    key: str
    form: str = "{:.1f}"
    spread: bool = False

    def format(self, rows: Sequence[Row]) -> str:
        """Formats a cell: empty where no row has the score, a dash where it has no value (no labelled pixel)."""
        values = [row[self.key] for row in rows if self.key in row]
        if not values or None in values:
            return "-" if values else ""
        text = self.form.format(statistics.mean(values))
        return f"{text} ± {statistics.stdev(values):.1f}" if self.spread and len(values) > 1 else text


COST = (Column("ECE", "ece"), Column("ms/image", "ms_per_image", "{:.0f}"))


def flatten_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores of results.json as a row: ``miou.DOMAIN``, ``miou.mean``, and the means of the others."""
    means = dict(summary["mean"])
    miou = {domain: scores["miou"] for domain, scores in summary["domains"].items()} | {"mean": means.pop("miou")}
    return {f"miou.{name}": value for name, value in miou.items()} | means


def list_columns(row: Row) -> list[Column]:
    """Lists the columns of mean IoU: of each domain, and their mean."""
    return [Column(key.removeprefix("miou."), key, spread=True) for key in row if key.startswith("miou.")]


def format_scores(rows: Sequence[Row], words: Sequence[str], columns: Sequence[Column]) -> str:
    """Formats a Markdown table.

    Args:
        rows: Those that have the same words make one line: one per training seed.
        words: Keys of the first columns, which are also their headings.
        columns: Those of numbers.
    """
    lines = [[*named, *(column.format(own) for column in columns)] for named, own in group_rows(rows, words)]
    titles = [*words, *(column.title for column in columns)]
    return format_markdown(titles, lines, numbers=range(len(words), len(titles)))


def group_rows(rows: Sequence[Row], words: Sequence[str]) -> list[tuple[list[str], list[Row]]]:
    """Groups rows by what stands under some keys, in the order in which it first occurs."""
    named = [[row[word] for word in words] for row in rows]
    distinct = [one for number, one in enumerate(named) if one not in named[:number]]
    return [(one, [row for row, own in zip(rows, named, strict=True) if own == one]) for one in distinct]


def find_row(rows: Sequence[Row], **words: Any) -> Row | None:
    """Returns the first row that has these values; None if none has."""
    return next((row for row in rows if all(row[key] == value for key, value in words.items())), None)
