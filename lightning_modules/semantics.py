"""The choice between a paper's text and its authors' released code, where the two differ."""

from typing import Literal, get_args

Semantics = Literal["paper", "released"]


def check_semantics(semantics: str) -> None:
    """Raises ValueError if the semantics are unknown."""
    if semantics not in get_args(Semantics):
        raise ValueError(f"semantics is {semantics!r}: expected paper or released")
