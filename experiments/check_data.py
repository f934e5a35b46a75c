"""Check data sets on disk before anything is trained on them, and count their classes.

Looks for the seven data sets of the protocol in one folder ($SEGADAPT_DATA, or --root), or takes any data YAML of
main.py (--data), and reads every file to the last byte: are all images and labels there, do they pair up, have the same
size, decode, and hold known ids only? Nothing in the data is changed.
"""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import LightningDataModule
from tqdm import tqdm

import datamodules
from datamodules.base import DataError, Problem, ProblemKind, Split
from datamodules.files import (
    ROOT_VARIABLE,
    FilesDataModule,
    FilesDataset,
    check_dataset,
    list_folders,
)
from datamodules.labels import IGNORED
from experiments.command_line import to_path

DATA_SETS: dict[str, type[FilesDataModule]] = {
    "gta": datamodules.GTADataModule,
    "synthia": datamodules.SYNTHIADataModule,
    "wilddash": datamodules.WildDashDataModule,
    "cityscapes": datamodules.CityscapesDataModule,
    "bdd": datamodules.BDDDataModule,
    "idd": datamodules.IDDDataModule,
    "mapillary": datamodules.MapillaryDataModule,
}
QUICK_PAIRS = 50  # that --quick reads of each split
SHOWN = 3  # problems of a kind that are written out on the screen; the JSON file has all
COLUMNS = 8  # splits beside each other in the table of class frequencies
OK, PROBLEMS, NOTHING, INTERRUPTED = 0, 1, 2, 130  # exit codes
LINE_OF_LIST = ", line "  # in errors about an entry of a CSV or list file

KINDS: dict[ProblemKind, tuple[str, str]] = {  # heading of the column, what a sentence says
    "missing": ("missing", "a missing image or labels"),
    "size": ("sizes", "image and labels of different sizes"),
    "unreadable": ("unreadable", "an unreadable file"),
    "id": ("ids", "ids outside the table"),
}


