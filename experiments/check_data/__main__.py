"""Checks data sets before training: what is there, what is wrong, how it will be read.

It looks for the paper's seven data sets in one folder ($SEGADAPT_DATA or --root). For a folder of other images it
guesses how to read them and prints a YAML for main.py. --data checks any data YAML of main.py. Every file is read
completely: does each image have labels of the same size, can both be decoded, and are all label ids known? The data
are never modified.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from callbacks.run.records import write_json
from datamodules.files import ROOT_VARIABLE
from experiments.check_data import listing
from experiments.check_data.checks import DATA_SETS, DataSetCheck, describe_all
from experiments.check_data.picture import draw_pairs
from experiments.check_data.text import describe_contents, explain, format_frequencies, format_overview
from experiments.command_line import to_path

OK, PROBLEMS, NOTHING, INTERRUPTED = 0, 1, 2, 130  # exit codes

EXAMPLES = """\
examples:
  python -m experiments.check_data                            all data sets below $SEGADAPT_DATA
  python -m experiments.check_data --quick                    the same in a minute: every file listed, few of them read
  python -m experiments.check_data --datasets gta cityscapes  two of them, an error if one is missing
  python -m experiments.check_data --root photos              your own images: their contents, and a YAML for them
  python -m experiments.check_data --data my_photographs.yaml the same, read as the YAML describes

exit code:
  0  nothing is wrong
  1  something is: a problem, fewer images than in the official release, or a named data set is missing
  2  there is nothing to check, or the arguments are wrong
  130  interrupted with Ctrl-C; the report contains what was read so far"""
PATHS = {  # options that name a file or folder: what it is, and what for
    "--root": ("FOLDER", f"has a subfolder per data set (gta, ...), or is one of them; default: ${ROOT_VARIABLE}"),
    "--data": ("YAML", "check the data that a run reads: the YAML given to main.py as --data"),
    "--picture": ("PNG", "draw three images of each split with their labels on top, to see whether they match"),
    "--write": ("YAML", "with --root on your own images: also save the printed YAML in this file"),
    "--json": ("FILE", "file of the report, rewritten after every split (default: outputs/check_data.json)"),
}


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.check_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    place = parser.add_mutually_exclusive_group()
    for option, (what, text) in PATHS.items():
        group = place if option in ("--root", "--data") else parser
        group.add_argument(option, type=to_path, metavar=what, help=text)
    text = f"check only these, and fail if one is missing: {', '.join(DATA_SETS)}, or names from the YAML"
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help=text)
    text = f"list all files, but read only {listing.QUICK_PAIRS} of each split and all known broken pairs"
    parser.add_argument("--quick", action="store_true", help=text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help="default: all cores (here %(default)s)")
    started = datetime.now(UTC).isoformat(timespec="seconds")
    parser.set_defaults(json=Path("outputs/check_data.json"), strangers=[], started=started)
    options = parser.parse_args(args)
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}: expected 1 or more")
    return options


def find_data_sets(options: argparse.Namespace) -> list[DataSetCheck]:
    """Finds the requested data sets and lists their files."""
    place = options.root or os.environ.get(ROOT_VARIABLE)
    if options.data is not None:
        found = listing.open_config(options.data, options.datasets)
    elif place:
        found = listing.find_below(to_path(str(place)), options.datasets)
        if options.datasets is None and not found[0].own:
            options.strangers = listing.find_strangers(to_path(str(place)))
    else:
        raise ValueError(
            f"no folder of data sets is set: set the environment variable {ROOT_VARIABLE}, or pass --root or --data"
        )
    if options.write is not None:
        write_yaml(found[0].yaml, options.write)
    print("Listing files ...", file=sys.stderr, flush=True)
    for data_set in found:
        listing.list_splits(data_set, options.quick)
    own = [check for data_set in found if data_set.own for check in data_set.checks]
    for place, check in enumerate(own):  # among the user's images, splits of different use should not overlap
        use = (check.module.role, check.split)
        check.others = [other for other in own[:place] if (other.module.role, other.split) != use]
    return found


def write_yaml(text: str, path: Path) -> None:
    """Writes the YAML for a folder of the user's own images; raises ValueError if it is empty or the file exists."""
    if not text:
        raise ValueError("--write is given, but a YAML is only written for your own images: expected --root FOLDER")
    if path.exists():
        raise ValueError(f"{path} already exists: expected the name of a new file for --write")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read_all(found: Sequence[DataSetCheck], options: argparse.Namespace) -> None:
    """Reads all splits with a progress bar; writes the report before the first and after each of them."""
    save_findings(found, options)
    checks = [check for data_set in found for check in data_set.checks]
    seldom = 0.1 if sys.stderr.isatty() else 30  # seconds between two lines in a log file
    total = sum(len(check.chosen) for check in checks)
    with tqdm(total=total, unit=" images", mininterval=seldom, dynamic_ncols=True, smoothing=0.1) as bar:
        for check in checks:
            bar.set_description(check.name)
            check.read(options.threads, bar.update)
            save_findings(found, options)


def save_findings(found: Sequence[DataSetCheck], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the report, and writes it atomically as JSON."""
    settings = {"quick": options.quick, "threads": options.threads, "started": options.started}
    report = settings | describe_all(found)
    write_json(options.json, report)
    return report


def print_report(report: dict[str, Any], options: argparse.Namespace, yaml: str) -> None:
    """Prints the tables, the problems, the YAML of the user's own images, and the path of the report."""
    data_sets = report["data_sets"]
    print(f"\n{format_overview(data_sets)}")
    for table in filter(None, map(format_frequencies, data_sets)):
        print(f"\nShare of pixels in percent, of all labels that could be read:\n\n{table}")
    contents = [line for data_set in data_sets for line in describe_contents(data_set)]
    strangers = []
    if options.strangers:
        names = ", ".join(options.strangers)
        strangers = [f"Not checked, as no data set has these names (to check one: --root FOLDER): {names}"]
    for block in filter(None, (contents, strangers, list(explain(data_sets, options.json)))):
        print("", *block, sep="\n")
    if yaml:
        written = f"is in {options.write}" if options.write else "(to save it: --write FILE)"
        print(f"\nThe YAML that reads these files {written}:\n\n{yaml}")
    if options.quick:
        print(f"\n--quick: up to {listing.QUICK_PAIRS} pairs of each split were read, and all known broken ones.")
    speed = report["images_per_second"]
    rate = f", {speed:.1f} images per second with {options.threads} threads" if speed else ""
    print(f"\nRead {report['read']:,} images{rate}. Report: {options.json}")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    options = parse_arguments(args)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    found: list[DataSetCheck] = []
    interrupted = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report covers them
            found = find_data_sets(options)
        read_all(found, options)
    except (ValueError, TypeError, OSError) as error:
        return fail(error, NOTHING)
    except KeyboardInterrupt:
        print("\nInterrupted" + (": here is what was read so far." if found else "."), file=sys.stderr)
        if not found:  # nor was a file read: an earlier report stays
            return INTERRUPTED
        interrupted = True
    report = save_findings(found, options)
    print_report(report, options, found[0].yaml if found else "")
    if interrupted:
        return INTERRUPTED
    if options.picture is not None:  # last, so that an error here does not lose the printed report
        try:
            draw_pairs(found, options.picture)
        except (ValueError, OSError) as error:
            return fail(error, PROBLEMS)
        print(f"Picture: {options.picture}")
    return PROBLEMS if report["failed"] else OK


def fail(error: Exception, code: int) -> int:
    """Prints an error in one line; returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
