"""What is wrong with a data set of a vendor is named, and left out and reported where asked."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
from datamodules.reading.pairs import Pair
from tests import trees

# Trees of two or three images have fewer than the official number, and say so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning")

Write = Callable[..., Path]
# What writes a data set, an id that it does not define, and those that it does.
MODULES: dict[type[FilesDataModule], tuple[Write, int, str]] = {
    GTADataModule: (trees.write_gta, 35, "0-34"),
    SYNTHIADataModule: (trees.write_synthia, 256 + 3, "0-22"),  # eight bits of it would be a road
    WildDashDataModule: (trees.write_wilddash, 60, "0-38"),  # of the final release: this tree is the beta
    CityscapesDataModule: (trees.write_cityscapes, 34, "0-33"),
    BDDDataModule: (trees.write_bdd, 19, "0-18, 255"),
    IDDDataModule: (trees.write_idd, 26, "0-18, 255"),  # as a level3Id would be
    MapillaryDataModule: (trees.write_mapillary, 66, "0-65"),
}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "missing"),
    "cut": (trees.truncate, "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable"),
    "shrunk": (trees.shrink, "size"),
}
for_each_module = pytest.mark.parametrize("module", MODULES)


def open_module(module: type[FilesDataModule], root: Path | None, **arguments: Any) -> FilesDataModule:
    """Opens a data set whose `test` reads its protocol's split, or of SYNTHIA the only one it has."""
    split = "train" if module is SYNTHIADataModule else None
    return module(root and str(root), **{"split": split, "num_workers": 0, **arguments})


def list_pairs(data: FilesDataModule) -> list[Pair]:
    return data.find_pairs(data.test_split)[0]


@for_each_module
def test_what_is_not_or_half_unpacked_says_what_is_expected(
    module: type[FilesDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something_else").mkdir()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"something_else.*expected.*Unpack"):
        open_module(module, None).test_dataloader()
    for half in ("images", "labels"):
        data = open_module(module, MODULES[module][0](tmp_path / half))
        for pair in list_pairs(data):
            pair.files[half == "labels"].unlink()
        with pytest.raises(DataError, match=f"no {half} of {data.test_split}.*expected files like .*Unpack"):
            data.test_dataloader()


@pytest.mark.parametrize("damage", DAMAGES)
@for_each_module
def test_broken_pairs_are_named_or_left_out(module: type[FilesDataModule], damage: str, tmp_path: Path) -> None:
    half = (list(MODULES).index(module) + list(DAMAGES).index(damage)) % 2  # an image, or labels
    root = MODULES[module][0](tmp_path)
    pair, *others = list_pairs(open_module(module, root))
    break_file, kind = DAMAGES[damage]
    break_file(pair.files[half])
    named = pair.files[1 - half if damage == "gone" else half]  # what is not there is named by its partner
    with pytest.raises(DataError, match=re.escape(str(named))) as caught:
        list(open_module(module, root).test_dataloader())
    assert caught.value.kind == kind and re.search("expected|no partner", str(caught.value))
    assert damage != "empty" or named.suffix == ".json" or "0 bytes" in str(caught.value)

    data = open_module(module, root, broken="skip")
    with pytest.warns(UserWarning, match="skipped 1 broken pair"):
        names = [batch["name"][0] for batch in data.test_dataloader()]
    assert names == [other.name for other in others]
    assert data.describe()["left_out"][data.test_split] == [{"name": pair.name, "why": kind}]


@for_each_module
def test_an_unknown_id_is_named(module: type[FilesDataModule], tmp_path: Path) -> None:
    write, unknown, known = MODULES[module]
    data = open_module(module, write(tmp_path, **({"masks": True, "polygons": False} if "IDD" in str(module) else {})))
    path = list_pairs(data)[-1].labels
    trees.set_id(path, unknown)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* {unknown}, expected only {known}") as caught:
        list(data.test_dataloader())
    assert caught.value.kind == "id"


def test_labels_of_the_test_split_of_cityscapes_are_refused(tmp_path: Path) -> None:
    root = trees.write_cityscapes(tmp_path)
    with pytest.raises(DataError, match="test split are not public"):
        open_module(CityscapesDataModule, root, split="test").test_dataloader()
