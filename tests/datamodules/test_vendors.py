"""Every data set in its vendor's layout, against the numbers that its vendor, or the paper, gives."""

import importlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image
from scipy.io import loadmat, savemat
from torch import nn

from datamodules import (
    BDDDataModule,
    CityscapesDataModule,
    GTADataModule,
    IDDDataModule,
    MapillaryDataModule,
    SYNTHIADataModule,
    TargetsDataModule,
    WildDashDataModule,
)
from datamodules.base import DataError, ProtocolError
from datamodules.files import FilesDataModule
from datamodules.reading.annotations import warn_of_class
from main import main
from tests import fakes
from tests.tiny import NO_LOGGER, QUIET

# Trees of two or three images have fewer than the official number, and say so each time.
pytestmark = pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning")

GOLDEN = Path(__file__).parent.parent / "parity" / "label_tables.json"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TARGETS = [CityscapesDataModule, BDDDataModule, IDDDataModule, MapillaryDataModule]
FOLDERS = {
    GTADataModule: "gta",
    SYNTHIADataModule: "synthia",
    WildDashDataModule: "wilddash",
    CityscapesDataModule: "cityscapes",
    BDDDataModule: "bdd",
    IDDDataModule: "idd",
    MapillaryDataModule: "mapillary",
}


def parse_table(text: str) -> dict[int, int]:
    """Reads "3>0 13,24>1": ids, and what they become."""
    entries = (entry.split(">") for entry in text.split())
    return {int(value): int(train_id) for values, train_id in entries for value in values.split(",")}


def complete(table: Mapping[int, int], ids: range | tuple[int, ...]) -> dict[int, int]:
    return dict.fromkeys(ids, 255) | dict(table)


# Train ids as the vendors' and the paper's tables have them.
CITYSCAPES = {label.id: label.trainId for label in official_labels if label.id >= 0}
GTA = CITYSCAPES | {34: 255}
SYNTHIA = complete(
    parse_table(
        "3>0 4>1 2>2 21>3 5>4 7>5 15>6 9>7 6>8 16>9 1>10 10>11 17>12 8>13 18>14 19>15 20>16 12>17 11>18",
    ),
    range(23),
)
WILDDASH_BETA = CITYSCAPES | {34: 13, 35: 13, 36: 255, 37: 255, 38: 0}
WILDDASH_FINAL = complete(
    WILDDASH_BETA | parse_table("41,43,61,64,70,74,75,76,79>0 52,65,77,80>1 56>3 45,46>5 78>9 47,48,49>12 58>17"),
    range(81),
)
MAPILLARY = complete(
    parse_table(
        "13,24,41>0 2,15>1 17>2 6>3 3>4 45,47>5 48>6 50>7 30>8 29>9 27>10 19>11 20,21,22>12 55>13 61>14 54>15 58>16 "
        "57>17 52>18"
    ),
    range(66),
)
IDENTITY = {label: label for label in (*range(19), 255)}
TO_16 = {**{label: label for label in range(9)}, 10: 9, 11: 10, 12: 11, 13: 12, 15: 13, 17: 14, 18: 15}


def look_up(ids: np.ndarray, table: Mapping[int, int], num_classes: int = 19) -> np.ndarray:
    """Translates ids one by one: slow, and hard to get wrong."""
    labels = np.full(ids.shape, 254)
    for value, train_id in table.items():
        labels[ids == value] = train_id if num_classes == 19 else TO_16.get(train_id, 255)
    return labels


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("gta", GTA),
        ("cityscapes", CITYSCAPES),
        ("wilddash", WILDDASH_BETA),
        ("bdd", IDENTITY),
        ("idd", IDENTITY),
        ("mapillary", MAPILLARY),
        ("synthia", SYNTHIA),
    ],
)
def test_tables_of_this_test_are_those_recorded_from_the_released_code(name: str, table: Mapping[int, int]) -> None:
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    ids = np.array(sorted(table))
    assert look_up(ids, table, 16).tolist() == [recorded[f"synthia->{name}"][value] for value in ids]
    if name != "synthia":
        assert look_up(ids, table, 19).tolist() == [recorded[f"gta->{name}"][value] for value in ids]


