"""The check of data sets: every kind of problem, what is no problem, exit codes, and reports that are always whole."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tqdm import tqdm

import datamodules
from datamodules.reading.dataset import FilesDataset
from experiments.check_data import listing
from experiments.check_data.__main__ import main
from experiments.check_data.checks import DATA_SETS, SplitCheck
from experiments.check_data.listing import choose
from experiments.check_data.picture import shrink
from tests.fakes import (
    BDD,
    BDD_UNPAIRED,
    CITYSCAPES,
    GTA,
    IDD,
    MAPILLARY,
    SYNTHIA,
    WILDDASH_BETA,
    Vendor,
    write_cityscapes,
    write_gta,
    write_image,
    write_mapillary,
    write_old_bdd,
    write_vendors,
    write_wilddash,
)

Check = Callable[..., tuple[int, dict[str, Any], str, str]]
VENDORS = {
    "gta": GTA,
    "synthia": SYNTHIA,
    "wilddash": WILDDASH_BETA,
    "cityscapes": CITYSCAPES,
    "bdd": BDD,
    "idd": IDD,
    "mapillary": MAPILLARY,
}
TRAIN_IDS_OF_CITYSCAPES = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs a command line; returns its exit code, its report, and what it wrote to stdout and stderr."""
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)

    def run(*args: str | Path) -> tuple[int, dict[str, Any], str, str]:
        path = tmp_path / "reports" / "check.json"
        code = main(["--json", str(path), *map(str, args), "--threads", "2"])
        written = capsys.readouterr()
        return code, json.loads(path.read_text()) if path.exists() else {}, written.out, written.err

    return run


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the sizes of the fake trees the official ones."""
    for name, vendor in VENDORS.items():
        set_official(monkeypatch, name, vendor)


def set_official(monkeypatch: pytest.MonkeyPatch, name: str, vendor: Vendor, **more: int) -> None:
    counts = {split: len(keys) + more.get(split, 0) for split, keys in vendor.keys.items()}
    monkeypatch.setattr(DATA_SETS[name], "counts", counts)


def find_split(report: dict[str, Any], name: str, split: str) -> dict[str, Any]:
    (data_set,) = [data_set for data_set in report["data_sets"] if data_set["name"] == name]
    (found,) = [found for found in data_set["splits"] if found["split"] == split]
    return found


def cityscapes_file(root: Path, split: str, number: int, what: str) -> Path:
    key = CITYSCAPES.keys[split][number]
    folder, ending = ("leftImg8bit", "leftImg8bit") if what == "image" else ("gtFine", "gtFine_labelIds")
    return root / folder / split / f"{key}_{ending}.png"


def write_folder(root: Path, number: int, size: tuple[int, int] = (4, 6)) -> list[np.ndarray]:
    """Writes images and labels of Cityscapes' train ids into one folder each; returns the labels."""
    generator = np.random.default_rng(3)
    labels = [generator.choice([0, 1, 10, 18, 255], size).astype(np.uint8) for _ in range(number)]
    for index, mask in enumerate(labels):
        write_image(root / "images" / f"{index:03d}.png", generator.integers(0, 256, (*size, 3)).astype(np.uint8))
        write_image(root / "labels" / f"{index:03d}.png", mask)
    return labels


def write_yaml(path: Path, name: str, **arguments: Any) -> Path:
    path.write_text(json.dumps({"class_path": f"datamodules.{name}", "init_args": arguments}))  # JSON is YAML
    return path


