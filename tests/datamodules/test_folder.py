"""FolderDataModule: own images and labels, however they lie and are encoded."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from pytorch_lightning import LightningDataModule

from datamodules.base import DataError, ProtocolError
from datamodules.folder import FolderDataModule
from datamodules.reading.tables import list_colours
from datamodules.labels import CITYSCAPES_COLOURS
from datamodules.reading.lists import make_finder
from main import main
from tests.tiny import NO_LOGGER, QUIET, ROOT

CAMVID = ["sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SIZE = (6, 8)  # height, width


def draw(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save(path: Path, pixels: Any) -> Path:
    """Writes an image, or labels: (H, W) uint8 or uint16, (H, W, 3) or (H, W, 4) uint8, or one id for all pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(SIZE, pixels, np.uint8) if isinstance(pixels, int) else np.asarray(pixels)).save(path)
    return path


def make_pairs(root: Path, names: list[str], images: str = "images", labels: str = "labels") -> None:
    for number, name in enumerate(names):
        save(root / images / f"{name}.png", draw(number))
        save(root / labels / f"{name}.png", number % 11)


def make_segnet(root: Path) -> None:
    """Builds CamVid as it is published with SegNet: 2 + 1 + 1 pairs and their lists; label 11 is unlabelled."""
    for split, names in (("train", ["0001TP_006690", "0001TP_006720"]), ("val", ["0016E5_07959"]), ("test", ["Seq05"])):
        make_pairs(root, names, split, f"{split}annot")
        save(root / f"{split}annot" / f"{names[0]}.png", np.arange(48).reshape(SIZE).astype(np.uint8) % 12)
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))


def make_module(root: Path, **kwargs: Any) -> FolderDataModule:
    if "label_colours" in kwargs and "classes" not in kwargs:  # every class has one
        kwargs["label_colours"] = {name: [99, 99, place] for place, name in enumerate(CAMVID)} | kwargs["label_colours"]
    return FolderDataModule(str(root), **{"num_workers": 0, "classes": CAMVID, **kwargs})


def list_names(data: FolderDataModule, split: Any = "test", labelled: bool = True) -> list[str]:
    dataset = data.make_dataset(split, data.evaluation_transform, labelled)
    return [dataset.name(index) for index in range(len(dataset))]


def read_mask(root: Path, label: Any, **kwargs: Any) -> np.ndarray:
    """Stores labels beside an image and returns them as the data module reads them."""
    save(root / "images" / "a.png", draw(size=np.shape(label)[:2] or SIZE))
    save(root / "labels" / "a.png", label)
    data = make_module(root, **kwargs)
    return data.make_dataset("test", data.evaluation_transform).load_mask(0)


# Where files lie


def test_images_alone_can_be_predicted_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "b.JPG", draw(1))
    save(tmp_path / "day 2" / "a.b.png", draw(2))
    save(tmp_path / "._b.png", draw(3))
    save(tmp_path / ".thumbnails" / "b.png", draw(3))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    data = make_module(tmp_path)
    (first, second) = list(data.predict_dataloader())
    assert (first["name"], second["name"]) == (["b"], ["day 2/a.b"])
    assert set(first) == {"image", "size", "name"} and first["size"].tolist() == [list(SIZE)]
    assert data.domain == tmp_path.name
    with pytest.raises(DataError, match=r"no labels for the 2 images of test.*expected labels to be set.*`predict`"):
        data.test_dataloader()


def test_files_that_a_pattern_matches_too_can_be_excluded(tmp_path: Path) -> None:
    """IDD-Lite has `1_inst_label.png` beside `1_label.png`, which `*_label.png` matches as well."""
    for name in ("1", "frame0599"):
        save(tmp_path / "leftImg8bit" / "val" / "10" / f"{name}_image.jpg", draw())
        save(tmp_path / "gtFine" / "val" / "10" / f"{name}_label.png", 3)
        save(tmp_path / "gtFine" / "val" / "10" / f"{name}_inst_label.png", 9)
    where: dict[str, Any] = {"images": "leftImg8bit/{split}/*/*_image.jpg", "labels": "gtFine/{split}/*/*_label.png"}
    with pytest.raises(DataError, match=r"2 files of val have no partner: .*1_inst_label.png has no image"):
        list_names(make_module(tmp_path, **where), "val")
    for exclude in ("*_inst_label.png", "10/*_inst_label.png", "gtFine/val/*/*_inst_label.png"):
        data = make_module(tmp_path, exclude=[exclude], **where)
        assert list_names(data, "val") == ["10/1", "10/frame0599"]
        assert data.make_dataset("val", data.evaluation_transform).load_ids(0).max() == 3
    assert (
        data.describe()["files"]["exclude"] == [exclude] and "exclude" not in make_module(tmp_path).describe()["files"]
    )
    with pytest.raises(DataError, match=r"2 files of val have no partner"):
        list_names(make_module(tmp_path, exclude=["11/*_inst_label.png"], **where), "val")
    assert list_names(make_module(tmp_path, exclude=["*_inst*", "1_*"], **where), "val") == ["10/frame0599"]
    with pytest.raises(ValueError, match="exclude and pairs are both set"):
        make_module(tmp_path, exclude=["*_inst*"], pairs="pairs.csv")
    with pytest.raises(ValueError, match="exclude holds an empty pattern"):
        make_module(tmp_path, exclude=[""])


