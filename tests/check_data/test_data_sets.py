"""The check of data sets: every kind of problem, what is no problem, exit codes, and reports that are always whole."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from datamodules.reading.dataset import FilesDataset
from experiments.check_data import listing
from experiments.check_data.__main__ import main
from experiments.check_data.checks import DATA_SETS, SplitCheck
from tests import trees
from tests.check_data.trees import (
    VENDORS,
    Check,
    CheckOwn,
    cityscapes_file,
    find_split,
    set_official,
    write_folder,
    write_yaml,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cityscapes, and no other data set beside it."""
    return trees.write_cityscapes(tmp_path / "data" / "cityscapes")


@pytest.mark.usefixtures("official")
def test_seven_complete_data_sets_are_all_right(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write_vendors(tmp_path / "data")
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "data"))
    code, report, out, err = check()
    assert (code, report["complete"], report["failed"], report["quick"]) == (0, True, False, False), out + err
    assert [data_set["name"] for data_set in report["data_sets"]] == list(VENDORS)
    for name, vendor in VENDORS.items():
        for split, keys in vendor.keys.items():
            found = find_split(report, name, split)
            assert found["images"] == found["read"] == found["official"] == len(keys)
            assert not found["problems"] and not found["failed"]
            public = split not in DATA_SETS[name].unlabelled_splits
            assert (found["labels"], found["verdict"]) == ((len(keys), "ok") if public else (None, "ok, no labels"))
            assert sum(found["frequencies"].values()) == pytest.approx(int(public))
    assert find_split(report, "mapillary", "test")["read"] == 1  # its images are decoded, too
    assert report["data_sets"][2]["release"] == "beta" and "wilddash (beta)" in out and "What to do" not in out
    assert report["images_per_second"] > 0 and "images per second with 2 threads" in out


DAMAGES: list[tuple[str, Callable[[Path], None], str, str]] = [  # what is damaged and how, the kind, what is said
    ("labels", Path.unlink, "missing", "has no labels"),
    ("image", Path.unlink, "missing", "has no image"),
    ("image", trees.shrink, "size", "48x23 pixels (WxH), its labels have 48x24"),
    ("image", trees.truncate, "unreadable", "cannot be decoded"),
    ("labels", trees.truncate, "unreadable", "cannot be decoded"),
    ("labels", lambda path: trees.set_id(path, 77), "id", "the ids 77"),
]


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("what", "damage", "kind", "said"), DAMAGES)
def test_each_kind_of_problem_is_found_and_explained(
    what: str, damage: Callable[[Path], None], kind: str, said: str, check: Check, root: Path
) -> None:
    damage(cityscapes_file(root, "train", 1, what))
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "train")
    assert code == 1 and report["failed"] and report["complete"]
    lost = {place: int(kind == "missing" and what == place) for place in ("image", "labels")}
    none = dict.fromkeys(("missing", "size", "unreadable", "id"), 0)
    assert found["counts"] == none | {kind: 1, "lacking": lost["image"]}
    (problem,) = found["problems"]
    assert problem["name"] == trees.CITYSCAPES.keys["train"][1] and problem["kind"] == kind
    named = cityscapes_file(root, "train", 1, "image" if lost["labels"] or kind == "size" else "labels")
    assert said in problem["message"] and (str(named) in problem["message"] or what == "image")
    assert problem["message"] in out and "cityscapes train: 1 pair with" in out and "--data.broken=skip" in out
    assert (found["images"], found["labels"]) == (3 - lost["image"], 3 - lost["labels"])
    assert find_split(report, "cityscapes", "val")["verdict"] == "ok"


def test_fewer_images_than_the_official_number_are_a_problem_and_more_are_not(
    check: Check, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_official(monkeypatch, "cityscapes", trees.CITYSCAPES, train=-1)
    code, _, out, _ = check("--root", root.parent)
    assert code == 0 and "cityscapes train: 3 images, more than the official 2." in out
    set_official(monkeypatch, "cityscapes", trees.CITYSCAPES, val=1000)
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "val")
    assert code == 1 and found["verdict"] == "INCOMPLETE" and found["counts"]["lacking"] == 1000
    assert "cityscapes val: 3 images, 1,000 fewer than the official 1,003." in out
    assert "cityscapes is not complete: unpack leftImg8bit_trainvaltest.zip" in out


@pytest.mark.usefixtures("official")
def test_a_split_that_is_half_there_fails_and_one_that_is_not_there_does_not(check: Check, root: Path) -> None:
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "train").rename(root / f"{folder} train")
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "train")
    assert code == 0 and found["verdict"] == "not there" and "there are no images of train" in found["absent"]
    assert next(line for line in out.splitlines() if line.startswith("cityscapes  train")).endswith("not there")
    (root / "gtFine" / "val").rename(root / "elsewhere")
    cityscapes_file(root, "test", 1, "image").write_bytes(b"")  # whose labels are not public
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "val")
    assert code == 1 and found["verdict"] == "UNUSABLE" and found["images"] == 3 and found["read"] == 0
    assert "cityscapes val cannot be used: cityscapes: there are no labels of val" in out
    found = find_split(report, "cityscapes", "test")
    assert found["counts"]["unreadable"] == 1 and found["read"] == 2 and "is empty (0 bytes)" in out