@pytest.mark.usefixtures("official")
def test_seven_complete_data_sets_are_all_right(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vendors(tmp_path / "data")
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "data"))
    code, report, out, err = check()
    assert code == 0, out + err
    assert report["complete"] and not report["failed"] and not report["quick"]
    assert [data_set["name"] for data_set in report["data_sets"]] == list(VENDORS)
    for name, vendor in VENDORS.items():
        for split, keys in vendor.keys.items():
            found = find_split(report, name, split)
            assert found["images"] == found["read"] == found["official"] == len(keys)
            assert not found["problems"] and not found["failed"]
            public = split not in DATA_SETS[name].unlabelled_splits
            assert found["labels"] == (len(keys) if public else None)
            assert found["verdict"] == ("ok" if public else "ok, no labels")
            if public:
                assert sum(found["frequencies"].values()) == pytest.approx(1)
            else:
                assert found["frequencies"] == {}
    assert find_split(report, "mapillary", "test")["read"] == 1  # its images are decoded, too
    assert "wilddash (beta)" in out and "What to do" not in out
    assert report["images_per_second"] > 0 and "images per second with 2 threads" in out


def test_final_wilddash_is_told_from_the_beta(check: Check, tmp_path: Path) -> None:
    write_wilddash(tmp_path / "data" / "wilddash", final=True, labels=False)
    _, report, out, _ = check("--root", tmp_path / "data", "--datasets", "wilddash")
    assert report["data_sets"][0]["release"] == "final" and "wilddash (final)" in out


@pytest.mark.usefixtures("official")
def test_class_frequencies_are_those_of_numpy(check: Check, tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data" / "cityscapes")
    _, report, _, _ = check("--root", tmp_path / "data")
    counts = np.zeros(20, dtype=int)
    for path in root.glob("gtFine/train/*/*_labelIds.png"):
        for value, number in enumerate(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=34)):
            counts[TRAIN_IDS_OF_CITYSCAPES.get(value, 19)] += number
    found = find_split(report, "cityscapes", "train")
    assert counts[19] > 0 and list(found["pixels"].values()) == counts.tolist()
    assert list(found["frequencies"].values()) == pytest.approx((counts / counts.sum()).tolist())
    assert list(found["pixels"])[:2] == ["road", "sidewalk"] and list(found["pixels"])[-1] == "ignored"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def shrink_image(path: Path) -> None:
    write_image(path, np.zeros((12, 24, 3), dtype=np.uint8))


def write_unknown_id(path: Path) -> None:
    ids = np.array(Image.open(path))
    ids[3, 4] = 77
    write_image(path, ids)


DAMAGES: list[tuple[str, Callable[[Path], None], str, str]] = [  # what is damaged and how, the kind, what is said
    ("labels", Path.unlink, "missing", "has no labels"),
    ("image", Path.unlink, "missing", "has no image"),
    ("image", shrink_image, "size", "24x12 pixels (WxH), its labels have 48x24"),
    ("image", cut, "unreadable", "cannot be decoded"),
    ("labels", cut, "unreadable", "cannot be decoded"),
    ("labels", write_unknown_id, "id", "the ids 77"),
]


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("what", "damage", "kind", "said"), DAMAGES)
def test_each_kind_of_problem_is_found_and_explained(
    what: str, damage: Callable[[Path], None], kind: str, said: str, check: Check, tmp_path: Path
) -> None:
    root = write_cityscapes(tmp_path / "data" / "cityscapes")
    damage(cityscapes_file(root, "train", 1, what))
    code, report, out, _ = check("--root", tmp_path / "data")
    found = find_split(report, "cityscapes", "train")
    assert code == 1 and report["failed"] and report["complete"]
    lost = {place: int(kind == "missing" and what == place) for place in ("image", "labels")}
    expected = {"missing": 0, "size": 0, "unreadable": 0, "id": 0} | {kind: 1, "lacking": lost["image"]}
    assert found["counts"] == expected
    (problem,) = found["problems"]
    assert problem["name"] == CITYSCAPES.keys["train"][1] and problem["kind"] == kind
    named = cityscapes_file(root, "train", 1, "image" if lost["labels"] or kind == "size" else "labels")
    assert said in problem["message"] and (str(named) in problem["message"] or what == "image")
    assert problem["message"] in out and "cityscapes train: 1 pair with" in out and "--data.broken=skip" in out
    assert (found["images"], found["labels"]) == (3 - lost["image"], 3 - lost["labels"])
    assert find_split(report, "cityscapes", "val")["verdict"] == "ok"


