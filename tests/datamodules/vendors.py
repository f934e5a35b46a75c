"""The trees of all data sets, in every layout that their vendors have, and what has to be found in them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
        module: Reads it.
        vendor: What is in it.
        table: The name of the table of its ids.
        write: Writes it below a folder.
        images: The path of an image.
    """

    module: type[FilesDataModule]
    vendor: trees.Vendor
    table: str
    write: Callable[[Path], Path]
    images: str

    @property
    def labelled(self) -> list[str]:
        """The splits whose labels are public."""
        return [split for split in self.vendor.keys if split != "test" or self.vendor is trees.GTA]

    def expect(self, root: Path, split: str, num_classes: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Returns key, normalised image and mask of each pair, in order."""
        expected = []
        for key in self.vendor.keys[split]:
            path = root / self.images.format(split=split, key=key, folder=FOLDERS.get(split))
            with Image.open(path) as picture:
                levels = np.asarray(picture.convert("RGB"))
            ids = trees.draw_idd(key)[0] if self.vendor is trees.IDD else self.vendor.draw_ids(key)
            image = ((levels / 255 - MEAN) / STD).transpose(2, 0, 1)
            expected.append((key, image, look_up(ids, self.table, num_classes)))
        return expected


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


FOLDERS = {"train": "training", "val": "validation"}  # of Mapillary
GTA = GTADataModule, trees.GTA, "gta"
SYNTHIA = SYNTHIADataModule, trees.SYNTHIA, "synthia"
BETA = WildDashDataModule, trees.WILDDASH_BETA, "wilddash"
FINAL_RELEASE = WildDashDataModule, trees.WILDDASH_FINAL, "wilddash final"
CITYSCAPES = CityscapesDataModule, trees.CITYSCAPES, "cityscapes"
BDD = BDDDataModule, trees.BDD, "bdd"
IDD = IDDDataModule, trees.IDD, "idd"
MAPILLARY = MapillaryDataModule, trees.MAPILLARY, "mapillary"
FINE = "leftImg8bit/{split}/{key}_leftImg8bit.png"
OF_IDD, OF_MAPILLARY = f"IDD_Segmentation/{FINE}", "{folder}/images/{key}.jpg"
write_final = partial(trees.write_wilddash, final=True)

TREES = {
    "gta": Tree(*GTA, trees.write_gta, "images/{key}.png"),
    "gta, rearranged": Tree(*GTA, partial(trees.write_gta, rearranged=True), "images/{split}/{key}.png"),
    "synthia": Tree(*SYNTHIA, trees.write_synthia, "RAND_CITYSCAPES/RGB/{key}.png"),
    "synthia, flat": Tree(*SYNTHIA, partial(trees.write_synthia, nested=False), "RGB/{key}.png"),
    "synthia, rearranged": Tree(SYNTHIADataModule, SYNTHIA_REARRANGED, "synthia", write_synthia_rearranged, FINE),
    "wilddash beta": Tree(*BETA, trees.write_wilddash, "wd_public_02/images/{key}.jpg"),
    "wilddash beta, converted": Tree(*BETA, write_converted_wilddash, "wd_public_02/images/{key}.jpg"),
    "wilddash beta, flat": Tree(*BETA, partial(trees.write_wilddash, nested=False), "images/{key}.jpg"),
    "wilddash final": Tree(*FINAL_RELEASE, write_final, "wd_public_v2p0/images/{key}.jpg"),
    "wilddash final, flat": Tree(*FINAL_RELEASE, partial(write_final, nested=False), "images/{key}.jpg"),
    "wilddash final, panoptic": Tree(
        *FINAL_RELEASE, partial(write_final, labels=False), "wd_public_v2p0/images/{key}.jpg"
    ),
    "cityscapes": Tree(*CITYSCAPES, trees.write_cityscapes, FINE),
    "bdd": Tree(*BDD, trees.write_bdd, "bdd100k/images/10k/{split}/{key}.jpg"),
    "bdd, flat": Tree(*BDD, partial(trees.write_bdd, nested=False), "images/10k/{split}/{key}.jpg"),
    "bdd, old": Tree(*BDD, trees.write_old_bdd, "bdd100k/seg/images/{split}/{key}.jpg"),
    "idd": Tree(*IDD, trees.write_idd, OF_IDD),
    "idd, masks": Tree(*IDD, partial(trees.write_idd, polygons=False, masks=True, nested=False), FINE),
    "idd, masks and polygons": Tree(*IDD, partial(trees.write_idd, masks=True), OF_IDD),
    "idd, part II": Tree(*IDD, partial(trees.write_idd, part=2), "idd20kII/" + FINE.replace("png", "jpg")),
    "mapillary": Tree(*MAPILLARY, trees.write_mapillary, OF_MAPILLARY),
    "mapillary, v1.2 alone": Tree(*MAPILLARY, partial(trees.write_mapillary, releases=["v1.2"]), OF_MAPILLARY),
    "mapillary, former": Tree(*MAPILLARY, partial(trees.write_mapillary, releases=[""]), OF_MAPILLARY),
}


def write_tree(module: type[FilesDataModule], root: Path) -> Path:
    """Writes the first of a data set's trees."""
    return next(tree for tree in TREES.values() if tree.module is module).write(root)
