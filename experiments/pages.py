"""Pages whose measured part a program writes, between two marks."""

from pathlib import Path


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
    begin_mark, end_mark = make_marks(name)
    text = path.read_text(encoding="utf-8") if path.exists() else f"{begin_mark}\n{end_mark}\n"
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(
            f"{path} does not have the lines {begin_mark} and {end_mark}: add them where the report should be"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{begin_mark}\n\n{report}\n{end_mark}{after}", encoding="utf-8")