@pytest.mark.parametrize("broken", ["error", "skip"])
def test_names_that_have_nothing_in_common_are_shown(tmp_path: Path, broken: Any) -> None:
    """Not that each of all files lacks its partner, with the advice to complete the data set."""
    for name in ("1", "2"):
        save(tmp_path / "leftImg8bit" / "10" / f"{name}_image.jpg", draw())
        save(tmp_path / "gtFine" / "10" / f"{name}_label.png", 3)
    where: dict[str, Any] = {"images": "leftImg8bit", "labels": "gtFine", "broken": broken}
    with pytest.raises(
        DataError, match=r"none of the 2 images of test .*called 10/1_image, labels 10/1_label\. .*whose \* stands"
    ):
        list_names(make_module(tmp_path, **where))
    where |= {"images": "leftImg8bit/**/*_image", "labels": "gtFine/**/*_label"}
    assert list_names(make_module(tmp_path, **where)) == ["10/1", "10/2"]


@pytest.mark.parametrize("labels", [None, "labels/{split}", "labels/{split}/*.png", "labels/{split}/*"])
def test_folders_of_splits(tmp_path: Path, labels: str | None) -> None:
    for split in ("train", "val"):
        make_pairs(tmp_path, [f"{split}1", f"{split}2"], f"images/{split}", f"labels/{split}")
    data = make_module(tmp_path, images=labels and "images/{split}", labels=labels)
    assert list_names(data, "train") == ["train1", "train2"] and list_names(data, "val") == ["val1", "val2"]
    assert list_names(make_module(tmp_path, splits={"test": "val"})) == ["val1", "val2"]
    assert list_names(make_module(tmp_path, split="val"), "val") == ["val1", "val2"]
    with pytest.raises(
        DataError, match=r"no images of test in .*holds images, labels: .*images/test\. Set root and images"
    ):
        list_names(data)


def test_camvid_as_published_with_segnet(tmp_path: Path) -> None:
    make_segnet(tmp_path)
    layout = {"images": "{split}", "labels": "{split}annot", "ignored": [11]}
    data = make_module(tmp_path, **layout)
    assert [len(list_names(data, split)) for split in ("train", "val", "test")] == [2, 1, 1]
    expected = np.arange(48).reshape(SIZE) % 12
    (batch,) = data.test_dataloader()
    assert np.array_equal(batch["mask"][0], np.where(expected == 11, 255, expected))
    lists = {split: f"{split}.txt" for split in ("train", "val", "test")}
    assert list_names(make_module(tmp_path, **layout, splits=lists), "train") == list_names(data, "train")
    with pytest.raises(DataError, match=r"hold the ids 11, expected only 0-10, 255. Say what they are in ids"):
        next(iter(make_module(tmp_path, **layout | {"ignored": None}).test_dataloader()))


def test_names_that_differ_before_the_suffix_are_matched_by_patterns(tmp_path: Path) -> None:
    save(tmp_path / "701_StillsRaw_full" / "0001.png", draw())
    save(tmp_path / "LabeledApproved_full" / "0001_L.png", 3)
    save(tmp_path / "LabeledApproved_full" / "0001_copy.png", 4)
    data = make_module(tmp_path, images="701_StillsRaw_full", labels="LabeledApproved_full/*_L.png")
    assert list_names(data) == ["0001"] and (next(iter(data.test_dataloader()))["mask"] == 3).all()


def test_patterns_reach_any_depth_and_take_brackets_as_they_are(tmp_path: Path) -> None:
    save(tmp_path / "raw [1]" / "day" / "1" / "x_left.PNG", draw())
    save(tmp_path / "raw [1]" / "y_left.png", draw())
    save(tmp_path / "raw [1]" / "y_right.png", draw())
    for name in ("day/1/x", "y"):
        save(tmp_path / "truth" / f"{name}.label.png", 1)
    data = make_module(tmp_path, images="raw [1]/**/*_left.png", labels="truth/**/*.label.png")
    assert list_names(data) == ["day/1/x", "y"]


def test_paths_may_lie_elsewhere_and_folders_may_be_links(tmp_path: Path) -> None:
    make_pairs(tmp_path / "disk", ["a"], "photos", "truth")
    (tmp_path / "root" / "images").mkdir(parents=True)
    (tmp_path / "root" / "images" / "link").symlink_to(tmp_path / "disk" / "photos")
    (tmp_path / "root" / "images" / "loop").symlink_to(tmp_path / "root" / "images")
    assert list_names(make_module(tmp_path / "root"), labelled=False) == ["link/a"]
    data = make_module(tmp_path / "root", images="../disk/photos", labels=str(tmp_path / "disk" / "truth"))
    assert list_names(data) == ["a"]


