"""GTA5: frames of a computer game with the labels of Cityscapes, the source of most comparisons.

Data card:
    Source: Richter et al. (2016), "Playing for Data"; https://download.visinf.tu-darmstadt.de/data/from_games.
    Layout: ``images/*.png``, ``labels/*.png`` and ``split.mat`` (from read_mapping.zip, beside them or in
        ``read_mapping/``), as unpacked; or ``images/{train,val,test}/*.png`` and ``labels/{train,val,test}/*.png``, as
        the authors of the paper rearrange them.
    Encoding: palette PNG; the index is the label id of Cityscapes, 34 is the license plate.
    Counts: 24,966 = 12,403 train, 6,382 val, 6,181 test; 1914x1052, some 1914x1046.
    Licence: non-commercial research and education only (see the page above).
    Traps: images and labels of 20801 to 20860 differ in size (35 of val, 25 of test); 15188 (train) and 17705 (test)
        are blank and 957x526. An incomplete download of 24,941 pairs circulates. Colours do not distinguish pole from
        license plate.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.io import loadmat

from datamodules.base import DataError, Problem, Split
from datamodules.cityscapes import LABEL_IDS
from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.annotations import explain_content
from datamodules.reading.pairs import Files, Layout, Pair

SPLIT_FILES = ("split.mat", "read_mapping/split.mat")


class GTADataModule(FilesDataModule):
    """GTA5 (Richter et al., 2016); see the data card in datamodules/gta.py."""

    role = "source"
    domain = "gta"
    folders = ("gta", "gta5")
    layouts = (
        Layout(images=("images/{split}/*.png",), labels=("labels/{split}/*.png",)),
        Layout(images=("images/*.png",), labels=("labels/*.png",)),
    )
    train_ids: ClassVar = LABEL_IDS | {34: IGNORED}
    counts: ClassVar = {"train": 12403, "val": 6382, "test": 6181}
    archives = "01_images.zip to 10_images.zip, 01_labels.zip to 10_labels.zip and read_mapping.zip (for split.mat)"
    known_broken = frozenset([f"{number:05d}" for number in (15188, 17705, *range(20801, 20861))])

    def find_files(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files]:
        """Returns the files of a split by name, by split.mat if there are no split folders."""
        images, labels = super().find_files(root, split, labelled)
        if not images or next(iter(images.values())).parent.name != "images":
            return images, labels
        names = set(read_split(root, split))
        images, labels = ({name: files[name] for name in names & files.keys()} for files in (images, labels))
        return images, labels

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, files without a partner, and missing files of split.mat."""
        pairs, problems = super().find_pairs(split, labelled)
        root = self.find_root()
        if labelled and any((root / name).is_file() for name in SPLIT_FILES) and not (root / "images" / split).is_dir():
            there = {pair.name for pair in pairs} | {problem.name for problem in problems} | self.known_broken
            problems += [
                Problem(name, "missing", f"{root}/images/{name}.png and its labels, which split.mat lists, are missing")
                for name in read_split(root, split)
                if name not in there
            ]
        return pairs, problems


def read_split(root: Path, split: Split) -> list[str]:
    """Reads the names of the images of a split.

    Returns:
        Names such as ``00001``, sorted.

    Raises:
        DataError: If there is no split.mat, or it cannot be read or lacks the split.
    """
    path = next((root / name for name in SPLIT_FILES if (root / name).is_file()), None)
    if path is None:
        raise DataError(
            f"{root} has no {' or '.join(SPLIT_FILES)}, which defines the splits of GTA5: unpack read_mapping.zip "
            "there, or sort the images into images/train, images/val, images/test (labels likewise)",
            "missing",
        )
    with explain_content(path, "the MATLAB file from read_mapping.zip"):
        values = {key.lower(): value for key, value in loadmat(str(path)).items() if not key.startswith("_")}
    key = next((key for key in values if key.startswith(split)), None)
    if key is None:
        raise DataError(f"{path} contains {', '.join(values) or 'nothing'}: expected trainIds, valIds and testIds")
    return sorted(f"{int(number):05d}" for number in np.asarray(values[key]).ravel())
