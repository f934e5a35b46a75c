"""Rewrites the HTML reports of runs (`test`, `validate` and `fit`) from their folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.report.page import write_report, write_training_report
from callbacks.report.run_data import read_run
from callbacks.run.folder import SUMMARY, RunFolder
from experiments.command_line import to_path


def rebuild(folder: Path) -> list[Path]:
    """Writes the reports that a folder has the data for, of scores, of training, or both; returns their paths.

    Raises:
        FileNotFoundError: If the folder holds neither results nor training curves; the message says what it holds.
    """
    training = write_training_report(folder)
    if training is not None and not ((folder / SUMMARY).is_file() or RunFolder(folder).read_lines()):
        return [training]
    return [write_report(read_run(folder)), *([training] if training else [])]


def main(args: Sequence[str] | None = None) -> int:
    """Writes the reports of all folders; returns 0, or 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    place = "folder of a run; the report is written into it"
    parser.add_argument("folders", nargs="+", type=to_path, metavar="FOLDER", help=place)
    failed = False
    for folder in parser.parse_args(args).folders:
        try:
            print(*rebuild(folder), sep="\n")
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"error: {folder} contains files that cannot be read as those of a run ({reason})", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
