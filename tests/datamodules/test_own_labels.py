"""FolderDataModule: what own labels mean, however they are encoded; its YAML and its documentation."""

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
from datamodules.labels import CITYSCAPES_COLOURS
from datamodules.reading.dataset import look_at
from datamodules.reading.own_labels import list_colours
from main import main
from tests import trees
from tests.datamodules.own import CAMVID, SIZE, draw, make_module, make_pairs, make_segnet, open_dataset, save
from tests.tiny import NO_LOGGER, QUIET, ROOT, read_results

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
SKY_ROAD = {"classes": ["sky", "road"]}
SWAPPED = {**SKY_ROAD, "label_colours": {"sky": [30, 20, 10], "road": [0, 255, 0]}}


def row(*ids: int) -> np.ndarray:
    return np.array([ids], np.uint8)


MEANINGS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "16 bits": (IDS16, {"ids": TO_CLASSES, "ignored": [9]}, [[3, 0, 8], [8, 255, 255]]),
    "8 bits": (IDS8, {"ids": TO_CLASSES, "ignored": [9]}, [[3, 0, 3], [3, 255, 255]]),
    "unknown ids": (
        IDS16, {"ids": {7: "road", 0: "sky", 300: "car"}},
        "contain the ids 9, 65535, expected only 0, 7, 255, 300. Define them in ids",
    ),
    "0 is ignored": (row(0, 1, 2), SKY_ROAD | {"ignored": [0], "ids": {1: "sky", 2: "road"}}, [[255, 0, 1]]),
    "255 as a class": (row(255), {"ids": {255: "sky"}}, [[0]]),
    "id c is class c": (row(*range(253)), {"classes": MANY}, [[*range(253)]]),
    "one too many": (row(0, 2), {"classes": MANY[:2]}, "contain the ids 2, expected only 0-1, 255"),
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
    save(tmp_path / "images" / "a.png", draw(size=label.shape[:2]))
    save(tmp_path / "labels" / "a.png", label)
    if isinstance(expected, list):
        assert open_dataset(make_module(tmp_path, **arguments)).load_mask(0).tolist() == expected
        return
    with pytest.raises(DataError, match=expected):
        open_dataset(make_module(tmp_path, **arguments)).load_mask(0)


