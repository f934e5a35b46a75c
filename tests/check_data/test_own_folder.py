"""The check of images of one's own: what they hold, what may be wrong, and the YAML that reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments.check_data.picture import thin_out
from tests.check_data.trees import Check, CheckOwn, write_folder
from tests.datamodules.pictures import turn
from tests.trees import write_image


def test_own_data_are_checked_with_their_own_classes(check_own: CheckOwn, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    labels = write_folder(root, 6)
    classes, ids = ["thing", "ground", "sky"], {0: "ground", 1: "ground", 10: "sky", 18: "thing"}
    code, splits, out = check_own(root, classes=classes, ids=ids)
    found = splits.pop("train")  # every split has all images: they are read once
    assert code == 0 and not splits and found["same_as_this"] == ["val", "test"] and "train, val, test" in out
    number = np.bincount(np.stack(labels).ravel()).tolist()
    expected = {"thing": number[18], "ground": number[0] + number[1], "sky": number[10], "ignored": number[255]}
    assert found["pixels"] == expected and "never occurs" not in out
    shares = {name: pixels / sum(expected.values()) for name, pixels in expected.items()}
    assert found["frequencies"] == pytest.approx(shares)
    shifted = {0: "thing", 1: "ground", 10: "ground"}
    code, _, out = check_own(root, classes=classes, ids=shifted, ignored=[18])
    assert code == 0 and "sky never occurs in 6 label files" in out and "(a guess) ids: {0: thing" in out
    del ids[18]
    code, splits, out = check_own(root, classes=classes, ids=ids)
    assert code == 1 and splits["train"]["counts"]["id"] == 6 and "and 3 more, see" in out


OWN: dict[str, tuple[dict[str, Any], int, dict[str, str], str]] = {  # arguments, exit code, verdicts, what is said
    "images alone": ({"folder": "images"}, 0, {"train": "ok, no labels"}, "images: 3 PNG RGB"),
    "no labels": ({"labels": "nowhere"}, 1, {"train": "UNUSABLE"}, "there are no labels for the 3 images"),
    "a CSV with a file that is not there": ({"pairs": "lost.csv"}, 1, {"val": "PROBLEMS"}, "labels/nowhere.png"),
    "a list with an image that is not there": (
        {"splits": {"train": "lost.txt", "val": "one.txt"}}, 1, {"train": "UNUSABLE", "val": "ok"}, "line 2: nowhere",
    ),
    "an empty list": ({"splits": {"test": "empty.txt"}}, 1, {"test": "UNUSABLE"}, "empty.txt lists no images"),
    "images in two splits": (
        {"splits": {"train": "two.txt", "val": "one.txt", "test": "same.txt"}}, 0, {"val": "ok", "test": "ok?"},
        "own test: 2 of its images are also in own train: 000, 001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_what_is_wrong_with_ones_own_files_is_said(kind: str, check_own: CheckOwn, tmp_path: Path) -> None:
    given, code, verdicts, said = OWN[kind]
    root, arguments = tmp_path / "own", {"folder": "", **given}
    write_folder(root, 3)
    rows = "image,label,split images/000.png,labels/000.png,train images/001.png,labels/nowhere.png,val"
    lists = {"lost.txt": "000 nowhere", "one.txt": "002", "two.txt": "000 001", "same.txt": "000 001"}
    for name, lines in (lists | {"empty.txt": "#none", "lost.csv": rows}).items():
        (root / name).write_text(lines.replace(" ", "\n"))
    found, splits, out = check_own(root / arguments.pop("folder"), domain="own", **arguments)
    assert found == code and {split: splits[split]["verdict"] for split in verdicts} == verdicts
    assert said in out and "also in" not in str(splits.get("val", {}).get("warnings"))


def test_copies_of_images_in_two_splits_are_named(check_own: CheckOwn, tmp_path: Path) -> None:
    for split, number in (("train", 1), ("val", 2), ("test", 1)):  # the first of two is another than one alone
        write_folder(tmp_path / "own", number, split=split)
    for what in ("images", "labels"):
        (tmp_path / "own" / what / "test" / "000.png").rename(tmp_path / "own" / what / "test" / "x.png")
    code, splits, out = check_own(tmp_path / "own")
    assert code == 0 and "own test: 1 of its images are also in own train: x (a copy of 000)" in out
    assert [found["verdict"] for found in splits.values()] == ["ok", "ok", "ok?"]


def test_labels_that_count_for_nothing_fail(check_own: CheckOwn, tmp_path: Path) -> None:
    write_image(tmp_path / "own" / "images" / "0.png", np.zeros((4, 6, 3), dtype=np.uint8))
    write_image(tmp_path / "own" / "labels" / "0.png", np.full((4, 6), 255, dtype=np.uint8))
    code, splits, out = check_own(tmp_path / "own")
    assert code == 1 and splits["train"]["verdict"] == "NO LABELS"
    assert "no pixel of its labels belongs to a class, they contain the ids 255." in out


LAYOUTS = {  # how people lay out their folders: images, labels, and what is guessed
    "as ours": ("images/{}.png", "labels/{}.png", "images", "labels"),
    "splits": ("images/train/{}.jpg", "labels/train/{}.png", "images/{split}", "labels/{split}"),
    "idd_lite": (
        "leftImg8bit/train/3/{}_image.jpg", "gtFine/train/3/{}_label.png",
        "leftImg8bit/{split}/3/*_image", "gtFine/{split}/3/*_label",
    ),
    "segnet": ("val/{}.png", "valannot/{}.png", "{split}", "{split}annot"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "JPEGImages", "SegmentationClass"),
    "masks": ("data/imgs/{}.jpg", "data/masks/{}_mask.png", "data/imgs", "data/masks/*_mask"),
    "one folder": ("photos/{}.jpg", "photos/{}_gt.png", "photos", "photos/*_gt"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_ones_own_is_understood_and_its_yaml_reads_it(layout: str, check: Check, tmp_path: Path) -> None:
    image, labels, images, masks = LAYOUTS[layout]
    for number, name in enumerate("abc"):
        write_image(tmp_path / "own" / image.format(name), np.full((8, 12, 3), 40 * number, dtype=np.uint8))
        write_image(tmp_path / "own" / labels.format(name), np.full((8, 12), [3, 7, 9][number], dtype=np.uint8))
    (tmp_path / "own" / "notes.txt").write_text("mine")
    yaml_file, picture = tmp_path / "own.yaml", tmp_path / "pairs.png"
    code, report, out, _ = check("--root", tmp_path / "own", "--write", yaml_file, "--picture", picture)
    assert code == 0, out
    (found,) = [found for found in report["data_sets"][0]["splits"] if not found["absent"]]
    assert found["images"] == found["labels"] == found["read"] == 3
    assert "not part of any pair: 1 .txt (e.g. notes.txt)" in out
    written = yaml.safe_load(yaml_file.read_text())["init_args"]
    assert written["images"] == images and written["labels"] == masks
    assert written["ids"] == {3: "class_3", 7: "class_7", 9: "class_9"} and yaml_file.read_text() in out
    assert "class_0 and so on are placeholders" in out and "ids map to: 3: class_3, 7: class_7, 9: class_9" in out
    again, repeated, _, _ = check("--data", yaml_file)
    assert again == 0 and sum(found["read"] for found in repeated["data_sets"][0]["splits"]) == 3
    with Image.open(picture) as drawn:
        assert drawn.size[0] == 1200 and np.ptp(np.asarray(drawn.convert("RGB"))) > 200
    assert check("--root", tmp_path / "own", "--write", yaml_file)[0] == 2  # it exists, and is the user's by now


def test_images_alone_are_understood_too(check: Check, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg", np.zeros((8, 12, 3), dtype=np.uint8))
    (tmp_path / "photos" / "c.heic").write_bytes(b"?")
    code, report, out, _ = check("--root", tmp_path / "photos", "--picture", tmp_path / "pairs.png")
    assert code == 0 and report["data_sets"][0]["splits"][0]["verdict"] == "ok, no labels"
    assert "  images: ." in out and "c.heic, which cannot be read: convert them to JPEG or PNG" in out
    for camera in "ab":  # splits below folders of different names are no splits
        for split in ("train", "valid"):
            write_folder(tmp_path / "mine" / camera / split, 1)
    code, report, out, _ = check("--root", tmp_path / "mine")
    assert code == 0 and report["data_sets"][0]["splits"][0]["read"] == 4, out


def test_colours_and_masks_of_0_and_255_get_a_class_each(check: Check, tmp_path: Path) -> None:
    colours = np.zeros((8, 12, 3), dtype=np.uint8)
    colours[:4], colours[4:, 6:] = (255, 0, 0), (0, 0, 255)
    for folder, labels in (("colours", colours), ("masks", (colours[..., 0] // 255 * 255))):
        write_image(tmp_path / folder / "images" / "a.png", colours)
        write_image(tmp_path / folder / "labels" / "a.png", labels)
    for folder, expected in (
        ("colours", {"label_colours": {"class_0": [0, 0, 255], "class_1": [255, 0, 0]}, "ignored": [[0, 0, 0]]}),
        ("masks", {"classes": ["background", "foreground"], "ids": {0: "background", 255: "foreground"}}),
    ):
        path = tmp_path / f"{folder}.yaml"
        code, _, out, _ = check("--root", tmp_path / folder, "--write", path)
        assert code == 0 and expected.items() <= yaml.safe_load(path.read_text())["init_args"].items(), out


def test_what_labels_may_not_mean_is_said(check_own: CheckOwn, tmp_path: Path) -> None:
    for number in range(12):  # ids of eleven classes, taken for Cityscapes' train ids
        write_image(tmp_path / "images" / f"{number:02d}.png", np.zeros((4, 12, 3), dtype=np.uint8))
        write_image(tmp_path / "labels" / f"{number:02d}.png", np.tile(np.arange(12, dtype=np.uint8), (4, 1)))
    code, splits, out = check_own(tmp_path)
    (warning,) = splits["train"]["warnings"]
    assert code == 0 and splits["train"]["verdict"] == "ok?" and warning in out
    assert "car never occurs in 12 label files, which contain the ids 0-11. If they are not Cityscapes' 19" in warning
    ids = {0: "thing", 1: "thing", 5: "sky"}
    arguments = {"classes": ["thing", "sky"], "ids": ids, "ignored": [value for value in range(12) if value not in ids]}
    _, splits, _ = check_own(tmp_path, **arguments)
    (warning,) = splits["train"]["warnings"]
    assert "75% of the label pixels are ignored, in training and scores, as their ids (2-4, 6-11) map to" in warning
    Image.fromarray(np.eye(4, 12) > 0).save(tmp_path / "labels" / "03.png")
    code, splits, out = check_own(tmp_path, **arguments)
    assert code == 1 and splits["train"]["verdict"] == "PROBLEMS" and "is a 1-bit mask" in out


def test_sizes_and_turned_files_are_told(check_own: CheckOwn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.transforms.MAX_EVALUATION_SIZE", (16, 32))
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{number}.jpg", exif=turn(6 if number else 1))
    out = check_own(tmp_path)[2]
    assert "images: 3 JPEG RGB; 2 of 48x64, 1 of 64x48 pixels (WxH)" in out and "2 images are turned" in out
    assert "3 images are large and resized for evaluation (see evaluation_resize)" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [no, yes, on]", "is False, expected str or dict: quote words that YAML does not read as text"),
        *((f"{name}: {value}", name) for name, value in (
            ("classes", "sky, road"), ("classes", "{0: sky, 1: road}"), ("ids", "{sky: 0}"), ("ids", "[0, 1]"),
            ("ignored", "2"), ("label_colours", "{sky: '#ff0000'}"), ("crop_size", "32"),
        )),
        ("ids: {0: sky, 0: road}", "own.yaml, line 2: the key 0 occurs twice"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_yaml_is_one_short_sentence(text: str, said: str, check: Check, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(f"class_path: datamodules.FolderDataModule\ninit_args: {{root: {tmp_path}, {text}}}\n")
    code, _, _, err = check("--data", config)
    assert code == 2 and said in err and "Union" not in err and len(err.replace(str(tmp_path), "")) < 300


def test_a_picture_is_drawn_of_any_names_and_its_failure_leaves_the_report(check: Check, tmp_path: Path) -> None:
    arguments = ["--root", tmp_path / "mine", "--picture", tmp_path / "picture.png"]
    write_folder(tmp_path / "mine", 1, (900, 4))
    for folder in ("images", "labels"):
        (tmp_path / "mine" / folder / "000.png").rename(tmp_path / "mine" / folder / r"$\frac$.png")  # no formula
    assert check(*arguments)[0] == 0
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.height < 2500
    (tmp_path / "mine" / "images" / r"$\frac$.png").write_bytes(b"x")
    code, _, out, err = check(*arguments)
    assert code == 1 and "1 pair with an unreadable file" in out and "was not drawn" in err
    for size, shown in (((800, 600), (800, 600)), ((9, 1601), (3, 534))):
        assert thin_out(np.zeros((*size, 3), dtype=np.uint8)).shape == (*shown, 3)


def test_a_path_below_home_is_found(check_own: CheckOwn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "mine", 2)
    (tmp_path / "pairs.csv").write_text("image,label\nimages/000.png,labels/000.png\n")
    code, splits, out = check_own("~/mine", pairs="~/pairs.csv")
    assert code == 0 and splits["train"]["read"] == 1, out
