"""Images and labels of one's own, written for tests of `FolderDataModule`."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.folder import FolderDataModule
from datamodules.reading.dataset import FilesDataset
from tests.trees import write_beside, write_image

CAMVID = ["sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SIZE = (6, 8)  # height, width


def draw(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def save(path: Path, pixels: Any) -> Path:
    """Writes an image, or labels: (H, W) uint8 or uint16, (H, W, 3) or (H, W, 4) uint8, or one id for all pixels."""
    write_image(path, np.full(SIZE, pixels, np.uint8) if isinstance(pixels, int) else np.asarray(pixels))
    return path


def make_files(root: Path, files: str) -> None:
    """Writes images, labels of one id where a path says that it holds labels, and other files."""
    for number, name in enumerate(files.split()):
        path = root / name.replace("_._", " ")
        if path.suffix.lower() not in (".png", ".jpg"):
            write_beside(path)
        else:
            save(path, number % 11 if re.search("label|annot|gtFine|mask", name) else draw(number))


def make_pairs(root: Path, names: list[str], images: str = "images", labels: str = "labels") -> None:
    for number, name in enumerate(names):
        save(root / images / f"{name}.png", draw(number))
        save(root / labels / f"{name}.png", number % 11)


def make_segnet(root: Path) -> None:
    """Builds CamVid as it is published with SegNet: 2 + 1 + 1 pairs and their lists; label 11 is unlabelled."""
    for split, names in (("train", ["0001TP_006690", "0001TP_006720"]), ("val", ["0016E5_07959"]), ("test", ["Seq05"])):
        make_pairs(root, names, split, f"{split}annot")
        save(root / f"{split}annot" / f"{names[0]}.png", np.arange(48).reshape(SIZE).astype(np.uint8) % 12)
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))


def make_module(
    root: Path, csv: str | None = None, listed: str | None = None, encoding: str = "utf-8", **kwargs: Any
) -> FolderDataModule:
    """Reads what lies in a folder, or what a CSV of pairs or a list of test, written here, names of it."""
    if csv is not None:
        (root / "pairs.csv").write_text(csv, encoding=encoding)
        kwargs["pairs"] = "pairs.csv"
    if listed is not None:
        (root / "test.txt").write_text(listed, encoding=encoding)
        kwargs["splits"] = {"test": "test.txt"}
    if "label_colours" in kwargs and "classes" not in kwargs:  # every class has one
        kwargs["label_colours"] = {name: [99, 99, place] for place, name in enumerate(CAMVID)} | kwargs["label_colours"]
    return FolderDataModule(str(root), **{"num_workers": 0, "classes": CAMVID, **kwargs})


def open_dataset(data: FolderDataModule, split: Any = "test", labelled: bool = True) -> FilesDataset:
    return data.make_dataset(split, data.evaluation_transform, labelled)


def list_names(data: FolderDataModule, split: Any = "test", labelled: bool = True) -> list[str]:
    return [pair.name for pair in open_dataset(data, split, labelled).pairs]
