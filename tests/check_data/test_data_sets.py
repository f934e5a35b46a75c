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
from experiments.check_data.__main__ import main
from experiments.check_data.checks import DATA_SETS
from tests import trees
from tests.check_data.trees import VENDORS, Check, CheckOwn, find_split, set_official, write_folder, write_yaml


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
            assert found["images"] == found["read"] == found["official"] == len(keys) and not found["problems"]
            public = split not in DATA_SETS[name].unlabelled_splits
            assert (found["labels"], found["verdict"]) == ((len(keys), "ok") if public else (None, "ok, no labels"))
            assert sum(found["frequencies"].values()) == pytest.approx(int(public))
    assert report["data_sets"][2]["release"] == "beta" and "wilddash (beta)" in out
    assert report["images_per_second"] > 0 and "images per second with 2 threads" in out


IMAGE, LABELS = (
    f"{folder}/train/aachen/aachen_000001_000019_{ending}.png"
    for folder, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds"))
)
DAMAGES: list[tuple[str, Callable[[Path], None], str, str]] = [  # what is damaged and how, the kind, what is said
    (LABELS, Path.unlink, "missing", "has no labels"),
    (IMAGE, Path.unlink, "missing", f"{LABELS} has no image"),
    (IMAGE, trees.shrink, "size", "48x23 pixels (WxH), its labels have 48x24"),
    (IMAGE, trees.truncate, "unreadable", "cannot be decoded"),
    (LABELS, trees.truncate, "unreadable", "cannot be decoded"),
    (LABELS, lambda path: trees.set_id(path, 77), "id", "the ids 77"),
]


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("what", "damage", "kind", "said"), DAMAGES)
def test_each_kind_of_problem_is_found_and_explained(
    what: str, damage: Callable[[Path], None], kind: str, said: str, check: Check, root: Path
) -> None:
    damage(root / what)
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "train")
    assert code == 1 and report["failed"] and report["complete"]
    lost = damage is Path.unlink
    counts = {kind: 1, "lacking": 1} if lost and what == IMAGE else {kind: 1}
    assert {name: count for name, count in found["counts"].items() if count} == counts
    (problem,) = found["problems"]
    assert problem["name"] == "aachen/aachen_000001_000019" and problem["kind"] == kind
    assert said in problem["message"] and (str(root / what) in problem["message"] or lost)
    assert problem["message"] in out and "cityscapes train: 1 pair with" in out and "--data.broken=skip" in out
    assert (found["images"], found["labels"]) == (3 - (lost and what == IMAGE), 3 - (lost and what == LABELS))
    assert find_split(report, "cityscapes", "val")["verdict"] == "ok"