def test_fewer_images_than_the_official_number_are_a_problem_and_more_are_not(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cityscapes(tmp_path / "data" / "cityscapes")
    set_official(monkeypatch, "cityscapes", CITYSCAPES, train=-1)
    code, _, out, _ = check("--root", tmp_path / "data")
    assert code == 0 and "cityscapes train: 3 images, more than the official 2." in out
    set_official(monkeypatch, "cityscapes", CITYSCAPES, val=1000)
    code, report, out, _ = check("--root", tmp_path / "data")
    assert code == 1 and find_split(report, "cityscapes", "val")["verdict"] == "INCOMPLETE"
    assert find_split(report, "cityscapes", "val")["counts"]["lacking"] == 1000
    assert "cityscapes val: 3 images, 1,000 fewer than the official 1,003." in out
    assert "cityscapes is not complete: unpack leftImg8bit_trainvaltest.zip" in out


@pytest.mark.usefixtures("official")
def test_a_split_that_is_half_there_fails_and_one_that_is_not_there_does_not(check: Check, tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data" / "cityscapes")
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "train").rename(root / f"{folder} train")
    code, report, out, _ = check("--root", tmp_path / "data")
    found = find_split(report, "cityscapes", "train")
    assert code == 0 and found["verdict"] == "not there" and "there are no images of train" in found["absent"]
    assert next(line for line in out.splitlines() if line.startswith("cityscapes  train")).endswith("not there")
    (root / "gtFine" / "val").rename(root / "elsewhere")
    cityscapes_file(root, "test", 1, "image").write_bytes(b"")  # whose labels are not public
    code, report, out, _ = check("--root", tmp_path / "data")
    found = find_split(report, "cityscapes", "val")
    assert code == 1 and found["verdict"] == "UNUSABLE" and found["images"] == 3 and found["read"] == 0
    assert "cityscapes val cannot be used: cityscapes: there are no labels of val" in out
    found = find_split(report, "cityscapes", "test")
    assert found["counts"]["unreadable"] == 1 and found["read"] == 2 and "is empty (0 bytes)" in out


@pytest.mark.parametrize("quick", [False, True])
def test_known_broken_pairs_are_listed_apart_and_no_failure(
    quick: bool, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gta(tmp_path / "data" / "gta", broken=True)
    set_official(monkeypatch, "gta", GTA, train=1, val=1, test=2)
    monkeypatch.setattr(listing, "QUICK_PAIRS", 1)
    code, report, out, _ = check("--root", tmp_path / "data", *(["--quick"] if quick else []))
    found = find_split(report, "gta", "test")
    assert code == 0, out
    assert found["known_broken"] == ["17705", "20860"] and found["problems"] == []
    assert [(problem["name"], problem["kind"]) for problem in found["known_problems"]] == [("20860", "size")]
    assert found["read"] == (3 if quick else 5)
    assert find_split(report, "gta", "train")["known_broken"] == ["15188"]
    assert "gta test: 2 pairs broken in the official release" in out and "1 with image and labels of different" in out


def test_unpaired_files_of_the_old_bdd_are_known(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old_bdd(tmp_path / "data" / "bdd", unpaired=True)
    set_official(monkeypatch, "bdd", BDD, val=1)
    code, report, _, _ = check("--root", tmp_path / "data")
    found = find_split(report, "bdd", "val")
    assert code == 0 and found["known_broken"] == sorted(BDD_UNPAIRED) and found["problems"] == []
    assert [problem["kind"] for problem in found["known_problems"]] == ["missing", "missing"]
    assert found["images"] == found["labels"] == 3


@pytest.mark.usefixtures("official")
def test_data_that_cannot_be_used_at_all_fail(check: Check, tmp_path: Path) -> None:
    write_mapillary(tmp_path / "data" / "mapillary", releases=["v2.0"])
    root = write_gta(tmp_path / "data" / "gta")
    (root / "split.mat").unlink()
    (tmp_path / "data" / "idd").mkdir()
    code, report, out, _ = check("--root", tmp_path / "data")
    assert code == 1
    assert find_split(report, "mapillary", "val")["verdict"] == "UNUSABLE" and "v2.0" in out
    errors = {data_set["name"]: data_set["error"] for data_set in report["data_sets"] if data_set["failed"]}
    assert errors.keys() == {"gta", "idd", "mapillary"}
    assert "read_mapping.zip" in errors["gta"] and "which holds nothing" in errors["idd"]


@pytest.mark.usefixtures("official")
def test_data_sets_that_are_not_there_fail_only_if_they_were_named(check: Check, tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "data" / "cityscapes")
    code, report, out, _ = check("--root", tmp_path / "data")
    assert code == 0 and len(report["data_sets"]) == 7 and out.count("not found") == 6
    code, report, out, _ = check("--root", tmp_path / "data", "--datasets", "cityscapes", "gta")
    assert code == 1 and [data_set["found"] for data_set in report["data_sets"]] == [True, False]
    assert "gta is not in" in out and "expected a folder called gta or gta5" in out
    code, report, _, _ = check("--root", tmp_path / "data" / "cityscapes")  # a data set's own folder
    assert code == 0 and find_split(report, "cityscapes", "val")["read"] == 3


def test_quick_reads_evenly_spread_pairs_and_says_so(check: Check, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", 120)
    (tmp_path / "mine" / "labels" / "001.png").write_bytes(b"broken")  # not among those that are read
    config = write_yaml(tmp_path / "mine.yaml", "FolderDataModule", root=str(tmp_path / "mine"))
    code, report, out, _ = check("--data", config, "--quick")
    (found,) = report["data_sets"][0]["splits"]
    assert code == 0 and report["quick"] and found["images"] == 120 and found["read"] == 50
    assert "--quick: up to 50 pairs" in out
    assert check("--data", config)[0] == 1


def test_chosen_pairs_are_the_ends_those_between_and_the_known_broken_ones() -> None:
    names = [f"{number:03d}" for number in range(1000)]
    chosen = choose(names, ["007", "500"], quick=True)
    assert {0, 7, 500, 999} <= set(chosen) and chosen == sorted(set(chosen)) and 50 <= len(chosen) <= 52
    assert np.diff(choose(names, [], quick=True)).max() <= 21
    assert choose(names[:3], [], quick=True) == [0, 1, 2] and choose([], [], quick=True) == []
    assert choose(names, ["007"], quick=False) == list(range(1000))


def test_own_data_are_checked_with_their_own_classes(check: Check, tmp_path: Path) -> None:
    labels = write_folder(tmp_path / "mine", 6)
    ids = {0: "ground", 1: "ground", 10: "sky", 18: "thing"}
    settings = {"root": str(tmp_path / "mine"), "classes": ["thing", "ground", "sky"], "ids": ids}
    code, report, out, _ = check("--data", write_yaml(tmp_path / "mine.yaml", "FolderDataModule", **settings))
    (data_set,) = report["data_sets"]
    (found,) = data_set["splits"]  # every split has all images: they are read once
    assert code == 0 and data_set["class"] == "FolderDataModule" and data_set["name"] == "mine"
    assert found["split"] == "train" and found["same_as_this"] == ["val", "test"] and "train, val, test" in out
    values, counts = np.unique(np.stack(labels), return_counts=True)
    number = dict(zip(values.tolist(), counts.tolist(), strict=True))
    expected = {"thing": number[18], "ground": number[0] + number[1], "sky": number[10], "ignored": number[255]}
    assert found["pixels"] == expected and "never occurs" not in out
    shifted = settings | {"ids": {0: "thing", 1: "ground", 10: "ground"}, "ignored": [18]}
    code, _, out, _ = check("--data", write_yaml(tmp_path / "mine.yaml", "FolderDataModule", **shifted))
    assert code == 0 and "sky never occurs in 6 label files" in out
    assert "a guess, in the order of the ids found" in out
    del settings["ids"][18]
    code, report, out, _ = check("--data", write_yaml(tmp_path / "mine.yaml", "FolderDataModule", **settings))
    assert code == 1 and report["data_sets"][0]["splits"][0]["counts"]["id"] == 6 and "and 3 more, see" in out


OWN: dict[str, tuple[dict[str, Any], int, dict[str, str], str]] = {  # arguments, exit code, verdicts, what is said
    "images alone": ({"root": "images"}, 0, {"train": "ok, no labels"}, "images: 3 PNG RGB"),
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
def test_what_is_wrong_with_ones_own_files_is_said(kind: str, check: Check, tmp_path: Path) -> None:
    arguments, code, verdicts, said = OWN[kind]
    root = tmp_path / "own"
    write_folder(root, 3)
    lists = {"lost": "000 nowhere", "one": "002", "two": "000 001", "same": "000 001", "empty": "#none"}
    for name, names in lists.items():
        (root / f"{name}.txt").write_text(names.replace(" ", "\n"))
    rows = ["image,label,split", "images/000.png,labels/000.png,train", "images/001.png,labels/nowhere.png,val"]
    (root / "lost.csv").write_text("\n".join(rows))
    place = str(root / arguments.get("root", ""))
    config = write_yaml(tmp_path / "own.yaml", "FolderDataModule", **arguments | {"root": place, "domain": "own"})
    found, report, out, _ = check("--data", config)
    splits = {found["split"]: found for found in report["data_sets"][0]["splits"]}
    assert found == code and {split: splits[split]["verdict"] for split in verdicts} == verdicts
    assert said in out and "also in" not in str(splits.get("val", {}).get("warnings"))


def test_copies_of_images_in_two_splits_are_named(check: Check, tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    for split, name in (("train", "000"), ("val", "001"), ("test", "000")):
        for what in ("images", "labels"):
            path = tmp_path / "own" / what / split / f"{split}.png"
            path.parent.mkdir(parents=True)
            path.write_bytes((tmp_path / what / f"{name}.png").read_bytes())
    code, report, out, _ = check(
        "--data", write_yaml(tmp_path / "own.yaml", "FolderDataModule", root=str(tmp_path / "own"))
    )
    assert code == 0 and "own test: 1 of its images are also in own train: test (a copy of train)" in out
    verdicts = {found["split"]: found["verdict"] for found in report["data_sets"][0]["splits"]}
    assert verdicts == {"train": "ok", "val": "ok", "test": "ok?"}


def test_empty_lists_and_labels_that_count_for_nothing_fail(check: Check, tmp_path: Path) -> None:
    write_folder(tmp_path / "own", 2)
    for path in (tmp_path / "own" / "labels").iterdir():
        write_image(path, np.full((4, 6), 255, dtype=np.uint8))
    config = write_yaml(tmp_path / "own.yaml", "FolderDataModule", root=str(tmp_path / "own"))
    code, report, out, _ = check("--data", config)
    assert code == 1 and report["data_sets"][0]["splits"][0]["verdict"] == "NO LABELS"
    assert "no pixel of its 2 label files belongs to a class, they hold the ids 255." in out


@pytest.mark.usefixtures("official")
def test_of_a_protocol_what_its_runs_read_is_checked(check: Check, tmp_path: Path) -> None:
    write_vendors(tmp_path / "data")

    def describe(name: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": f"datamodules.{name}", "init_args": arguments}

    settings = {
        "root": str(tmp_path / "data"),
        "source": describe("GTADataModule"),
        "development": describe("WildDashDataModule"),
        "targets": [describe("CityscapesDataModule"), describe("BDDDataModule", split="train")],
    }
    config = write_yaml(tmp_path / "protocol.yaml", "TargetsDataModule", **settings)
    code, report, _, _ = check("--data", config)
    read = {data_set["name"]: [found["split"] for found in data_set["splits"]] for data_set in report["data_sets"]}
    assert code == 0 and read == {"gta": ["train"], "wilddash": ["val"], "cityscapes": ["val"], "bdd": ["train"]}
    code, report, _, _ = check("--data", config, "--datasets", "bdd")
    assert code == 0 and [data_set["name"] for data_set in report["data_sets"]] == ["bdd"]
    (tmp_path / "data" / "cityscapes" / "leftImg8bit" / "val").rename(tmp_path / "away")
    code, report, out, _ = check("--data", config)
    assert code == 1 and "there are no images of val" in out  # a run would need it


def test_an_interrupted_check_keeps_what_it_has_read(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for split, number in (("train", 4), ("val", 300)):
        write_folder(tmp_path / split, number)
        for what in ("images", "labels"):
            (tmp_path / "mine" / what).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / what).rename(tmp_path / "mine" / what / split)
    config = write_yaml(tmp_path / "mine.yaml", "FolderDataModule", root=str(tmp_path / "mine"))
    read_pair, update = FilesDataset.check, tqdm.update
    began = []

    def read_slowly(dataset: FilesDataset, index: int) -> Any:
        began.append(index)
        time.sleep(0.01)
        return read_pair(dataset, index)

    def press_ctrl_c(bar: tqdm, number: int = 1) -> bool | None:
        updated = update(bar, number)
        if bar.n == 9:
            signal.raise_signal(signal.SIGINT)
        return updated

    monkeypatch.setattr(FilesDataset, "check", read_slowly)
    monkeypatch.setattr(tqdm, "update", press_ctrl_c)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    code, report, out, err = check("--data", config)
    assert code == 130 and "Interrupted" in err and "not all read" in out
    assert len(began) < 100  # what was queued is not read any more
    assert report["complete"] is False
    train, val, test = report["data_sets"][0]["splits"]
    assert test["verdict"] == "not there"
    assert train["verdict"] == "ok" and train["read"] == 4
    assert val["verdict"] == "not all read" and val["read"] == 5 and sum(val["pixels"].values()) == 5 * 24


@pytest.mark.usefixtures("official")
def test_the_report_is_whole_after_every_split(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cityscapes(tmp_path / "data" / "cityscapes")
    read_split = SplitCheck.read
    read = []

    def look_first(*args: Any) -> None:
        (path,) = (tmp_path / "reports").glob("[!.]*")
        report = json.loads(path.read_text())
        assert not report["complete"]
        read.append([found["read"] for found in report["data_sets"][3]["splits"]])
        read_split(*args)

    monkeypatch.setattr(SplitCheck, "read", look_first)
    _, report, _, _ = check("--root", tmp_path / "data")
    assert read == [[0, 0, 0], [3, 0, 0], [3, 3, 0]] and report["complete"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "SEGADAPT_DATA"),
        (["--root", "nowhere"], "nowhere is not a folder"),
        (["--root", "empty"], "there is no data set in"),
        (["--root", ".", "--datasets", "kitti"], "there is no data set kitti: expected some of gta, synthia"),
        (["--data", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["--data", "text.yaml"], "text.yaml is not the YAML of a datamodule"),
        (["--data", "wrong.yaml"], "wrong.yaml is not the YAML of a datamodule"),
        (["--data", "generated.yaml"], "StreetScenesDataModule, which reads no files"),
        (["--data", "folder.yaml", "--datasets", "other"], "there is no data set other: expected some of mine"),
        (["--root", "cityscapes", "--write", "new.yaml"], "a YAML is only written for images of your own"),
        (["--root", "cityscapes", "--json", "text.yaml/check.json"], "text.yaml/check.json cannot be written"),
    ],
)
def test_nothing_to_check_is_said_in_one_line(
    args: list[str], said: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cityscapes").mkdir()
    (tmp_path / "text.yaml").write_text("nothing of the kind")
    write_yaml(tmp_path / "wrong.yaml", "CityscapesDataModule", split="vla")
    write_yaml(tmp_path / "generated.yaml", "StreetScenesDataModule")
    write_yaml(tmp_path / "folder.yaml", "FolderDataModule", root=str(tmp_path), domain="mine")
    code, report, out, err = check(*args)
    assert code == 2 and report == {} and out == "" and not (tmp_path / "new.yaml").exists()
    assert said in err and err.removeprefix("Listing files ...\n").startswith("error: ")
    assert err.removeprefix("Listing files ...\n").count("\n") == 1


def test_wrong_arguments_end_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--threads", "0"], ["--root", ".", "--data", "x.yaml"], ["--sloppy"]):
        with pytest.raises(SystemExit) as ended:
            main(args)
        err = capsys.readouterr().err
        assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_help_names_the_data_sets_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and ", ".join(DATA_SETS) in out and "130 interrupted" in out


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
    assert (
        report["data_sets"][0]["passed_over"] == {".txt": 1} and "not part of any pair: 1 .txt (e.g. notes.txt)" in out
    )
    written = yaml.safe_load(yaml_file.read_text())["init_args"]
    assert written["images"] == images and written["labels"] == masks
    assert written["ids"] == {3: "class_3", 7: "class_7", 9: "class_9"} and yaml_file.read_text() in out
    assert "class_0 and so on are placeholders" in out and "ids count as: 3: class_3, 7: class_7, 9: class_9" in out
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
    assert "  images: .\n" in out and "c.heic, which cannot be read: convert them to JPEG or PNG" in out
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
    code, _, out, _ = check("--root", tmp_path / "colours")
    assert code == 0 and "label_colours: {class_0: [0, 0, 255], class_1: [255, 0, 0]}" in out
    assert "ignored: [[0, 0, 0]]" in out
    code, _, out, _ = check("--root", tmp_path / "masks")
    assert code == 0 and "ids: {0: background, 255: foreground}" in out


def test_what_labels_may_not_mean_is_said(check: Check, tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    for number in range(12):  # ids of eleven classes, taken for Cityscapes' train ids
        write_image(root / "images" / f"{number:02d}.png", np.zeros((4, 12, 3), dtype=np.uint8))
        write_image(root / "labels" / f"{number:02d}.png", np.tile(np.arange(12, dtype=np.uint8), (4, 1)))
    config = write_yaml(tmp_path / "camvid.yaml", "FolderDataModule", root=str(root))
    code, report, out, _ = check("--data", config)
    (warning,) = report["data_sets"][0]["splits"][0]["warnings"]
    assert code == 0 and report["data_sets"][0]["splits"][0]["verdict"] == "ok?" and warning in out
    assert "car never occurs in 12 label files, which hold the ids 0-11. If they are not Cityscapes' 19" in warning
    ids = {0: "thing", 1: "thing", 5: "sky"}
    named = {"root": str(root), "classes": ["thing", "sky"], "ids": ids, "ignored": [2, 3, 4, *range(6, 12)]}
    _, report, _, _ = check("--data", write_yaml(tmp_path / "camvid.yaml", "FolderDataModule", **named))
    (warning,) = report["data_sets"][0]["splits"][0]["warnings"]
    assert "75% of the label pixels are ignored, in training and scores, as their ids (2-4, 6-11) stand" in warning
    Image.fromarray(np.eye(4, 12) > 0).save(root / "labels" / "03.png")
    code, report, out, _ = check("--data", config)
    assert code == 1 and report["data_sets"][0]["splits"][0]["verdict"] == "PROBLEMS" and "is a 1-bit mask" in out


def test_what_happens_to_images_is_said(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.transforms.MAX_EVALUATION_SIZE", (16, 32))
    root = tmp_path / "mine"
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 48)).save(root / "images" / f"{number}.jpg", **({"exif": exif} if number else {}))
    config = write_yaml(tmp_path / "mine.yaml", "FolderDataModule", root=str(root))
    _, report, out, _ = check("--data", config)
    resized, turned = report["data_sets"][0]["splits"][0]["notes"]
    assert "3 of 3 images have more than" in resized and "keeping the aspect ratio, e.g. 48x64 to 19x26" in resized
    assert turned == "mine train, val, test: 2 of 3 images are turned as their EXIF orientation says, e.g. 1"
    assert "images: 3 JPEG RGB; 2 of 48x64, 1 of 64x48 pixels (WxH)" in out and "2 of 3 images are turned" in out
    squeezed = write_yaml(tmp_path / "mine.yaml", "FolderDataModule", root=str(root), evaluation_resize="protocol")
    assert "changing the aspect ratio, e.g. 48x64 to 32x16" in check("--data", squeezed)[2]
    data = datamodules.FolderDataModule(str(root), num_workers=0)
    said: list[str] = []
    monkeypatch.setattr("datamodules.folder.rank_zero_info", said.append)
    data.predict_dataloader()
    data.predict_dataloader()
    assert said == [resized.replace("train, val, test", "test")]  # the worst, once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [no, yes, on]", "is False, expected str or dict: quote words that YAML reads as others"),
        ("classes: sky, road", "classes"),
        ("classes: {0: sky, 1: road}", "classes"),
        ("ids: {sky: 0}", "ids"),
        ("ids: [0, 1]", "ids"),
        ("ignored: 2", "ignored"),
        ("label_colours: {sky: '#ff0000'}", "label_colours"),
        ("crop_size: 32", "crop_size"),
        ("ids: {0: sky, 0: road}", "own.yaml, line 2: the key 0 occurs twice"),
    ],
)
def test_a_mistake_in_the_yaml_is_one_short_sentence(text: str, said: str, check: Check, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(f"class_path: datamodules.FolderDataModule\ninit_args: {{root: {tmp_path}, {text}}}\n")
    code, _, _, err = check("--data", config)
    assert code == 2 and said in err and "Union" not in err and len(err.replace(str(tmp_path), "")) < 300


def test_folders_beside_data_sets_and_what_may_have_been_deleted_are_said(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gta(tmp_path / "data" / "gta")
    write_folder(tmp_path / "data" / "my_town", 1)
    set_official(monkeypatch, "gta", GTA, train=1)
    out = check("--root", tmp_path / "data")[2]
    assert "Not checked, as no data set has these names (to check one: --root FOLDER): my_town" in out
    assert "gta is not complete (or were known broken pairs deleted?)" in out
    set_official(monkeypatch, "gta", GTA, train=1000)
    out = check("--root", tmp_path / "data")[2]
    assert "gta is not complete: unpack" in out and "deleted?" not in out


def test_a_picture_is_drawn_of_any_names_and_its_failure_leaves_the_report(check: Check, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", 1, (900, 4))
    for folder in ("images", "labels"):
        (tmp_path / "mine" / folder / "000.png").rename(tmp_path / "mine" / folder / r"$\frac$.png")  # no formula
    code, _, _, err = check("--root", tmp_path / "mine", "--picture", tmp_path / "picture.png")
    assert code == 0, err
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.height < 2500
    for path in (tmp_path / "mine" / "images").iterdir():
        path.write_bytes(b"x")
    code, _, out, err = check("--root", tmp_path / "mine", "--picture", tmp_path / "picture.png")
    assert code == 1 and "1 pair with an unreadable file" in out and "is not drawn" in err


def test_a_path_below_home_is_found_as_main_finds_it(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "mine", 2)
    (tmp_path / "pairs.csv").write_text("image,label\nimages/000.png,labels/000.png\n")
    config = write_yaml(tmp_path / "mine.yaml", "FolderDataModule", root="~/mine", pairs="~/pairs.csv")
    code, report, out, _ = check("--data", config)
    assert code == 0 and report["data_sets"][0]["splits"][0]["read"] == 1, out


@pytest.mark.parametrize(
    ("size", "shown"), [((720, 1280), (360, 640)), ((800, 600), (800, 600)), ((9, 1601), (3, 534))]
)
def test_images_in_the_picture_keep_their_proportions(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shrink(np.zeros((*size, 3), dtype=np.uint8)).shape == (*shown, 3)
