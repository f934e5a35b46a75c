"""The state of a check: the data sets, their splits, and the problems found in them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import datamodules
from datamodules.base import Problem, ProblemKind, Split
from datamodules.files import FilesDataModule
from datamodules.reading.census import Census, name_id
from datamodules.reading.dataset import FilesDataset, check_dataset
from datamodules.reading.pairs import NAMED

VENDORS: tuple[type[FilesDataModule], ...] = (
    datamodules.GTADataModule, datamodules.SYNTHIADataModule, datamodules.WildDashDataModule,
    datamodules.CityscapesDataModule, datamodules.BDDDataModule, datamodules.IDDDataModule,
    datamodules.MapillaryDataModule,
)  # fmt: skip
DATA_SETS = {module.domain: module for module in VENDORS}
KINDS: dict[ProblemKind, tuple[str, str]] = {  # column heading, wording in a sentence
    "missing": ("missing", "a missing image or labels"),
    "size": ("sizes", "image and labels of different sizes"),
    "unreadable": ("unreadable", "an unreadable file"),
    "id": ("ids", "ids outside the table"),
}


@dataclass
class SplitCheck:
    """The check of one split of a data set.

    Attributes:
        module: Data module that finds and reads the split.
        split: Name of the split.
        dataset: Dataset that reads the pairs; empty if they could not be listed.
        required: Whether a missing split is an error.
        labelled: Whether labels are expected.
        absent: Why the split is missing; empty if it is there.
        unusable: Why none of the split can be used although it is there; empty if it can.
        images: Number of image files.
        labels: Number of label files; None where none are expected.
        same: Other splits that consist of the same pairs.
        chosen: Indices of the pairs to read.
        seconds: Time spent reading.
        unpaired: Files without a partner.
        census: Contents and problems of the pairs read so far.
        known: Names of the pairs that are broken in the official release; their problems are not errors.
        others: Splits listed earlier that should not share images with this one.
    """

    module: FilesDataModule
    split: Split
    dataset: FilesDataset
    required: bool = False
    labelled: bool = True
    absent: str = ""
    unusable: str = ""
    images: int = 0
    labels: int | None = None
    same: list[Split] = field(default_factory=list)
    chosen: Sequence[int] = ()
    seconds: float = 0.0
    unpaired: list[Problem] = field(default_factory=list)
    census: Census = field(default_factory=Census)
    known: list[str] = field(default_factory=list)
    others: "list[SplitCheck]" = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the data set and the split, e.g. ``cityscapes val``."""
        return f"{self.module.domain} {', '.join([self.split, *self.same])}"

    @property
    def official(self) -> int | None:
        """The official number of images; None if there is none."""
        return self.module.counts.get(self.split)

    @property
    def own(self) -> bool:
        """Whether the data are the user's own images, which have no official numbers to compare with."""
        return isinstance(self.module, datamodules.FolderDataModule)

    @property
    def lacking(self) -> int:
        """Number of images missing compared with the official number."""
        return 0 if self.absent else max(0, (self.official or 0) - self.images)

    @property
    def void(self) -> bool:
        """Whether there are labels, but none of their pixels belongs to a class."""
        counts = self.count_pixels()
        return bool(self.census.labels) and not any(counts[name] for name in self.module.class_names)

    @property
    def verdict(self) -> str:
        """The result in a few words; capitals mean that something is wrong."""
        verdicts = (
            ("NOT THERE", self.absent and self.required),
            ("not there", self.absent),
            ("UNUSABLE", self.unusable),
            ("PROBLEMS", self.find_problems() or self.census.find_mixture(self.name)),
            ("NO LABELS", self.void),
            ("ok?", self.find_warnings()),
            ("INCOMPLETE", self.lacking),
            ("not all read", self.census.read < len(self.chosen)),
            ("ok, no labels", not self.labelled),
        )
        return next((verdict for verdict, holds in verdicts if holds), "ok")

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.verdict.isupper() or self.lacking > 0

    def find_problems(self, known: bool = False) -> list[Problem]:
        """Returns the problems of the pairs known to be broken, or by default of all others."""
        problems = (*self.unpaired, *self.census.problems)
        return [problem for problem in problems if (problem.name in self.known) == known]

    def count(self, kind: ProblemKind) -> int:
        """Returns the number of pairs with a problem of a kind."""
        return len({problem.name for problem in self.find_problems() if problem.kind == kind})

    def count_pixels(self) -> Counter[str]:
        """Returns the number of pixels per class, and of ignored pixels."""
        counts = Counter(dict.fromkeys([*self.module.class_names, "ignored"], 0))
        for value, number in self.census.all_ids.items():
            name = name_id(value, self.dataset.table, self.module.class_names)
            if name in counts:
                counts[name] += number
        return counts

    def measure_frequencies(self) -> dict[str, float]:
        """Returns the share of pixels, in [0, 1], per class and of ignored pixels; empty without labels."""
        counts = self.count_pixels()
        return {name: count / counts.total() for name, count in counts.items()} if counts.total() else {}

    def find_warnings(self) -> list[str]:
        """Returns warnings that the user's own images or labels may be misread, or that splits overlap."""
        if not isinstance(self.module, datamodules.FolderDataModule):
            return []
        shared = [self.compare(other) for other in self.others]
        found = self.module.find_warnings(self.dataset, self.census, self.name)
        return [warning for warning in (self.census.find_mixture(self.name), *shared, *found) if warning]

    def compare(self, other: "SplitCheck") -> str:
        """Returns a warning that names the images shared with another split, as files or copies; empty if none."""
        copies, files = other.census.digests, {pair.image for pair in other.dataset.pairs}
        shared = {
            name: f"{name} (a copy of {copies[digest]})"
            for digest, name in self.census.digests.items()
            if digest in copies
        }
        shared |= {pair.name: pair.name for pair in self.dataset.pairs if pair.image in files}
        if not shared:
            return ""
        named = ", ".join(list(shared.values())[:NAMED]) + (", ..." if len(shared) > NAMED else "")
        return f"{self.name}: {len(shared):,} of its images are also in {other.name}: {named}"

    def find_notes(self) -> list[str]:
        """Returns notes on how the images are transformed before they reach the network."""
        return self.census.find_notes(self.name, self.module.evaluation_transform)

    def read(self, num_threads: int, update: Callable[[], object]) -> None:
        """Reads the chosen pairs and calls `update` after each; keeps partial results if interrupted."""
        start = time.perf_counter()
        try:
            for found in check_dataset(self.dataset, self.chosen, num_threads):
                self.census.update(found)
                update()
        finally:
            self.seconds = time.perf_counter() - start

    def describe(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        nothing = self.absent or self.unusable
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
            "read": self.census.read,
            "seconds": round(self.seconds, 3),
            "counts": {kind: self.count(kind) for kind in KINDS} | {"lacking": self.lacking},
            "problems": [vars(problem) for problem in self.find_problems()],
            "known_broken": self.known,
            "known_problems": [vars(problem) for problem in self.find_problems(known=True)],
            "pixels": self.count_pixels(),
            "frequencies": self.measure_frequencies(),
            "holds": None if nothing else self.census.describe(self.dataset.table, self.module.class_names),
            "warnings": self.find_warnings(),
            "notes": self.find_notes(),
        }