def test_root_may_hold_a_folder_of_the_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs(tmp_path / "MyTown", ["a"])
    assert list_names(FolderDataModule(str(tmp_path), domain="mytown")) == ["a"]
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    assert list_names(FolderDataModule(domain="mytown")) == ["a"]
    with pytest.raises(DataError, match=r"there is no folder other in .*: set root to the folder of your images"):
        list_names(FolderDataModule(domain="other"))


def test_two_images_of_one_name_are_refused_unless_a_pattern_takes_one(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        save(tmp_path / f"a.{suffix}", draw())
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png are both called a.*a pattern such as \*\.png"):
        list_names(make_module(tmp_path), labelled=False)
    assert list_names(make_module(tmp_path, images="*.png"), labelled=False) == ["a"]


def test_wrong_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"root is .*nowhere, which is not a folder"):
        list_names(make_module(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no images of test in .*holds nothing: expected \.jpg"):
        list_names(make_module(tmp_path))
    save(tmp_path / "images" / "a.png", draw())
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=r"no labels for the 1 images of test in .*expected labels"):
        list_names(make_module(tmp_path))


def test_files_without_a_partner_are_named_or_skipped(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / "labels" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    (tmp_path / "images" / "d.png").symlink_to(tmp_path / "gone.png")
    save(tmp_path / "labels" / "d.png", 0)
    with pytest.raises(
        DataError, match=r"3 files.*b\.png has no labels; .*c\.png has no image; there is no file .*d\.png"
    ):
        list_names(make_module(tmp_path))
    data = make_module(tmp_path, broken="skip")
    with pytest.warns(UserWarning, match="left out 3 broken pairs of test: b, c, d"):
        assert list_names(data) == ["a"]
    assert data.describe()["left_out"]["test"] == [{"name": name, "why": "missing"} for name in "bcd"]
    with pytest.raises(DataError, match=r"there is no file .*d\.png"):
        list_names(make_module(tmp_path), labelled=False)


def test_differing_sizes_and_truncated_files_are_named(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw(size=(5, 8)))
    label = save(tmp_path / "labels" / "a.png", 0)
    with pytest.raises(DataError, match=r"image has 8x5 pixels \(WxH\), its labels have 8x6"):
        next(iter(make_module(tmp_path).test_dataloader()))
    save(label, draw(size=(40, 40)).max(axis=2))
    label.write_bytes(label.read_bytes()[:500])
    for kwargs in ({}, {"label_colours": {"sky": [0, 0, 0]}}):
        with pytest.raises(DataError, match=r"labels/a\.png \(500 bytes\) cannot be decoded"):
            next(iter(make_module(tmp_path, **kwargs).test_dataloader()))


# Which files are of a split


def test_fractions_are_disjoint_complete_and_depend_on_names_alone(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(20)]
    make_pairs(tmp_path, names)
    splits = {"train": 0.6, "val": 0.15, "test": 0.25}
    parts = [list_names(make_module(tmp_path, splits=splits), split) for split in splits]
    assert [len(part) for part in parts] == [12, 3, 5] and sorted(chain(*parts)) == names
    assert parts[0] != names[:12]
    assert [list_names(make_module(tmp_path, splits=splits, seed=7), split) for split in splits] == parts
    assert list_names(make_module(tmp_path, splits={"train": 0.6, "test": 0.4}), "train") == parts[0]
    with pytest.raises(DataError, match=r"splits has train, test, but not val: add it there"):
        list_names(make_module(tmp_path, splits={"train": 0.6, "test": 0.4}), "val")


def test_names_of_folders_and_fractions_need_paths_that_fit(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match=r"splits calls test 'night', but images has no \{split\}"):
        list_names(make_module(tmp_path, splits={"test": "night"}))
    with pytest.warns(UserWarning, match="train, val and test are the same 2 images"):
        list_names(make_module(tmp_path), "train")
    make_pairs(tmp_path, ["a", "b"], "images/train", "labels/train")
    with pytest.raises(DataError, match=r"splits has fractions, but the folders .* already divide"):
        list_names(make_module(tmp_path, splits={"train": 0.5}), "train")


@pytest.mark.parametrize(
    "splits", [{"train": 0.8, "val": 0.3}, {"train": -0.1}, {"train": 0.5, "val": "val"}, {"trian": 0.5}, {"test": 0}]
)
def test_impossible_splits_are_refused(tmp_path: Path, splits: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="splits"):
        make_module(tmp_path, splits=splits)


def test_list_files_name_images_in_many_ways(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a/1", "b/1", "b/22", "c/my photo", "frame.07"])
    entries = [
        "# mine",
        "a/1",
        "/home/me/images/b/1.png /home/me/labels/b/1.png",
        "22.PNG;x",
        "my photo.png",
        "frame.07",
    ]
    (tmp_path / "test.txt").write_text("\ufeff" + "\r\n".join([*entries, "", "a/1"]), encoding="utf-8")
    assert list_names(make_module(tmp_path, splits={"test": "test.txt"})) == [
        "a/1",
        "b/1",
        "b/22",
        "c/my photo",
        "frame.07",
    ]
    for entry, problem in (
        ("1", "could be a/1, b/1"),
        ("b/2", "is none of the 5"),
        ("xa/1", "is none"),
        ("q/22", "is none"),
    ):
        (tmp_path / "test.txt").write_text(f"a/1\n{entry}")
        with pytest.raises(DataError, match=rf"test\.txt, line 2: {entry} {problem}.*: expected "):
            list_names(make_module(tmp_path, splits={"test": "test.txt"}))
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        list_names(make_module(tmp_path, splits={"test": "nowhere.txt"}))


def test_a_list_names_files_that_patterns_call_otherwise(tmp_path: Path) -> None:
    save(tmp_path / "x_left.png", draw())
    save(tmp_path / "y_left.png", draw())
    (tmp_path / "test.txt").write_text("x_left.png\n")
    assert list_names(make_module(tmp_path, images="*_left.png", splits={"test": "test.txt"}), labelled=False) == ["x"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("images/a.png labels/a.png", "a"),
        ("images/a.png,labels/a.png", "a"),
        ("a b", "a"),
        ("images/a images/b", "a"),  # two frames, as optical flow has them
        ("images/a.png images/b.png", "a"),
        ("a.png 0", "a"),  # a class of the whole image
        ("images/my photo.png labels/my photo.png", "my photo"),
        ("/home/my pictures/images/b.png", "b"),
        ("images\\a.png", "a"),
        ("C:\\my data\\images\\b.png C:\\my data\\labels\\b.png", "b"),
        ('"images/my photo.png"', "my photo"),
        ("'a.png';'labels/a.png'", "a"),
    ],
)
def test_the_first_field_of_a_line_is_the_image(tmp_path: Path, line: str, expected: str) -> None:
    make_pairs(tmp_path, ["a", "b", "my photo"])
    (tmp_path / "test.txt").write_text(line + "\n")
    assert list_names(make_module(tmp_path, splits={"test": "test.txt"})) == [expected]


@pytest.mark.parametrize("second", ["labels/b.png", "labels/nowhere.png", "/home/me/labels/b.png"])
def test_a_list_that_pairs_other_files_than_their_names_do_is_refused(tmp_path: Path, second: str) -> None:
    make_pairs(tmp_path, ["a", "b"])
    (tmp_path / "test.txt").write_text(f"images/a.png {second}\n")
    data = make_module(tmp_path, splits={"test": "test.txt"})
    with pytest.raises(DataError, match=rf"line 1: {second} is not the label of the image a, .* is .*labels/a\.png"):
        list_names(data)
    assert list_names(data, labelled=False) == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_csvs_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    make_pairs(tmp_path, ["ä", "b"])
    (tmp_path / "test.txt").write_text("sep=;\r\nä.png\r\n", encoding=encoding)
    assert list_names(make_module(tmp_path, splits={"test": "test.txt"})) == ["ä"]
    (tmp_path / "pairs.csv").write_text(
        "sep=;\nimage;label;split\nimages\\ä.png;labels\\ä.png;Test\n", encoding=encoding
    )
    assert list_names(make_module(tmp_path, pairs="pairs.csv")) == ["images/ä"]
    assert list_names(make_module(tmp_path, images="images\\*.png", labels="labels\\*.png")) == ["b", "ä"]


def test_a_split_without_an_image_is_refused(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b"])
    (tmp_path / "test.txt").write_text("# none\n")
    with pytest.raises(DataError, match=r"test\.txt lists no images: expected one per line"):
        list_names(make_module(tmp_path, splits={"test": "test.txt"}))
    with pytest.raises(DataError, match=r"test is 0\.1 of 2 images, which rounds to none"):
        list_names(make_module(tmp_path, splits={"train": 0.8, "val": 0.1, "test": 0.1}))


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("Train", "Val", "Test"), r"splits: \{test: Test, train: Train, val: Val\}"),
        (("training", "validation", "other"), r"splits: \{train: training, val: validation\}"),
    ],
)
def test_folders_that_are_called_as_splits_are_no_one_split(tmp_path: Path, names: tuple[str, ...], line: str) -> None:
    for name in names:
        make_pairs(tmp_path, [f"{name} 1"], f"images/{name}", f"labels/{name}")
    for given in ({}, {"images": "images", "labels": "labels"}):
        with pytest.raises(DataError, match=rf'set images to "images/{{split}}" .*{line}.*"images/\*\*/\*"'):
            list_names(make_module(tmp_path, **given))
    said = yaml.safe_load(line.replace("\\", ""))
    assert list_names(make_module(tmp_path, **said), "val") == [f"{names[1]} 1"]
    assert len(list_names(make_module(tmp_path, images="images/**/*"))) == 3


