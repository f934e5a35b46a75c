"""Check data sets on disk before anything is trained on them: what they hold, what is wrong, what would be made of it.

Looks for the seven data sets of the protocol in one folder ($SEGADAPT_DATA, or --root); in a folder of other images it
guesses how they are to be read, and writes the YAML. Or takes any data YAML of main.py (--data). Every file is read to
the last byte: are all images and labels there, do they pair up, have the same size, decode, and hold known ids only?
Nothing in the data is changed.
"""

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from datamodules.files import ROOT_VARIABLE
from experiments.check_data import listing
from experiments.check_data.checks import DATA_SETS, DataSetCheck, measure_speed
from experiments.check_data.listing import find_below, find_strangers, keep_apart, list_splits, open_config
from experiments.check_data.picture import draw_pairs
from experiments.check_data.report import Report, read_all
from experiments.check_data.text import (
    advise,
    describe_contents,
    explain,
    format_frequencies,
    format_overview,
)
from experiments.command_line import to_path

OK, PROBLEMS, NOTHING, INTERRUPTED = 0, 1, 2, 130  # exit codes


class PlainParser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(NOTHING, f"error: {message} (see --help)\n")


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    assert __doc__ is not None
    parser = PlainParser(
        prog="python -m experiments.check_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
examples:
  python -m experiments.check_data                            all data sets below $SEGADAPT_DATA
  python -m experiments.check_data --quick                    the same in a minute: every file listed, few of them read
  python -m experiments.check_data --datasets gta cityscapes  two of them, an error if one is missing
  python -m experiments.check_data --root photos              your own images: what they hold, and a YAML for them
  python -m experiments.check_data --data my_photographs.yaml the same, read as a YAML says

exit code:
  0  nothing is wrong
  1  something is: a problem, fewer images than in the official release, or a named data set is missing
  2  there is nothing to check, or the arguments are wrong
  130  interrupted with Ctrl-C; the report holds what was read so far""",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--root",
        type=to_path,
        metavar="FOLDER",
        help=f"holds one folder per data set (gta, cityscapes, ...), or is one of these; default: ${ROOT_VARIABLE}",
    )
    place.add_argument(
        "--data",
        type=to_path,
        metavar="YAML",
        help="check what the data YAML of a run reads, as main.py takes it after --data",
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        help=f"check only these, and fail if one is missing: {', '.join(DATA_SETS)}, or names from the YAML",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"list all files, but read only {listing.QUICK_PAIRS} of each split and all known broken pairs",
    )
    parser.add_argument(
        "--picture",
        type=to_path,
        metavar="PNG",
        help="draw three images of each split with their labels on top, to see whether they match",
    )
    parser.add_argument(
        "--write",
        type=to_path,
        metavar="YAML",
        help="with --root on your own images: save the YAML, which is printed in any case, in this file",
    )
    parser.add_argument(
        "--json",
        type=to_path,
        default=Path("outputs/check_data.json"),
        metavar="FILE",
        help="file of the report, rewritten after every split (%(default)s)",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help="default: all cores (here %(default)s)")
    options = parser.parse_args(args)
    options.strangers = []
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}: expected 1 or more")
    return options


def find_data_sets(options: argparse.Namespace) -> list[DataSetCheck]:
    """Finds the data sets that the command line asks for, and lists their files.

    Raises:
        ValueError: If the arguments are wrong, or there is nothing to check.
    """
    if options.data is not None:
        found = open_config(options.data, options.datasets)
    else:
        base = options.root or os.environ.get(ROOT_VARIABLE)
        if not base:
            raise ValueError(
                f"no folder of data sets is set: set the environment variable {ROOT_VARIABLE}, or give --root or --data"
            )
        found = find_below(to_path(str(base)), options.datasets)
        if options.datasets is None and not any(data_set.yaml for data_set in found):
            options.strangers = find_strangers(to_path(str(base)))
    if not any(data_set.module or data_set.required for data_set in found):
        names = ", ".join(kind.folders[0] for kind in DATA_SETS.values())
        raise ValueError(f"there is no data set in {base}: expected folders called {names}, or images of your own")
    if options.write is not None:
        write_yaml(found, options.write)
    print("Listing files ...", file=sys.stderr, flush=True)
    for data_set in found:
        list_splits(data_set, options.quick)
    keep_apart([check for data_set in found for check in data_set.checks])
    return found


def write_yaml(found: Sequence[DataSetCheck], path: Path) -> None:
    """Writes the YAML that reads a folder of one's own; raises ValueError if there is none, or the file exists."""
    (text, *_) = [data_set.yaml for data_set in found if data_set.yaml] or [""]
    if not text:
        raise ValueError("--write is given, but a YAML is only written for images of your own: expected --root FOLDER")
    if path.exists():
        raise ValueError(f"{path} already exists: expected the name of a new file for --write")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def print_report(found: Sequence[DataSetCheck], options: argparse.Namespace, seconds: float) -> None:
    """Prints the tables, what is wrong, where the report is, and what to do."""
    print(f"\n{format_overview(found)}")
    frequencies = format_frequencies(found)
    if frequencies:
        print(f"\nShare of pixels in percent, of all labels that could be read:\n\n{frequencies}")
    contents = describe_contents(found)
    if contents:
        print(f"\n{contents}")
    if options.strangers:
        print(
            "\nNot checked, as no data set has these names (to check one: --root FOLDER): "
            f"{', '.join(options.strangers)}"
        )
    sentences = explain(found, options.json)
    if sentences:
        print("\n" + "\n".join(sentences))
    for text in (data_set.yaml for data_set in found if data_set.yaml):
        written = f"is in {options.write}" if options.write else "(to save it: --write FILE)"
        print(f"\nThe YAML that reads these files {written}:\n\n{text}")
    advice = advise(found)
    if advice:
        print("\nWhat to do:\n" + "\n".join(f"- {line}" for line in advice))
    read = sum(check.read for data_set in found for check in data_set.checks)
    if options.quick:
        print(f"\n--quick: up to {listing.QUICK_PAIRS} pairs of each split were read, and all known broken ones.")
    speed = measure_speed(found)
    rate = f", {speed:.1f} images per second with {options.threads} threads" if speed else ""
    print(f"\nRead {read:,} images in {seconds:.0f} s{rate}. Report: {options.json}")


def main(args: Sequence[str] | None = None) -> int:
    """Checks what a command line asks for; returns the exit code."""
    options = parse_arguments(args)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    start = time.perf_counter()
    found: list[DataSetCheck] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say what the report says
            found = find_data_sets(options)
        report = Report(options.json, found, {"quick": options.quick, "threads": options.threads})
        report.write(complete=False)
        read_all(found, options.threads, report)
        report.write(complete=True)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return NOTHING
    except KeyboardInterrupt:
        print("\nInterrupted: here is what was read so far.", file=sys.stderr)
        print_report(found, options, time.perf_counter() - start)
        return INTERRUPTED
    print_report(found, options, time.perf_counter() - start)
    if options.picture is not None:  # last: what was found in hours is printed, whatever becomes of it
        try:
            draw_pairs(found, options.picture)
        except (ValueError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return PROBLEMS
        print(f"Picture: {options.picture}")
    return PROBLEMS if any(data_set.failed for data_set in found) else OK


if __name__ == "__main__":
    sys.exit(main())
