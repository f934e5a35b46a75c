"""What the programs write: tables, pages whose measured part lies between two marks, reports, and the machine."""

import csv
import io
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from callbacks.run.records import write_file

LATEX = str.maketrans(
    {
        "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
        "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "—": "---", "−": "$-$", "†": "$^{\\dagger}$",
    }
)  # fmt: skip


def format_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: range = range(0)) -> str:
    """Formats a table as Markdown.

    Args:
        heads: Titles of the columns.
        rows: Text of the cells.
        numbers: The columns that are aligned to the right.
    """
    rule = "".join("|---:" if column in numbers else "|---" for column in range(len(heads)))
    lines = [f"| {' | '.join(heads)} |", f"{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def format_csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Formats a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()


def format_latex(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str, words: int) -> str:
    """Formats a table as LaTeX with booktabs.

    Args:
        heads: Titles of the columns.
        rows: Text of the cells.
        title: The caption.
        words: Number of columns at the left that hold words; the others hold numbers.
    """
    head, *body = (" & ".join(map(escape_latex, cells)) + " \\\\" for cells in (heads, *rows))
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(title)}}}",
        "\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{{'l' * words}{'r' * (len(heads) - words)}}}",
        "\\toprule",
        head,
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table}",
    ]
    return "\n".join(lines)


def escape_latex(text: str) -> str:
    """Writes plain text so that LaTeX prints it."""
    return text.translate(LATEX)


def describe_machine() -> dict[str, str]:
    """Describes what measurements are made on: ``machine``, ``torch`` and ``date``."""
    import torch

    threads = torch.get_num_threads()
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()}, no GPU), {threads} thread{'s' if threads > 1 else ''}"
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return {"machine": machine, "torch": str(torch.__version__), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def make_marks(name: str = "measured") -> tuple[str, str]:
    """Returns the two lines between which a report lies."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def insert_report(path: Path, report: str, name: str = "measured") -> None:
    """Replaces what lies between the two marks of a page; a page that does not exist is made of the report alone.

    Args:
        path: A Markdown file.
        report: What comes between the marks.
        name: Of the marks; a page may have several pairs.

    Raises:
        ValueError: If the page does not have the marks.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else "\n".join(make_marks(name)) + "\n"
    try:
        page = replace_report(text, report, name)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    write_file(path, page.encode())


def replace_report(text: str, report: str, name: str = "measured") -> str:
    """Returns a page with another report between its marks; raises ValueError if it does not have them."""
    begin_mark, end_mark = make_marks(name)
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"does not have the lines {begin_mark} and {end_mark}: add them where the report should be")
    return f"{before}{begin_mark}\n\n{report}\n{end_mark}{after}"