def test_folders_of_other_names_beside_one_of_the_usual_name_are_suggested(tmp_path: Path) -> None:
    for name in ("train", "Validation"):
        make_pairs(tmp_path, [f"{name} 1"], f"images/{name}", f"labels/{name}")
    with pytest.raises(DataError, match=r"no images of val .*e\.g\. splits: \{val: Validation, train: train\}"):
        list_names(make_module(tmp_path), "val")


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found"])
def test_folders_that_systems_keep_are_passed_over(tmp_path: Path, folder: str) -> None:
    for place in (tmp_path / "a.png", tmp_path / folder / "a.jpg" / "thumb.png"):
        save(place, draw())
    assert list_names(make_module(tmp_path), labelled=False) == ["a"]


def test_masks_among_photographs_are_pointed_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.jpg", draw())
        save(tmp_path / f"{name}_mask.png", 1)
    with pytest.warns(UserWarning, match=r'2 of 4 images look like the labels .* a_mask: .*exclude: \["\*_mask\.\*"\]'):
        list_names(make_module(tmp_path), labelled=False)
    assert list_names(make_module(tmp_path, exclude=["*_mask.*"]), labelled=False) == ["a", "b"]


def test_images_that_share_labels_are_pointed_out(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b", "c"])
    rows = ("image,label", "images/a.png,labels/a.png", "images/b.png,labels/a.png", "images/c.png,labels/c.png")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=r"2 images share 1 label files, e\.g\. .*labels/a\.png"):
        list_names(make_module(tmp_path, pairs="pairs.csv"))


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
def test_csv_of_pairs(tmp_path: Path, separator: str) -> None:
    make_pairs(tmp_path / "data", ["a", "b"])
    make_pairs(tmp_path / "other", ["a", "c"])
    rows = [
        ("Image", "label", "split"),
        ("images/a.png", "labels/a.png", "test"),
        ("../other/images/a.png", "../other/labels/a.png", "test"),
        (str(tmp_path / "data/images/b.png"), str(tmp_path / "data/labels/b.png"), "test"),
        (str(tmp_path / "other/images/c.png"), "", "later"),
        ("", "", ""),
    ]
    (tmp_path / "data" / "pairs.csv").write_text("\ufeff" + "\n".join(map(separator.join, rows)), encoding="utf-8")
    data = make_module(tmp_path / "data", pairs="pairs.csv")
    assert list_names(data) == ["images/a", "images/b", "other/images/a"]
    masks = [int(batch["mask"].max()) for batch in data.test_dataloader()]
    assert masks == [0, 1, 0]
    assert list_names(make_module(tmp_path / "data", pairs="pairs.csv", splits={"test": "later"}), labelled=False) == [
        "other/images/c"
    ]
    with pytest.raises(DataError, match=r"no image of split 'val', only later, test"):
        list_names(data, "val")
    with pytest.raises(DataError, match=r"splits has fractions, but pairs\.csv"):
        list_names(make_module(tmp_path / "data", pairs="pairs.csv", splits={"test": 0.5}))
    with pytest.raises(DataError, match=r"no labels for the 1 images.*expected pairs\.csv"):
        list_names(make_module(tmp_path / "data", pairs="pairs.csv", splits={"test": "later"}))


