"""The state of a check: the data sets, their splits, and the problems found in them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import datamodules
from datamodules.base import Problem, ProblemKind, Split
from datamodules.files import FilesDataModule
from datamodules.labels import format_ids
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
    """The check of one split of a data set."""

    module: FilesDataModule
    split: Split
    dataset: FilesDataset  # empty if the pairs could not be listed
    required: bool  # whether a missing split is an error
    labelled: bool  # whether labels are expected
    absent: str = ""  # why the split is missing; empty if it is there
    unusable: str = ""  # why none of it can be used although it is there; empty if it can
    images: int = 0  # number of image files
    labels: int | None = None  # number of label files; None where none are expected
    same: list[Split] = field(default_factory=list)  # other splits that consist of the same pairs
    chosen: Sequence[int] = ()  # indices of the pairs to read
    seconds: float = 0.0  # spent reading
    unpaired: list[Problem] = field(default_factory=list)  # files without a partner
    census: Census = field(default_factory=Census)  # contents and problems of the pairs read so far
    known: list[str] = field(default_factory=list)  # pairs broken in the official release, which are no errors
    others: "list[SplitCheck]" = field(default_factory=list)  # listed earlier, should not share images with this one

    @property
    def name(self) -> str:
        """Name of the data set and the split, e.g. ``cityscapes val``."""
        return f"{self.module.domain} {', '.join([self.split, *self.same])}"

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
        """Returns everything that was found, and the verdict, in JSON types."""
        census, names, table = self.census, self.module.class_names, self.dataset.table
        coloured = getattr(self.module, "coloured", False)
        official, fit = self.module.counts.get(self.split), self.module.evaluation_transform.fit
        lacking = 0 if self.absent else max(0, (official or 0) - self.images)
        problems = [vars(problem) for problem in (*self.unpaired, *census.problems)]
        known = [problem for problem in problems if problem["name"] in self.known]
        problems = [problem for problem in problems if problem["name"] not in self.known]
        counts = {kind: len({each["name"] for each in problems if each["kind"] == kind}) for kind in KINDS}
        pixels = Counter(dict.fromkeys([*names, "ignored"], 0))
        for value, number in census.all_ids.items():
            if (name := name_id(value, table, names)) in pixels:
                pixels[name] += number
        mixture, warnings = census.find_mixture(self.name), self.find_warnings()
        void = not problems and bool(census.labels) and not any(pixels[name] for name in names)
        if void:
            held = format_ids(sorted(census.all_ids))
            warnings.insert(0, f"{self.name}: no pixel of its labels belongs to a class, they contain the ids {held}")
        verdicts = (
            ("NOT THERE", self.absent and self.required),
            ("not there", self.absent),
            ("UNUSABLE", self.unusable),
            ("PROBLEMS", problems or mixture),
            ("NO LABELS", void),
            ("ok?", warnings),
            ("INCOMPLETE", lacking),
            ("not all read", census.read < len(self.chosen)),
            ("ok, no labels", not self.labelled),
            ("ok", True),
        )
        verdict = next(verdict for verdict, holds in verdicts if holds)
        return {
            "name": self.name,
            "split": self.split,
            "same_as_this": self.same,
            "verdict": verdict,
            "failed": verdict.isupper() or lacking > 0,
            "absent": self.absent or None,
            "unusable": self.unusable or None,
            "official": official,
            "images": self.images,
            "labels": self.labels,
            "chosen": len(self.chosen),
            "read": census.read,
            "seconds": round(self.seconds, 3),
            "counts": counts | {"lacking": lacking},
            "problems": problems,
            "known_broken": self.known,
            "known_problems": known,
            "pixels": pixels,
            "frequencies": {name: number / pixels.total() for name, number in pixels.items() if pixels.total()},
            "holds": None if self.absent or self.unusable else census.describe(table, names, coloured),
            "resized": sum(number for size, number in census.sizes.items() if fit(size) != size),
            "warnings": [warning for warning in (mixture, *warnings) if warning],
        }

    def find_warnings(self) -> list[str]:
        """Returns warnings that the user's own images or labels may be misread, or that splits overlap."""
        if not isinstance(self.module, datamodules.FolderDataModule):
            return []
        shared = [self.compare(other) for other in self.others]
        return [*filter(None, shared), *self.module.find_warnings(self.dataset, self.census, self.name)]

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


@dataclass
class DataSetCheck:
    """The check of one data set."""

    module: FilesDataModule
    splits: Sequence[Split] = get_args(Split)  # to check
    required: bool = True  # whether it is an error if the data set, or a split that a run reads, is missing
    error: str = ""  # why the data set is missing or cannot be used at all; empty otherwise
    checks: list[SplitCheck] = field(default_factory=list)  # of its splits
    passed_over: dict[str, list[str]] = field(default_factory=dict)  # of the user's own: files in no pair, by suffix
    yaml: str = ""  # generated YAML that reads the user's own images; empty for others

    @property
    def own(self) -> bool:
        """Whether these are the user's own images."""
        return isinstance(self.module, datamodules.FolderDataModule)

    def describe(self) -> dict[str, Any]:
        """Returns everything that was found, in JSON types."""
        splits = [check.describe() for check in self.checks]
        return {
            "name": self.module.domain,
            "own": self.own,
            "class": type(self.module).__name__,
            "root": str(self.module.find_root()) if self.checks else None,
            "archives": self.module.archives,
            "known_broken": len(self.module.known_broken),
            "release": getattr(self.module, "release", None),
            "found": bool(self.checks),
            "failed": bool(self.error and self.required) or any(split["failed"] for split in splits),
            "error": self.error or None,
            "passed_over": self.passed_over,
            "splits": splits,
        }


def describe_all(found: Sequence[DataSetCheck]) -> dict[str, Any]:
    """Returns the report, in JSON types."""
    data_sets = [data_set.describe() for data_set in found]
    splits = [split for data_set in data_sets for split in data_set["splits"]]
    read, seconds = (sum(split[what] for split in splits) for what in ("read", "seconds"))
    return {
        "complete": all(split["read"] == split["chosen"] for split in splits),
        "failed": any(data_set["failed"] for data_set in data_sets),
        "read": read,
        "images_per_second": round(read / seconds, 2) if seconds else None,
        "data_sets": data_sets,
    }
