"""What the arguments of `FolderDataModule` may be: splits, ids and colours."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, get_args

from datamodules.base import Split
from datamodules.labels import Colour


def check_splits(splits: Mapping[Split, str | float]) -> dict[Split, str | float]:
    """Returns the splits; raises ValueError if one is unknown, or fractions are mixed with names or exceed 1."""
    if set(splits) - set(get_args(Split)):
        raise ValueError(f"splits has {', '.join(splits)}: expected only train, val and test")
    fractions = [value for value in splits.values() if not isinstance(value, str)]
    if fractions and (len(fractions) < len(splits) or min(fractions) <= 0 or not sum(fractions) <= 1 + 1e-9):
        raise ValueError(f"splits is {dict(splits)}: expected names, or fractions above 0 that add up to at most 1")
    return {split: value if isinstance(value, str) else float(value) for split, value in splits.items()}


def check_ignored(ignored: Sequence[Any], classes: Sequence[str]) -> None:
    """Raises ValueError if ids that are ignored are those of classes, as nothing says that these have others."""
    taken = [value for value in ignored if value in range(len(classes))]
    if taken:
        free = (number for number in count() if number not in ignored)
        mapping = ", ".join(f"{number}: {name}" for number, name in zip(free, classes, strict=False))
        raise ValueError(
            f"ignored holds {taken[0]}, which is the id of {classes[taken[0]]} as long as ids is not set: set ids, "
            f"e.g. {{{mapping}}}, or take {taken[0]} out of ignored"
        )


def check_id(value: int) -> int:
    """Returns an id of a label file; raises ValueError if it is not in [0, 65535]."""
    if not 0 <= value < 2**16:
        raise ValueError(f"ids or ignored has {value}: expected 0 to 65535, as an 8- or 16-bit label image holds them")
    return value


def check_colour(value: Any) -> Colour:
    """Returns a colour; raises ValueError if it is not three numbers in [0, 255]."""
    numbers = list(value) if isinstance(value, Sequence) else []
    if len(numbers) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in numbers):
        raise ValueError(f"{value!r} is not a colour: expected three numbers in [0, 255], e.g. [128, 64, 128]")
    return numbers[0], numbers[1], numbers[2]


def list_colours(value: Sequence[Any]) -> list[Colour]:
    """Returns several colours as they are, one as a list of one; raises ValueError if one is no colour."""
    several = isinstance(value, Sequence) and len(value) > 0 and all(isinstance(part, Sequence) for part in value)
    return [check_colour(colour) for colour in (value if several else [value])]