def test_csv_without_splits_takes_fractions_and_lists(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "pairs.csv").write_text("image,label\n" + "".join(f"images/{n}.png,labels/{n}.png\n" for n in "abcd"))
    (tmp_path / "test.txt").write_text("b\nc\n")
    assert list_names(make_module(tmp_path, pairs="pairs.csv")) == [f"images/{name}" for name in "abcd"]
    halves = [make_module(tmp_path, pairs="pairs.csv", splits={"train": 0.5, "test": 0.5}) for _ in range(2)]
    assert len(set(list_names(halves[0], "train")) | set(list_names(halves[1]))) == 4
    listed = make_module(tmp_path, pairs="pairs.csv", splits={"test": "test.txt"})
    assert list_names(listed) == ["images/b", "images/c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \(none\): expected a first line image,label"),
        ("img,mask\na.png,b.png", r"has the columns img, mask"),
        ("image,label\nnone.png,labels/a.png", r"1 files of test.*there is no file .*none\.png"),
        ("image,label\n,labels/a.png", r"line 2: the column image is empty"),
        ("image,label\nimages/a.png,labels/a.png\nimages/a.png,", r"line 3: a second image is called images/a"),
        ("image,label\n", r"has no image of split 'test'"),
    ],
)
def test_wrong_csv_is_explained(tmp_path: Path, text: str, message: str) -> None:
    make_pairs(tmp_path, ["a"])
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        list_names(make_module(tmp_path, pairs="pairs.csv"))


# What labels mean


def test_ids_become_classes_from_8_and_16_bits(tmp_path: Path) -> None:
    ids = {7: "road", 0: "sky", 300: "car", 65535: "car"}
    label = np.array([[7, 0, 300], [65535, 255, 9]], np.uint16)
    expected = [[3, 0, 8], [8, 255, 255]]
    assert read_mask(tmp_path, label, ids=ids, ignored=[9]).tolist() == expected
    small = np.where(label < 256, label, 7).astype(np.uint8)
    assert read_mask(tmp_path, small, ids=ids, ignored=[9]).tolist() == [[3, 0, 3], [3, 255, 255]]
    palette = Image.fromarray(small)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    assert read_mask(tmp_path, palette, ids=ids, ignored=[9]).tolist() == [[3, 0, 3], [3, 255, 255]]
    with pytest.raises(
        DataError, match=r"hold the ids 9, 65535, expected only 0, 7, 255, 300. Say what they are in ids"
    ):
        read_mask(tmp_path, label, ids={7: "road", 0: "sky", 300: "car"})
    assert read_mask(tmp_path, 255, ids={255: "sky"}).max() == 0


