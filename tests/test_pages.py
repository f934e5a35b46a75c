"""What programs write: pages whose measured part changes while all else stays, and tables."""

from pathlib import Path

import pytest

from experiments.pages import escape_latex, format_markdown, insert_report


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page, own = tmp_path / "page.md", "<!-- {0}: begin -->{1}<!-- {0}: end -->\n"
    page.write_text("above\n" + own.format("a", "\nold\n") + own.format("measured", "\n"))
    for report in ("first", "second"):
        insert_report(page, report, "a")
    insert_report(page, "third")
    assert page.read_text() == "above\n" + own.format("a", "\n\nsecond\n") + own.format("measured", "\n\nthird\n")


def test_a_page_that_is_not_there_is_made(tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.md"
    for report in ("first", "second"):
        insert_report(page, report)
    assert page.read_text() == "<!-- measured: begin -->\n\nsecond\n<!-- measured: end -->\n"


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(ValueError, match=r"page\.md does not have the lines <!-- measured: begin --> and"):
        insert_report(page, "report")
    assert page.read_text() == "mine"


def test_tables_are_aligned_and_escaped() -> None:
    table = format_markdown(["a", "b"], [["x", "1"]], numbers=range(1, 2))
    assert table == "| a | b |\n|---|---:|\n| x | 1 |"
    assert escape_latex("a_b & 5 % {x} — † −1") == r"a\_b \& 5 \% \{x\} --- $^{\dagger}$ $-$1"