def test_what_the_file_of_labels_says_of_them_is_refused(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a"])
    save(tmp_path / "labels" / "a.jpg", 3).replace(tmp_path / "labels" / "a.png")
    for given in ({}, {"label_colours": {"sky": [3, 3, 3]}}):
        with pytest.raises(DataError, match=r"a\.png is a JPEG: expected labels as .png.*ruins ids and colours"):
            open_dataset(make_module(tmp_path, **given)).load_mask(0)
        trees.truncate(tmp_path / "labels" / "a.png")
    (tmp_path / "labels" / "a.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(DataError, match=r"a\.png is a HEIC: expected labels as \.png"):
        open_dataset(make_module(tmp_path)).load_mask(0)
    save(tmp_path / "labels" / "a_gtFine_labelIds.png", 26)
    data = make_module(tmp_path, classes=["sky", "road", "box"], labels="labels/*_gtFine_labelIds.png")
    with pytest.raises(DataError, match="They look like Cityscapes' label ids: use CityscapesDataModule, or give ids"):
        open_dataset(data).load_mask(0)


def test_what_label_colours_may_not_mean_is_said(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw())
    save(tmp_path / "labels" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    colours = {"sky": [255, 0, 0], "road": [0, 255, 0]}
    data = make_module(tmp_path, classes=["sky", "road"], label_colours=colours, ignored=[[0, 0, 0]])
    dataset = open_dataset(data)
    assert data.find_warnings(dataset, look_at(dataset, number=1), "mine") == [
        "mine: sky, road never occurs in 1 label files. If it should, correct label_colours",
        "mine: 100% of the label pixels are ignored, in training and scores, as their colours map to no class. If "
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
        ({"label_colours": {"a": [0, 0, 0]}, "classes": ["a", "b", "c"]}, "no colour of b, c: expected one for every"),
        ({"classes": ["a", "b", "box"], "ignored": [2]}, r"which is the id of box .* \{0: a, 1: b, 3: box\}"),
        ({"classes": ["sky", "road", "Sky"]}, "all different .ignoring case and spaces"),
        ({"classes": ["sky ", "sky"]}, "all different"),
        ({"ids": {1: "lawn"}, "classes": None}, r"no class 'lawn': expected one of road, .*, or a class of Cityscapes"),
        ({"classes": ["car", "sky"], "ids": {1: "truck"}}, "no class 'truck': expected one of car, sky$"),
        (SKY_ROAD | {"ignored": [0]}, r"ignored contains 0.*set ids, e\.g\. \{1: sky, 2: road\}"),
        ({"exclude": ["*_inst*"], "pairs": "pairs.csv"}, "pairs is set together with exclude"),
        ({"exclude": [""]}, "exclude contains an empty pattern"),
        ({"splits": {"train": 0.8, "val": 0.3}}, "splits"),
        ({"splits": {"train": 0.5, "val": "val"}}, "splits"),
        *(({"splits": {split: share}}, "splits") for split, share in (("train", -0.1), ("test", 0), ("trian", 0.5))),
        ({"role": "judge"}, "role is 'judge'"),
        ({"split": "night"}, "split is 'night'"),
        ({"broken": "ignore"}, "broken is 'ignore'"),
        *(({"classes": classes}, "expected 2 to 253 names") for classes in (["", "road"], ["sky"], [*MANY, "more"])),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(tmp_path, **kwargs)


def test_targets_refuse_to_teach_and_worker_processes_read_colours(tmp_path: Path) -> None:
    make_pairs(tmp_path, ["a", "b"])
    with pytest.raises(ProtocolError, match=f"{tmp_path.name} is a target"):
        make_module(tmp_path).train_dataloader()
    batch = next(iter(make_module(tmp_path, role="source", batch_size=2, crop_size=(4, 4)).train_dataloader()))
    assert batch["image"].shape == (2, 3, 4, 4) and set(batch["mask"].unique().tolist()) <= {0, 1}
    data = make_module(tmp_path, label_colours={"car": [0, 0, 0], "sky": [1, 1, 1]}, num_workers=1)
    assert [batch["mask"].unique().tolist() for batch in data.test_dataloader()] == [[8], [0]]
    own = make_module(tmp_path, classes=["road", "lawn", "pond"])
    assert own.colours[0] == CITYSCAPES_COLOURS["road"] and len(set(own.colours)) == 3
    assert FolderDataModule("/").domain == "folder"


# The command line and the documentation


def test_command_line_reads_maps_and_nested_lists(tmp_path: Path) -> None:
    make_segnet(tmp_path / "camvid")
    colours = {"sky": [0, 0, 0], "building": [9, 9, 1], "road": [9, 9, 2], "car": [[1, 1, 1], [2, 2, 2]]}
    arguments = {"images": "{split}", "labels": "{split}annot", "classes": list(colours), "label_colours": colours}
    arguments |= {"ignored": [[number] * 3 for number in range(3, 12)]}
    arguments |= {"root": str(tmp_path / "camvid"), "num_workers": 0}
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump({"class_path": "datamodules.FolderDataModule", "init_args": arguments}))
    options = [f"--data={config}", "--model.network=tests.fakes.TinyNetwork", *QUIET, *NO_LOGGER]
    options += [f"--trainer.default_root_dir={tmp_path}", f"--results.folder={tmp_path / 'results'}"]
    cli = main(["test", *options])
    assert cli.datamodule.num_classes == cli.model.num_classes == 4
    assert set(next(iter(cli.datamodule.test_dataloader()))["mask"].unique().tolist()) == {0, 3, 255}
    summary = read_results(tmp_path)
    assert list(summary["domains"]) == ["camvid"] and summary["domains"]["camvid"]["images"] == 1
    main(["predict", *options])
    assert [path.name for path in (tmp_path / "results" / "labels" / "camvid").iterdir()] == ["Seq05.png"]


def test_every_block_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_segnet(tmp_path / "CamVid")
    (tmp_path / "CamVid" / "pairs.csv").write_text("image,label,split\ntest/Seq05.png,testannot/Seq05.png,test\n")
    for index in range(8):
        save(tmp_path / "CamVidOriginal" / "701_StillsRaw_full" / f"{index}.png", draw(index))
        save(tmp_path / "CamVidOriginal" / "LabeledApproved_full" / f"{index}_L.png", np.zeros((*SIZE, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 5
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    for number, block in enumerate(blocks):
        data = parser.instantiate_classes(parser.parse_object({"data": block})).data
        for member in [data] if isinstance(data, FolderDataModule) else [data.development, *data.targets]:
            dataset = open_dataset(member, member.test_split)
            shapes = [dataset[index]["mask"].shape for index in range(len(dataset))]
            assert shapes == [SIZE] * (2 if number == 2 else 1) and member.num_classes in (5, 11)
    (arguments,) = [block["init_args"] for block in blocks if "label_colours" in block["init_args"]]
    colours = [tuple(colour) for value in arguments["label_colours"].values() for colour in list_colours(value)]
    colours += [tuple(colour) for colour in arguments["ignored"]]
    assert arguments["classes"] == list(arguments["label_colours"]) == CAMVID
    assert len(colours) == len(set(colours)) == 32 and {*chain(*colours)} == {0, 64, 128, 192}
