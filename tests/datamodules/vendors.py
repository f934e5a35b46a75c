"""The trees of all data sets, in every layout that their vendors have, and what has to be found in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from datamodules import (
    BDDDataModule,
    CityscapesDataModule,
    GTADataModule,
    IDDDataModule,
    MapillaryDataModule,
    SYNTHIADataModule,
    WildDashDataModule,
)
from datamodules.files import FilesDataModule
from tests import fakes

GOLDEN = Path(__file__).parent.parent / "parity" / "label_tables.json"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TARGETS = [CityscapesDataModule, BDDDataModule, IDDDataModule, MapillaryDataModule]
FOLDERS = {
    GTADataModule: "gta",
    SYNTHIADataModule: "synthia",
    WildDashDataModule: "wilddash",
    CityscapesDataModule: "cityscapes",
    BDDDataModule: "bdd",
    IDDDataModule: "idd",
    MapillaryDataModule: "mapillary",
}


def parse_table(text: str) -> dict[int, int]:
    """Reads "3>0 13,24>1": ids, and what they become."""
    entries = (entry.split(">") for entry in text.split())
    return {int(value): int(train_id) for values, train_id in entries for value in values.split(",")}


def complete(table: Mapping[int, int], ids: range | tuple[int, ...]) -> dict[int, int]:
    return dict.fromkeys(ids, 255) | dict(table)


# Train ids as the vendors' and the paper's tables have them.
CITYSCAPES = {label.id: label.trainId for label in official_labels if label.id >= 0}
GTA = CITYSCAPES | {34: 255}
SYNTHIA = complete(
    parse_table(
        "3>0 4>1 2>2 21>3 5>4 7>5 15>6 9>7 6>8 16>9 1>10 10>11 17>12 8>13 18>14 19>15 20>16 12>17 11>18",
    ),
    range(23),
)
WILDDASH_BETA = CITYSCAPES | {34: 13, 35: 13, 36: 255, 37: 255, 38: 0}
WILDDASH_FINAL = complete(
    WILDDASH_BETA | parse_table("41,43,61,64,70,74,75,76,79>0 52,65,77,80>1 56>3 45,46>5 78>9 47,48,49>12 58>17"),
    range(81),
)
MAPILLARY = complete(
    parse_table(
        "13,24,41>0 2,15>1 17>2 6>3 3>4 45,47>5 48>6 50>7 30>8 29>9 27>10 19>11 20,21,22>12 55>13 61>14 54>15 58>16 "
        "57>17 52>18"
    ),
    range(66),
)
IDENTITY = {label: label for label in (*range(19), 255)}
TO_16 = {**{label: label for label in range(9)}, 10: 9, 11: 10, 12: 11, 13: 12, 15: 13, 17: 14, 18: 15}


def look_up(ids: np.ndarray, table: Mapping[int, int], num_classes: int = 19) -> np.ndarray:
    """Translates ids one by one: slow, and hard to get wrong."""
    labels = np.full(ids.shape, 254)
    for value, train_id in table.items():
        labels[ids == value] = train_id if num_classes == 19 else TO_16.get(train_id, 255)
    return labels


@dataclass(frozen=True)
class Tree:
    """A tree, and what has to be found in it.

    Attributes:
        write: Writes it below a folder.
        module: Reads it.
        vendor: What is in it.
        images: For each labelled split the images' paths.
        table: Train ids of the stored ids.
        draw: Draws the ids behind a key, if the vendor does not.
    """

    write: Callable[[Path], Path]
    module: type[FilesDataModule]
    vendor: fakes.Vendor
    images: Mapping[str, str]
    table: Mapping[int, int]
    draw: Callable[[str], np.ndarray] | None = None

    def expect(self, root: Path, split: str, num_classes: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Returns key, normalised image and mask of each pair, in order."""
        expected = []
        for key in self.vendor.keys[split]:
            with Image.open(root / self.images[split].format(key=key)) as picture:
                levels = np.asarray(picture.convert("RGB"))
            ids = (self.draw or self.vendor.draw_ids)(key)
            image = ((levels / 255 - MEAN) / STD).transpose(2, 0, 1)
            expected.append((key, image, look_up(ids, self.table, num_classes)))
        return expected


def draw_idd(key: str) -> np.ndarray:
    return fakes.fill_polygons(fakes.make_polygons(key, fakes.IDD.size(key)))


def splits(pattern: str, *names: str) -> dict[str, str]:
    return {name: pattern.replace("{split}", name) for name in names}


