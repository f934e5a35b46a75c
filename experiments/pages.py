"""Output of the programs: tables, reports between two marks of a page, and the description of the machine."""

import csv
import io
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from callbacks.run.records import write_file, write_json

LATEX = str.maketrans(
    {
        "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
        "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "—": "---", "−": "$-$", "†": "$^{\\dagger}$",
    }
)  # fmt: skip


def format_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: range = range(0)) -> str:
    """Formats a table as Markdown; the columns whose indices are in `numbers` are right-aligned."""
    rule = "".join("|---:" if column in numbers else "|---" for column in range(len(heads)))
    lines = [f"| {' | '.join(heads)} |", f"{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def format_csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Formats a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()


def format_latex(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str, words: int) -> str:
    """Formats a table as LaTeX with booktabs and a caption; the first columns, `words` of them, hold text."""
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
    """Escapes the special characters of LaTeX in plain text."""
    return text.translate(LATEX)


def describe_machine() -> dict[str, str]:
    """Describes the circumstances of a measurement: ``machine``, ``torch`` version and ``date`` (UTC)."""
    import torch

    threads = torch.get_num_threads()
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()}, no GPU), {threads} thread{'s' if threads > 1 else ''}"
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return {"machine": machine, "torch": str(torch.__version__), "date": datetime.now(UTC).strftime("%Y-%m-%d")}


def write_findings(
    folder: Path, report: Mapping[str, Any], text: str, page: Path | None = None, name: str = "measured"
) -> None:
    """Writes a program's report as `report.json` and `report.md`, and if a page is given, between its marks."""
    write_json(folder / "report.json", report)
    write_file(folder / "report.md", text.encode())
    if page:
        insert_report(page, text, name)


def make_marks(name: str = "measured") -> tuple[str, str]:
    """Returns the lines that mark the beginning and the end of a report in a page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def insert_report(path: Path, report: str, name: str = "measured") -> None:
    """Replaces the text between two marks of a page with a report; creates the page if it does not exist.

    A page may have several pairs of marks, with different names. Raises ValueError if these are missing.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else "\n".join(make_marks(name)) + "\n"
    write_file(path, replace_report(text, report, name, str(path)).encode())


def replace_report(text: str, report: str, name: str = "measured", page: str = "the page") -> str:
    """Returns a page's text with the report between its marks; raises ValueError if a mark is missing."""
    begin_mark, end_mark = make_marks(name)
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(
            f"{page} does not have the lines {begin_mark} and {end_mark}: add them where the report should be"
        )
    return f"{before}{begin_mark}\n\n{report}\n{end_mark}{after}"
