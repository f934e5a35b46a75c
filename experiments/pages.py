"""Pages whose measured part a program writes, between two marks."""

from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def insert_report(path: Path, report: str) -> None:
    """Replaces what lies between the two marks of a page.

    Args:
        path: A Markdown file.
        report: What comes between the marks.

    Raises:
        ValueError: If the page does not have the marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} does not have the lines {BEGIN} and {END}: add them where the report should be")
    path.write_text(f"{before}{BEGIN}\n\n{report}\n{END}{after}", encoding="utf-8")
