"""The trees of all data sets, in every layout that their vendors have, and what has to be found in them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

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


class Tree(NamedTuple):
    """A tree, and what has to be found in it."""

    module: type[FilesDataModule]  # reads it
    vendor: trees.Vendor  # what is in it
    table: str  # name of the table of its ids
    write: Callable[[Path], Path]  # writes it below a folder


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


GTA = GTADataModule, trees.GTA, "gta"
SYNTHIA = SYNTHIADataModule, trees.SYNTHIA, "synthia"
BETA = WildDashDataModule, trees.WILDDASH_BETA, "wilddash"
FINAL_RELEASE = WildDashDataModule, trees.WILDDASH_FINAL, "wilddash final"
BDD = BDDDataModule, trees.BDD, "bdd"
IDD = IDDDataModule, trees.IDD, "idd"
MAPILLARY = MapillaryDataModule, trees.MAPILLARY, "mapillary"
write_final = partial(trees.write_wilddash, final=True)

TREES = {
    "gta": Tree(*GTA, trees.write_gta),
    "gta, rearranged": Tree(*GTA, partial(trees.write_gta, rearranged=True)),
    "synthia": Tree(*SYNTHIA, trees.write_synthia),
    "synthia, flat": Tree(*SYNTHIA, partial(trees.write_synthia, nested=False)),
    "synthia, rearranged": Tree(SYNTHIADataModule, SYNTHIA_REARRANGED, "synthia", write_synthia_rearranged),
    "wilddash beta": Tree(*BETA, trees.write_wilddash),
    "wilddash beta, converted": Tree(*BETA, write_converted_wilddash),
    "wilddash beta, flat": Tree(*BETA, partial(trees.write_wilddash, nested=False)),
    "wilddash final": Tree(*FINAL_RELEASE, write_final),
    "wilddash final, flat": Tree(*FINAL_RELEASE, partial(write_final, nested=False)),
    "wilddash final, panoptic": Tree(*FINAL_RELEASE, partial(write_final, labels=False)),
    "cityscapes": Tree(CityscapesDataModule, trees.CITYSCAPES, "cityscapes", trees.write_cityscapes),
    "bdd": Tree(*BDD, trees.write_bdd),
    "bdd, flat": Tree(*BDD, partial(trees.write_bdd, nested=False)),
    "bdd, old": Tree(*BDD, trees.write_old_bdd),
    "idd": Tree(*IDD, trees.write_idd),
    "idd, masks": Tree(*IDD, partial(trees.write_idd, polygons=False, masks=True, nested=False)),
    "idd, masks and polygons": Tree(*IDD, partial(trees.write_idd, masks=True)),
    "idd, part II": Tree(*IDD, partial(trees.write_idd, part=2)),
    "mapillary": Tree(*MAPILLARY, trees.write_mapillary),
    "mapillary, v1.2 alone": Tree(*MAPILLARY, partial(trees.write_mapillary, releases=["v1.2"])),
    "mapillary, former": Tree(*MAPILLARY, partial(trees.write_mapillary, releases=[""])),
}


def write_tree(module: type[FilesDataModule], root: Path) -> Path:
    """Writes the first of a data set's trees."""
    return next(tree for tree in TREES.values() if tree.module is module).write(root)
