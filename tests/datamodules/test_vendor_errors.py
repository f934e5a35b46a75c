"""What is wrong with a data set of a vendor is named, and left out and reported where asked."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
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
from datamodules.base import DataError
from datamodules.files import FilesDataModule
from tests import trees
from tests.datamodules.vendors import write_tree

# Trees of two or three images have fewer than the official number, and say so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning")


HALVES = {  # folders of the images and of the labels
    GTADataModule: ("images", "labels"),
    SYNTHIADataModule: ("RGB", "GT"),
    WildDashDataModule: ("images", "labels"),
    CityscapesDataModule: ("leftImg8bit", "gtFine"),
    BDDDataModule: ("images", "labels"),
    IDDDataModule: ("leftImg8bit", "gtFine"),
    MapillaryDataModule: ("images", "v1.2"),
}


@pytest.mark.parametrize("module", HALVES)
def test_an_empty_root_says_what_is_expected(
    module: type[FilesDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something_else").mkdir()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"something_else.*expected.*Unpack"):
        module(split="train" if module is SYNTHIADataModule else None).test_dataloader()


@pytest.mark.parametrize("half", ["images", "labels"])
@pytest.mark.parametrize("module", HALVES)
def test_a_half_unpacked_tree_says_which_half_is_missing(
    module: type[FilesDataModule], half: str, tmp_path: Path
) -> None:
    root = trees.write_mapillary(tmp_path, ["v1.2"]) if module is MapillaryDataModule else write_tree(module, tmp_path)
    gone = HALVES[module][half == "labels"]
    for folder in [path for path in root.rglob(gone) if path.is_dir()]:
        shutil.rmtree(folder)
    split = "train" if module is SYNTHIADataModule else "val"
    with pytest.raises(DataError, match=f"no {half} of {split}.*expected files like .*{gone}.*Unpack"):
        module(str(root), split=split).test_dataloader()


PAIRS = {  # an image and its labels in the trees of `write_vendors`
    GTADataModule: ("images/00004.png", "labels/00004.png"),
    SYNTHIADataModule: ("RAND_CITYSCAPES/RGB/0000001.png", "RAND_CITYSCAPES/GT/LABELS/0000001.png"),
    WildDashDataModule: ("wd_public_02/images/cn0003_100000.jpg", "wd_public_02/labels/cn0003_100000.png"),
    CityscapesDataModule: (
        "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
        "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
    ),
    BDDDataModule: (
        "bdd100k/images/10k/val/7d15b18b-1e0d6e3f.jpg",
        "bdd100k/labels/sem_seg/masks/val/7d15b18b-1e0d6e3f.png",
    ),
    IDDDataModule: (
        "IDD_Segmentation/leftImg8bit/val/10/frame0600_leftImg8bit.png",
        "IDD_Segmentation/gtFine/val/10/frame0600_gtFine_polygons.json",
    ),
    MapillaryDataModule: ("validation/images/_a-1.jpg", "validation/v1.2/labels/_a-1.png"),
}


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def shrink(path: Path) -> None:
    """Takes a row of pixels away."""
    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "imgHeight": 7}))
        return
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if deep.dtype == np.uint16:
        trees.write_16_bit(path, deep[:-1, :, 2], deep[:-1, :, 1])
        return
    with Image.open(path) as picture:
        pixels, mode = np.array(picture)[:-1], picture.mode
    trees.write_image(path, pixels, mode)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "missing"),
    "cut": (truncate, "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable"),
    "shrunk": (shrink, "size"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("module", PAIRS)
def test_broken_pairs_are_named_or_left_out_and_reported(
    module: type[FilesDataModule], damage: str, tmp_path: Path
) -> None:
    half = (list(PAIRS).index(module) + list(DAMAGES).index(damage)) % 2  # an image, or labels
    root = write_tree(module, tmp_path)
    break_file, kind = DAMAGES[damage]
    path = root / PAIRS[module][half]
    break_file(path)
    split = "train" if module is SYNTHIADataModule else None
    # A file that is not there is named by its partner.
    named = (root / PAIRS[module][1 - half]) if damage == "gone" else path
    with pytest.raises(DataError, match=re.escape(str(named))) as caught:
        list(module(str(root), split=split, num_workers=0).test_dataloader())
    assert caught.value.kind == kind
    assert re.search("expected|no partner", str(caught.value))
    if damage == "empty" and path.suffix != ".json":
        assert "0 bytes" in str(caught.value)

    skipping = module(str(root), split=split, num_workers=0, broken="skip")
    with pytest.warns(UserWarning, match="left out 1 broken pair"):
        names = [batch["name"][0] for batch in skipping.test_dataloader()]
    whole = module(str(root), split=split).find_pairs(skipping.test_split, labelled=False)[0]
    described = skipping.describe()
    ((name, why),) = {(entry["name"], entry["why"]) for entry in described["left_out"][skipping.test_split]}
    assert why == kind
    assert name not in names and names == [pair.name for pair in whole if pair.name != name]
    assert Path(PAIRS[module][0]).name.startswith(name.rpartition("/")[2])


@pytest.mark.parametrize(
    ("module", "unknown", "known"),
    [
        (GTADataModule, 35, "0-34"),
        (SYNTHIADataModule, 256 + 3, "0-22"),  # eight bits of it would be a road
        (WildDashDataModule, 81, "0-38"),
        (CityscapesDataModule, 34, "0-33"),
        (BDDDataModule, 19, "0-18, 255"),
        (IDDDataModule, 26, "0-18, 255"),  # as a level3Id would be
        (MapillaryDataModule, 66, "0-65"),
    ],
)
def test_an_unknown_id_is_named(module: type[FilesDataModule], unknown: int, known: str, tmp_path: Path) -> None:
    if module is IDDDataModule:
        path = trees.write_idd(tmp_path, polygons=False, masks=True) / PAIRS[module][1]
        path = path.with_name(path.name.replace("polygons.json", "labelcsTrainIds.png"))
    else:
        path = write_tree(module, tmp_path) / PAIRS[module][1]
    if module is SYNTHIADataModule:
        ids = np.full((20, 34), 3)
        ids[3, 5] = unknown
        trees.write_16_bit(path, ids, ids)
    else:
        with Image.open(path) as picture:
            ids, mode = np.array(picture), picture.mode
        ids[3, 5] = unknown
        trees.write_image(path, ids, mode)
    data = module(str(tmp_path), split="train" if module is SYNTHIADataModule else None, num_workers=0)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* {unknown}, expected only {known}") as caught:
        list(data.test_dataloader())
    assert caught.value.kind == "id"


@pytest.mark.parametrize(
    "module", [GTADataModule, WildDashDataModule, CityscapesDataModule, BDDDataModule, MapillaryDataModule]
)
def test_colours_in_place_of_ids_are_refused(module: type[FilesDataModule], tmp_path: Path) -> None:
    path = write_tree(module, tmp_path) / PAIRS[module][1]
    with Image.open(path) as labels:
        colours = labels.convert("RGB")
    colours.save(path)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*mode RGB.*one channel"):
        list(module(str(tmp_path), num_workers=0).test_dataloader())


def test_labels_of_the_test_split_of_cityscapes_are_refused(tmp_path: Path) -> None:
    root = trees.write_cityscapes(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)test.*(public|annotat|labels)"):
        list(CityscapesDataModule(str(root), split="test", num_workers=0).test_dataloader())
