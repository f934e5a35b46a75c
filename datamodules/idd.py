"""IDD: street scenes of Indian cities and their outskirts, a target.

Data card:
    Source: Varma et al. (2019); https://idd.insaan.iiit.ac.in (IDD Segmentation, 20k part I and II).
    Layout: ``leftImg8bit/{split}/DRIVE/*_leftImg8bit.png`` (part II: ``.jpg``) and, in ``gtFine/{split}/DRIVE/``,
        ``*_gtFine_labelcsTrainIds.png`` or ``*_gtFine_polygons.json``.
    Encoding: polygons, drawn as in AutoNUE's createLabels (later ones over earlier ones, on void); or 8-bit PNG of its
        csTrainIds, which are Cityscapes' train ids, 255 where ignored.
    Counts: part I 6,993 train, 981 val, 2,029 test; 1920x1080 and 1280x720. The protocol tests on val of part I.
    Licence: non-commercial research only (see the page above).
    Traps: file names repeat across drives. The labels of test are not public. Other encodings of createLabels
        (level3Ids, ids, csIds) are not read.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.files import FilesDataModule
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS
from datamodules.reading.annotations import draw_polygons
from datamodules.reading.pairs import Layout
from datamodules.reading.pixels import read_index

# Classes named as in Cityscapes have its train ids; "non-drivable fallback" counts as terrain.
# Source: AutoNUE public code, helpers/anue_labels.py.
TRAIN_ID_OF_CLASS = {name: train_id for train_id, name in enumerate(CITYSCAPES_COLOURS) if name != "terrain"}
TRAIN_ID_OF_CLASS["non-drivable fallback"] = list(CITYSCAPES_COLOURS).index("terrain")
VOID_CLASSES = (
    "parking", "drivable fallback", "rail track", "animal", "autorickshaw", "caravan", "trailer", "vehicle fallback",
    "curb", "guard rail", "billboard", "polegroup", "obs-str-bar-fallback", "bridge", "tunnel", "fallback background",
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "license plate",
)  # fmt: skip
TRAIN_ID_OF_CLASS |= dict.fromkeys(VOID_CLASSES, IGNORED)
IMAGES = ("leftImg8bit/{split}/*/*_leftImg8bit.png", "leftImg8bit/{split}/*/*_leftImg8bit.jpg")


class IDDDataModule(FilesDataModule):
    """IDD (Varma et al., 2019); see the data card in datamodules/idd.py. Reads csTrainIds masks if a split has them."""

    role = "target"
    test_split = "val"
    domain = "idd"
    folders = ("idd", "idd_segmentation", "idd20k", "idd20kii")
    layouts = (
        Layout(images=IMAGES, labels=("gtFine/{split}/*/*_gtFine_labelcsTrainIds.png",)),
        Layout(images=IMAGES, labels=("gtFine/{split}/*/*_gtFine_polygons.json",)),
    )
    train_ids: ClassVar = TRAIN_IDS
    counts: ClassVar = {"train": 6993, "val": 981, "test": 2029}
    unlabelled_splits = frozenset(["test"])
    archives = "idd-segmentation.tar.gz"

    @staticmethod
    def read_ids(path: Path) -> np.ndarray:
        """Reads train ids from a mask, or draws them from polygons."""
        return draw_polygons(path, TRAIN_ID_OF_CLASS, "idd") if path.suffix == ".json" else read_index(path)
