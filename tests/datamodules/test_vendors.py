"""Every data set in its vendor's layout, against the numbers that its vendor, or the paper, gives; and broken ones."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

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
from datamodules.reading.annotations import warn_of_class
from datamodules.reading.pairs import Pair
from datamodules.transforms import MEAN, STD
from tests import trees
from tests.tiny import ROOT

# Trees of two or three images have fewer than the official number, and say so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning")

# As the released code has them, by "training set->set of the labels": labels of 19 or 16 classes for each stored id.
RECORDED = json.loads((ROOT / "tests" / "parity" / "label_tables.json").read_text(encoding="utf-8"))
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

# What reads a tree, what is in it, the table of its ids, and what writes it below a folder.
TREES: dict[str, tuple[type[FilesDataModule], trees.Vendor, str, Callable[[Path], Path]]] = {
    "gta": (*GTA, trees.write_gta),
    "gta, rearranged": (*GTA, partial(trees.write_gta, rearranged=True)),
    "synthia": (*SYNTHIA, trees.write_synthia),
    "synthia, flat": (*SYNTHIA, partial(trees.write_synthia, nested=False)),
    "synthia, rearranged": (SYNTHIADataModule, SYNTHIA_REARRANGED, "synthia", write_synthia_rearranged),
    "wilddash beta": (*BETA, trees.write_wilddash),
    "wilddash beta, converted": (*BETA, write_converted_wilddash),
    "wilddash beta, flat": (*BETA, partial(trees.write_wilddash, nested=False)),
    "wilddash final": (*FINAL_RELEASE, write_final),
    "wilddash final, flat": (*FINAL_RELEASE, partial(write_final, nested=False)),
    "wilddash final, panoptic": (*FINAL_RELEASE, partial(write_final, labels=False)),
    "cityscapes": (CityscapesDataModule, trees.CITYSCAPES, "cityscapes", trees.write_cityscapes),
    "bdd": (*BDD, trees.write_bdd),
    "bdd, flat": (*BDD, partial(trees.write_bdd, nested=False)),
    "bdd, old": (*BDD, trees.write_old_bdd),
    "idd": (*IDD, trees.write_idd),
    "idd, masks": (*IDD, partial(trees.write_idd, polygons=False, masks=True, nested=False)),
    "idd, masks and polygons": (*IDD, partial(trees.write_idd, masks=True)),
    "idd, part II": (*IDD, partial(trees.write_idd, part=2)),
    "mapillary": (*MAPILLARY, trees.write_mapillary),
    "mapillary, v1.2 alone": (*MAPILLARY, partial(trees.write_mapillary, releases=["v1.2"])),
    "mapillary, former": (*MAPILLARY, partial(trees.write_mapillary, releases=[""])),
}


def list_names(data: FilesDataModule) -> list[str]:
    """Reads all samples and returns their names."""
    return [batch["name"][0] for batch in data.test_dataloader()]


@pytest.mark.parametrize("name", TREES)
def test_samples_are_what_the_files_say(name: str, tmp_path: Path) -> None:
    module, vendor, table, write = TREES[name]
    num_classes = 19 if list(TREES).index(name) % 2 else 16
    root = write(tmp_path / "data")
    for split, keys in vendor.keys.items():
        data = module(str(root), split=split, num_classes=num_classes, num_workers=0)
        labelled = split != "test" or vendor is trees.GTA
        loader = data.test_dataloader() if labelled else data.predict_dataloader()
        names = [pair.name for pair in loader.dataset.pairs]
        assert names == sorted(set(names))
        for batch, pair, key in zip(loader, loader.dataset.pairs, keys, strict=True):
            assert batch["name"] == [pair.name] and pair.name.endswith(key) and f"/{key}" in str(pair.image)
            levels = np.asarray(Image.open(pair.image).convert("RGB"))
            assert np.abs(levels.astype(float) - vendor.draw_image(key)).mean() < 40  # JPEG loses some
            image = ((levels / 255 - MEAN) / STD).transpose(2, 0, 1)
            assert batch["image"].dtype == torch.float32 and np.abs(batch["image"][0].numpy() - image).max() < 1e-6
            if labelled:
                ids = trees.draw_idd(key)[0] if vendor is trees.IDD else vendor.draw_ids(key)
                assert batch["mask"].dtype == torch.int64
                assert np.array_equal(batch["mask"][0].numpy(), look_up(ids, table, num_classes))
            else:
                assert "mask" not in batch and tuple(batch["size"][0].tolist()) == vendor.size(key) == levels.shape[:2]


# IDD

SIZE = (12, 20)


def write_idd_pair(root: Path, *objects: dict[str, Any], drive: str = "0", suffix: str = "png") -> Path:
    """Writes an image of IDD and its annotation, and returns the path of that."""
    trees.write_image(root / "leftImg8bit" / "val" / drive / f"a_leftImg8bit.{suffix}", trees.draw_image("a", SIZE))
    path = root / "gtFine" / "val" / drive / "a_gtFine_polygons.json"
    trees.write_json(path, {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects})
    return path


def box(label: str, left: float, top: float, right: float, bottom: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]], **more}


def test_polygons_of_idd_are_drawn_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_idd_pair(
        tmp_path,
        box("sky", 0, 0, 19, 4, deleted=0),
        box("car", 2, 2, 9, 9, deleted=0, draw=7, date="01-Jan-2018 00:00:00", user="x"),
        box("license plate", 4, 4, 5, 5, deleted=0),
        box("road", 0, 0, 19, 11, deleted=1),
        box("road", 0, 0, 19, 11, deleted=True),
        box("non-drivable fallback", 12, 8, 30, 30),
        box("autorickshaw", 8, 8, 13, 9),
        box("persongroup", 15, 0, 16, 1),
        *({"label": "pole", "polygon": points} for points in ([[0, 6], [0, 11]], [[3, 6]], [])),
    )
    expected = np.full(SIZE, 255)
    expected[:5] = 10
    expected[2:10, 2:10] = 13  # with its outline
    expected[4:6, 4:6] = 255
    expected[8:, 12:] = 9
    expected[8:10, 8:14] = 255
    expected[:2, 15:17] = 11
    (batch,) = IDDDataModule(str(tmp_path), num_workers=0).test_dataloader()
    assert np.array_equal(batch["mask"][0].numpy(), expected)


def test_an_unknown_label_of_idd_is_skipped_with_one_warning(tmp_path: Path) -> None:
    write_idd_pair(tmp_path, box("spaceship", 0, 0, 19, 11), box("spaceship", 3, 3, 19, 11))
    warn_of_class.cache_clear()
    with pytest.warns(UserWarning, match="class 'spaceship' are skipped") as caught:
        (batch,) = IDDDataModule(str(tmp_path), num_workers=0).test_dataloader()
    assert (batch["mask"] == 255).all() and sum("spaceship" in str(warning.message) for warning in caught) == 1


def test_both_parts_of_idd_lie_in_one_folder_and_broken_polygons_are_named(tmp_path: Path) -> None:
    for drive, suffix in (("90", "jpg"), ("10", "png"), ("2", "png")):
        path = write_idd_pair(tmp_path, drive=drive, suffix=suffix)
    data = IDDDataModule(str(tmp_path), num_workers=0)
    assert list_names(data) == ["10/a", "2/a", "90/a"]
    for text in ("", "[]", '{"imgHeight": 12, "imgWidth": 20}'):
        path.write_text(text)
        with pytest.raises(DataError, match=re.escape(str(path))):
            list_names(data)


# Releases


@pytest.mark.parametrize("final", [False, True])
def test_the_release_of_wilddash_is_logged(final: bool, tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    release, other = ("final", "beta") if final else ("beta", "final")
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "propagate", True)
    module = WildDashDataModule(str(trees.write_wilddash(tmp_path, final=final, nested=False)))
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        module.val_dataloader()
    assert f"the {release}" in caplog.text and f"the {other}" not in caplog.text
    assert module.describe()["release"] == release


def test_the_final_wilddash_without_its_panoptic_files_is_not_taken_for_the_beta(tmp_path: Path) -> None:
    trees.write_wilddash(tmp_path, final=True, nested=False)
    shutil.rmtree(tmp_path / "panoptic")
    for name in ("panoptic.json", "wilddash2-meta.json"):
        (tmp_path / name).unlink()
    for batch in WildDashDataModule(str(tmp_path), num_workers=0).val_dataloader():
        expected = look_up(trees.WILDDASH_FINAL.draw_ids(batch["name"][0]), "wilddash final")
        assert np.array_equal(batch["mask"][0].numpy(), expected)


def test_a_gta_that_lacks_what_its_split_file_lists_or_a_whole_split_file_is_named(tmp_path: Path) -> None:
    trees.write_gta(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder / "00006.png").unlink()
    with pytest.raises(DataError, match="00006"):
        list_names(GTADataModule(str(tmp_path)))
    module = GTADataModule(str(tmp_path), broken="skip", num_workers=0)
    assert list_names(module) == ["00004", "00008"]
    assert [left_out["name"] for left_out in module.describe()["left_out"]["test"]] == ["00006"]
    for content in (b"", b"MATLAB 5.0 MAT-file, but not really", None):
        (tmp_path / "split.mat").unlink() if content is None else (tmp_path / "split.mat").write_bytes(content)
        with pytest.raises(DataError, match=r"split\.mat.*read_mapping\.zip"):
            GTADataModule(str(tmp_path)).test_dataloader()


@pytest.mark.parametrize(
    ("place", "said"),
    [("v2.0", "contains only v2.0"), ("labels", r"66-123.*v2\.0"), ("palette", "has the palette of v2.0")],
)
def test_mapillary_v2_is_refused(place: str, said: str, tmp_path: Path) -> None:
    trees.write_mapillary(tmp_path, ["v2.0" if place == "v2.0" else ""])
    for path in tmp_path.glob("*/labels/*.png"):
        ids = trees.draw_ids(path.stem, trees.MAPILLARY_V2_IDS, trees.MAPILLARY.size(path.stem))
        picture = Image.fromarray(ids if place == "labels" else ids % 66)
        if place == "palette":
            picture.putpalette([0, 0, 0, 165, 42, 42, 250, 170, 31])
        picture.save(path)
    with pytest.raises(DataError, match=rf"{said}.*124 classes.*v1\.2"):
        list_names(MapillaryDataModule(str(tmp_path), num_workers=0))


@pytest.mark.parametrize(("dtype", "folder"), [(np.uint16, ""), (np.int32, "read_mapping"), (np.float64, "")])
def test_splits_of_gta_in_any_type_place_and_form(dtype: type, folder: str, tmp_path: Path) -> None:
    trees.write_gta(tmp_path, dtype=dtype)
    if dtype is np.float64:  # rows instead of columns
        rows = {name: value.T for name, value in loadmat(tmp_path / "split.mat").items() if name.endswith("Ids")}
        savemat(tmp_path / "split.mat", rows)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "split.mat").rename(tmp_path / folder / "split.mat")
    for split, keys in trees.GTA.keys.items():
        assert list_names(GTADataModule(str(tmp_path), split=split, num_workers=0)) == keys


def test_synthia_is_for_training_alone_and_warns_about_video_sequences(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    root = trees.write_synthia(tmp_path)
    module = SYNTHIADataModule(str(tmp_path), num_workers=0)
    for make_loader in (module.val_dataloader, module.test_dataloader):
        with pytest.raises(DataError, match=r"synthia.*(val|test).*expected.*train"):
            make_loader()
    module.find_pairs("train")
    assert not [warning for warning in recwarn if "video sequences" in str(warning.message)]
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name(path.name[1:]))  # six digits
    with pytest.warns(UserWarning, match="SYNTHIA's video sequences.*lane markings .*class 12"):
        module.find_pairs("train")


@pytest.mark.parametrize("rearranged", [False, True])
def test_train_ids_beside_the_labels_of_gta_are_passed_over(rearranged: bool, tmp_path: Path) -> None:
    data = GTADataModule(str(trees.write_gta(tmp_path, rearranged=rearranged)))
    pairs, _ = data.find_pairs("val")
    for pair in pairs:
        trees.write_image(pair.labels.with_name(f"{pair.name}_labelTrainIds.png"), np.zeros((4, 4), dtype=np.uint8))
    assert data.find_pairs("val") == (pairs, []) and len(pairs) == 2


# What is wrong with a data set is named, and left out and reported where asked.

MODULES = ["gta", "synthia", "wilddash beta", "cityscapes", "bdd", "idd", "mapillary"]
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "missing"),
    "cut": (trees.truncate, "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable"),
    "shrunk": (trees.shrink, "size"),
}


def open_tree(name: str, root: Path | None, **arguments: Any) -> tuple[FilesDataModule, list[Pair]]:
    """Opens a data set whose `test` reads its protocol's split, or of SYNTHIA the only one it has; with its pairs."""
    split = "train" if name == "synthia" else None
    data = TREES[name][0](root and str(root), **{"split": split, "num_workers": 0, **arguments})
    return data, data.find_pairs(data.test_split)[0] if root else []


