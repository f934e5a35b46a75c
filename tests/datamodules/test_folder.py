"""FolderDataModule: own images and labels, however they lie."""

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.base import DataError
from datamodules.folder import FolderDataModule
from tests.datamodules.own import SIZE, list_names, make_files, make_module, make_pairs

# Where files lie: the files, arguments, and the names of the pairs

IDD_LITE = "10/1_image.jpg gtFine/10/1_label.png 10/2_image.jpg gtFine/10/2_label.png gtFine/10/1_inst_label.png "
IDD_PATTERNS = {"images": "10/*_image.jpg", "labels": "gtFine/10/*_label.png"}
BY_SPLIT = "images/val/1.png images/val/2.png labels/val/1.png labels/val/2.png images/train/3.png labels/train/3.png"
FOUR = " ".join(f"images/{name}.png labels/{name}.png" for name in "abcd")
FOUR_PAIRS = "image,label\n" + "".join(f"images/{name}.png,labels/{name}.png\n" for name in "abcd")
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
    "depth, brackets": (DEEP, {"images": "raw[1]/**/*_left.png", "labels": "label/**/*.label.png"}, ["day/1/x", "y"]),
    **{
        f"{pattern} excluded": (IDD_LITE, IDD_PATTERNS | {"exclude": [pattern]}, ["1", "2"])
        for pattern in ("*_inst_label.png", "10/*_inst_label.png", "gtFine/*/*_inst_label.png")
    },
    "two excluded": (IDD_LITE, IDD_PATTERNS | {"exclude": ["*_inst*", "1_*"]}, ["2"]),
    "all as one": ("images/train/1.png labels/train/1.png", {"images": "images/**/*"}, ["train/1"]),
    "two ways of Unicode": ("images/Stra\u00dfe_u\u0308.png labels/Stra\u00dfe_\u00fc.png", {}, ["Stra\u00dfe_\u00fc"]),
    "images beside others": ("1.png label_1.png images/3.png", {"images": "*.png", "labels": "label_*"}, ["1"]),
    "lossy beside the labels": ("images/a.png labels/a.png labels/b.jpg", {}, ["a"]),
    "a list of other names than patterns'": (
        "x_left.png y_left.png label_x.png", {"images": "*_left.png", "labels": "label_*", "listed": "x_left.png"},
        ["x"],
    ),
    "a CSV without splits": (FOUR, {"csv": FOUR_PAIRS}, [f"images/{name}" for name in "abcd"]),
    "a fraction of a CSV": (FOUR, {"csv": FOUR_PAIRS, "splits": {"train": 0.5, "test": 0.5}}, ["images/a", "images/d"]),
    "a list of a CSV": (FOUR, {"csv": FOUR_PAIRS, "listed": "b\nc\n"}, ["images/b", "images/c"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_pairs_are_found(kind: str, tmp_path: Path) -> None:
    files, arguments, names = LAYOUTS[kind]
    make_files(tmp_path, files)
    data = make_module(tmp_path, **arguments)
    assert list_names(data, data.test_split) == names
    assert data.describe()["files"].get("exclude") == arguments.get("exclude")


def test_images_alone_can_be_predicted_and_nothing_else(tmp_path: Path) -> None:
    kept = [f"{name}/a.jpg/thumb.png" for name in ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")]
    make_files(tmp_path, " ".join(["b.JPG day_._2/a.b.png ._b.png .thumbnails/b.png notes.txt", *kept]))  # by systems
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
    "nothing in common": (
        IDD_LITE, {"images": "10", "labels": "gtFine/10", "exclude": ["*_inst*"]},
        r"none of the 2 images of test .*called 1_image, labels 1_label\. .*whose \* stands",
    ),
    "nothing in common, skipping": (
        IDD_LITE, {"images": "10", "labels": "gtFine/10", "exclude": ["*_inst*"], "broken": "skip"}, "none of the 2",
    ),
    "no split": (BY_SPLIT, {}, r"no images of test in .*contains images, labels: .*images/test\. Set root and images"),
    "empty": ("labels/a.txt", {}, r"no images of test in .*contains labels: expected \.jpg"),
    "no labels": ("images/a.png labels/.hidden", {}, r"no labels for the 1 images of test in .*expected labels"),
    "one name": ("a.jpg a.png", {"images": "."}, r"a\.jpg and .*a\.png are both called a.*a pattern such as \*\.png"),
    "beside images": ("1.png images/3.png", {}, "has a folder images and 1 images beside it"),
    **{
        suffix: (f"images/a.png labels/a.{suffix}", {}, rf"labels as \.png.* found 1 files of .* a\.{suffix}. Export")
        for suffix in ("json", "npy")
    },
    "WebP": ("images/a.png labels/a.webp", {}, "WebP labels are not read, even lossless ones"),
    "JPEG": ("images/a.png labels/a.jpg", {}, r"a\.jpg: expected labels as .png.*changes values near edges"),
    "others": ("images/train/1.png images/Validation/1.png", {}, r"no images .*: \{val: Validation, train: train\}"),
    "no such list": (NO_PARTNER, {"splits": {"test": "no.txt"}}, r"no\.txt cannot be read"),
    "no folder for a split": (NO_PARTNER, {"splits": {"test": "night"}}, r"but images has no \{split\}"),
    "a split that is not there": (NO_PARTNER, {"splits": {"train": 0.6, "val": 0.4}}, "train, val, but not test"),
    "a fraction of none": (NO_PARTNER, {"splits": {"train": 0.9, "test": 0.1}}, "which rounds to none"),
    "fractions of folders": (BY_SPLIT, {"splits": {"test": 0.5}, "images": "images/{split}"}, "no images of test"),
    "fractions of divided ones": (
        "images/test/1.png labels/test/1.png", {"splits": {"test": 0.5}}, "fractions, but the folders .* divide",
    ),
    "CSV of nothing": (FOUR, {"csv": ""}, r"has the columns \(none\): expected a first line image,label"),
    "CSV of other columns": (FOUR, {"csv": "img,mask\na.png,b.png"}, r"has the columns img, mask"),
    "CSV of no file": (FOUR, {"csv": "image,label\nnone.png,labels/a.png"}, r"1 files of test.*is no file .*none\.png"),
    "CSV without image": (FOUR, {"csv": "image,label\n,labels/a.png"}, r"line 2: the column image is empty"),
    "CSV of one name": (FOUR, {"csv": f"{FOUR_PAIRS}images/a.png,"}, r"line 6: a second image is called images/a"),
    "CSV of no images": (FOUR, {"csv": "image,label\n"}, r"has no image of split 'test'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_files_is_said(kind: str, tmp_path: Path) -> None:
    files, arguments, said = WRONG[kind]
    make_files(tmp_path, files)
    with pytest.raises(DataError, match=said):
        list_names(make_module(tmp_path, **arguments))


def test_folders_may_lie_elsewhere_or_be_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs(tmp_path / "MyTown", ["a"])
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "link").symlink_to(tmp_path / "MyTown" / "images")
    (root / "images" / "loop").symlink_to(root / "images")
    assert list_names(make_module(root), labelled=False) == ["link/a"]
    data = make_module(root, images="../MyTown/images", labels=str(tmp_path / "MyTown" / "labels"))
    assert list_names(data) == list_names(FolderDataModule(str(tmp_path), domain="mytown")) == ["a"]
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
    with pytest.warns(UserWarning, match="skipped 3 broken pairs of test: b, c, d"):
        assert list_names(data) == ["a"]
    assert data.describe()["left_out"]["test"] == [{"name": name, "why": "missing"} for name in "bcd"]
    with pytest.raises(DataError, match=r"there is no file .*d\.png"):
        list_names(make_module(tmp_path), labelled=False)


POINTED_OUT: dict[str, tuple[str, dict[str, Any], str]] = {  # the files, arguments, and what is said
    "masks": (
        "a.jpg a_mask.png b.jpg b_mask.png", {},
        r'2 of 4 images look like the labels .* a_mask: .*exclude: \["\*_mask\.\*"\]',
    ),
    "other kinds": ("a.jpg c.HEIC", {}, r"skipped 1 files that cannot be read \(c\.HEIC\)"),
    "one set": ("images/a.png", {"split": "train"}, "train, val and test are the same 1 images"),
    "shared labels": (
        FOUR, {"csv": FOUR_PAIRS.replace("labels/b", "labels/a")}, r"2 images share 1 label files, e\.g\..*labels/a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", POINTED_OUT)
def test_what_names_and_headers_speak_for_is_pointed_out(kind: str, tmp_path: Path) -> None:
    files, arguments, said = POINTED_OUT[kind]
    make_files(tmp_path, files)
    data = make_module(tmp_path, **arguments)
    with pytest.warns(UserWarning, match=said):
        list_names(data, data.test_split, labelled="labels" in files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_names(make_module(tmp_path, exclude=["*_mask.*", "*.HEIC"]), labelled=False)


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
        ("elsewhere/c/1.png", "c/1"),
        ("own/images/c/1", "c/1"),
        ("1", r"1 could be c/1, d/1: expected one image"),
        ("a/1", "a/1 is not one of the 7 images"),
        ("b/2", "b/2 is not one of the 7 images: expected"),
        ("xa/1", "xa/1 is not one"),
        ("images/a.png labels/b.png", r"labels/b.png is not the label of the image a; .* is .*labels/a\.png"),
        ("images/a.png labels/nowhere.png", "labels/nowhere.png is not the label of the image a"),
        ("images/a.png /home/me/labels/b.png", "/home/me/labels/b.png is not the label of the image a"),
        ("# none", r"test\.txt lists no images: expected one per line"),
    ],
)
def test_the_first_field_of_a_line_is_the_image(tmp_path: Path, line: str, expected: str) -> None:
    names = ["a", "b", "my photo", "c/1", "d/1", "d/22", "frame.07"]
    make_pairs(tmp_path, names)
    data = make_module(tmp_path, listed=line + "\n")
    if expected in names:
        assert list_names(data) == [expected]
        return
    with pytest.raises(DataError, match=expected):
        list_names(data)
    assert "not the label" not in expected or list_names(data, labelled=False) == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_csvs_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    make_pairs(tmp_path, ["\u00e4", "b"])
    assert list_names(make_module(tmp_path, listed="sep=;\r\n\u00e4.png\r\n", encoding=encoding)) == ["\u00e4"]
    csv = "sep=;\nimage;label;split\nimages\\\u00e4.png;labels\\\u00e4.png;Test\n"
    assert list_names(make_module(tmp_path, csv=csv, encoding=encoding)) == ["images/\u00e4"]


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
    root, other = tmp_path / "data", tmp_path / "other"
    make_pairs(root, ["a", "b"])
    make_pairs(other, ["a", "c"])
    rows = [
        "Image|label|split",
        "images/a.png|labels/a.png|test",
        "../other/images/a.png|../other/labels/a.png|test",
        f"{root / 'images/b.png'}|{root / 'labels/b.png'}|test",
        f"{other / 'images/c.png'}||later",
        "||",
    ]
    csv = "\ufeff" + "\n".join([*rows, " \u00a0 "]).replace("|", separator)  # a blank line
    data, later = make_module(root, csv=csv), make_module(root, csv=csv, splits={"test": "later"})
    assert list_names(data) == ["images/a", "images/b", "other/images/a"]
    assert [int(batch["mask"].max()) for batch in data.test_dataloader()] == [0, 1, 0]
    assert list_names(later, labelled=False) == ["other/images/c"]
    with pytest.raises(DataError, match=r"no image of split 'val', only later, test"):
        list_names(data, "val")
    with pytest.raises(DataError, match=r"splits has fractions, but pairs\.csv"):
        list_names(make_module(root, csv=csv, splits={"test": 0.5}))
    with pytest.raises(DataError, match=r"no labels for the 1 images.*expected pairs\.csv"):
        list_names(later)