@pytest.mark.parametrize("count", [2, 253])
def test_id_c_is_class_c_of_a_list(tmp_path: Path, count: int) -> None:
    classes = [f"class {number}" for number in range(count)]
    label = np.arange(count).astype(np.uint8)[None]
    assert np.array_equal(read_mask(tmp_path, label, classes=classes), label)
    with pytest.raises(DataError, match=f"hold the ids {count}, expected only 0-{count - 1}, 255"):
        read_mask(tmp_path, np.array([[0, count]], np.uint8), classes=classes)


def test_16_classes_leave_out_what_cityscapes_calls_terrain(tmp_path: Path) -> None:
    kinds = {"classes": None, "num_classes": 16}
    ids = {7: "road", 22: "terrain", 33: "bicycle"}
    assert read_mask(tmp_path, np.array([[7, 22, 33]], np.uint8), ids=ids, **kinds).tolist() == [[0, 255, 15]]
    train_ids = np.array([[0, 9, 18, 255]], np.uint8)  # without ids: the 19 train ids
    assert read_mask(tmp_path, train_ids, **kinds).tolist() == [[0, 255, 15, 255]]
    with pytest.raises(ValueError, match=r"no class 'lawn': expected one of road, .*, or a class of Cityscapes"):
        make_module(tmp_path, ids={1: "lawn"}, **kinds)


def test_classes_may_gather_those_of_cityscapes(tmp_path: Path) -> None:
    classes = {"ground": ["road", "sidewalk"], "vehicle": ["car", "truck"], "rest": ["sky"]}
    ids = {1: "sidewalk", 2: "truck", 3: "ground", 4: "person"}
    label = np.array([[1, 2, 3, 4]], np.uint8)
    assert read_mask(tmp_path, label, classes=classes, ids=ids).tolist() == [[0, 1, 0, 255]]
    train_ids = np.array([[1, 13, 10, 11]], np.uint8)
    assert read_mask(tmp_path, train_ids, classes=classes).tolist() == [[0, 1, 2, 255]]
    with pytest.raises(ValueError, match=r"no class 'truck': expected one of car, sky$"):
        make_module(tmp_path, classes=["car", "sky"], ids={1: "truck"})


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_become_classes(tmp_path: Path, channels: int) -> None:
    colours = {"sky": [128, 128, 128], "car": [[64, 0, 128], [64, 128, 192]], "tree": [[128, 128, 0]]}
    pixels = [[128, 128, 128, 255], [64, 0, 128, 255], [64, 128, 192, 255], [128, 128, 0, 255], [0, 0, 0, 255]]
    label = np.array([pixels], np.uint8)[..., :channels]
    assert read_mask(tmp_path, label, label_colours=colours, ignored=[[0, 0, 0]]).tolist() == [[0, 8, 8, 5, 255]]
    with pytest.raises(DataError, match=r"1 colours that are not defined, e.g. \[0, 0, 0\]: expected only those of la"):
        read_mask(tmp_path, label, label_colours=colours)
    with pytest.raises(DataError, match=r"mode RGBA?: expected labels with one channel.*list them in label_colours"):
        read_mask(tmp_path, label)