BOTH, ALL = ("train", "val"), ("train", "val", "test")
GTA_TREE = Tree(fakes.write_gta, GTADataModule, fakes.GTA, splits("images/{key}.png", *ALL), GTA)
SYNTHIA_IMAGES = {"train": "RAND_CITYSCAPES/RGB/{key}.png"}
SYNTHIA_TREE = Tree(fakes.write_synthia, SYNTHIADataModule, fakes.SYNTHIA, SYNTHIA_IMAGES, SYNTHIA)
BETA_IMAGES, FINAL_IMAGES = ({"val": f"{name}/images/{{key}}.jpg"} for name in ("wd_public_02", "wd_public_v2p0"))
BETA_TREE = Tree(fakes.write_wilddash, WildDashDataModule, fakes.WILDDASH_BETA, BETA_IMAGES, WILDDASH_BETA)
FINAL_TREE = Tree(
    partial(fakes.write_wilddash, final=True), WildDashDataModule, fakes.WILDDASH_FINAL, FINAL_IMAGES, WILDDASH_FINAL
)
FINE = "leftImg8bit/{split}/{key}_leftImg8bit.png"
CITYSCAPES_TREE = Tree(fakes.write_cityscapes, CityscapesDataModule, fakes.CITYSCAPES, splits(FINE, *BOTH), CITYSCAPES)
BDD_IMAGES = splits("bdd100k/images/10k/{split}/{key}.jpg", *BOTH)
BDD_TREE = Tree(fakes.write_bdd, BDDDataModule, fakes.BDD, BDD_IMAGES, IDENTITY)
IDD_IMAGES = splits(f"IDD_Segmentation/{FINE}", *BOTH)
IDD_TREE = Tree(fakes.write_idd, IDDDataModule, fakes.IDD, IDD_IMAGES, IDENTITY, draw_idd)
MAPILLARY_IMAGES = {"train": "training/images/{key}.jpg", "val": "validation/images/{key}.jpg"}
MAPILLARY_TREE = Tree(fakes.write_mapillary, MapillaryDataModule, fakes.MAPILLARY, MAPILLARY_IMAGES, MAPILLARY)


def change(tree: Tree, images: Mapping[str, str] | None = None, write: Any = None, **arguments: Any) -> Tree:
    """Returns a tree that is written with other arguments, and where its images then lie."""
    return replace(tree, write=partial(write or tree.write, **arguments), images=images or tree.images)


TREES = {
    "gta": GTA_TREE,
    "gta, rearranged": change(GTA_TREE, splits("images/{split}/{key}.png", *ALL), rearranged=True),
    "synthia": SYNTHIA_TREE,
    "synthia, flat": change(SYNTHIA_TREE, {"train": "RGB/{key}.png"}, nested=False),
    "synthia, rearranged": replace(
        change(SYNTHIA_TREE, {"train": FINE.replace("{split}", "train")}, fakes.write_synthia_rearranged),
        vendor=fakes.SYNTHIA_REARRANGED,
    ),
    "wilddash beta": BETA_TREE,
    "wilddash beta, flat": change(BETA_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final": FINAL_TREE,
    "wilddash final, flat": change(FINAL_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final, panoptic": change(FINAL_TREE, labels=False),
    "cityscapes": CITYSCAPES_TREE,
    "bdd": BDD_TREE,
    "bdd, flat": change(BDD_TREE, splits("images/10k/{split}/{key}.jpg", *BOTH), nested=False),
    "bdd, old": change(BDD_TREE, splits("bdd100k/seg/images/{split}/{key}.jpg", *BOTH), fakes.write_old_bdd),
    "idd": IDD_TREE,
    "idd, masks": change(IDD_TREE, splits(FINE, *BOTH), polygons=False, masks=True, nested=False),
    "idd, masks and polygons": change(IDD_TREE, masks=True),
    "idd, part II": change(IDD_TREE, splits("idd20kII/" + FINE.replace("png", "jpg"), *BOTH), part=2),
    "mapillary": MAPILLARY_TREE,
    "mapillary, v1.2 alone": change(MAPILLARY_TREE, releases=["v1.2"]),
    "mapillary, former": change(MAPILLARY_TREE, releases=[""]),
}


def write_tree(module: type[FilesDataModule], root: Path) -> Path:
    """Writes the first of a data set's trees."""
    return next(tree for tree in TREES.values() if tree.module is module).write(root)
