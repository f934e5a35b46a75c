"""Where a paper's text and its authors' code differ, methods follow the one or the other."""

from typing import Literal, get_args

Semantics = Literal["paper", "released"]


def check_semantics(semantics: str) -> None:
    """Raises ValueError if there are no such semantics."""
    if semantics not in get_args(Semantics):
        raise ValueError(f"semantics is {semantics!r}: expected paper or released")
