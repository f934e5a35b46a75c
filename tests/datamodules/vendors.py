"""The trees of all data sets, in every layout that their vendors have, and what has to be found in them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
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
from tests import trees

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TARGETS = [CityscapesDataModule, BDDDataModule, IDDDataModule, MapillaryDataModule]


# As the released code has them, by "training set->set of the labels": labels of 19 or 16 classes for each stored id.
RECORDED = json.loads((Path(__file__).parent.parent / "parity" / "label_tables.json").read_text(encoding="utf-8"))
IN_SYNTHIA = np.array([train_id for train_id in range(19) if train_id not in (9, 14, 16)] + [255] * 240)
# Ids of the final WildDash beyond those of the beta, by its wd2_unified_label_policy.json.
FINAL = {0: (41, 43, 61, 64, 70, 74, 75, 76, 79), 1: (52, 65, 77, 80), 3: (56,), 5: (45, 46), 9: (78,)}
FINAL |= {12: (47, 48, 49), 17: (58,)}


def look_up(ids: np.ndarray, table: str, num_classes: int = 19) -> np.ndarray:
    """Translates ids of a data set, or of ``wilddash final``, as the released code does."""
    if table == "synthia":  # recorded with 16 classes alone
        labels = np.array(RECORDED["synthia->synthia"])
        if num_classes == 19:
            labels = IN_SYNTHIA[labels]
            labels[[16, 18, 20]] = 9, 14, 16  # terrain, truck and train
        return labels[ids]
    labels = np.array(RECORDED[f"gta->{table.split()[0]}"])
    if table == "wilddash final":
        labels[39:] = 255
        for train_id, added in FINAL.items():
            labels[[*added]] = train_id
    labels = labels[ids]
    return labels if num_classes == 19 else np.array(RECORDED["synthia->bdd"])[labels]  # from train ids


@dataclass(frozen=True)
class Tree:
    """A tree, and what has to be found in it.

    Attributes:
        write: Writes it below a folder.
        module: Reads it.
        vendor: What is in it.
        images: For each labelled split the images' paths.
        table: The name of the table of its ids.
        draw: Draws the ids behind a key, if the vendor does not.
    """

    write: Callable[[Path], Path]
    module: type[FilesDataModule]
    vendor: trees.Vendor
    images: Mapping[str, str]
    table: str
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


def splits(pattern: str, *names: str) -> dict[str, str]:
    return {name: pattern.replace("{split}", name) for name in names}


BOTH, ALL = ("train", "val"), ("train", "val", "test")
GTA_TREE = Tree(trees.write_gta, GTADataModule, trees.GTA, splits("images/{key}.png", *ALL), "gta")
SYNTHIA_IMAGES = {"train": "RAND_CITYSCAPES/RGB/{key}.png"}
SYNTHIA_TREE = Tree(trees.write_synthia, SYNTHIADataModule, trees.SYNTHIA, SYNTHIA_IMAGES, "synthia")
BETA_IMAGES, FINAL_IMAGES = ({"val": f"{name}/images/{{key}}.jpg"} for name in ("wd_public_02", "wd_public_v2p0"))
BETA_TREE = Tree(trees.write_wilddash, WildDashDataModule, trees.WILDDASH_BETA, BETA_IMAGES, "wilddash")
FINAL_TREE = Tree(
    partial(trees.write_wilddash, final=True),
    WildDashDataModule,
    trees.WILDDASH_FINAL,
    FINAL_IMAGES,
    "wilddash final",
)
FINE = "leftImg8bit/{split}/{key}_leftImg8bit.png"
CITYSCAPES_TREE = Tree(
    trees.write_cityscapes, CityscapesDataModule, trees.CITYSCAPES, splits(FINE, *BOTH), "cityscapes"
)
BDD_IMAGES = splits("bdd100k/images/10k/{split}/{key}.jpg", *BOTH)
BDD_TREE = Tree(trees.write_bdd, BDDDataModule, trees.BDD, BDD_IMAGES, "bdd")
IDD_IMAGES = splits(f"IDD_Segmentation/{FINE}", *BOTH)
IDD_TREE = Tree(
    trees.write_idd,
    IDDDataModule,
    trees.IDD,
    IDD_IMAGES,
    "idd",
    draw=lambda key: trees.draw_idd(key)[0],
)
MAPILLARY_IMAGES = {"train": "training/images/{key}.jpg", "val": "validation/images/{key}.jpg"}
MAPILLARY_TREE = Tree(trees.write_mapillary, MapillaryDataModule, trees.MAPILLARY, MAPILLARY_IMAGES, "mapillary")


def change(tree: Tree, images: Mapping[str, str] | None = None, write: Any = None, **arguments: Any) -> Tree:
    """Returns a tree that is written with other arguments, and where its images then lie."""
    return replace(tree, write=partial(write or tree.write, **arguments), images=images or tree.images)


# As the authors rearranged it: in the form of Cityscapes, with 8-bit SYNTHIA ids.
SYNTHIA_REARRANGED = trees.Vendor({"train": ["seq00/0000000", "seq01/0000000", "seq01/0000001"]}, range(23), (20, 34))


def write_synthia_rearranged(root: Path) -> Path:
    for split, key in SYNTHIA_REARRANGED.pairs("train"):
        trees.write_image(root / "leftImg8bit" / split / f"{key}_leftImg8bit.png", SYNTHIA_REARRANGED.draw_image(key))
        trees.write_image(root / "gtFine" / split / f"{key}_gtFine_labelIds.png", SYNTHIA_REARRANGED.draw_ids(key))
    return root


def write_converted_wilddash(root: Path) -> Path:
    """Writes the beta with labels that are named as the vendor's converter names them."""
    for path in trees.write_wilddash(root).rglob("labels/*.png"):
        path.rename(path.with_name(f"{path.stem}_labelIds.png"))
    return root


TREES = {
    "gta": GTA_TREE,
    "gta, rearranged": change(GTA_TREE, splits("images/{split}/{key}.png", *ALL), rearranged=True),
    "synthia": SYNTHIA_TREE,
    "synthia, flat": change(SYNTHIA_TREE, {"train": "RGB/{key}.png"}, nested=False),
    "synthia, rearranged": replace(
        change(SYNTHIA_TREE, {"train": FINE.replace("{split}", "train")}, write_synthia_rearranged),
        vendor=SYNTHIA_REARRANGED,
    ),
    "wilddash beta": BETA_TREE,
    "wilddash beta, converted": change(BETA_TREE, write=write_converted_wilddash),
    "wilddash beta, flat": change(BETA_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final": FINAL_TREE,
    "wilddash final, flat": change(FINAL_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final, panoptic": change(FINAL_TREE, labels=False),
    "cityscapes": CITYSCAPES_TREE,
    "bdd": BDD_TREE,
    "bdd, flat": change(BDD_TREE, splits("images/10k/{split}/{key}.jpg", *BOTH), nested=False),
    "bdd, old": change(BDD_TREE, splits("bdd100k/seg/images/{split}/{key}.jpg", *BOTH), trees.write_old_bdd),
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