@pytest.mark.usefixtures("official")
def test_data_that_cannot_be_used_at_all_fail(check: Check, tmp_path: Path) -> None:
    trees.write_mapillary(tmp_path / "data" / "mapillary", releases=["v2.0"])
    root = trees.write_gta(tmp_path / "data" / "gta")
    (root / "split.mat").unlink()
    (tmp_path / "data" / "idd").mkdir()
    code, report, out, _ = check("--root", tmp_path / "data")
    assert code == 1
    assert find_split(report, "mapillary", "val")["verdict"] == "UNUSABLE" and "v2.0" in out
    errors = {data_set["name"]: data_set["error"] for data_set in report["data_sets"] if data_set["failed"]}
    assert errors.keys() == {"gta", "idd", "mapillary"}
    assert "read_mapping.zip" in errors["gta"] and "which contains nothing" in errors["idd"]


@pytest.mark.usefixtures("official")
def test_data_sets_that_are_not_there_fail_only_if_they_were_named(check: Check, root: Path) -> None:
    code, report, out, _ = check("--root", root.parent)
    assert code == 0 and len(report["data_sets"]) == 7 and out.count("not found") == 6
    code, report, out, _ = check("--root", root.parent, "--datasets", "cityscapes", "gta")
    assert code == 1 and [data_set["found"] for data_set in report["data_sets"]] == [True, False]
    assert "gta is not in" in out and "expected a folder called gta or gta5" in out
    code, report, _, _ = check("--root", root)  # a data set's own folder
    assert code == 0 and find_split(report, "cityscapes", "val")["read"] == 3


def test_quick_reads_evenly_spread_pairs_and_says_so(check_own: CheckOwn, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", 120)
    (tmp_path / "mine" / "labels" / "001.png").write_bytes(b"broken")  # not among those that are read
    code, splits, out = check_own(tmp_path / "mine", "--quick")
    assert code == 0 and splits["train"]["images"] == 120 and splits["train"]["read"] == 50
    assert "--quick: up to 50 pairs" in out
    assert check_own(tmp_path / "mine")[0] == 1


@pytest.mark.usefixtures("official")
def test_of_a_protocol_what_its_runs_read_is_checked(check: Check, tmp_path: Path) -> None:
    trees.write_vendors(tmp_path / "data")

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
        write_folder(tmp_path / "mine", number, split=split)
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
    assert code == 130 and "Interrupted" in err and "not all read" in out and report["complete"] is False
    assert len(began) < 100  # what was queued is not read any more
    found = [(split["verdict"], split["read"]) for split in report["data_sets"][0]["splits"]]
    assert found == [("ok", 4), ("not all read", 5), ("not there", 0)]
    assert sum(report["data_sets"][0]["splits"][1]["pixels"].values()) == 5 * 24


@pytest.mark.usefixtures("official")
def test_the_report_is_whole_after_every_split(
    check: Check, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_split, read = SplitCheck.read, []

    def look_first(*args: Any) -> None:
        (path,) = (tmp_path / "reports").glob("[!.]*")
        report = json.loads(path.read_text())
        assert not report["complete"]
        read.append([found["read"] for found in report["data_sets"][3]["splits"]])
        read_split(*args)

    monkeypatch.setattr(SplitCheck, "read", look_first)
    _, report, _, _ = check("--root", root.parent)
    assert read == [[0, 0, 0], [3, 0, 0], [3, 3, 0]] and report["complete"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "SEGADAPT_DATA"),
        (["--root", "nowhere"], "nowhere is not a folder"),
        (["--root", "empty"], "empty contains no data set"),
        (["--root", ".", "--datasets", "kitti"], "unknown data set kitti: expected some of gta, synthia"),
        (["--data", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--data", "text.yaml"], "text.yaml is not the YAML of a datamodule"),
        (["--data", "wrong.yaml"], "wrong.yaml is not the YAML of a datamodule"),
        (["--data", "generated.yaml"], "StreetScenesDataModule, which reads no files"),
        (["--data", "folder.yaml", "--datasets", "other"], "unknown data set other: expected some of mine"),
        (["--root", "cityscapes", "--write", "new.yaml"], "a YAML is only written for your own images"),
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


def test_folders_beside_data_sets_and_what_may_have_been_deleted_are_said(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write_gta(tmp_path / "data" / "gta")
    write_folder(tmp_path / "data" / "my_town", 1)
    set_official(monkeypatch, "gta", trees.GTA, train=1)
    out = check("--root", tmp_path / "data")[2]
    assert "Not checked, as no data set has these names (to check one: --root FOLDER): my_town" in out
    assert "gta is not complete (or were known broken pairs deleted?)" in out
    set_official(monkeypatch, "gta", trees.GTA, train=1000)
    out = check("--root", tmp_path / "data")[2]
    assert "gta is not complete: unpack" in out and "deleted?" not in out


@pytest.mark.parametrize("quick", [False, True])
def test_known_broken_pairs_are_listed_apart_and_no_failure(
    quick: bool, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write_gta(tmp_path / "data" / "gta", broken=True)
    set_official(monkeypatch, "gta", trees.GTA, train=1, val=1, test=2)
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
    trees.write_old_bdd(tmp_path / "data" / "bdd", unpaired=True)
    set_official(monkeypatch, "bdd", trees.BDD, val=1)
    code, report, _, _ = check("--root", tmp_path / "data")
    found = find_split(report, "bdd", "val")
    assert code == 0 and found["known_broken"] == sorted(trees.BDD_UNPAIRED) and found["problems"] == []
    assert [problem["kind"] for problem in found["known_problems"]] == ["missing", "missing"]
    assert found["images"] == found["labels"] == 3