def test_labels_as_jpeg_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a"])
    jpeg = save(tmp_path / "labels" / "a.jpg", 3).read_bytes()
    assert list_names(make_module(tmp_path)) == ["a"]  # beside the labels it is no harm
    (tmp_path / "labels" / "a.png").write_bytes(jpeg)
    for kwargs in ({}, {"label_colours": {"sky": [3, 3, 3]}}):
        with pytest.raises(DataError, match=r"a\.png is a JPEG: expected labels as .png.*ruins ids and colours"):
            next(iter(make_module(tmp_path, **kwargs).test_dataloader()))
    (tmp_path / "labels" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: expected labels as .png.*changes values near edges"):
        list_names(make_module(tmp_path))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ids": {0: "sky"}, "label_colours": {"sky": [0, 0, 0]}}, "ids and label_colours are both given"),
        ({"pairs": "a.csv", "images": "b"}, "pairs is set together with images"),
        ({"ids": {0: "sky"}, "ignored": [0]}, "id 0 is sky in ids, but also in ignored"),
        ({"ids": {0: "sky"}, "ignored": [[0, 0, 0]]}, "expected ids .* set label_colours too"),
        ({"ids": {-1: "sky"}}, "has -1: expected 0 to 65535"),
        ({"ignored": [65536]}, "has 65536"),
        ({"label_colours": {"sky": [0, 0, 0], "car": [[1, 1, 1], [0, 0, 0]]}}, r"\[0, 0, 0\] is given twice"),
        ({"label_colours": {"sky": [0, 0, 0]}, "ignored": [[0, 0, 0]]}, "for a class and in ignored"),
        ({"label_colours": {"sky": [0, 0, 0]}, "ignored": [11]}, "11 is not a colour"),
        ({"label_colours": {"sky": [0, 256, 0]}}, r"\[0, 256, 0\] is not a colour"),
        ({"label_colours": {"sky": [0, 0]}}, r"\[0, 0\] is not a colour"),
        ({"label_colours": {"sky": []}}, r"not a colour"),
        ({"label_colours": {"lawn": [0, 0, 0]}}, "no class 'lawn'"),
        (
            {"label_colours": {"a": [0, 0, 0]}, "classes": ["a", "b", "c"]},
            "no colour of b, c: expected one for every class",
        ),
        (
            {"classes": ["sky", "road", "box"], "ignored": [2]},
            r"which is the id of box .* \{0: sky, 1: road, 3: box\}",
        ),
        ({"classes": ["sky", "road", "Sky"]}, "all different .not only in case or spaces"),
        ({"classes": ["sky ", "sky"]}, "all different"),
        ({"role": "judge"}, "role is 'judge'"),
        ({"split": "night"}, "split is 'night'"),
        ({"classes": ["sky"]}, "expected 2 to 253 names"),
        ({"classes": [str(number) for number in range(254)]}, "expected 2 to 253 names"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(tmp_path, **kwargs)


def test_targets_refuse_to_teach(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b"])
    with pytest.raises(ProtocolError, match=f"{tmp_path.name} is a target"):
        make_module(tmp_path).train_dataloader()
    batch = next(iter(make_module(tmp_path, role="source", batch_size=2, crop_size=(4, 4)).train_dataloader()))
    assert batch["image"].shape == (2, 3, 4, 4) and set(batch["mask"].unique().tolist()) <= {0, 1}


def test_worker_processes_read_colours(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b"])
    data = make_module(tmp_path, label_colours={"car": [0, 0, 0], "sky": [1, 1, 1]}, num_workers=1)
    assert [batch["mask"].unique().tolist() for batch in data.test_dataloader()] == [[8], [0]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "a.json",
            r"labels as \.png.* found 1 files of other kinds in .*, e\.g\. a\.json. Export the polygons",
        ),
        ("a.npy", r"found 1 files of other kinds in .*labels, e\.g\. a\.npy\. Export them as PNG masks"),
        ("a.webp", r"WebP is not read as labels, not even lossless"),
    ],
)
def test_labels_of_other_kinds_are_named(tmp_path: Path, name: str, said: str) -> None:
    save(tmp_path / "images" / "a.png", draw())
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_bytes(b"?")
    with pytest.raises(DataError, match=said):
        list_names(make_module(tmp_path))


def test_what_label_colours_may_not_mean_is_said(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw())
    save(tmp_path / "labels" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    colours = {"sky": [255, 0, 0], "road": [0, 255, 0]}
    data = make_module(tmp_path, classes=["sky", "road"], label_colours=colours, ignored=[[0, 0, 0]])
    dataset = data.make_dataset("test", data.evaluation_transform)
    absent, share = data.find_warnings(data.look_at(dataset, number=1), "mine")
    assert absent == "mine: in 1 label files no pixel has a colour of sky, road. If some should, correct label_colours"
    assert share == (
        "mine: in 1 label files 100% of the pixels are ignored, in training and scores, as their colours are in ignored"
    )


def test_colours_with_red_and_blue_exchanged_are_told(tmp_path: Path) -> None:
    label = np.full((*SIZE, 3), (10, 20, 30), np.uint8)
    colours = {"sky": [30, 20, 10], "road": [0, 255, 0]}
    with pytest.raises(DataError, match="With red and blue swapped, all are defined"):
        read_mask(tmp_path, label, classes=["sky", "road"], label_colours=colours)
    with pytest.raises(DataError, match="Add them there"):
        read_mask(tmp_path, label + 1, classes=["sky", "road"], label_colours=colours)


@pytest.mark.parametrize("classes", [None, ["sky", "road", "box"]])
def test_label_ids_of_cityscapes_are_told(tmp_path: Path, classes: list[str] | None) -> None:
    ending = "_gtFine_labelIds" if classes else ""
    save(tmp_path / "images" / "a.png", draw())
    save(tmp_path / "labels" / f"a{ending}.png", np.full(SIZE, 26, np.uint8))
    data = make_module(tmp_path, classes=classes, labels=f"labels/*{ending}.png")
    dataset = data.make_dataset("test", data.evaluation_transform)
    with pytest.raises(DataError, match="They look like Cityscapes' label ids: use CityscapesDataModule, or give ids"):
        dataset.load_mask(0)


# The command line and the documentation


def run(command: str, tmp_path: Path, data: Path, *more: str) -> Any:
    network = ["--model.network=tests.fakes.TinyNetwork"]
    place = [f"--trainer.default_root_dir={tmp_path}", f"--results.folder={tmp_path / 'results'}"]
    return main([command, f"--data={data}", *network, *QUIET, *NO_LOGGER, *place, *more])


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"ids": {0: "sky", 1: "building", 2: "road", 300: "car"}, "ignored": [*range(3, 12)]}, {0, 1, 2, 255}),
        (
            {
                "label_colours": {
                    "sky": [0, 0, 0],
                    "building": [9, 9, 1],
                    "road": [9, 9, 2],
                    "car": [[1, 1, 1], [2, 2, 2]],
                },
                "ignored": [[number] * 3 for number in range(3, 12)],
            },
            {0, 3, 255},
        ),
    ],
)
def test_command_line_reads_maps_and_nested_lists(tmp_path: Path, encoding: dict[str, Any], expected: set[int]) -> None:
    make_segnet(tmp_path / "camvid")
    arguments = {"images": "{split}", "labels": "{split}annot", "classes": ["sky", "building", "road", "car"]}
    arguments |= {"root": str(tmp_path / "camvid"), "num_workers": 0, **encoding}
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump({"class_path": "datamodules.FolderDataModule", "init_args": arguments}))
    cli = run("test", tmp_path, config)
    assert cli.datamodule.num_classes == cli.model.num_classes == 4
    assert set(next(iter(cli.datamodule.test_dataloader()))["mask"].unique().tolist()) == expected
    summary = json.loads((tmp_path / "results" / "results.json").read_text())
    assert list(summary["domains"]) == ["camvid"] and summary["domains"]["camvid"]["images"] == 1
    run("predict", tmp_path, config)
    assert [path.name for path in (tmp_path / "results" / "labels" / "camvid").iterdir()] == ["Seq05.png"]


