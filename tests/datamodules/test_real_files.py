"""Real photographs and labels, where they are at hand: generated files cannot show what vendors really write.

They lie outside the repository, in ``$SEGADAPT_PHOTOGRAPHS`` or in ``../shared/data``, and are only read.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image
from pytorch_lightning import LightningDataModule

from datamodules import BDDDataModule, CityscapesDataModule, FolderDataModule
from datamodules.base import DataError, Split
from datamodules.cityscapes import LABEL_IDS
from datamodules.files import FilesDataModule
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED
from datamodules.reading.dataset import FilesDataset
from tests.tiny import ROOT

PHOTOGRAPHS = Path(os.environ.get("SEGADAPT_PHOTOGRAPHS") or ROOT.parent / "shared" / "data")
STREETS = PHOTOGRAPHS / "streets"
SAMPLED = 40  # pairs of a data set whose pixels are looked at, evenly spread
HEIGHT = 128  # rows to which these are made smaller, with nearest neighbours

pytestmark = [
    pytest.mark.skipif(
        not all((PHOTOGRAPHS / name).is_dir() for name in ("streets", "camvid")),
        reason=f"real photographs are not at hand: there are no folders streets and camvid in {PHOTOGRAPHS}",
    ),
    pytest.mark.filterwarnings("ignore:.*the official number is:UserWarning"),  # a few of the vendors' pairs
]


def open_config(name: str) -> Any:
    """Makes the datamodule of a YAML in configs/data."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    return parser.instantiate_classes(parser.parse_args([f"--data={ROOT / 'configs' / 'data' / name}"])).data


def open_dataset(module: FilesDataModule, split: Split) -> FilesDataset:
    """Opens a split; the names pair up, or this is an error."""
    return module.make_dataset(split, module.evaluation_transform)