@dataclass
class SplitCheck:
    """What is found in one split of a data set.

    Attributes:
        domain: Name of the data set.
        split: Name of the split.
        official: Its official number of images; None if there is no such number.
        class_names: Of the labels.
        required: Whether it is wrong if the split is not there.
        absent: Why the split is not there; empty if it is.
        unusable: Why none of it can be used, although it is there; empty if it can.
        labelled: Whether it has labels, as far as it should.
        images: Number of image files.
        labels: Number of label files; None where none are expected.
        same: Other splits that consist of the same pairs.
        dataset: Reads the pairs; None if there is nothing that could be read.
        chosen: The pairs to read.
        read: How many of them have been read.
        seconds: Spent reading.
        pixels: (256,) int64 number of pixels by label, of the pairs that could be read.
        problems: What is wrong.
        known: Names of the pairs that are broken in the official release.
        known_problems: What is wrong with these; not counted as wrong.
    """

    domain: str
    split: Split
    official: int | None
    class_names: list[str]
    required: bool = False
    absent: str = ""
    unusable: str = ""
    labelled: bool = True
    images: int = 0
    labels: int | None = None
    same: list[Split] = field(default_factory=list)
    dataset: FilesDataset | None = None
    chosen: list[int] = field(default_factory=list)
    read: int = 0
    seconds: float = 0.0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    known_problems: list[Problem] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Data set and split, e.g. ``cityscapes val``."""
        return f"{self.domain} {', '.join([self.split, *self.same])}"

    @property
    def lacking(self) -> int:
        """How many images fewer than the official number there are."""
        return 0 if self.official is None or self.absent else max(0, self.official - self.images)

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return bool(self.unusable or self.problems or self.lacking or (self.absent and self.required))

    @property
    def verdict(self) -> str:
        """The result in a word or two."""
        if self.absent:
            return "NOT THERE" if self.required else "not there"
        if self.unusable:
            return "UNUSABLE"
        if self.problems:
            return "PROBLEMS"
        if self.lacking:
            return "INCOMPLETE"
        if self.read < len(self.chosen):
            return "not all read"
        return "ok" if self.labelled else "ok, no labels"

    def add(self, problems: Sequence[Problem]) -> None:
        """Takes problems, those of pairs that are known to be broken apart from the others."""
        for problem in problems:
            (self.known_problems if problem.name in self.known else self.problems).append(problem)

    def count(self, kind: ProblemKind) -> int:
        """Returns the number of pairs with a problem of a kind."""
        return len({problem.name for problem in self.problems if problem.kind == kind})

    def count_pixels(self) -> dict[str, int]:
        """Returns the number of pixels of each class, and of those that are ignored."""
        counts = {name: int(self.pixels[label]) for label, name in enumerate(self.class_names)}
        return counts | {"ignored": int(self.pixels[IGNORED])}

    def measure_frequencies(self) -> dict[str, float]:
        """Returns the share of pixels, in [0, 1], of each class and of what is ignored; empty without any labels."""
        counts = self.count_pixels()
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()} if total else {}

    def describe(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return {
            "split": self.split,
            "same_as_this": self.same,
            "verdict": self.verdict,
            "failed": self.failed,
            "absent": self.absent or None,
            "unusable": self.unusable or None,
            "official": self.official,
            "images": self.images,
            "labels": self.labels,
            "chosen": len(self.chosen),
            "read": self.read,
            "seconds": round(self.seconds, 3),
            "counts": {kind: self.count(kind) for kind in KINDS} | {"lacking": self.lacking},
            "problems": [vars(problem) for problem in self.problems],
            "known_broken": self.known,
            "known_problems": [vars(problem) for problem in self.known_problems],
            "pixels": self.count_pixels(),
            "frequencies": self.measure_frequencies(),
        }


@dataclass
class DataSetCheck:
    """What is found of one data set.

    Attributes:
        name: Of the data set.
        module: Finds and reads it; None if it is not there.
        splits: Those to look at.
        required: Whether it is wrong if the data set (in a run's data YAML: one of these splits) is not there.
        error: Why it cannot be used at all, or is not there.
        checks: Of its splits.
    """

    name: str
    module: FilesDataModule | None
    splits: Sequence[Split] = get_args(Split)
    required: bool = False
    error: str = ""
    checks: list[SplitCheck] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        lost = bool(self.error) and (self.required or self.module is not None)
        return lost or any(check.failed for check in self.checks)

    def describe(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return {
            "name": self.name,
            "class": type(self.module).__name__ if self.module else DATA_SETS[self.name].__name__,
            "root": str(self.module.find_root()) if self.module and self.checks else None,
            "release": getattr(self.module, "release", None),
            "found": bool(self.checks),
            "failed": self.failed,
            "error": self.error or None,
            "splits": [check.describe() for check in self.checks],
        }


def find_below(base: Path, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds the seven data sets in a folder, by the names of the folders in it.

    Args:
        base: Folder with one folder per data set; or the folder of a data set itself.
        wanted: Those to look for, which then have to be there; None looks for all.

    Returns:
        A check per data set that was looked for.

    Raises:
        ValueError: If there is no such folder, or no data set of a wanted name.
    """
    if not base.is_dir():
        raise ValueError(f"{base} is no folder: expected one that holds a folder per data set ({', '.join(DATA_SETS)})")
    check_names(wanted, DATA_SETS)
    here = {base.resolve().name.lower(), *(child.name.lower() for child in list_folders(base))}
    found = []
    for name in wanted or DATA_SETS:
        kind = DATA_SETS[name]
        module = kind(root=str(base)) if here & set(kind.folders) else None
        error = "" if module else f"{name} is not in {base}: expected a folder called {' or '.join(kind.folders)}"
        found.append(DataSetCheck(name, module, required=wanted is not None, error=error))
    return found


def open_config(path: Path, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds what the data YAML of a run reads.

    Args:
        path: YAML file of a datamodule, as `main.py` takes it after ``--data``.
        wanted: Names of its data sets to check; None checks all.

    Returns:
        A check per data set: of all its splits if the YAML is of one data set; of the splits that `fit` and `test`
        read, which then have to be there, if it is of several.

    Raises:
        ValueError: If there is no such file, it describes no datamodule, or none whose data lie in files.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: expected the YAML of a datamodule, e.g. configs/data/camvid.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        opened = parser.instantiate_classes(parser.parse_args([f"--data={path}"])).data
    except ArgumentError as error:
        raise ValueError(f"{path} describes no datamodule that can be made: {error}") from error
    found: list[DataSetCheck] = []
    if isinstance(opened, datamodules.TargetsDataModule):
        members: list[tuple[Any, Split]] = [(opened.source, "train"), (opened.development, "val")]
        members += [(target, target.test_split) for target in opened.targets]
        found = [
            DataSetCheck(module.domain, module, [split], required=True)
            for module, split in members
            if isinstance(module, FilesDataModule)
        ]
    elif isinstance(opened, FilesDataModule):
        found = [DataSetCheck(opened.domain, opened, required=True)]
    if not found:
        raise ValueError(f"{path} describes a {type(opened).__name__}, which reads no files: there is nothing to check")
    check_names(wanted, [member.name for member in found])
    return [member for member in found if wanted is None or member.name in wanted]


def check_names(wanted: Sequence[str] | None, known: Sequence[str] | dict[str, Any]) -> None:
    """Raises ValueError if a wanted data set is not known."""
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise ValueError(f"there is no data set {', '.join(unknown)}: expected some of {', '.join(known)}")


def list_splits(found: DataSetCheck, quick: bool) -> None:
    """Lists the files of a data set; fills in its checks, or its error."""
    module = found.module
    if module is None:
        return
    try:
        module.find_root()
    except DataError as error:
        found.error = str(error)
        return
    held = {split for layout in module.layouts for split in layout.holds} or set(get_args(Split))
    checks: list[SplitCheck] = []
    for split in found.splits:
        if split not in held:
            continue
        check = list_split(module, split, quick)
        check.required = found.required and len(found.splits) == 1
        twin = next((other for other in checks if have_same_pairs(check, other)), None)
        if twin is not None:
            twin.same.append(split)
        elif not check.absent or check.required or split in module.counts or not module.counts:
            checks.append(check)
    if all(check.absent for check in checks):
        found.error = checks[0].absent if checks else f"{found.name} has no split {' or '.join(found.splits)}"
    else:
        found.checks = checks


def have_same_pairs(check: SplitCheck, other: SplitCheck) -> bool:
    """Returns whether two splits have pairs, and all of them in common."""
    pairs, others = (list(each.dataset.pairs) if each.dataset is not None else [] for each in (check, other))
    return bool(pairs) and pairs == others


def list_split(module: FilesDataModule, split: Split, quick: bool) -> SplitCheck:
    """Lists the files of a split and what is missing among them, without reading them."""
    check = SplitCheck(module.domain, split, module.counts.get(split), module.class_names)
    check.labelled = split not in module.unlabelled_splits
    try:
        pairs, unpaired = module.find_pairs(split, labelled=False)
    except DataError as error:
        if error.kind == "missing" and LINE_OF_LIST not in str(error):
            check.absent = str(error)
        else:
            check.unusable = str(error)
        return check
    names = {pair.name for pair in pairs}
    check.images = len(names)
    try:
        if check.labelled:
            pairs, unpaired = module.find_pairs(split)
            check.labels = len(pairs) + sum(problem.name not in names for problem in unpaired)
    except DataError as error:
        alone = isinstance(module, datamodules.FolderDataModule) and module.label_files is None
        if not alone or error.kind != "missing":
            check.unusable = str(error)
            return check
        check.labelled = False  # images that nobody said have labels
    check.known = sorted(module.known_broken & (names | {problem.name for problem in unpaired}))
    check.add(unpaired)
    try:
        check.dataset = module.open_pairs(pairs, module.evaluation_transform, check.labelled)
    except DataError as error:
        check.unusable = str(error)
        return check
    check.chosen = choose([pair.name for pair in pairs], check.known, quick)
    return check


def choose(names: Sequence[str], known: Sequence[str], quick: bool) -> list[int]:
    """Returns the indices of the pairs to read: all, or evenly spread ones and those known to be broken."""
    if not quick:
        return list(range(len(names)))
    spread = np.linspace(0, len(names) - 1, min(len(names), QUICK_PAIRS)).round().astype(int).tolist()
    return sorted({*spread, *(index for index, name in enumerate(names) if name in known)})


def read_split(check: SplitCheck, num_threads: int, bar: tqdm) -> None:
    """Reads the chosen pairs of a split into its check, as far as it gets."""
    if check.dataset is None:
        return
    bar.set_description(check.name)
    start = time.perf_counter()
    try:
        for _, problems, pixels in check_dataset(check.dataset, check.chosen, num_threads):
            check.add(problems)
            check.pixels += pixels
            check.read += 1
            bar.update()
    finally:
        check.seconds = time.perf_counter() - start


def read_all(found: Sequence[DataSetCheck], num_threads: int, report: "Report") -> None:
    """Reads all splits, shows the progress, and writes the report after each of them."""
    checks = [check for data_set in found for check in data_set.checks]
    seldom = 0.1 if sys.stderr.isatty() else 30  # seconds between two lines in a log file
    total = sum(len(check.chosen) for check in checks)
    with tqdm(total=total, unit=" images", mininterval=seldom, dynamic_ncols=True, smoothing=0.1) as bar:
        for check in checks:
            try:
                read_split(check, num_threads, bar)
            finally:
                report.write(complete=False)


class Report:
    """The JSON file, which can be written at any time.

    Args:
        path: Where to write it.
        found: The checks, which go on while the file is written.
        about: What else it should say.
    """

    def __init__(self, path: Path, found: Sequence[DataSetCheck], about: dict[str, Any]) -> None:
        self.path = path
        self.found = found
        self.about = about | {"started": datetime.now(UTC).isoformat(timespec="seconds")}

    def write(self, complete: bool) -> None:
        """Replaces the file at once, so that it is whole at any time."""
        described = {
            "complete": complete,
            "failed": any(data_set.failed for data_set in self.found),
            **self.about,
            "images_per_second": measure_speed(self.found),
            "data_sets": [data_set.describe() for data_set in self.found],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            beside.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)


def measure_speed(found: Sequence[DataSetCheck]) -> float | None:
    """Returns how many images, with their labels, were read per second; None if none were."""
    checks = [check for data_set in found for check in data_set.checks]
    read, seconds = sum(check.read for check in checks), sum(check.seconds for check in checks)
    return round(read / seconds, 2) if read else None


def format_overview(found: Sequence[DataSetCheck]) -> str:
    """Formats the table of all splits."""
    header = ["data set", "split", "images", "official", "read"]
    header += [heading for heading, _ in KINDS.values()] + ["known broken", "verdict"]
    rows = []
    for data_set in found:
        release = getattr(data_set.module, "release", None)
        name = f"{data_set.name} ({release})" if release else data_set.name
        if data_set.error:
            verdict = "NOT FOUND" if data_set.failed else "not found"
            rows.append([name, *["-"] * (len(header) - 2), verdict])
        for check in data_set.checks:
            official = "-" if check.official is None else f"{check.official:,}"
            numbers = [f"{check.count(kind):,}" if not check.absent else "-" for kind in KINDS]
            known = f"{len(check.known)}" if check.known else "-"
            split = ", ".join([check.split, *check.same])
            row = [name, split, f"{check.images:,}", official, f"{check.read:,}", *numbers, known, check.verdict]
            rows.append(row)
    return format_table(header, rows, left=(0, 1, len(header) - 1))


def format_frequencies(found: Sequence[DataSetCheck]) -> str:
    """Formats the percent of pixels of each class in each split, some splits beside each other; may be empty."""
    checks = [check for data_set in found for check in data_set.checks if check.measure_frequencies()]
    groups: dict[tuple[str, ...], list[SplitCheck]] = {}
    for check in checks:
        groups.setdefault(tuple(check.class_names), []).append(check)
    tables = []
    for members in groups.values():
        for first in range(0, len(members), COLUMNS):
            shown = members[first : first + COLUMNS]
            shares = [check.measure_frequencies() for check in shown]
            rows = [
                [name, *(f"{100 * share[name]:.2f}" if share[name] else "-" for share in shares)] for name in shares[0]
            ]
            tables.append(format_table(["class", *(check.name for check in shown)], rows, left=(0,)))
    return "\n\n".join(tables)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Formats a table in columns; those that `left` names are flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def format_row(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([format_row(header), format_row(["-" * width for width in widths]), *map(format_row, rows)])


def explain(found: Sequence[DataSetCheck], path: Path) -> list[str]:
    """Returns sentences about all that is wrong, the first few of each kind, and about what is known to be."""
    lines = []
    for data_set in found:
        if data_set.error and data_set.failed:
            lines.append(data_set.error + ".")
        for check in data_set.checks:
            if check.absent and check.required:
                lines.append(f"{check.name} is not there: {check.absent}.")
            if check.unusable:
                lines.append(f"{check.name} cannot be used: {check.unusable}.")
            for kind, (_, what) in KINDS.items():
                lines += explain_kind(check, kind, what, path)
            lines += explain_count(check) + explain_classes(check)
            if check.known:
                lines.append(explain_known(check))
    return lines


def explain_kind(check: SplitCheck, kind: ProblemKind, what: str, path: Path) -> list[str]:
    """Returns sentences about the problems of one kind in a split."""
    messages = [problem.message for problem in check.problems if problem.kind == kind]
    if not messages:
        return []
    more = [f"  ... and {len(messages) - SHOWN:,} more, see {path}"] if len(messages) > SHOWN else []
    number = format_number(check.count(kind), "pair")
    return [f"{check.name}: {number} with {what}:", *(f"  {message}" for message in messages[:SHOWN]), *more]


def explain_count(check: SplitCheck) -> list[str]:
    """Returns a sentence about a number of images that is not the official one."""
    if check.absent or check.official in (None, check.images):
        return []
    much = f"{check.lacking:,} fewer" if check.lacking else "more"
    return [f"{check.name}: {format_number(check.images, 'image')}, {much} than the official {check.official:,}."]


def explain_classes(check: SplitCheck) -> list[str]:
    """Returns a sentence about classes that never occur in one's own labels: they may be other ids than was thought."""
    shares = check.measure_frequencies()
    absent = [name for name, share in shares.items() if not share and name in check.class_names]
    if not absent or check.official is not None:
        return []
    return [
        f"{check.name}: {', '.join(absent)} never occurs in {check.read:,} label files. If it should, say in ids "
        "what the ids are."
    ]


def explain_known(check: SplitCheck) -> str:
    """Returns a sentence about pairs that are broken in the official release."""
    kinds = Counter(problem.kind for problem in check.known_problems)
    seen = ", ".join(f"{number:,} with {KINDS[kind][1]}" for kind, number in kinds.items())
    seen = seen or "can be read, may be blank"
    named = ", ".join(check.known[:SHOWN]) + (", ..." if len(check.known) > SHOWN else "")
    number = format_number(len(check.known), "pair")
    return f"{check.name}: {number} broken in the official release, not by your copy ({named}): {seen}."


def format_number(number: int, noun: str) -> str:
    """Writes a number of things: ``1 image``, ``2,975 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def advise(found: Sequence[DataSetCheck]) -> list[str]:
    """Returns what to do about what was found."""
    checks = [check for data_set in found for check in data_set.checks]
    problems = [problem for check in checks for problem in (*check.problems, *check.known_problems)]
    advice = []
    for data_set in found:
        incomplete = any(
            check.lacking or check.unusable or check.count("missing") or check.count("unreadable")
            for check in data_set.checks
        )
        if incomplete and data_set.module is not None and data_set.module.counts:
            deleted = " (or were known broken pairs deleted?)" if data_set.module.known_broken else ""
            advice.append(f"{data_set.name} is not complete{deleted}: unpack {data_set.module.archives} again.")
    if any(check.count("id") for check in checks):
        advice.append("Ids outside the table mean another release or encoding, or labels that a tool has converted.")
    if any(data_set.error and data_set.failed for data_set in found):
        advice.append("What is not found may lie elsewhere: give its folder an expected name, or set root in its YAML.")
    if problems:
        advice.append(
            "To use a split as it is: --data.broken=skip reads it once, leaves broken pairs out, and names them in "
            "results.json."
        )
    return advice


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
  python -m experiments.check_data --datasets gta cityscapes  two of them, which have to be there
  python -m experiments.check_data --data my_photographs.yaml your own data

exit code:
  0  nothing is wrong
  1  something is: a problem, fewer images than the official number, or a data set that was named is not there
  2  there is nothing to check, or the arguments are wrong
  130  interrupted with Ctrl-C; the report holds what had been read""",
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
        help=f"only these, which then have to be there; of {', '.join(DATA_SETS)}, or of the YAML's",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"list all files, but read only {QUICK_PAIRS} of each split, evenly spread, and all known broken pairs",
    )
    parser.add_argument(
        "--json",
        type=to_path,
        default=Path("outputs/check_data.json"),
        metavar="FILE",
        help="where the report goes, written anew after every split (%(default)s)",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help="default: all cores (here %(default)s)")
    options = parser.parse_args(args)
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
                f"it is not said where the data sets lie: set the environment variable {ROOT_VARIABLE}, or give --root "
                "or --data"
            )
        found = find_below(Path(base).expanduser(), options.datasets)
    if not any(data_set.module or data_set.required for data_set in found):
        names = ", ".join(kind.folders[0] for kind in DATA_SETS.values())
        raise ValueError(f"there is no data set in {base}: expected folders called {names}")
    print("Listing files ...", file=sys.stderr, flush=True)
    for data_set in found:
        list_splits(data_set, options.quick)
    return found


def print_report(found: Sequence[DataSetCheck], options: argparse.Namespace, seconds: float) -> None:
    """Prints the tables, what is wrong, where the report is, and what to do."""
    print(f"\n{format_overview(found)}")
    frequencies = format_frequencies(found)
    if frequencies:
        print(f"\nShare of pixels in percent, of all labels that could be read:\n\n{frequencies}")
    sentences = explain(found, options.json)
    if sentences:
        print("\n" + "\n".join(sentences))
    advice = advise(found)
    if advice:
        print("\nWhat to do:\n" + "\n".join(f"- {line}" for line in advice))
    read = sum(check.read for data_set in found for check in data_set.checks)
    if options.quick:
        print(f"\n--quick: up to {QUICK_PAIRS} pairs of each split were read (and all known broken ones), not all.")
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
        print("\nInterrupted: what follows is what had been read.", file=sys.stderr)
        print_report(found, options, time.perf_counter() - start)
        return INTERRUPTED
    print_report(found, options, time.perf_counter() - start)
    return PROBLEMS if any(data_set.failed for data_set in found) else OK


if __name__ == "__main__":
    sys.exit(main())
