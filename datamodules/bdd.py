"""BDD100K (10k): dashcam frames of US cities in all weather, day and night, a target.

Data card:
    Source: Yu et al. (2020); http://bdd-data.berkeley.edu (10K Images, Segmentation).
    Layout: ``images/10k/{split}/*.jpg`` and ``labels/sem_seg/masks/{split}/*.png`` (bdd100k_images_10k.zip,
        bdd100k_sem_seg_labels_trainval.zip); in the old release ``seg/images/{split}/*.jpg`` and
        ``seg/labels/{split}/*_train_id.png``.
    Encoding: 8-bit PNG of train ids, 255 where ignored.
    Counts: 7,000 train, 1,000 val, 2,000 test; 1280x720. The protocol tests on val.
    Licence: BSD 3-clause for research, education and not-for-profit use (see the page above).
    Traps: the labels of test are not public. The old zip has images and masks whose names do not match (in val
        80a9e37d-e4548ac1 and 9342e334-33d167eb). ``color_labels`` holds colours, not ids;
        ``colormaps`` are palette images whose indices are the train ids.
"""

from pathlib import Path
from typing import ClassVar

from datamodules.base import Split
from datamodules.files import FilesDataModule
from datamodules.labels import TRAIN_IDS
from datamodules.reading.pairs import Files, Layout

OLD_SUFFIX = "_train_id"


class BDDDataModule(FilesDataModule):
    """BDD100K's 10k images (Yu et al., 2020); see the data card in datamodules/bdd.py."""

    role = "target"
    test_split = "val"
    domain = "bdd"
    folders = ("bdd", "bdd100k", "bdd10k", "bdd100k_10k")
    layouts = (
        Layout(images=("images/10k/{split}/*.jpg",), labels=("labels/sem_seg/masks/{split}/*.png",)),
        Layout(images=("seg/images/{split}/*.jpg",), labels=("seg/labels/{split}/*.png",)),
        Layout(images=("images/{split}/*.jpg",), labels=("labels/{split}/*.png",)),
    )
    train_ids: ClassVar = TRAIN_IDS
    counts: ClassVar = {"train": 7000, "val": 1000, "test": 2000}
    unlabelled_splits = frozenset(["test"])
    archives = "bdd100k_images_10k.zip and bdd100k_sem_seg_labels_trainval.zip"
    known_broken = frozenset(["80a9e37d-e4548ac1", "9342e334-33d167eb"])

    def find_files(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files]:
        """Returns the files of a split by name; label names lose the suffix of the old release."""
        images, labels = super().find_files(root, split, labelled)
        return images, {name.removesuffix(OLD_SUFFIX): path for name, path in labels.items()}