@pytest.mark.parametrize("name", MODULES)
def test_what_is_not_or_half_unpacked_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "something_else").mkdir()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"something_else.*expected.*Unpack"):
        open_tree(name, None)[0].test_dataloader()
    for half in ("images", "labels"):
        data, pairs = open_tree(name, TREES[name][3](tmp_path / half))
        for pair in pairs:
            pair.files[half == "labels"].unlink()
        with pytest.raises(DataError, match=f"no {half} of {data.test_split}.*expected files like .*Unpack"):
            data.test_dataloader()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", MODULES)
def test_broken_pairs_are_named_or_left_out(name: str, damage: str, tmp_path: Path) -> None:
    half = (MODULES.index(name) + list(DAMAGES).index(damage)) % 2  # an image, or labels
    root = TREES[name][3](tmp_path)
    data, (pair, *others) = open_tree(name, root)
    break_file, kind = DAMAGES[damage]
    break_file(pair.files[half])
    named = pair.files[1 - half if damage == "gone" else half]  # what is not there is named by its partner
    with pytest.raises(DataError, match=re.escape(str(named))) as caught:
        list_names(data)
    assert caught.value.kind == kind and re.search("expected|no partner", str(caught.value))
    assert damage != "empty" or named.suffix == ".json" or "0 bytes" in str(caught.value)
    data.broken = "skip"
    with pytest.warns(UserWarning, match="skipped 1 broken pair"):
        assert list_names(data) == [other.name for other in others]
    assert data.describe()["left_out"][data.test_split] == [{"name": pair.name, "why": kind}]


@pytest.mark.parametrize(
    ("name", "unknown", "known"),
    [
        ("gta", 35, "0-34"),
        ("synthia", 256 + 3, "0-22"),  # eight bits of it would be a road
        ("wilddash beta", 60, "0-38"),  # of the final release
        ("cityscapes", 34, "0-33"),
        ("bdd", 19, "0-18, 255"),
        ("idd, masks", 26, "0-18, 255"),  # as a level3Id would be
        ("mapillary", 66, "0-65"),
    ],
)
def test_an_unknown_id_is_named(name: str, unknown: int, known: str, tmp_path: Path) -> None:
    data, (*_, pair) = open_tree(name, TREES[name][3](tmp_path))
    trees.set_id(pair.labels, unknown)
    with pytest.raises(DataError, match=rf"{re.escape(str(pair.labels))}.* {unknown}, expected only {known}") as caught:
        list_names(data)
    assert caught.value.kind == "id"


def test_labels_of_the_test_split_of_cityscapes_are_refused(tmp_path: Path) -> None:
    data = CityscapesDataModule(str(trees.write_cityscapes(tmp_path)), split="test")
    with pytest.raises(DataError, match="test split are not public"):
        data.test_dataloader()
