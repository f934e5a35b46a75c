"""FolderDataModule: own images and labels, however they lie and are encoded."""

import json
import re
import warnings
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
from datamodules.labels import CITYSCAPES_COLOURS
from datamodules.reading.dataset import look_at
from datamodules.reading.lists import make_finder
from datamodules.reading.tables import list_colours
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


def make_files(root: Path, files: str) -> None:
    """Writes images, labels of one id where a path says that it holds labels, and other files."""
    for number, name in enumerate(files.split()):
        path = root / name.replace("_._", " ")
        if path.suffix.lower() not in (".png", ".jpg"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"?")
        else:
            save(path, number % 11 if re.search("label|annot|gtFine|mask", name) else draw(number))


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


# Where files lie: the files, arguments, and the names of the pairs

IDD_LITE = "10/1_image.jpg gtFine/10/1_label.png 10/2_image.jpg gtFine/10/2_label.png gtFine/10/1_inst_label.png "
IDD_PATTERNS = {"images": "10/*_image.jpg", "labels": "gtFine/10/*_label.png"}
BY_SPLIT = "images/val/1.png images/val/2.png labels/val/1.png labels/val/2.png images/train/3.png labels/train/3.png"
DEEP = "raw[1]/day/1/x_left.PNG raw[1]/y_left.png raw[1]/y_right.png label/day/1/x.label.png label/y.label.png"
LAYOUTS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "folders of splits": (BY_SPLIT, {"split": "val"}, ["1", "2"]),
    "a split of another name": (BY_SPLIT, {"splits": {"test": "val"}}, ["1", "2"]),
    **{
        f"pattern {labels}": (BY_SPLIT, {"split": "val", "images": "images/{split}", "labels": labels}, ["1", "2"])
        for labels in ("labels/{split}", "labels/{split}/*.png", "labels/{split}/*", "labels\\{split}\\*.png")
    },
    "names differ before the suffix": (
        "701_Stills/0001.png Labels/0001_L_label.png Labels/0001_copy_label.png",
        {"images": "701_Stills", "labels": "Labels/*_L_label.png"},
        ["0001"],
    ),
    "any depth and brackets": (
        DEEP, {"images": "raw[1]/**/*_left.png", "labels": "label/**/*.label.png"}, ["day/1/x", "y"],
    ),
    **{
        f"{pattern} excluded": (IDD_LITE, IDD_PATTERNS | {"exclude": [pattern]}, ["1", "2"])
        for pattern in ("*_inst_label.png", "10/*_inst_label.png", "gtFine/*/*_inst_label.png")
    },
    "two excluded": (IDD_LITE, IDD_PATTERNS | {"exclude": ["*_inst*", "1_*"]}, ["2"]),
    "all as one": ("images/train/1.png labels/train/1.png", {"images": "images/**/*"}, ["train/1"]),
    "two ways of Unicode": ("images/Stra\u00dfe_u\u0308.png labels/Stra\u00dfe_\u00fc.png", {}, ["Stra\u00dfe_\u00fc"]),
    "images beside others": ("1.png label_1.png images/3.png", {"images": "*.png", "labels": "label_*"}, ["1"]),
    "lossy beside the labels": ("images/a.png labels/a.png labels/b.jpg", {}, ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_pairs_are_found(kind: str, tmp_path: Path) -> None:
    files, arguments, names = LAYOUTS[kind]
    make_files(tmp_path, files)
    data = make_module(tmp_path, **arguments)
    assert list_names(data, data.test_split) == names
    assert data.describe()["files"].get("exclude") == arguments.get("exclude")


def test_images_alone_can_be_predicted_and_nothing_else(tmp_path: Path) -> None:
    make_files(tmp_path, "b.JPG day_._2/a.b.png ._b.png .thumbnails/b.png notes.txt")
    (tmp_path / "folder.png").mkdir()
    data = make_module(tmp_path)
    (first, second) = list(data.predict_dataloader())
    assert (first["name"], second["name"]) == (["b"], ["day 2/a.b"])
    assert set(first) == {"image", "size", "name"} and first["size"].tolist() == [list(SIZE)]
    assert data.domain == tmp_path.name
    with pytest.raises(DataError, match=r"no labels for the 2 images of test.*expected labels to be set.*`predict`"):
        data.test_dataloader()


NO_PARTNER = "images/a.png images/b.png images/c.png labels/a.png labels/b.png"
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {  # the files, arguments, and what is said
    "nothing excluded": (IDD_LITE, IDD_PATTERNS, "1 files of test have no partner: .*1_inst_label.png has no image"),
    "nothing in common": (
        IDD_LITE, {"images": "10", "labels": "gtFine/10", "exclude": ["*_inst*"]},
        r"none of the 2 images of test .*called 1_image, labels 1_label\. .*whose \* stands",
    ),
    "nothing in common, skipping": (
        IDD_LITE, {"images": "10", "labels": "gtFine/10", "exclude": ["*_inst*"], "broken": "skip"}, "none of the 2",
    ),
    "no such split": (
        BY_SPLIT, {}, r"no images of test in .*holds images, labels: .*images/test\. Set root and images",
    ),
    "empty": ("labels/a.txt", {}, r"no images of test in .*holds labels: expected \.jpg"),
    "no labels": ("images/a.png labels/.hidden", {}, r"no labels for the 1 images of test in .*expected labels"),
    "no partner": (NO_PARTNER, {}, r"1 files.*c\.png has no labels"),
    "one name": ("a.jpg a.png", {"images": "."}, r"a\.jpg and .*a\.png are both called a.*a pattern such as \*\.png"),
    "beside images": ("1.png images/3.png", {}, "has a folder images and 1 images beside it"),
    "polygons": (
        "images/a.png labels/a.json", {}, r"labels as \.png.* found 1 files of other kinds in .*, e\.g\. a\.json. "
        "Export the polygons",
    ),
    "arrays": ("images/a.png labels/a.npy", {}, r"found 1 files of other .*labels, e\.g\. a\.npy\. Export them"),
    "WebP": ("images/a.png labels/a.webp", {}, "WebP is not read as labels, not even lossless"),
    "JPEG": ("images/a.png labels/a.jpg", {}, r"a\.jpg: expected labels as .png.*changes values near edges"),
    "another split": (
        "images/train/1.png images/Validation/1.png", {}, r"no images .*: \{val: Validation, train: train\}",
    ),
    "no such list": (NO_PARTNER, {"splits": {"test": "no.txt"}}, r"no\.txt cannot be read"),
    "no folder for a split": (NO_PARTNER, {"splits": {"test": "night"}}, r"but images has no \{split\}"),
    "a split that is not there": (NO_PARTNER, {"splits": {"train": 0.6, "val": 0.4}}, "train, val, but not test"),
    "a fraction of none": (NO_PARTNER, {"splits": {"train": 0.9, "test": 0.1}}, "which rounds to none"),
    "fractions of folders": (BY_SPLIT, {"splits": {"test": 0.5}, "images": "images/{split}"}, "no images of test"),
    "fractions of divided ones": (
        "images/test/1.png labels/test/1.png", {"splits": {"test": 0.5}}, "fractions, but the folders .* divide",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_files_is_said(kind: str, tmp_path: Path) -> None:
    files, arguments, said = WRONG[kind]
    make_files(tmp_path, files)
    with pytest.raises(DataError, match=said):
        list_names(make_module(tmp_path, **arguments))


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
    with pytest.raises(DataError, match=r"root is .*nowhere, which is not a folder"):
        list_names(make_module(tmp_path / "nowhere"))


def test_files_without_a_partner_are_named_or_skipped(tmp_path: Path) -> None:
    make_files(tmp_path, "images/a.png labels/a.png images/b.png labels/c.png labels/d.png")
    (tmp_path / "images" / "d.png").symlink_to(tmp_path / "gone.png")
    said = r"3 files.*b\.png has no labels; .*c\.png has no image; there is no file .*d\.png"
    with pytest.raises(DataError, match=said):
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


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found"])
def test_folders_that_systems_keep_are_passed_over(tmp_path: Path, folder: str) -> None:
    make_files(tmp_path, f"a.png {folder}/a.jpg/thumb.png")
    assert list_names(make_module(tmp_path), labelled=False) == ["a"]


# What names and headers speak for

POINTED_OUT: dict[str, tuple[str, dict[str, Any], str]] = {  # the files, arguments, and what is said of images alone
    "masks": (
        "a.jpg a_mask.png b.jpg b_mask.png", {},
        r'2 of 4 images look like the labels .* a_mask: .*exclude: \["\*_mask\.\*"\]',
    ),
    "other kinds": ("a.jpg c.HEIC", {}, r"skipped 1 files that cannot be read \(c\.HEIC\)"),
    "one set": ("images/a.png", {"split": "train"}, "train, val and test are the same 1 images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", POINTED_OUT)
def test_masks_among_photographs_are_pointed_out(kind: str, tmp_path: Path) -> None:
    files, arguments, said = POINTED_OUT[kind]
    make_files(tmp_path, files)
    data = make_module(tmp_path, **arguments)
    with pytest.warns(UserWarning, match=said):
        list_names(data, data.test_split, labelled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_names(make_module(tmp_path, exclude=["*_mask.*", "*.HEIC"]), labelled=False)


def test_images_that_share_labels_are_pointed_out(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b", "c"])
    rows = ("image,label", "images/a.png,labels/a.png", "images/b.png,labels/a.png", "images/c.png,labels/c.png")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=r"2 images share 1 label files, e\.g\. .*labels/a\.png"):
        list_names(make_module(tmp_path, pairs="pairs.csv"))


def test_upright_photographs_keep_their_proportions(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((2016, 1512, 3), dtype=np.uint8))
    (batch,) = make_module(tmp_path).predict_dataloader()
    height, width = batch["image"].shape[-2:]
    assert height * width <= 2048 * 1024 and height / width == pytest.approx(4 / 3, rel=2e-3)


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("images/a.png labels/a.png", "a"),
        ("images/a.png,labels/a.png", "a"),
        ("# mine\n\na\r\na", "a"),
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
        ("22.PNG;x", "d/22"),
        ("frame.07", "frame.07"),
        ("1", r"1 could be c/1, d/1: expected one image"),
        ("b/2", "b/2 is none of the 7 images: expected"),
        ("xa/1", "xa/1 is none"),
        ("images/a.png labels/b.png", r"labels/b.png is not the label of the image a, .* is .*labels/a\.png"),
        ("images/a.png labels/nowhere.png", "labels/nowhere.png is not the label of the image a"),
        ("images/a.png /home/me/labels/b.png", "/home/me/labels/b.png is not the label of the image a"),
        ("# none", r"test\.txt lists no images: expected one per line"),
    ],
)
def test_the_first_field_of_a_line_is_the_image(tmp_path: Path, line: str, expected: str) -> None:
    names = ["a", "b", "my photo", "c/1", "d/1", "d/22", "frame.07"]
    make_pairs(tmp_path, names)
    (tmp_path / "test.txt").write_text(line + "\n")
    data = make_module(tmp_path, splits={"test": "test.txt"})
    if expected in names:
        assert list_names(data) == [expected]
        return
    with pytest.raises(DataError, match=expected):
        list_names(data)
    assert "not the label" not in expected or list_names(data, labelled=False) == ["a"]


def test_a_list_names_files_that_patterns_call_otherwise(tmp_path: Path) -> None:
    make_files(tmp_path, "x_left.png y_left.png")
    (tmp_path / "test.txt").write_text("x_left.png\n")
    assert list_names(make_module(tmp_path, images="*_left.png", splits={"test": "test.txt"}), labelled=False) == ["x"]
    files = {f"{video}/0001": Path(f"/data/own/images/{video}/0001.png") for video in "ab"}
    find = make_finder(files | {"c": Path("/data/own/images/c.png")})
    assert find("elsewhere/a/0001.png") == find("own/images/a/0001") == find("a/0001") == ["a/0001"]
    assert find("0001") == ["a/0001", "b/0001"] and find("x/c.png") == ["c"] and find("c/0001") == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_csvs_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    make_pairs(tmp_path, ["\u00e4", "b"])
    (tmp_path / "test.txt").write_text("sep=;\r\n\u00e4.png\r\n", encoding=encoding)
    assert list_names(make_module(tmp_path, splits={"test": "test.txt"})) == ["\u00e4"]
    (tmp_path / "pairs.csv").write_text(
        "sep=;\nimage;label;split\nimages\\\u00e4.png;labels\\\u00e4.png;Test\n", encoding=encoding
    )
    assert list_names(make_module(tmp_path, pairs="pairs.csv")) == ["images/\u00e4"]


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
    assert [int(batch["mask"].max()) for batch in data.test_dataloader()] == [0, 1, 0]
    later = make_module(tmp_path / "data", pairs="pairs.csv", splits={"test": "later"})
    assert list_names(later, labelled=False) == ["other/images/c"]
    with pytest.raises(DataError, match=r"no image of split 'val', only later, test"):
        list_names(data, "val")
    with pytest.raises(DataError, match=r"splits has fractions, but pairs\.csv"):
        list_names(make_module(tmp_path / "data", pairs="pairs.csv", splits={"test": 0.5}))
    with pytest.raises(DataError, match=r"no labels for the 1 images.*expected pairs\.csv"):
        list_names(later)


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


# What labels mean: the labels, arguments, and the classes or what is said

IDS16 = np.array([[7, 0, 300], [65535, 255, 9]], np.uint16)
IDS8 = np.where(IDS16 < 256, IDS16, 7).astype(np.uint8)
TO_CLASSES = {7: "road", 0: "sky", 300: "car", 65535: "car"}
GATHERED = {"ground": ["road", "sidewalk"], "vehicle": ["car", "truck"], "rest": ["sky"]}
MANY = [f"class {number}" for number in range(253)]
SIXTEEN = {"classes": None, "num_classes": 16}
COLOURS = {"sky": [128, 128, 128], "car": [[64, 0, 128], [64, 128, 192]], "tree": [[128, 128, 0]]}
PIXELS = [[128, 128, 128, 255], [64, 0, 128, 255], [64, 128, 192, 255], [128, 128, 0, 255], [0, 0, 0, 255]]
RGBA, RGB = np.array([PIXELS], np.uint8), np.array([PIXELS], np.uint8)[..., :3]
SWAPPED = {"classes": ["sky", "road"], "label_colours": {"sky": [30, 20, 10], "road": [0, 255, 0]}}


def row(*ids: int) -> np.ndarray:
    return np.array([ids], np.uint8)


MEANINGS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "16 bits": (IDS16, {"ids": TO_CLASSES, "ignored": [9]}, [[3, 0, 8], [8, 255, 255]]),
    "8 bits": (IDS8, {"ids": TO_CLASSES, "ignored": [9]}, [[3, 0, 3], [3, 255, 255]]),
    "unknown ids": (
        IDS16, {"ids": {7: "road", 0: "sky", 300: "car"}},
        "hold the ids 9, 65535, expected only 0, 7, 255, 300. Say what they are in ids",
    ),
    "255 as a class": (row(255), {"ids": {255: "sky"}}, [[0]]),
    "id c is class c": (row(*range(253)), {"classes": MANY}, [[*range(253)]]),
    "one too many": (row(0, 2), {"classes": MANY[:2]}, "hold the ids 2, expected only 0-1, 255"),
    "16 classes": (row(7, 22, 33), SIXTEEN | {"ids": {7: "road", 22: "terrain", 33: "bicycle"}}, [[0, 255, 15]]),
    "16 of the train ids": (row(0, 9, 18, 255), SIXTEEN, [[0, 255, 15, 255]]),
    "gathered": (
        row(1, 2, 3, 4), {"classes": GATHERED, "ids": {1: "sidewalk", 2: "truck", 3: "ground", 4: "person"}},
        [[0, 1, 0, 255]],
    ),
    "gathered train ids": (row(1, 13, 10, 11), {"classes": GATHERED}, [[0, 1, 2, 255]]),
    "RGB": (RGB, {"label_colours": COLOURS, "ignored": [[0, 0, 0]]}, [[0, 8, 8, 5, 255]]),
    "RGBA": (RGBA, {"label_colours": COLOURS, "ignored": [[0, 0, 0]]}, [[0, 8, 8, 5, 255]]),
    "unknown colours": (
        RGB, {"label_colours": COLOURS}, r"1 colours that are not defined, e.g. \[0, 0, 0\]: expected only those of la",
    ),
    "colours for ids": (RGB, {}, "mode RGB: expected labels with one channel.*list them in label_colours"),
    "alpha for ids": (RGBA, {}, "mode RGBA: expected labels with one channel.*list them in label_colours"),
    "red and blue exchanged": (np.full((1, 1, 3), (10, 20, 30), np.uint8), SWAPPED, "red and blue swapped"),
    "other colours": (np.full((1, 1, 3), (11, 20, 30), np.uint8), SWAPPED, "Add them there"),
    "Cityscapes' label ids": (row(26), {"classes": None}, "look like Cityscapes' label ids: use Citys"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEANINGS)
def test_labels_become_classes(kind: str, tmp_path: Path) -> None:
    label, arguments, expected = MEANINGS[kind]
    if isinstance(expected, list):
        assert read_mask(tmp_path, label, **arguments).tolist() == expected
        return
    with pytest.raises(DataError, match=expected):
        read_mask(tmp_path, label, **arguments)


def test_labels_as_jpeg_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a"])
    (tmp_path / "labels" / "a.png").write_bytes(save(tmp_path / "labels" / "a.jpg", 3).read_bytes())
    for kwargs in ({}, {"label_colours": {"sky": [3, 3, 3]}}):
        with pytest.raises(DataError, match=r"a\.png is a JPEG: expected labels as .png.*ruins ids and colours"):
            next(iter(make_module(tmp_path, **kwargs).test_dataloader()))


def test_label_ids_of_cityscapes_are_told_by_the_name_of_their_file(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw())
    save(tmp_path / "labels" / "a_gtFine_labelIds.png", 26)
    data = make_module(tmp_path, classes=["sky", "road", "box"], labels="labels/*_gtFine_labelIds.png")
    with pytest.raises(DataError, match="They look like Cityscapes' label ids: use CityscapesDataModule, or give ids"):
        data.make_dataset("test", data.evaluation_transform).load_mask(0)


def test_what_label_colours_may_not_mean_is_said(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw())
    save(tmp_path / "labels" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    colours = {"sky": [255, 0, 0], "road": [0, 255, 0]}
    data = make_module(tmp_path, classes=["sky", "road"], label_colours=colours, ignored=[[0, 0, 0]])
    dataset = data.make_dataset("test", data.evaluation_transform)
    assert data.find_warnings(dataset, look_at(dataset, number=1), "mine") == [
        "mine: sky, road never occurs in 1 label files. If it should, correct label_colours",
        "mine: 100% of the label pixels are ignored, in training and scores, as their colours stand for no class. If "
        "they should, correct label_colours or ignored",
    ]


def test_classes_that_never_occur_are_named_with_the_line_that_fits(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", draw())
        save(tmp_path / "labels" / f"{number}.png", np.eye(*SIZE, dtype=np.uint8) * 255)
    data = make_module(tmp_path, classes=["background", "road"])
    said = r"test: road never occurs in 3 label files, .* ids 0, 255.*background, 255: r"
    with pytest.warns(UserWarning, match=said):
        data.test_dataloader()
    Image.fromarray(np.eye(*SIZE) > 0).save(tmp_path / "labels" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is a 1-bit mask \(ids 0 and 1\), .*all of one"):
        make_module(tmp_path, classes=["background", "road"]).test_dataloader()


def test_a_class_that_a_first_look_misses_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("datamodules.folder.LOOKED_AT", 3)
    for number in range(12):
        save(tmp_path / "images" / f"{number:02}.png", draw())
        save(tmp_path / "labels" / f"{number:02}.png", int(number == 10))
    make_module(tmp_path, classes=["ground", "thing"]).test_dataloader()
    assert not [warning for warning in recwarn if "never occurs" in str(warning.message)]
    monkeypatch.setattr("datamodules.folder.MOST_LOOKED_AT", 4)
    with pytest.warns(UserWarning, match="thing never occurs in 4 label files"):
        make_module(tmp_path, classes=["ground", "thing"]).test_dataloader()


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
        ({"ids": {1: "lawn"}, "classes": None}, r"no class 'lawn': expected one of road, .*, or a class of Cityscapes"),
        ({"classes": ["car", "sky"], "ids": {1: "truck"}}, "no class 'truck': expected one of car, sky$"),
        ({"classes": ["", "road"]}, "expected 2 to 253 names"),
        ({"exclude": ["*_inst*"], "pairs": "pairs.csv"}, "exclude and pairs are both set"),
        ({"exclude": [""]}, "exclude holds an empty pattern"),
        ({"splits": {"train": 0.8, "val": 0.3}}, "splits"),
        ({"splits": {"train": -0.1}}, "splits"),
        ({"splits": {"train": 0.5, "val": "val"}}, "splits"),
        ({"splits": {"trian": 0.5}}, "splits"),
        ({"splits": {"test": 0}}, "splits"),
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


def test_ids_are_asked_for_where_0_is_ignored() -> None:
    with pytest.raises(ValueError, match=r"ignored holds 0.*set ids, e\.g\. \{1: sky, 2: road\}"):
        FolderDataModule(classes=["sky", "road"], ignored=[0])
    FolderDataModule(classes=["sky", "road"], ignored=[0], ids={1: "sky", 2: "road"})


# The command line and the documentation


def run(command: str, tmp_path: Path, data: Path, *more: str) -> Any:
    network = ["--model.network=tests.fakes.TinyNetwork"]
    place = [f"--trainer.default_root_dir={tmp_path}", f"--results.folder={tmp_path / 'results'}"]
    return main([command, f"--data={data}", *network, *QUIET, *NO_LOGGER, *place, *more])


def test_command_line_reads_maps_and_nested_lists(tmp_path: Path) -> None:
    make_segnet(tmp_path / "camvid")
    colours = {"sky": [0, 0, 0], "building": [9, 9, 1], "road": [9, 9, 2], "car": [[1, 1, 1], [2, 2, 2]]}
    arguments = {"images": "{split}", "labels": "{split}annot", "classes": list(colours), "label_colours": colours}
    arguments |= {"ignored": [[number] * 3 for number in range(3, 12)]}
    arguments |= {"root": str(tmp_path / "camvid"), "num_workers": 0}
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump({"class_path": "datamodules.FolderDataModule", "init_args": arguments}))
    cli = run("test", tmp_path, config)
    assert cli.datamodule.num_classes == cli.model.num_classes == 4
    assert set(next(iter(cli.datamodule.test_dataloader()))["mask"].unique().tolist()) == {0, 3, 255}
    summary = json.loads((tmp_path / "results" / "results.json").read_text())
    assert list(summary["domains"]) == ["camvid"] and summary["domains"]["camvid"]["images"] == 1
    run("predict", tmp_path, config)
    assert [path.name for path in (tmp_path / "results" / "labels" / "camvid").iterdir()] == ["Seq05.png"]


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