@dataclass
class DataSetCheck:
    """The check of one data set.

    Attributes:
        name: Name of the data set.
        module: Data module that finds and reads it.
        splits: Splits to check.
        required: Whether it is an error if the data set, or a split used by a run's data YAML, is missing.
        error: Why the data set is missing or cannot be used at all; empty otherwise.
        checks: Checks of its splits.
        passed_over: Files that belong to no pair, by suffix; None if not all splits were listed.
        yaml: Generated YAML that reads the user's own images; empty for a known data set or a given YAML.
    """

    name: str
    module: FilesDataModule
    splits: Sequence[Split] = get_args(Split)
    required: bool = True
    error: str = ""
    checks: list[SplitCheck] = field(default_factory=list)
    passed_over: dict[str, list[str]] | None = None
    yaml: str = ""

    @property
    def lost(self) -> bool:
        """Whether a required data set is missing or cannot be used at all."""
        return bool(self.error) and self.required

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.lost or any(check.failed for check in self.checks)

    @property
    def release(self) -> str | None:
        """Detected release of the data set, if it has several."""
        return getattr(self.module, "release", None)

    def describe(self) -> dict[str, Any]:
        """Returns everything, for JSON."""
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "root": str(self.module.find_root()) if self.checks else None,
            "release": self.release,
            "found": bool(self.checks),
            "failed": self.failed,
            "error": self.error or None,
            "passed_over": self.passed_over and {suffix: len(names) for suffix, names in self.passed_over.items()},
            "splits": [check.describe() for check in self.checks],
        }
