"""What is looked at, and what is found: data sets, their splits, and the pairs in them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from tqdm import tqdm

import datamodules
from datamodules.base import DataError, Problem, ProblemKind, Split
from datamodules.files import FilesDataModule
from datamodules.reading.census import Census, PairCheck, name_id
from datamodules.reading.dataset import FilesDataset, check_dataset
from datamodules.reading.folders import find_odd_pairs
from datamodules.reading.pairs import NAMED

DATA_SETS: dict[str, type[FilesDataModule]] = {
    "gta": datamodules.GTADataModule,
    "synthia": datamodules.SYNTHIADataModule,
    "wilddash": datamodules.WildDashDataModule,
    "cityscapes": datamodules.CityscapesDataModule,
    "bdd": datamodules.BDDDataModule,
    "idd": datamodules.IDDDataModule,
    "mapillary": datamodules.MapillaryDataModule,
}

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
        module: Finds and reads it.
        split: Name of the split.
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
        census: What those hold that could be read.
        problems: What is wrong.
        known: Names of the pairs that are broken in the official release.
        known_problems: What is wrong with these; not counted as wrong.
        digests: Name of an image by size and CRC-32 of its file.
        others: Splits, looked at before, that should have no image of this one.
    """

    module: FilesDataModule
    split: Split
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
    census: Census = field(default_factory=Census)
    problems: list[Problem] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    known_problems: list[Problem] = field(default_factory=list)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    others: "list[SplitCheck]" = field(default_factory=list)

    @property
    def name(self) -> str:
        """Data set and split, e.g. ``cityscapes val``."""
        return f"{self.module.domain} {', '.join([self.split, *self.same])}"

    @property
    def official(self) -> int | None:
        """The official number of images; None if there is none."""
        return self.module.counts.get(self.split)

    @property
    def own(self) -> bool:
        """Whether the data are the user's own, of which nobody has said what is right."""
        return isinstance(self.module, datamodules.FolderDataModule)

    @property
    def lacking(self) -> int:
        """How many images fewer than the official number there are."""
        return 0 if self.official is None or self.absent else max(0, self.official - self.images)

    @property
    def mixed(self) -> str:
        """Why label files of one's own cannot be used beside each other; empty if they can."""
        try:
            self.census.check_bits(self.name)
        except DataError as error:
            return str(error)
        return ""

    @property
    def void(self) -> bool:
        """Whether there are labels, but no pixel of them belongs to a class."""
        counts = self.count_pixels()
        return bool(self.census.labels) and not any(counts[name] for name in self.module.class_names)

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        wrong = self.unusable or self.problems or self.mixed or self.void or self.lacking
        wrong = wrong or (self.absent and self.required)
        return bool(wrong)

    @property
    def verdict(self) -> str:
        """The result in a word or two."""
        if self.absent:
            return "NOT THERE" if self.required else "not there"
        if self.unusable:
            return "UNUSABLE"
        if self.problems or self.mixed:
            return "PROBLEMS"
        if self.void:
            return "NO LABELS"
        if self.find_warnings():
            return "ok?"
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

    def add_pair(self, found: PairCheck) -> None:
        """Takes what is found in a pair."""
        assert self.dataset is not None
        self.read += 1
        self.add(found.problems)
        pair = self.dataset.pairs[self.chosen[self.read - 1]]
        if found.digest is not None:
            self.digests[found.digest] = found.name
        if found.image is not None:
            self.census.add_image(found.name, found.image, self.dataset.upright)
        if found.labels is not None and pair.labels is not None:
            self.census.add_labels(pair.labels, found.labels, found.ids)

    def count_pixels(self) -> dict[str, int]:
        """Returns the number of pixels of each class, and of those that are ignored."""
        counts = dict.fromkeys([*self.module.class_names, "ignored"], 0)
        if self.dataset is not None:
            for value, number in self.census.all_ids.items():
                name = name_id(value, self.dataset.table, self.module.class_names)
                if name in counts:
                    counts[name] += number
        return counts

    def measure_frequencies(self) -> dict[str, float]:
        """Returns the share of pixels, in [0, 1], of each class and of what is ignored; empty without any labels."""
        counts = self.count_pixels()
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()} if total else {}

    def find_warnings(self) -> list[str]:
        """Returns what speaks for labels of one's own that mean something else than is thought."""
        if not isinstance(self.module, datamodules.FolderDataModule):
            return []
        warnings = [self.mixed] if self.mixed else []
        warnings += [shared for other in self.others if (shared := self.compare(other))]
        if self.dataset is not None:
            warnings += find_odd_pairs(self.dataset.pairs, self.name)
        return warnings + self.module.find_warnings(self.census, self.name)

    def compare(self, other: "SplitCheck") -> str:
        """Returns which images another split has too, the same files or copies of them; empty if none."""
        mine, theirs = ({pair.image: pair.name for pair in c.dataset.pairs} if c.dataset else {} for c in (self, other))
        shared = {name: name for path, name in mine.items() if path in theirs}
        copies = {name: other.digests[key] for key, name in self.digests.items() if key in other.digests}
        shared = {name: f"{name} (a copy of {copy})" for name, copy in copies.items()} | shared
        if not shared:
            return ""
        named = ", ".join(list(shared.values())[:NAMED]) + (", ..." if len(shared) > NAMED else "")
        return f"{self.name}: {len(shared):,} of its images are also in {other.name}: {named}"

    def find_notes(self) -> list[str]:
        """Returns what happens to the images before they reach the network."""
        return self.census.find_notes(self.name, self.module.evaluation_transform)

    def describe(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        names = self.module.class_names
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
            "holds": None if self.dataset is None else self.census.describe(self.dataset.table, names),
            "warnings": self.find_warnings(),
            "notes": self.find_notes(),
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
        passed_over: Files that belong to no pair, by suffix; None if not all splits were listed.
        yaml: That reads it, where it was written from what was found; empty if it was given.
    """

    name: str
    module: FilesDataModule | None
    splits: Sequence[Split] = get_args(Split)
    required: bool = False
    error: str = ""
    checks: list[SplitCheck] = field(default_factory=list)
    passed_over: dict[str, list[str]] | None = None
    yaml: str = ""

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
            "passed_over": self.passed_over and {suffix: len(names) for suffix, names in self.passed_over.items()},
            "splits": [check.describe() for check in self.checks],
        }


def read_split(check: SplitCheck, num_threads: int, bar: tqdm) -> None:
    """Reads the chosen pairs of a split into its check, as far as it gets."""
    if check.dataset is None:
        return
    bar.set_description(check.name)
    start = time.perf_counter()
    try:
        for found in check_dataset(check.dataset, check.chosen, num_threads):
            check.add_pair(found)
            bar.update()
    finally:
        check.seconds = time.perf_counter() - start


def measure_speed(found: Sequence[DataSetCheck]) -> float | None:
    """Returns how many images, with their labels, were read per second; None if none were."""
    checks = [check for data_set in found for check in data_set.checks]
    read, seconds = sum(check.read for check in checks), sum(check.seconds for check in checks)
    return round(read / seconds, 2) if read else None
