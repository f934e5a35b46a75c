"""IDD: street scenes of Indian cities and their outskirts, a target.

Data card:
    Source: Varma et al. (2019); https://idd.insaan.iiit.ac.in (IDD Segmentation, 20k part I and II).
    Layout: ``leftImg8bit/{split}/DRIVE/*_leftImg8bit.png`` (part II: ``.jpg``) and, in ``gtFine/{split}/DRIVE/``,
        ``*_gtFine_labelcsTrainIds.png`` or ``*_gtFine_polygons.json``.
    Encoding: polygons, drawn here as AutoNUE's createLabels does (the later over the earlier, on void); or its 8-bit
        PNG of csTrainIds, which are Cityscapes' train ids, 255 where ignored.
    Counts: part I 6,993 train, 981 val, 2,029 test; 1920x1080 and 1280x720. The protocol tests on val of part I.
    Licence: for research, not for commerce (see the page above).
    Traps: file names repeat from drive to drive. The labels of test are not public. Other encodings of createLabels
        (level3Ids, ids, csIds) are not read.
"""

import json
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError
from datamodules.files import FilesDataModule
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS
from datamodules.reading.pairs import Layout
from datamodules.reading.pixels import read_index

# Classes with Cityscapes' names have their train ids; "non-drivable fallback" counts as terrain.
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
    """IDD (Varma et al., 2019); see the data card of this file. Ready masks are read where a split has them."""

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
        return draw_polygons(path) if path.suffix == ".json" else read_index(path)


@cache
def warn_of_class(name: str) -> None:
    """Warns of a class that is none of IDD's, once."""
    rank_zero_warn(f"idd: objects of class {name!r} are skipped, as IDD has no such class")


def draw_polygons(path: Path) -> np.ndarray:
    """Draws the train ids of an annotation of IDD, object by object in the order of the file.

    As the vendor's tool does, it skips what is deleted, has fewer than three points, or is of an unknown class.

    Args:
        path: ``*_gtFine_polygons.json``.

    Returns:
        (H, W) uint8 train ids, 255 where nothing is drawn.

    Raises:
        DataError: If the file cannot be read.

    Source: AutoNUE public code, preperation/json2labelImg.py (rules) and helpers/anue_labels.py (classes).
    """
    try:
        annotation = json.loads(path.read_text(encoding="utf-8"))
        size = int(annotation["imgWidth"]), int(annotation["imgHeight"])
        objects = [
            (str(entry["label"]), [(float(x), float(y)) for x, y in entry["polygon"]])
            for entry in annotation["objects"]
            if not entry.get("deleted")
        ]
        canvas = Image.new("L", size, IGNORED)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): expected a polygon file of IDD with imgWidth, "
            "imgHeight and objects. Unpack it again"
        ) from error
    pencil = ImageDraw.Draw(canvas)
    for name, points in objects:
        known = name if name in TRAIN_ID_OF_CLASS else name.removesuffix("group")
        if known not in TRAIN_ID_OF_CLASS:
            warn_of_class(name)
        elif len(points) >= 3:
            pencil.polygon(points, fill=TRAIN_ID_OF_CLASS[known])
    return np.array(canvas)
