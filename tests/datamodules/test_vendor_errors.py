"""What is wrong with a data set of a vendor is named, and left out and reported where asked."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def open_module(module: type[FilesDataModule], root: Path | None, **arguments: Any) -> FilesDataModule:
    """Opens a data set whose `test` reads its protocol's split, or of SYNTHIA the only one it has."""
    split = "train" if module is SYNTHIADataModule else None
    return module(root and str(root), **{"split": split, "num_workers": 0, **arguments})


@pytest.mark.parametrize("module", HALVES)
def test_an_empty_root_says_what_is_expected(
    module: type[FilesDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something_else").mkdir()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"something_else.*expected.*Unpack"):
        open_module(module, None).test_dataloader()


@pytest.mark.parametrize("half", ["images", "labels"])
@pytest.mark.parametrize("module", HALVES)
def test_a_half_unpacked_tree_says_which_half_is_missing(
    module: type[FilesDataModule], half: str, tmp_path: Path
) -> None:
    root = trees.write_mapillary(tmp_path, ["v1.2"]) if module is MapillaryDataModule else write_tree(module, tmp_path)
    gone = HALVES[module][half == "labels"]
    for folder in [path for path in root.rglob(gone) if path.is_dir()]:
        shutil.rmtree(folder)
    data = open_module(module, root)
    with pytest.raises(DataError, match=f"no {half} of {data.test_split}.*expected files like .*{gone}.*Unpack"):
        data.test_dataloader()


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


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "missing"),
    "cut": (trees.truncate, "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable"),
    "shrunk": (trees.shrink, "size"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("module", PAIRS)
def test_broken_pairs_are_named_or_left_out_and_reported(
    module: type[FilesDataModule], damage: str, tmp_path: Path
) -> None:
    half = (list(PAIRS).index(module) + list(DAMAGES).index(damage)) % 2  # an image, or labels
    root = write_tree(module, tmp_path)
    pair = [root / path for path in PAIRS[module]]
    break_file, kind = DAMAGES[damage]
    break_file(pair[half])
    named = pair[1 - half if damage == "gone" else half]  # what is not there is named by its partner
    with pytest.raises(DataError, match=re.escape(str(named))) as caught:
        list(open_module(module, root).test_dataloader())
    assert caught.value.kind == kind and re.search("expected|no partner", str(caught.value))
    assert damage != "empty" or pair[half].suffix == ".json" or "0 bytes" in str(caught.value)

    data = open_module(module, root, broken="skip")
    whole, _ = data.find_pairs(data.test_split, labelled=False)
    with pytest.warns(UserWarning, match="skipped 1 broken pair"):
        names = [batch["name"][0] for batch in data.test_dataloader()]
    ((name, why),) = {tuple(entry.values()) for entry in data.describe()["left_out"][data.test_split]}
    assert why == kind and pair[0].name.startswith(name.rpartition("/")[2])
    assert name not in names and names == [pair.name for pair in whole if pair.name != name]


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
    path = tmp_path / PAIRS[module][1]
    if module is IDDDataModule:
        trees.write_idd(tmp_path, polygons=False, masks=True)
        path = path.with_name(path.name.replace("polygons.json", "labelcsTrainIds.png"))
    else:
        write_tree(module, tmp_path)
    trees.set_id(path, unknown)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* {unknown}, expected only {known}") as caught:
        list(open_module(module, tmp_path).test_dataloader())
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
        list(open_module(module, tmp_path).test_dataloader())


def test_labels_of_the_test_split_of_cityscapes_are_refused(tmp_path: Path) -> None:
    root = trees.write_cityscapes(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)test.*(public|annotat|labels)"):
        list(open_module(CityscapesDataModule, root, split="test").test_dataloader())