def load_sample(dataset: FilesDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Loads evenly spread gray images and their labels, with fewer rows."""
    found = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLED).round().astype(int)):
        image, mask = dataset.load_pair(int(index))
        size = (round(HEIGHT * mask.shape[1] / mask.shape[0]), HEIGHT)
        gray, labels = (cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST) for pixels in (image, mask))
        found.append((gray.mean(axis=2), labels))
    return found


def check_look(pairs: Sequence[tuple[np.ndarray, np.ndarray]], classes: Sequence[int]) -> np.ndarray:
    """Asserts that sky is above and bright, the road below and darker, and that vehicles stand on it.

    Returns:
        (256,) number of pixels by class.
    """
    sums = np.zeros((3, 256))
    for gray, labels in pairs:
        row = np.broadcast_to((np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT, labels.shape)
        sums += [np.bincount(labels.ravel(), weights, minlength=256) for weights in (None, row.ravel(), gray.ravel())]
    pixels, rows, brightness = sums[0], *(sums[1:] / np.maximum(sums[0], 1))
    sky, road, vehicles = classes
    assert min(pixels[[sky, road, vehicles]]) > 0 and brightness[sky] > brightness[road] + 40
    assert rows[sky] < 1 / 3 < 2 / 3 < rows[road] and rows[sky] + 0.25 < rows[vehicles] < rows[road] - 0.05
    return pixels


def explain(gray: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share, in [0, 1], of the variance of the gray values that the labels explain."""
    count = np.maximum(np.bincount(labels.ravel(), minlength=256), 1)
    means = np.bincount(labels.ravel(), gray.ravel(), 256) / count
    return float(means[labels].var() / gray.var())


# Of each data set: the split, number, (height, width) of its pairs, and the names of the first and the last.
SETS: dict[str, tuple[Split, int, tuple[int, int], tuple[str, str]]] = {
    "bdd": ("train", 16, (720, 1280), ("00a360bd-27ccb1dd", "00e9be89-00000100")),
    "cityscapes": ("train", 4, (1024, 2048), ("aachen/aachen_000000_000019", "aachen/aachen_000003_000019")),
    "idd_lite": ("train", 468, (227, 320), ("0/024541", "98/752192")),
    "kitti_step": ("test", 10, (375, 1242), ("0001_000000", "0001_000009")),
    "camvid train": ("val", 367, (360, 480), ("0001TP_006690", "0016E5_08640")),
    "camvid val": ("test", 101, (360, 480), ("0016E5_07959", "0016E5_08159")),
}


def open_module(name: str) -> FilesDataModule:
    """Makes the datamodule of a data set."""
    if name in ("bdd", "cityscapes"):
        return {"bdd": BDDDataModule, "cityscapes": CityscapesDataModule}[name](str(STREETS))
    if name == "kitti_step":
        return FolderDataModule(str(STREETS / "kitti_step"))
    if name == "idd_lite":
        opened, root = open_config("idd_lite.yaml"), STREETS
    else:
        protocol, root = open_config("camvid.yaml"), PHOTOGRAPHS
        opened = protocol.development if name == "camvid train" else protocol.targets[0]
    opened.root = str(root)
    return opened


@pytest.mark.parametrize("name", SETS)
def test_files_pair_up_and_labels_are_of_their_own_image_and_not_mirrored(name: str) -> None:
    """They lie where they should, and explain the gray values better than another image's, or mirrored, would."""
    split, count, size, ends = SETS[name]
    module = open_module(name)
    dataset = open_dataset(module, split)
    names = [pair.name for pair in dataset.pairs]
    assert len({*names}) == count and (names[0], names[-1]) == ends
    for index, pair in enumerate(dataset.pairs):
        with Image.open(pair.image) as header:
            assert header.size == size[::-1]
        assert dataset.load_mask(index).shape == size  # an unknown id is an error
    pairs = load_sample(dataset)
    looked_at = ("sky", "drivable", "vehicles") if name == "idd_lite" else ("sky", "road", "car")
    check_look(pairs, [module.class_names.index(name) for name in looked_at])
    explained = [
        (explain(gray, labels), explain(gray, labels[:, ::-1]), explain(gray, other))
        for (gray, labels), (_, other) in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
    ]
    own, mirrored, other = np.mean(explained, axis=0)
    assert own > max(mirrored, other) + 0.02


def test_a_vendors_data_set_is_the_same_as_a_folder() -> None:
    """Instances of Cityscapes, of which id 26 is 26000 and more, are refused as labels, with the ids that they hold."""
    names, cityscapes = list(CITYSCAPES_COLOURS), str(STREETS / "cityscapes")
    ids = {label_id: names[train_id] for label_id, train_id in LABEL_IDS.items() if train_id != IGNORED}
    ignored: list[Any] = [label_id for label_id in LABEL_IDS if label_id not in ids]
    images, labels = "leftImg8bit/train/**/*_leftImg8bit.png", "gtFine/train/**/*_gtFine_labelIds.png"
    root, masks = str(STREETS / "bdd100k"), "labels/sem_seg/masks/train"
    for name, own in (
        ("bdd", FolderDataModule(root, images="images/10k/train", labels=masks)),
        ("cityscapes", FolderDataModule(cityscapes, ids=ids, ignored=ignored, images=images, labels=labels)),
    ):
        theirs, ours = open_dataset(open_module(name), "train"), open_dataset(own, "test")
        assert [pair.name for pair in theirs.pairs] == [pair.name for pair in ours.pairs]
        for index in range(len(theirs)):
            assert np.array_equal(theirs.load_mask(index), ours.load_mask(index))
        assert np.array_equal(theirs.load_image(0), ours.load_image(0))
    labels = labels.replace("labelIds", "instanceIds")
    dataset = open_dataset(FolderDataModule(cityscapes, images=images, labels=labels), "test")
    for index in range(len(dataset)):
        instances = dataset.load_ids(index)
        assert instances.dtype == np.uint16 and instances.max() >= 24000
        assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), theirs.load_ids(index))
        with pytest.raises(DataError, match=r"the labels contain the ids .*26\d\d\d"):
            dataset.load_mask(index)


def test_the_protocol_of_the_photographs_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network of 7 classes can be scored on all of them; each class is somewhere."""
    monkeypatch.setenv("SEGADAPT_DATA", str(STREETS))
    opened = open_config("streets.yaml")
    assert opened.num_classes == 7
    found = {}
    splits: tuple[Split, ...] = ("val", "test", "train", "test")  # that a run reads of each
    for module, split in zip((opened.development, *opened.targets), splits, strict=True):
        dataset = open_dataset(module, split)
        found[module.domain] = len(dataset)
        classes = [opened.class_names.index(name) for name in ("sky", "drivable", "vehicles")]
        pixels = check_look(load_sample(dataset), classes)
        assert np.count_nonzero(pixels[:7]) == 7 and pixels[7:255].sum() == 0, module.domain
    assert found == {"bdd100k": 16, "idd_lite": 468, "cityscapes": 4, "kitti_step": 10}