def test_command_line_trains_on_a_source(tmp_path: Path) -> None:
    make_segnet(tmp_path / "camvid")
    config = tmp_path / "data.yaml"
    layout = {"root": str(tmp_path / "camvid"), "images": "{split}", "labels": "{split}annot", "ignored": [11]}
    sizes = {"classes": CAMVID, "batch_size": 2, "num_workers": 0, "crop_size": [8, 8]}
    config.write_text(yaml.safe_dump({"class_path": "FolderDataModule", "init_args": layout | sizes}))
    with pytest.raises(ProtocolError, match="camvid is a target"):
        run("fit", tmp_path, config, "--trainer.max_epochs=1")
    cli = run("fit", tmp_path, config, "--trainer.max_epochs=1", "--data.role=source")
    assert cli.trainer.global_step == 1 and "val/miou" in cli.trainer.callback_metrics


def read_blocks() -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("number", range(5))
def test_every_block_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    make_segnet(tmp_path / "CamVid")
    (tmp_path / "CamVid" / "pairs.csv").write_text("image,label,split\ntest/Seq05.png,testannot/Seq05.png,test\n")
    for index in range(8):
        save(tmp_path / "CamVidOriginal" / "701_StillsRaw_full" / f"{index}.png", draw(index))
        save(tmp_path / "CamVidOriginal" / "LabeledApproved_full" / f"{index}_L.png", np.zeros((*SIZE, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    blocks = read_blocks()
    assert len(blocks) == 5
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    data = parser.instantiate_classes(parser.parse_object({"data": blocks[number]})).data
    members = [data] if isinstance(data, FolderDataModule) else [data.development, *data.targets]
    for member in members:
        dataset = member.make_dataset(member.test_split, member.evaluation_transform)
        assert [dataset[index]["mask"].shape == SIZE for index in range(len(dataset))] == [True] * (
            2 if number == 2 else 1
        )
        assert member.num_classes in (5, 11)


def test_the_colours_of_the_documentation_are_camvids_32() -> None:
    (arguments,) = [block["init_args"] for block in read_blocks() if "label_colours" in block["init_args"]]
    colours = [tuple(colour) for value in arguments["label_colours"].values() for colour in list_colours(value)]
    colours += [tuple(colour) for colour in arguments["ignored"]]
    assert arguments["classes"] == list(arguments["label_colours"]) == CAMVID
    assert len(colours) == len(set(colours)) == 32
    assert {part for colour in colours for part in colour} == {0, 64, 128, 192}


def test_own_names_get_colours_of_their_own() -> None:
    data = FolderDataModule("/", classes=["road", "lawn", "pond"])
    assert data.colours[0] == CITYSCAPES_COLOURS["road"] and len(set(data.colours)) == 3 and data.domain == "folder"


def test_an_entry_of_a_list_is_found_by_the_end_of_its_path_or_of_the_file() -> None:
    files = {f"{video}/0001": Path(f"/data/own/images/{video}/0001.png") for video in "ab"}
    find = make_finder(files | {"c": Path("/data/own/images/c.png")})
    assert find("elsewhere/a/0001.png") == find("own/images/a/0001") == find("a/0001") == ["a/0001"]
    assert find("0001") == ["a/0001", "b/0001"] and find("x/c.png") == ["c"] and find("c/0001") == []
