"""Data sets in files: finding and pairing them, reading them exactly, and what is said of those that are wrong."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from datamodules.base import DataError, collate
from datamodules.files import FilesDataModule
from datamodules.labels import TRAIN_IDS
from datamodules.reading.dataset import FilesDataset, check_dataset
from datamodules.reading.pairs import Layout, find_files, list_folders
from tests import trees

SIZE = (37, 50)  # no multiples of anything
IDS = trees.draw_ids("a", range(19), SIZE)


def write_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_found_by_what_the_stars_match(tmp_path: Path) -> None:
    write_files(tmp_path, "a/x/1_img.png", "a/x/2_img.png", "a/y/1_img.png", "a/y/z/3_img.png", "a/4_img.png")
    write_files(tmp_path, "a/x/1_mask.png", "a/x/._1_img.png", "a/x/_img.png", "a/x/1_img.png.bak")
    found = find_files(tmp_path, "a/*/*_img.png", [".png"])
    assert found == {name: tmp_path / f"a/{name}_img.png" for name in ("x/1", "x/2", "y/1")}
    assert list(found) == sorted(found)
    assert find_files(tmp_path, "b/*.png", [".png"]) == {}
    write_files(tmp_path, "c/a+b(1).png", "c/a+b[2].png", "c/.git/1", "c/d/1")  # what patterns of names would misread
    assert set(find_files(tmp_path, "c/*.png", [".png"])) == {"a+b(1)", "a+b[2]"}
    assert list_folders(tmp_path) == [tmp_path / "a", tmp_path / "c"]
    assert list_folders(tmp_path / "c") == [tmp_path / "c" / "d"]


def test_layout_finds_its_splits(tmp_path: Path) -> None:
    images = ("{split}/*.png", "{split}/*.jpg")
    layout = Layout(images, ("masks/{split}/*.png",), {"val": "validation"}, ("train", "val"))
    write_files(tmp_path, "validation/2.png", "validation/1.jpg", "val/3.png", "masks/validation/1.png", "test/4.png")
    assert set(layout.find(tmp_path, layout.images, "val")) == {"1", "2"}
    assert set(layout.find(tmp_path, layout.labels, "val")) == {"1"}
    assert layout.find(tmp_path, layout.images, "train") == {} == layout.find(tmp_path, layout.images, "test")
    assert layout.fill(layout.images, "val") == ["validation/*.png", "validation/*.jpg"]
    assert layout.lies_in(tmp_path) and not layout.lies_in(tmp_path / "validation")
    write_files(tmp_path / "other", "test/1.png")
    assert not layout.lies_in(tmp_path / "other")  # it has no split of that name


class SmallDataModule(FilesDataModule):
    """Images and labels of one folder each per split."""

    domain = "small"
    folders = ("small", "small_v2")
    layouts = (Layout(("images/{split}/*.png",), ("labels/{split}/*.png",)),)
    train_ids: ClassVar = TRAIN_IDS
    counts: ClassVar = {}
    archives = "small.zip"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"num_workers": 0, **kwargs})

    def open(self) -> FilesDataset:
        return self.make_dataset("test", self.evaluation_transform)


def write_small(root: Path, names: str = "abcd") -> Path:
    for number, name in enumerate(names):
        trees.write_image(root / "images" / "test" / f"{name}.png", trees.draw_image(name, SIZE))
        trees.write_image(root / "labels" / "test" / f"{name}.png", np.roll(IDS, number, axis=0))
    return root


@pytest.mark.parametrize("place", ["", "small", "Small_V2", "SMALL/inner", "small/Deep Folder"])
def test_root_is_found_in_a_folder_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_small(tmp_path / place)
    (tmp_path / "other" / "images" / "test").mkdir(parents=True)
    assert SmallDataModule(str(tmp_path)).find_root() == tmp_path / place
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    if place:  # otherwise it has to be given itself
        assert SmallDataModule().find_root() == tmp_path / place


@pytest.mark.parametrize(
    ("root", "variable", "said"),
    [
        (None, None, r"the folder of small is not set: set root .* or .* SEGADAPT_DATA"),
        ("none", None, r"root is .*none, which is not a folder"),
        ("file", None, r"root is .*file, which is not a folder"),
        (None, "file", r"\$SEGADAPT_DATA is .*file, which is not a folder"),
        ("half", None, r"half, which contains readme\.txt: expected files like images/test/.* Unpack small\.zip"),
        (None, "half", "expected a folder small with files like images/test"),
        ("two", None, r"small was found more than once in .*: .*small, .*small_v2\. Set root to one"),
        ("inside", None, r"small was found more than once in .*: .*one, .*two\. Set root to one"),
    ],
)
def test_roots_that_are_wrong_are_errors(
    root: str | None, variable: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "file", "half/readme.txt", "small/readme.txt")
    for place in ("two/small", "two/small_v2", "inside/small/one", "inside/small/two"):
        write_small(tmp_path / place, "a")
        assert SmallDataModule(str(tmp_path / place)).find_root() == tmp_path / place
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)
    if variable:
        monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / variable))
    with pytest.raises(DataError, match=said):
        SmallDataModule(root and str(tmp_path / root)).find_root()


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    data, labels = SmallDataModule(str(write_small(tmp_path, "abcdefgh"))), tmp_path / "labels" / "test"
    for name in "bcdefg":
        (labels / f"{name}.png").unlink()
    (labels / "b.png").mkdir()  # a folder in place of a file
    said = r"6 files of test have no partner: .*/b\.png has no labels; .*/f\.png has no labels; and 1 more\. Complete"
    with pytest.raises(DataError, match=said):
        data.open()
    assert len(data.predict_dataloader()) == 8


@pytest.mark.parametrize("num_threads", [None, 1])
def test_pairs_are_checked_in_order_and_broken_ones_left_out(tmp_path: Path, num_threads: int | None) -> None:
    write_small(tmp_path, "abcdefgh")
    dataset = SmallDataModule(str(tmp_path)).open()
    images, labels = tmp_path / "images" / "test", tmp_path / "labels" / "test"
    (labels / "b.png").unlink()
    trees.truncate(images / "c.png")
    trees.shrink(labels / "e.png")
    trees.set_id(labels / "g.png", 200)
    problems = {"b": "missing", "c": "unreadable", "e": "size", "g": "id"}
    checked = dict(zip("abcdefgh", check_dataset(dataset, num_threads=num_threads), strict=True))
    assert {name: found.problems[0].kind for name, found in checked.items() if found.problems} == problems
    values, counts = np.unique(IDS, return_counts=True)
    for name, found in checked.items():
        assert len(found.problems) == (name in problems)
        assert list(found.digests.values()) == [name] * (name != "c") and len(found.sizes) == (name != "c")
        assert found.all_ids.total() == {"b": 0, "e": IDS[1:].size}.get(name, IDS.size)
        if name in "acdfh":
            assert found.ids == {"PNG gray": dict(zip(values.tolist(), counts.tolist(), strict=True))}
    assert [list(found.digests.values()) for found in check_dataset(dataset, [5, 0, 2])] == [["f"], ["a"], []]


def test_batches_of_different_sizes_are_errors(tmp_path: Path) -> None:
    write_small(tmp_path, "ab")
    for folder in ("images", "labels"):
        trees.shrink(tmp_path / folder / "test" / "b.png")
    loader = SmallDataModule(str(tmp_path), eval_batch_size=2).test_dataloader()
    said = r"a batch contains images of different sizes \(36x50, 37x50\): expected one size; set eval_batch_size to 1"
    with pytest.raises(ValueError, match=said):
        next(iter(loader))
    same = {"image": torch.zeros(3, 4, 4), "name": "a"}
    sizes = [same | {"mask": torch.zeros(height, 8)} for height in (8, 9)]
    with pytest.raises(ValueError, match=r"a batch contains masks of different sizes \(8x8, 9x8\)"):
        collate(sizes)
    assert collate(sizes[:1] * 2)["mask"].shape == (2, 8, 8)
