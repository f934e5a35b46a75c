"""Checks of arguments, shared by methods and searches."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, expected: str, whole: bool = False
) -> None:
    """Raises ValueError if a value is not a finite number from `low` to `high`; `expected` describes a good one."""
    kind: Any = Integral if whole else Real
    fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    if not fits:
        raise ValueError(f"{name} is {value!r}: expected {expected}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError if a value is not one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices)}")


def check_steps(num_steps: int, lr: float, least: int = 0) -> None:
    """Raises ValueError if a number of steps or a learning rate is outside its range."""
    check_number("num_steps", num_steps, least, expected=f"{least} or more update steps, e.g. 10", whole=True)
    check_number("lr", lr, 0, expected="a learning rate of 0 or more, e.g. 0.05")


def check_trust(trust: float) -> None:
    """Raises ValueError if the weight of the adapted prediction is outside [0, 1]."""
    check_number("trust", trust, 0, 1, expected="the weight of the adapted prediction in [0, 1]; the paper uses 1")


def check_refine(refine: int) -> None:
    """Raises ValueError if a number of iterations of edge refinement is not a whole number of 0 or more."""
    check_number("refine", refine, 0, expected="a number of iterations, 0 or more; the paper uses 0", whole=True)
