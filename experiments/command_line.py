"""What the command lines of the programs have in common."""

import sys
from collections.abc import Sequence
from pathlib import Path


def to_path(text: str) -> Path:
    """Returns a path; ``~`` is the home folder, which a shell leaves as it is behind ``=``."""
    return Path(text).expanduser()


def split_arguments(args: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Splits a command line at ``--``: into the program's own arguments, and those that it hands on to main.py.

    Args:
        args: Without the program's name; None is that of this process.
    """
    given = list(sys.argv[1:] if args is None else args)
    end = given.index("--") if "--" in given else len(given)
    return given[:end], given[end + 1 :]


def drop_options(command: Sequence[str], option: str) -> list[str]:
    """Leaves an option out of a command line, and those below it: of ``--method`` also ``--method.psi``."""
    left: list[str] = []
    skip = False
    for argument in command:
        name = argument.split("=")[0]
        if skip:
            skip = False
        elif name == f"--{option}" or name.startswith(f"--{option}."):
            skip = "=" not in argument
        else:
            left.append(argument)
    return left
