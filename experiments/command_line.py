"""Shared parts of the programs' command lines."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path


def to_path(text: str) -> Path:
    """Converts text to a path and expands ``~``, which a shell does not expand after ``=``."""
    return Path(text).expanduser()


def make_parser(
    name: str, summary: str | None, folder: str | None = None, page: bool = False, quick: bool = True
) -> argparse.ArgumentParser:
    """Makes the parser of a program that trains and tests on top of main.py.

    Args:
        name: Name of the program's module in `experiments`.
        summary: The program's docstring; its first paragraph becomes the description.
        folder: Default of ``--folder``; without it, the program adds that option itself.
        page: Whether to add ``--page``.
        quick: Whether to add ``--quick``.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=(summary or "").split("\n\n")[0],
        epilog="Arguments after -- are passed to main.py, e.g. -- --trainer.max_epochs=4",
    )
    if folder is not None:
        place = "where to write (default: %(default)s)"
        parser.add_argument("--folder", type=to_path, default=Path(folder), help=place)
    if page:
        parser.add_argument("--page", type=to_path, help="also write the report into this page, between its marks")
    if quick:
        budget = "a tiny budget, to see that everything runs; the scores mean nothing"
        parser.add_argument("--quick", action="store_true", help=budget)
    return parser


def run_program(program: Callable[[], object]) -> None:
    """Runs a program; on Ctrl-C and expected errors, exits with a message instead of a traceback."""
    try:
        program()
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_interrupt(error):
            raise
        print("\nStopped. Run the same command again to resume: finished steps are kept.", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def is_interrupt(error: BaseException) -> bool:
    """Returns whether an error is Ctrl-C or SIGTERM as Lightning raises it, which must end the whole program."""
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    return isinstance(error, KeyboardInterrupt | SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)


def parse(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line, with the arguments after ``--`` as ``options`` for main.py; silences Lightning."""
    own, more = split_arguments(args)
    arguments = parser.parse_args(own)
    arguments.options = more
    quieten()
    return arguments


def quieten() -> None:
    """Silences messages that Lightning and Weights & Biases would repeat for each of many runs."""
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def split_arguments(args: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Splits a command line at ``--`` into the program's own arguments and those passed on to main.py.

    Args:
        args: Arguments without the program's name; None for those of this process.
    """
    given = list(sys.argv[1:] if args is None else args)
    end = given.index("--") if "--" in given else len(given)
    return given[:end], given[end + 1 :]


def drop_options(command: Sequence[str], option: str) -> list[str]:
    """Removes an option and its nested options from a command line: for ``method`` also ``--method.psi``."""
    left: list[str] = []
    words = iter(command)
    for word in words:
        name = word.split("=")[0]
        if name != f"--{option}" and not name.startswith(f"--{option}."):
            left.append(word)
        elif "=" not in word:
            next(words, None)  # its value
    return left