def test_fewer_images_than_official_are_a_problem(check: Check, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_official(monkeypatch, "cityscapes", train=-1)
    code, _, out, _ = check("--root", root.parent)
    assert code == 0 and "cityscapes train: 3 images, more than the official 2." in out
    set_official(monkeypatch, "cityscapes", val=1000)
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
    (root / "gtFine" / "val").rename(root / "elsewhere")
    next((root / "leftImg8bit" / "test").rglob("*.png")).write_bytes(b"")  # whose labels are not public
    code, report, out, _ = check("--root", root.parent)
    found = find_split(report, "cityscapes", "val")
    assert code == 1 and found["verdict"] == "UNUSABLE" and found["images"] == 3 and found["read"] == 0
    assert "cityscapes val cannot be used: cityscapes: there are no labels of val" in out
    assert "cityscapes is not complete: unpack leftImg8bit_trainvaltest.zip" in out
    assert find_split(report, "cityscapes", "test")["counts"]["unreadable"] == 1 and "is empty (0 bytes)" in out


@pytest.mark.usefixtures("official")
def test_what_cannot_be_used_fails_and_what_is_not_there_only_if_it_was_named(check: Check, root: Path) -> None:
    code, report, out, _ = check("--root", root.parent)
    assert code == 0 and len(report["data_sets"]) == 7 and out.count("not found") == 6
    code, report, out, _ = check("--root", root.parent, "--datasets", "cityscapes", "gta")
    assert code == 1 and [data_set["found"] for data_set in report["data_sets"]] == [True, False]
    assert "gta is not in" in out and "expected a folder called gta or gta5" in out
    code, report, _, _ = check("--root", root)  # a data set's own folder
    assert code == 0 and find_split(report, "cityscapes", "val")["read"] == 3
    trees.write_mapillary(root.parent / "mapillary", releases=["v2.0"])
    (trees.write_gta(root.parent / "gta") / "split.mat").unlink()
    (root.parent / "idd").mkdir()
    code, report, out, _ = check("--root", root.parent)
    assert code == 1 and find_split(report, "mapillary", "val")["verdict"] == "UNUSABLE" and "v2.0" in out
    errors = {data_set["name"]: data_set["error"] for data_set in report["data_sets"] if data_set["failed"]}
    assert errors.keys() == {"gta", "idd", "mapillary"}
    assert "read_mapping.zip" in errors["gta"] and "which contains nothing" in errors["idd"]


def test_quick_reads_evenly_spread_pairs_and_says_so(check_own: CheckOwn, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", 120)
    (tmp_path / "mine" / "labels" / "001.png").write_bytes(b"broken")  # not among those that are read
    code, splits, out = check_own(tmp_path / "mine", "--quick")
    assert code == 0 and splits["train"]["images"] == 120 and splits["train"]["read"] == 50
    assert "--quick: up to 50 pairs" in out
    assert check_own(tmp_path / "mine")[0] == 1


@pytest.mark.usefixtures("official")
def test_of_a_protocol_what_its_runs_read_is_checked(check: Check, tmp_path: Path) -> None:
    root = trees.write_vendors(tmp_path / "data")
    gta, wilddash, cityscapes, bdd = (
        {"class_path": f"datamodules.{name}DataModule", "init_args": {}}
        for name in ("GTA", "WildDash", "Cityscapes", "BDD")
    )
    members = {"source": gta, "development": wilddash, "targets": [cityscapes, bdd | {"init_args": {"split": "train"}}]}
    config = write_yaml(tmp_path / "protocol.yaml", "TargetsDataModule", root=str(root), **members)
    code, report, _, _ = check("--data", config)
    read = {data_set["name"]: [found["split"] for found in data_set["splits"]] for data_set in report["data_sets"]}
    assert code == 0 and read == {"gta": ["train"], "wilddash": ["val"], "cityscapes": ["val"], "bdd": ["train"]}
    code, report, _, _ = check("--data", config, "--datasets", "bdd")
    assert code == 0 and [data_set["name"] for data_set in report["data_sets"]] == ["bdd"]
    (root / "cityscapes" / "leftImg8bit" / "val").rename(tmp_path / "away")
    code, report, out, _ = check("--data", config)
    assert code == 1 and "there are no images of val" in out  # a run would need it


def test_an_interrupted_check_keeps_what_it_has_read(
    check_own: CheckOwn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for split, number in (("train", 4), ("val", 300)):
        write_folder(tmp_path / "mine", number, split=split)
    read_pair, update = FilesDataset.check, tqdm.update
    began: list[int] = []
    written: list[dict[str, Any]] = []

    def read_slowly(dataset: FilesDataset, index: int) -> Any:
        began.append(index)
        time.sleep(0.01)
        return read_pair(dataset, index)

    def press_ctrl_c(bar: tqdm, number: int = 1) -> bool | None:
        updated = update(bar, number)
        if bar.n in (2, 9):
            written.append(json.loads((tmp_path / "reports" / "check.json").read_text()))
        if bar.n == 9:
            signal.raise_signal(signal.SIGINT)
        return updated

    monkeypatch.setattr(FilesDataset, "check", read_slowly)
    monkeypatch.setattr(tqdm, "update", press_ctrl_c)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    code, splits, _ = check_own(tmp_path / "mine")
    assert code == 130 and len(began) < 100  # what was queued is not read any more
    found = [(split["verdict"], split["read"]) for split in splits.values()]
    assert found == [("ok", 4), ("not all read", 5), ("not there", 0)]
    assert sum(splits["val"]["pixels"].values()) == 5 * 24
    read = [[split["read"] for split in report["data_sets"][0]["splits"]] for report in written]
    assert read == [[0, 0, 0], [4, 0, 0]] and not any(report["complete"] for report in written)


def test_a_check_stopped_early_keeps_the_last_report(check: Check, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before, _, _ = check("--root", root.parent)

    def press_ctrl_c(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.check_data.listing.list_splits", press_ctrl_c)
    code, report, out, err = check("--root", root.parent)
    assert code == 130 and report == before and out == "" and "Interrupted." in err


def test_folders_beside_and_what_may_be_deleted(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write_gta(tmp_path / "data" / "gta")
    write_folder(tmp_path / "data" / "my_town", 1)
    set_official(monkeypatch, "gta", train=1)
    out = check("--root", tmp_path / "data")[2]
    assert "Not checked, as no data set has these names (to check one: --root FOLDER): my_town" in out
    assert "gta is not complete (or were known broken pairs deleted?)" in out
    set_official(monkeypatch, "gta", train=1000)
    out = check("--root", tmp_path / "data")[2]
    assert "gta is not complete: unpack" in out and "deleted?" not in out


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
    err = err.removeprefix("Listing files ...\n")
    assert said in err and err.startswith("error: ") and err.count("\n") == 1


def test_wrong_arguments_and_help_end_the_program() -> None:
    for args, code in ((["--threads", "0"], 2), (["--root", ".", "--data", "x.yaml"], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == code


def test_known_broken_pairs_are_no_failure(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write_gta(tmp_path / "data" / "gta", broken=True)
    trees.write_old_bdd(tmp_path / "data" / "bdd", unpaired=True)
    set_official(monkeypatch, "gta", train=1, val=1, test=2)
    set_official(monkeypatch, "bdd", val=1)
    monkeypatch.setattr("experiments.check_data.listing.QUICK_PAIRS", 1)
    for quick in ([], ["--quick"]):
        code, report, out, _ = check("--root", tmp_path / "data", *quick)
        found = find_split(report, "gta", "test")
        assert code == 0 and found["known_broken"] == ["17705", "20860"] and found["problems"] == [], out
        assert [(problem["name"], problem["kind"]) for problem in found["known_problems"]] == [("20860", "size")]
        assert found["read"] == (3 if quick else 5)
        assert "gta test: 2 pairs broken in the official release" in out and "image and labels of different" in out
        found = find_split(report, "bdd", "val")
        assert found["known_broken"] == sorted(trees.BDD_UNPAIRED) and found["problems"] == []
        assert [problem["kind"] for problem in found["known_problems"]] == ["missing", "missing"]
        assert found["images"] == found["labels"] == 3
