"""Data sets in files: finds, pairs and reads the files, and reports what is wrong with them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.base import DataError, Problem, SegmentationDataModule, Split
from datamodules.reading.dataset import FilesDataset, check_dataset
from datamodules.reading.pairs import NAMED, Files, Layout, Pair, list_folders, match_files
from datamodules.reading.pixels import read_index
from datamodules.transforms import Transform

ROOT_VARIABLE = "SEGADAPT_DATA"

Broken = Literal["error", "skip"]


def require_choice(name: str, value: Any, choices: Any) -> Any:
    """Returns the value of an argument; raises ValueError if it is none of the choices, a `Literal`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}: expected one of {', '.join(get_args(choices))}")
    return value


class FilesDataModule(SegmentationDataModule):
    """A data set in files, in the layout of its vendor.

    Args:
        root: Folder of the data set, or a folder with one folder per data set; None is ``$SEGADAPT_DATA``.
        split: Split that `test` and `predict` read; None is the protocol's choice.
        broken: How to handle pairs with a missing partner, differing sizes, unreadable files or unknown ids.
            ``error`` stops and names them; ``skip`` reads the whole split first, skips such pairs, and reports them
            in the log and in results.json.
        **kwargs: Arguments of `SegmentationDataModule`.

    Attributes:
        domain: Name of the data set.
        folders: Names that its folder may have under ``$SEGADAPT_DATA``, in lower case; case is ignored.
        layouts: Possible layouts of its files; the first that matches is used.
        train_ids: The Cityscapes train id, or 255, of each id that the data set defines.
        counts: Official number of images per split.
        archives: Names of the archives to unpack, for error messages.
        unlabelled_splits: Splits whose labels are not public; only `predict` can use them.
        known_broken: Names of pairs that are broken in the official release.
        upright: Whether images and labels are turned upright according to their EXIF orientation.
        hint: Advice appended to errors about ids that the data set does not define.
    """

    domain: str
    folders: tuple[str, ...]
    layouts: ClassVar[tuple[Layout, ...]]
    train_ids: ClassVar[Mapping[int, int]]
    counts: ClassVar[Mapping[Split, int]]
    archives: ClassVar[str]
    unlabelled_splits: ClassVar[frozenset[str]] = frozenset()
    known_broken: ClassVar[frozenset[str]] = frozenset()
    upright: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init__(
        self, root: str | None = None, split: Split | None = None, broken: Broken = "error", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.test_split = require_choice("split", self.test_split if split is None else split, Split)
        self.broken: Broken = require_choice("broken", broken, Broken)
        self.root = root
        self.left_out: dict[str, list[Problem]] = {}

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FilesDataset:
        """Opens one split.

        Raises:
            DataError: If the data set is missing, or images and labels do not pair up; says what was found.
        """
        pairs, problems = self.find_pairs(split, labelled)
        if self.broken == "skip":
            dataset = self.open_pairs(pairs, transform, labelled)
            problems += [problem for found in check_dataset(dataset) for problem in found.problems]
            self.left_out[split] = problems
            wrong = sorted({problem.name for problem in problems})
            if problems:
                rank_zero_warn(f"{self.domain}: skipped {len(wrong)} broken pairs of {split}: {', '.join(wrong)}")
            for problem in problems:
                rank_zero_info(f"  {problem.message}")
            pairs = [pair for pair in pairs if pair.name not in wrong]
        elif problems:
            named = "; ".join(problem.message for problem in problems[:NAMED])
            more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
            raise DataError(
                f"{self.domain}: {len(problems)} files of {split} have no partner: {named}{more}. Complete the data "
                f"set ({self.archives}), or skip these files with broken=skip",
                "missing",
            )
        return self.open_pairs(pairs, transform, labelled)

    def open_pairs(self, pairs: Sequence[Pair], transform: Transform, labelled: bool = True) -> FilesDataset:
        """Builds a dataset from pairs."""
        common = (self.domain, self.make_table(), transform, self.seed, labelled)
        return FilesDataset(*common, pairs=pairs, read_ids=self.read_ids, upright=self.upright, hint=self.hint)

    def make_table(self) -> np.ndarray:
        """Builds the lookup from ids to labels, see `LabelSpace.table`."""
        return self.labels.table(self.train_ids)

    @staticmethod
    def read_ids(path: Path) -> np.ndarray:
        """Reads a label file as (H, W) ids."""
        return read_index(path)

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner.

        Raises:
            DataError: If the data set is missing, or has no such split.
        """
        held = {name for layout in self.layouts for name in layout.holds}
        if split not in held:
            raise DataError(
                f"{self.domain} has no {split} split: expected {' or '.join(sorted(held))}, set split", "missing"
            )
        if labelled and split in self.unlabelled_splits:
            raise DataError(
                f"the labels of {self.domain}'s {split} split are not public: expected another split (the protocol "
                "tests on val). Only `predict` can use it",
                "missing",
            )
        root = self.find_root()
        images, labels = self.find_files(root, split, labelled)
        if not images or (labelled and not labels):
            raise DataError(self._explain_missing(root, split, "labels" if images else "images"), "missing")
        official = self.counts.get(split, 0)
        if labelled and len(images) < official:
            rank_zero_warn(
                f"{self.domain}: {root} contains {len(images)} images of {split}, the official number is {official}. "
                "To see what is missing: `python -m experiments.check_data`"
            )
        return match_files(images, labels if labelled else None)

    def find_files(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files]:
        """Returns the image and label files of a split by name, from the first layout that has both."""
        found: list[tuple[Files, Files]] = []
        for layout in self.layouts:
            images = layout.find(root, layout.images, split)
            labels = layout.find(root, layout.labels, split) if labelled and images else {}
            if images and (labels or not labelled):
                return images, labels
            found.append((images, labels))
        return max(found, key=lambda files: len(files[0]))

    def find_root(self) -> Path:
        """Returns the folder of the data set: the given folder or one below it.

        Raises:
            DataError: If there is no such folder, or more than one.
        """
        base, given = self.find_base()
        named = [child for child in list_folders(base) if child.name.lower() in self.folders]
        for level in ([base] if given else [], named, [child for folder in named for child in list_folders(folder)]):
            found = [folder for folder in level if any(layout.lies_in(folder) for layout in self.layouts)]
            if len(found) > 1:
                raise DataError(
                    f"{self.domain} was found more than once in {base}: {', '.join(map(str, found))}. Set root to one "
                    "of them"
                )
            if found:
                return found[0]
        layout, place = self.layouts[0], named[0] if named else base
        patterns = [*layout.fill(layout.images, self.test_split), *layout.fill(layout.labels, self.test_split)]
        entries = ", ".join(sorted(path.name for path in place.iterdir())[:10])
        wanted = "" if given or named else f" a folder {self.folders[0]} with"
        raise DataError(
            f"{self.domain} is not in {place}, which contains {entries or 'nothing'}: expected{wanted} files like "
            f"{', '.join(patterns)}. Unpack {self.archives} there"
        )

    def find_base(self) -> tuple[Path, bool]:
        """Returns the folder to search, and whether it was set for this data set by `root`."""
        given = self.root is not None
        place = self.root if given else os.environ.get(ROOT_VARIABLE)
        if not given and not place:
            raise DataError(
                f"the folder of {self.domain} is not set: set root to it, or the environment variable {ROOT_VARIABLE} "
                f"to a folder with one subfolder per data set ({self.folders[0]}, ...)"
            )
        base = Path(str(place)).expanduser()
        if not base.is_dir():
            missing = "" if base.exists() else " (there is no such path)"
            raise DataError(
                f"{'root' if given else f'${ROOT_VARIABLE}'} is {base}, which is not a folder{missing}: expected "
                f"{'the folder of the data set' if given else f'a folder that contains {self.domain}'}"
            )
        return base, given

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        left_out = {
            split: [{"name": problem.name, "why": problem.kind} for problem in problems]
            for split, problems in self.left_out.items()
        }
        return super().describe() | {"split": self.test_split, "broken": self.broken, "left_out": left_out}

    def _explain_missing(self, root: Path, split: Split, what: Literal["images", "labels"]) -> str:
        """Returns the message about a split without images or without labels."""
        others = [layout for layout in self.layouts if split not in layout.holds]  # without this split
        held = [name for layout in others for name in layout.holds if layout.find(root, layout.images, name)]
        if held:
            return f"{self.domain}: {root} has no {split} split: expected {' or '.join(dict.fromkeys(held))}, set split"
        layout = self.layouts[0]
        patterns = layout.fill(layout.images if what == "images" else layout.labels, split)
        return (
            f"{self.domain}: there are no {what} of {split} in {root}: expected files like {' or '.join(patterns)}. "
            f"Unpack {self.archives} there"
        )

    def may_skip(self, names: Sequence[str], why: str) -> bool:
        """Returns whether images that cannot be predicted are skipped like broken ones; if so, records them."""
        if self.broken != "skip":
            return False
        self.left_out.setdefault(self.test_split, []).extend(Problem(name, "size", why) for name in names)
        rank_zero_warn(f"{self.domain}: skipped {why}")
        return True