@dataclass(frozen=True)
class Tree:
    """A tree, and what has to be found in it.

    Attributes:
        write: Writes it below a folder.
        module: Reads it.
        vendor: What is in it.
        images: For each labelled split the images' paths.
        table: Train ids of the stored ids.
        draw: Draws the ids behind a key, if the vendor does not.
    """

    write: Callable[[Path], Path]
    module: type[FilesDataModule]
    vendor: fakes.Vendor
    images: Mapping[str, str]
    table: Mapping[int, int]
    draw: Callable[[str], np.ndarray] | None = None

    def expect(self, root: Path, split: str, num_classes: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Returns key, normalised image and mask of each pair, in order."""
        expected = []
        for key in self.vendor.keys[split]:
            with Image.open(root / self.images[split].format(key=key)) as picture:
                levels = np.asarray(picture.convert("RGB"))
            ids = (self.draw or self.vendor.draw_ids)(key)
            image = ((levels / 255 - MEAN) / STD).transpose(2, 0, 1)
            expected.append((key, image, look_up(ids, self.table, num_classes)))
        return expected


def draw_idd(key: str) -> np.ndarray:
    return fakes.fill_polygons(fakes.make_polygons(key, fakes.IDD.size(key)))


def splits(pattern: str, *names: str) -> dict[str, str]:
    return {name: pattern.replace("{split}", name) for name in names}


BOTH, ALL = ("train", "val"), ("train", "val", "test")
GTA_TREE = Tree(fakes.write_gta, GTADataModule, fakes.GTA, splits("images/{key}.png", *ALL), GTA)
SYNTHIA_IMAGES = {"train": "RAND_CITYSCAPES/RGB/{key}.png"}
SYNTHIA_TREE = Tree(fakes.write_synthia, SYNTHIADataModule, fakes.SYNTHIA, SYNTHIA_IMAGES, SYNTHIA)
BETA_IMAGES, FINAL_IMAGES = ({"val": f"{name}/images/{{key}}.jpg"} for name in ("wd_public_02", "wd_public_v2p0"))
BETA_TREE = Tree(fakes.write_wilddash, WildDashDataModule, fakes.WILDDASH_BETA, BETA_IMAGES, WILDDASH_BETA)
FINAL_TREE = Tree(
    partial(fakes.write_wilddash, final=True), WildDashDataModule, fakes.WILDDASH_FINAL, FINAL_IMAGES, WILDDASH_FINAL
)
FINE = "leftImg8bit/{split}/{key}_leftImg8bit.png"
CITYSCAPES_TREE = Tree(fakes.write_cityscapes, CityscapesDataModule, fakes.CITYSCAPES, splits(FINE, *BOTH), CITYSCAPES)
BDD_IMAGES = splits("bdd100k/images/10k/{split}/{key}.jpg", *BOTH)
BDD_TREE = Tree(fakes.write_bdd, BDDDataModule, fakes.BDD, BDD_IMAGES, IDENTITY)
IDD_IMAGES = splits(f"IDD_Segmentation/{FINE}", *BOTH)
IDD_TREE = Tree(fakes.write_idd, IDDDataModule, fakes.IDD, IDD_IMAGES, IDENTITY, draw_idd)
MAPILLARY_IMAGES = {"train": "training/images/{key}.jpg", "val": "validation/images/{key}.jpg"}
MAPILLARY_TREE = Tree(fakes.write_mapillary, MapillaryDataModule, fakes.MAPILLARY, MAPILLARY_IMAGES, MAPILLARY)


def change(tree: Tree, images: Mapping[str, str] | None = None, write: Any = None, **arguments: Any) -> Tree:
    """Returns a tree that is written with other arguments, and where its images then lie."""
    return replace(tree, write=partial(write or tree.write, **arguments), images=images or tree.images)


TREES = {
    "gta": GTA_TREE,
    "gta, rearranged": change(GTA_TREE, splits("images/{split}/{key}.png", *ALL), rearranged=True),
    "synthia": SYNTHIA_TREE,
    "synthia, flat": change(SYNTHIA_TREE, {"train": "RGB/{key}.png"}, nested=False),
    "synthia, rearranged": replace(
        change(SYNTHIA_TREE, {"train": FINE.replace("{split}", "train")}, fakes.write_synthia_rearranged),
        vendor=fakes.SYNTHIA_REARRANGED,
    ),
    "wilddash beta": BETA_TREE,
    "wilddash beta, flat": change(BETA_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final": FINAL_TREE,
    "wilddash final, flat": change(FINAL_TREE, {"val": "images/{key}.jpg"}, nested=False),
    "wilddash final, panoptic": change(FINAL_TREE, labels=False),
    "cityscapes": CITYSCAPES_TREE,
    "bdd": BDD_TREE,
    "bdd, flat": change(BDD_TREE, splits("images/10k/{split}/{key}.jpg", *BOTH), nested=False),
    "bdd, old": change(BDD_TREE, splits("bdd100k/seg/images/{split}/{key}.jpg", *BOTH), fakes.write_old_bdd),
    "idd": IDD_TREE,
    "idd, masks": change(IDD_TREE, splits(FINE, *BOTH), polygons=False, masks=True, nested=False),
    "idd, masks and polygons": change(IDD_TREE, masks=True),
    "idd, part II": change(IDD_TREE, splits("idd20kII/" + FINE.replace("png", "jpg"), *BOTH), part=2),
    "mapillary": MAPILLARY_TREE,
    "mapillary, v1.2 alone": change(MAPILLARY_TREE, releases=["v1.2"]),
    "mapillary, former": change(MAPILLARY_TREE, releases=[""]),
}


def write_tree(module: type[FilesDataModule], root: Path) -> Path:
    """Writes the first of a data set's trees."""
    return next(tree for tree in TREES.values() if tree.module is module).write(root)


@pytest.mark.parametrize("name", TREES)
def test_samples_are_what_the_files_say(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    num_classes = 19 if list(TREES).index(name) % 2 else 16
    root = tree.write(tmp_path / "data")
    for split in tree.images:
        loader = tree.module(str(root), split=split, num_classes=num_classes, num_workers=0).test_dataloader()
        expected = tree.expect(root, split, num_classes)
        names = []
        for batch, (key, image, mask) in zip(loader, expected, strict=True):
            (name,) = batch["name"]
            names.append(name)
            assert name.endswith(key)
            assert batch["image"].shape == (1, *image.shape) and batch["mask"].shape == (1, *mask.shape)
            assert batch["image"].dtype == torch.float32 and batch["mask"].dtype == torch.int64
            assert np.abs(batch["image"][0].numpy() - image).max() < 1e-6
            assert np.array_equal(batch["mask"][0].numpy(), mask)
        assert len(set(names)) == len(names) and names == sorted(names)


@pytest.mark.parametrize("tree_name", ["cityscapes", "bdd", "idd"])
def test_images_without_labels_can_be_predicted(tree_name: str, tmp_path: Path) -> None:
    tree = TREES[tree_name]
    loader = tree.module(str(tree.write(tmp_path)), split="test", num_workers=0).predict_dataloader()
    batches = list(loader)
    assert len(batches) == len(tree.vendor.keys["test"])
    for batch, key in zip(batches, tree.vendor.keys["test"], strict=True):
        assert batch["name"][0].endswith(key) and "mask" not in batch
        assert tuple(batch["size"][0].tolist()) == tree.vendor.size(key) == batch["image"].shape[-2:]


def test_official_numbers_and_roles() -> None:
    counts = {
        GTADataModule: ("source", {"train": 12403, "val": 6382, "test": 6181}),
        SYNTHIADataModule: ("source", {"train": 9400}),
        WildDashDataModule: ("development", {"val": 4256}),
        CityscapesDataModule: ("target", {"train": 2975, "val": 500, "test": 1525}),
        BDDDataModule: ("target", {"train": 7000, "val": 1000, "test": 2000}),
        IDDDataModule: ("target", {"train": 6993, "val": 981, "test": 2029}),
        MapillaryDataModule: ("target", {"train": 18000, "val": 2000, "test": 5000}),
    }
    for module, (role, numbers) in counts.items():
        assert module.role == role
        assert {split: module.counts[split] for split in numbers} == numbers, module
        assert module.test_split == ("test" if role == "source" else "val")
    assert {f"{number:05d}" for number in (*range(20801, 20861), 15188, 17705)} <= GTADataModule.known_broken


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All seven data sets below one folder; not to be changed."""
    return fakes.write_vendors(tmp_path_factory.mktemp("data"))


def arguments(folder: Path, *more: str) -> list[str]:
    place = [f"--trainer.default_root_dir={folder}", f"--results.folder={folder / 'results'}", "--results.panels=0"]
    return [*QUIET, *NO_LOGGER, *place, "--model.network=tests.fakes.TinyNetwork", *more]


SMALL = ["--data.num_workers=0", "--data.batch_size=2", "--data.crop_size=[16,16]"]


def read_results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "results.json").read_text())


def test_a_target_is_found_by_the_environment_variable_and_says_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_old_bdd(tmp_path / "data" / "bdd", unpaired=True)
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "data"))
    main(["test", *arguments(tmp_path, "--data=BDDDataModule", "--data.broken=skip", *SMALL)])
    results = read_results(tmp_path)
    (scores,) = results["domains"].values()
    assert results["complete"] and scores["images"] == len(fakes.BDD.keys["val"])
    left_out = results["data"]["left_out"]["val"]
    assert [entry["name"] for entry in left_out] == list(fakes.BDD_UNPAIRED) and left_out[0]["why"] == "missing"
    assert results["data"]["role"] == "target" and not results["data"]["choose_on_target"]


@pytest.mark.parametrize(("source", "num_classes"), [("GTADataModule", 19), ("SYNTHIADataModule", 16)])
def test_the_whole_protocol_in_one_file(source: str, num_classes: int, trees: Path, tmp_path: Path) -> None:
    def member(name: str) -> dict[str, Any]:
        settings = {"num_classes": num_classes, "num_workers": 0, "batch_size": 2, "crop_size": [16, 16]}
        return {"class_path": name, "init_args": settings}

    data = {
        "root": str(trees),
        "source": member(source),
        "development": member("WildDashDataModule"),
        "targets": [member(module.__name__) for module in TARGETS],
    }
    config = tmp_path / "protocol.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "TargetsDataModule", "init_args": data}}))
    cli = main(["fit", *arguments(tmp_path, f"--config={config}", "--trainer.max_epochs=1")])
    assert cli.trainer.global_step == 2
    assert 0 <= cli.trainer.callback_metrics["val/miou"].item() <= 1
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    common = [f"--config={config}", f"--ckpt_path={checkpoint}", "--data.broken=skip"]  # of all data sets
    main(["test", *arguments(tmp_path, *common)])
    results = read_results(tmp_path)
    assert [target["broken"] for target in results["data"]["targets"]] == ["skip"] * 4
    assert results["complete"] and [scores["images"] for scores in results["domains"].values()] == [3, 2, 2, 2]
    assert all(len(scores["iou"]) == num_classes for scores in results["domains"].values())
    assert [target["role"] for target in results["data"]["targets"]] == ["target"] * 4
    assert (results["data"]["source"]["role"], results["data"]["development"]["role"]) == ("source", "development")


class NearestColour(nn.Module):
    """A network of a stranger: each pixel has the class whose colour, drawn at random, is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.randn(1, 19, 3, 1, 1, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -(image[:, None] - self.colours).square().sum(dim=2)


def test_mean_iou_is_that_of_the_official_evaluation(tmp_path: Path) -> None:
    evaluation = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

    root = fakes.write_cityscapes(tmp_path / "data")
    network = "--model.network=tests.datamodules.test_vendors.NearestColour"
    cli = main(["test", *arguments(tmp_path, "--data=CityscapesDataModule", f"--data.root={root}", *SMALL, network)])
    (ours,) = read_results(tmp_path)["domains"].values()

    to_id = np.zeros(19, dtype=np.uint8)
    for label in official_labels:
        if 0 <= label.trainId < 19:
            to_id[label.trainId] = label.id
    predictions, truths, seen = [], [], set()
    for batch in cli.datamodule.test_dataloader():
        with torch.no_grad():
            labels = cli.model.network.eval()(batch["image"])[0].argmax(dim=0).numpy()
        path = tmp_path / "predictions" / f"{batch['name'][0]}.png"
        fakes.write_image(path, to_id[labels])
        predictions.append(str(path))
        (truth,) = (root / "gtFine" / "val").rglob(f"{path.stem}_gtFine_labelIds.png")
        truths.append(str(truth))
        seen |= set(labels.ravel().tolist())
    assert len(seen) > 12
    evaluation.args.quiet, evaluation.args.JSONOutput, evaluation.args.evalInstLevelScore = True, False, False
    theirs = evaluation.evaluateImgLists(predictions, truths, evaluation.args)
    assert ours["miou"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-9)
    for name, iou in ours["iou"].items():
        assert iou == pytest.approx(100 * theirs["classScores"][name], abs=1e-9, nan_ok=True)


# IDD


def idd_mask(tmp_path: Path, annotation: Mapping[str, Any], size: fakes.Size = (12, 20)) -> np.ndarray:
    """Returns the mask of an image with an annotation."""
    base = tmp_path / "IDD_Segmentation"
    fakes.write_image(base / "leftImg8bit" / "val" / "0" / "a_leftImg8bit.png", fakes.draw_image("a", size))
    fakes.write_json(base / "gtFine" / "val" / "0" / "a_gtFine_polygons.json", annotation)
    (batch,) = IDDDataModule(str(tmp_path), num_workers=0).test_dataloader()
    return batch["mask"][0].numpy()


def polygon(label: str, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": [list(point) for point in points], **more}


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def test_polygons_of_idd_are_drawn_in_the_order_of_the_file(tmp_path: Path) -> None:
    objects = [
        polygon("sky", *box(0, 0, 19, 4), deleted=0),
        polygon("car", *box(2, 2, 9, 9), deleted=0, draw=7, date="01-Jan-2018 00:00:00", user="x"),
        polygon("license plate", *box(4, 4, 5, 5), deleted=0),
        polygon("road", *box(0, 0, 19, 11), deleted=1),
        polygon("road", *box(0, 0, 19, 11), deleted=True),
        polygon("non-drivable fallback", *box(12, 8, 30, 30)),
        polygon("autorickshaw", *box(8, 8, 13, 9)),
        polygon("persongroup", *box(15, 0, 16, 1)),
        polygon("pole", (0, 6), (0, 11)),
        polygon("pole", (3, 6)),
        polygon("pole"),
        polygon("pole", *box(0, 0, 19, 11), deleted=1),
    ]
    expected = np.full((12, 20), 255)
    expected[:5] = 10
    expected[2:10, 2:10] = 13  # with its outline
    expected[4:6, 4:6] = 255
    expected[8:, 12:] = 9
    expected[8:10, 8:14] = 255
    expected[:2, 15:17] = 11
    mask = idd_mask(tmp_path, {"imgHeight": 12, "imgWidth": 20, "objects": objects})
    assert np.array_equal(mask, expected)


def test_every_label_of_idd_has_its_train_id(tmp_path: Path) -> None:
    for label, train_id in fakes.IDD_TRAIN_IDS.items():
        annotation = {"imgHeight": 12, "imgWidth": 20, "objects": [polygon(label, *box(0, 0, 19, 11))]}
        assert (idd_mask(tmp_path, annotation) == train_id).all(), label


def test_an_unknown_label_of_idd_is_skipped_with_one_warning(tmp_path: Path) -> None:
    objects = [polygon("spaceship", *box(0, 0, 19, 11)), polygon("spaceship", *box(3, 3, 19, 11))]
    warn_of_class.cache_clear()
    with pytest.warns(UserWarning, match="class 'spaceship' are skipped") as caught:
        mask = idd_mask(tmp_path, {"imgHeight": 12, "imgWidth": 20, "objects": objects})
    assert (mask == 255).all()
    assert sum("spaceship" in str(warning.message) for warning in caught) == 1


def test_polygons_of_idd_have_the_size_that_their_file_says(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"20x12.*20x11"):
        idd_mask(tmp_path, {"imgHeight": 11, "imgWidth": 20, "objects": []})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"imgHeight": 12, "imgWidth": 20}', '{"objects": []}'])
def test_broken_polygons_of_idd_are_named(text: str, tmp_path: Path) -> None:
    idd_mask(tmp_path, {"imgHeight": 12, "imgWidth": 20, "objects": []})
    path = tmp_path / "IDD_Segmentation" / "gtFine" / "val" / "0" / "a_gtFine_polygons.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(IDDDataModule(str(tmp_path), num_workers=0).test_dataloader())


def test_both_parts_of_idd_in_one_folder(tmp_path: Path) -> None:
    fakes.write_idd(tmp_path, nested=False)
    for split, key in fakes.IDD.pairs("val"):
        drive = f"9{key}"
        fakes.write_image(tmp_path / "leftImg8bit" / split / f"{drive}_leftImg8bit.jpg", fakes.draw_image(key, (9, 9)))
        annotation = {"imgHeight": 9, "imgWidth": 9, "objects": []}
        fakes.write_json(tmp_path / "gtFine" / split / f"{drive}_gtFine_polygons.json", annotation)
    names = [batch["name"][0] for batch in IDDDataModule(str(tmp_path), num_workers=0).test_dataloader()]
    assert names == sorted([*fakes.IDD.keys["val"], *(f"9{key}" for key in fakes.IDD.keys["val"])])


# Releases


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Lightning logs, also where it keeps its messages to itself."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.propagate, logger.level
    logger.propagate = True
    logger.setLevel(logging.INFO)
    yield caplog
    logger.propagate, level = before
    logger.setLevel(level)


@pytest.mark.parametrize(("final", "said"), [(False, "wd_public_02|beta"), (True, "wd_public_v2p0|final")])
@pytest.mark.parametrize("nested", [True, False])
def test_the_release_of_wilddash_is_logged(
    final: bool, said: str, nested: bool, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    fakes.write_wilddash(tmp_path, final=final, nested=nested)
    module = WildDashDataModule(str(tmp_path))
    module.val_dataloader()
    assert re.search(said, log.text)
    assert re.search(said, json.dumps(module.describe()))
    other = "wd_public_02|beta" if final else "wd_public_v2p0|final"
    assert not re.search(other, log.text.replace(str(tmp_path), ""))


def test_the_final_wilddash_without_its_panoptic_files_is_not_taken_for_the_beta(tmp_path: Path) -> None:
    fakes.write_wilddash(tmp_path, final=True, nested=False)
    for path in [*(tmp_path / "panoptic").iterdir(), tmp_path / "panoptic.json", tmp_path / "wilddash2-meta.json"]:
        path.unlink()
    (tmp_path / "panoptic").rmdir()
    for batch in WildDashDataModule(str(tmp_path), num_workers=0).val_dataloader():
        key = batch["name"][0]
        expected = look_up(fakes.WILDDASH_FINAL.draw_ids(key), WILDDASH_FINAL)
        assert np.array_equal(batch["mask"][0].numpy(), expected)


@pytest.mark.parametrize("place", ["v2.0", "labels", "palette"])
def test_mapillary_v2_is_refused(place: str, tmp_path: Path) -> None:
    fakes.write_mapillary(tmp_path, ["v2.0" if place == "v2.0" else ""])
    for split, key in fakes.MAPILLARY.pairs("train", "val") if place != "v2.0" else ():
        path = tmp_path / ("training" if split == "train" else "validation") / "labels" / f"{key}.png"
        ids = fakes.draw_ids(key, fakes.MAPILLARY_V2_IDS, fakes.MAPILLARY.size(key))
        picture = Image.fromarray(ids if place == "labels" else ids % 66)
        if place == "palette":
            picture.putpalette([0, 0, 0, 165, 42, 42, 250, 170, 31])
        picture.save(path)
    said = {"v2.0": "holds only v2.0", "labels": r"66-123.*v2\.0", "palette": "has the palette of v2.0"}[place]
    with pytest.raises(DataError, match=rf"{said}.*124 classes.*v1\.2"):
        list(MapillaryDataModule(str(tmp_path), num_workers=0).test_dataloader())


@pytest.mark.parametrize(
    ("dtype", "folder", "row"),
    [(np.uint16, "", False), (np.int32, "read_mapping", False), (np.float64, "", True)],
)
def test_splits_of_gta_in_any_type_place_and_form(dtype: type, folder: str, row: bool, tmp_path: Path) -> None:
    fakes.write_gta(tmp_path, dtype=dtype)
    if row:
        rows = {name: value.T for name, value in loadmat(tmp_path / "split.mat").items() if name.endswith("Ids")}
        savemat(tmp_path / "split.mat", rows)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "split.mat").rename(tmp_path / folder / "split.mat")
    for split, keys in fakes.GTA.keys.items():
        loader = GTADataModule(str(tmp_path), split=split, num_workers=0).test_dataloader()
        assert [batch["name"][0] for batch in loader] == keys


@pytest.mark.parametrize("content", [None, b"", b"MATLAB 5.0 MAT-file, but not really"])
def test_gta_without_its_split_file_or_with_a_broken_one(content: bytes | None, tmp_path: Path) -> None:
    fakes.write_gta(tmp_path)
    (tmp_path / "split.mat").unlink() if content is None else (tmp_path / "split.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.mat.*read_mapping\.zip"):
        GTADataModule(str(tmp_path)).test_dataloader()


def test_an_incomplete_gta_names_what_its_split_file_lists(tmp_path: Path) -> None:
    fakes.write_gta(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder / "00006.png").unlink()
    with pytest.raises(DataError, match="00006"):
        GTADataModule(str(tmp_path)).test_dataloader()
    module = GTADataModule(str(tmp_path), broken="skip", num_workers=0)
    assert [batch["name"][0] for batch in module.test_dataloader()] == ["00004", "00008"]
    assert [left_out["name"] for left_out in module.describe()["left_out"]["test"]] == ["00006"]


@pytest.mark.parametrize("rearranged", [False, True])
def test_known_broken_pairs_of_gta(rearranged: bool, tmp_path: Path) -> None:
    fakes.write_gta(tmp_path, rearranged, broken=True)
    with pytest.raises(DataError, match=r"20801\.png.*48x25.*48x26"):
        list(GTADataModule(str(tmp_path), split="val", num_workers=0).test_dataloader())
    module = GTADataModule(str(tmp_path), split="val", broken="skip", num_workers=0)
    assert [batch["name"][0] for batch in module.test_dataloader()] == ["00003", "00005"]
    assert module.describe()["left_out"] == {"val": [{"name": "20801", "why": "size"}]}


def test_synthia_is_for_training_alone(tmp_path: Path) -> None:
    module = SYNTHIADataModule(str(fakes.write_synthia(tmp_path)))
    for make_loader in (module.val_dataloader, module.test_dataloader):
        with pytest.raises(DataError, match=r"synthia.*(val|test).*expected.*train"):
            make_loader()


def test_labels_beside_those_of_synthia_do_not_count(tmp_path: Path) -> None:
    fakes.write_synthia(tmp_path)
    for key in fakes.SYNTHIA.keys["train"]:  # what other projects leave behind
        path = tmp_path / "RAND_CITYSCAPES" / "GT" / "LABELS" / f"{key}_labelTrainIds.png"
        fakes.write_image(path, fakes.SYNTHIA.draw_ids(key))
    loader = SYNTHIADataModule(str(tmp_path), split="train", num_workers=0).test_dataloader()
    assert [batch["name"][0] for batch in loader] == fakes.SYNTHIA.keys["train"]


# Errors


@pytest.mark.parametrize("module", FOLDERS)
def test_an_empty_root_says_what_is_expected(
    module: type[FilesDataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something_else").mkdir()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    split = "train" if module is SYNTHIADataModule else None
    for root in (None, str(tmp_path)):
        with pytest.raises(DataError, match=r"something_else.*expected.*Unpack"):
            module(root, split=split).test_dataloader()


HALVES = {  # folders of the images and of the labels
    GTADataModule: ("images", "labels"),
    SYNTHIADataModule: ("RGB", "GT"),
    WildDashDataModule: ("images", "labels"),
    CityscapesDataModule: ("leftImg8bit", "gtFine"),
    BDDDataModule: ("images", "labels"),
    IDDDataModule: ("leftImg8bit", "gtFine"),
    MapillaryDataModule: ("images", "v1.2"),
}


@pytest.mark.parametrize("half", ["images", "labels"])
@pytest.mark.parametrize("module", HALVES)
def test_a_half_unpacked_tree_says_which_half_is_missing(
    module: type[FilesDataModule], half: str, tmp_path: Path
) -> None:
    root = fakes.write_mapillary(tmp_path, ["v1.2"]) if module is MapillaryDataModule else write_tree(module, tmp_path)
    gone = HALVES[module][half == "labels"]
    for folder in [path for path in root.rglob(gone) if path.is_dir()]:
        shutil.rmtree(folder)
    split = "train" if module is SYNTHIADataModule else "val"
    with pytest.raises(DataError, match=f"no {half} of {split}.*expected files like .*{gone}.*Unpack"):
        module(str(root), split=split).test_dataloader()


PAIRS = {  # an image and its labels in the trees of `write_vendors`
    GTADataModule: ("images/00004.png", "labels/00004.png"),
    SYNTHIADataModule: ("RAND_CITYSCAPES/RGB/0000001.png", "RAND_CITYSCAPES/GT/LABELS/0000001.png"),
    WildDashDataModule: ("wd_public_02/images/cn0003_100000.jpg", "wd_public_02/labels/cn0003_100000.png"),
    CityscapesDataModule: (
        "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
        "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
    ),
    BDDDataModule: (
        "bdd100k/images/10k/val/7d15b18b-1e0d6e3f.jpg",
        "bdd100k/labels/sem_seg/masks/val/7d15b18b-1e0d6e3f.png",
    ),
    IDDDataModule: (
        "IDD_Segmentation/leftImg8bit/val/10/frame0600_leftImg8bit.png",
        "IDD_Segmentation/gtFine/val/10/frame0600_gtFine_polygons.json",
    ),
    MapillaryDataModule: ("validation/images/_a-1.jpg", "validation/v1.2/labels/_a-1.png"),
}


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def shrink(path: Path) -> None:
    """Takes a row of pixels away."""
    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "imgHeight": 7}))
        return
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if deep.dtype == np.uint16:
        fakes.write_16_bit(path, deep[:-1, :, 2], deep[:-1, :, 1])
        return
    with Image.open(path) as picture:
        pixels, mode = np.array(picture)[:-1], picture.mode
    fakes.write_image(path, pixels, mode)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "missing"),
    "cut": (truncate, "unreadable"),
    "empty": (empty, "unreadable"),
    "shrunk": (shrink, "size"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("module", PAIRS)
def test_broken_pairs_are_named_or_left_out_and_reported(
    module: type[FilesDataModule], damage: str, tmp_path: Path
) -> None:
    half = (list(PAIRS).index(module) + list(DAMAGES).index(damage)) % 2  # an image, or labels
    root = write_tree(module, tmp_path)
    break_file, kind = DAMAGES[damage]
    path = root / PAIRS[module][half]
    break_file(path)
    split = "train" if module is SYNTHIADataModule else None
    # A file that is not there is named by its partner.
    named = (root / PAIRS[module][1 - half]) if damage == "gone" else path
    with pytest.raises(DataError, match=re.escape(str(named))) as caught:
        list(module(str(root), split=split, num_workers=0).test_dataloader())
    assert caught.value.kind == kind
    assert re.search("expected|no partner", str(caught.value))
    if damage == "empty" and path.suffix != ".json":
        assert "0 bytes" in str(caught.value)

    skipping = module(str(root), split=split, num_workers=0, broken="skip")
    with pytest.warns(UserWarning, match="left out 1 broken pair"):
        names = [batch["name"][0] for batch in skipping.test_dataloader()]
    whole = module(str(root), split=split).find_pairs(skipping.test_split, labelled=False)[0]
    described = skipping.describe()
    ((name, why),) = {(entry["name"], entry["why"]) for entry in described["left_out"][skipping.test_split]}
    assert why == kind
    assert name not in names and names == [pair.name for pair in whole if pair.name != name]
    assert Path(PAIRS[module][0]).name.startswith(name.rpartition("/")[2])


@pytest.mark.parametrize(
    ("module", "unknown", "known"),
    [
        (GTADataModule, 35, "0-34"),
        (SYNTHIADataModule, 256 + 3, "0-22"),  # eight bits of it would be a road
        (WildDashDataModule, 81, "0-38"),
        (CityscapesDataModule, 34, "0-33"),
        (BDDDataModule, 19, "0-18, 255"),
        (IDDDataModule, 26, "0-18, 255"),  # as a level3Id would be
        (MapillaryDataModule, 66, "0-65"),
    ],
)
def test_an_unknown_id_is_named(module: type[FilesDataModule], unknown: int, known: str, tmp_path: Path) -> None:
    if module is IDDDataModule:
        path = fakes.write_idd(tmp_path, polygons=False, masks=True) / PAIRS[module][1]
        path = path.with_name(path.name.replace("polygons.json", "labelcsTrainIds.png"))
    else:
        path = write_tree(module, tmp_path) / PAIRS[module][1]
    if module is SYNTHIADataModule:
        ids = np.full((20, 34), 3)
        ids[3, 5] = unknown
        fakes.write_16_bit(path, ids, ids)
    else:
        with Image.open(path) as picture:
            ids, mode = np.array(picture), picture.mode
        ids[3, 5] = unknown
        fakes.write_image(path, ids, mode)
    data = module(str(tmp_path), split="train" if module is SYNTHIADataModule else None, num_workers=0)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}.* {unknown}, expected only {known}") as caught:
        list(data.test_dataloader())
    assert caught.value.kind == "id"


@pytest.mark.parametrize("bits", ["8-bit RGB", "8-bit gray"])
def test_synthia_in_8_bits_is_refused(bits: str, tmp_path: Path) -> None:
    fakes.write_synthia(tmp_path)
    path = tmp_path / PAIRS[SYNTHIADataModule][1]
    ids = fakes.SYNTHIA.draw_ids("0000001")
    fakes.write_image(path, ids if bits == "8-bit gray" else np.stack([ids, ids, ids], axis=2))
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*uint8.*16-bit"):
        list(SYNTHIADataModule(str(tmp_path), split="train", num_workers=0).test_dataloader())


@pytest.mark.parametrize(
    "module", [GTADataModule, WildDashDataModule, CityscapesDataModule, BDDDataModule, MapillaryDataModule]
)
def test_colours_in_place_of_ids_are_refused(module: type[FilesDataModule], tmp_path: Path) -> None:
    path = write_tree(module, tmp_path) / PAIRS[module][1]
    with Image.open(path) as labels:
        colours = labels.convert("RGB")
    colours.save(path)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*mode RGB.*one channel"):
        list(module(str(tmp_path), num_workers=0).test_dataloader())


def test_labels_of_the_test_split_of_cityscapes_are_refused(tmp_path: Path) -> None:
    root = fakes.write_cityscapes(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)test.*(public|annotat|labels)"):
        list(CityscapesDataModule(str(root), split="test", num_workers=0).test_dataloader())


def test_files_without_a_partner_in_the_old_bdd(tmp_path: Path) -> None:
    fakes.write_old_bdd(tmp_path, unpaired=True)
    with pytest.raises(DataError, match=r"2 files of val have no partner.*80a9e37d-e4548ac1.*9342e334-33d167eb"):
        BDDDataModule(str(tmp_path)).test_dataloader()
    module = BDDDataModule(str(tmp_path), broken="skip", num_workers=0)
    assert [batch["name"][0] for batch in module.test_dataloader()] == fakes.BDD.keys["val"]
    assert [entry["name"] for entry in module.describe()["left_out"]["val"]] == list(fakes.BDD_UNPAIRED)


def test_a_data_set_that_lies_twice_in_the_root_is_an_error(tmp_path: Path) -> None:
    fakes.write_wilddash(tmp_path)
    fakes.write_wilddash(tmp_path, final=True)
    with pytest.raises(DataError, match=r"more than once.*wd_public_02.*wd_public_v2p0"):
        WildDashDataModule(str(tmp_path)).val_dataloader()


def test_wrong_arguments_are_named() -> None:
    for name, value in (("num_classes", 18), ("split", "dev"), ("broken", "ignore")):
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            CityscapesDataModule(**{name: value})


# Roles


@pytest.mark.parametrize("stage", ["validate", "fit"])
def test_choosing_on_a_target_is_refused(stage: str, trees: Path, tmp_path: Path) -> None:
    said = r"target.*source.*development.*choose_on_target=true"
    more = ["--data=CityscapesDataModule", f"--data.root={trees / 'cityscapes'}", *SMALL]
    with pytest.raises(ProtocolError, match=said):
        main([stage, *arguments(tmp_path, *more)])
    assert not (tmp_path / "results" / "results.json").exists()
    for module in TARGETS:
        data = module(str(trees / FOLDERS[module]))
        with pytest.raises(ProtocolError, match=said):
            data.val_dataloader() if stage == "validate" else data.train_dataloader()


def test_a_target_as_development_set_or_source_is_refused() -> None:
    target = CityscapesDataModule()
    with pytest.raises(ProtocolError, match=r"target.*development set.*choose_on_target"):
        TargetsDataModule([target], development=BDDDataModule())
    with pytest.raises(ProtocolError, match=r"target.*source.*choose_on_target"):
        TargetsDataModule([target], source=IDDDataModule())
    TargetsDataModule([target], source=GTADataModule(), development=WildDashDataModule())
    TargetsDataModule([target], development=BDDDataModule(choose_on_target=True))


def test_a_sweep_may_not_test_a_target(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    more = ["--data=CityscapesDataModule", f"--data.root={trees / 'cityscapes'}", *SMALL]
    with pytest.raises(ProtocolError, match=r"sweep.*development"):
        main(["test", *arguments(tmp_path, *more)])
    with pytest.raises(ProtocolError, match=r"sweep.*development"):
        TargetsDataModule([CityscapesDataModule()], root=str(trees)).test_dataloader()
    for stage in ("validate", "test"):  # nor on purpose
        with pytest.raises(ProtocolError, match="in a sweep there is no other way"):
            main([stage, *arguments(tmp_path, *more, "--data.choose_on_target=true")])
    more = ["--data=WildDashDataModule", f"--data.root={trees / 'wilddash'}", *SMALL]
    main(["validate", *arguments(tmp_path, *more)])
    assert read_results(tmp_path)["complete"]


@pytest.mark.parametrize("rearranged", [False, True])
def test_train_ids_beside_the_labels_of_gta_are_passed_over(rearranged: bool, tmp_path: Path) -> None:
    fakes.write_gta(tmp_path, rearranged=rearranged)
    data = GTADataModule(str(tmp_path), num_workers=0)
    pairs, _ = data.find_pairs("val")
    for pair in pairs:
        fakes.write_image(pair.labels.with_name(f"{pair.name}_labelTrainIds.png"), np.zeros((4, 4), dtype=np.uint8))
    assert data.find_pairs("val") == (pairs, []) and len(pairs) == 2


def test_labels_of_wilddash_as_the_vendors_converter_names_them(tmp_path: Path) -> None:
    fakes.write_wilddash(tmp_path)
    data = WildDashDataModule(str(tmp_path), num_workers=0)
    pairs, _ = data.find_pairs("val")
    for pair in pairs:
        pair.labels.rename(pair.labels.with_name(f"{pair.name}_labelIds.png"))
    renamed, problems = data.find_pairs("val")
    assert [pair.name for pair in renamed] == [pair.name for pair in pairs] and not problems


def test_the_video_sequences_of_synthia_are_warned_about(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = fakes.write_synthia(tmp_path)
    SYNTHIADataModule(str(tmp_path), num_workers=0).find_pairs("train")
    assert not [warning for warning in recwarn if "video sequences" in str(warning.message)]
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name(path.name[1:]))  # six digits
    with pytest.warns(UserWarning, match="SYNTHIA's video sequences.*lane markings .*class 12"):
        SYNTHIADataModule(str(tmp_path), num_workers=0).find_pairs("train")
