"""Data sets to check, and what is reported of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.check_data.checks import DATA_SETS
from tests.trees import BDD, CITYSCAPES, GTA, IDD, MAPILLARY, SYNTHIA, WILDDASH_BETA, write_image

Check = Callable[..., tuple[int, dict[str, Any], str, str]]  # see conftest.py
CheckOwn = Callable[..., tuple[int, dict[str, Any], str]]
VENDORS = dict(zip(DATA_SETS, (GTA, SYNTHIA, WILDDASH_BETA, CITYSCAPES, BDD, IDD, MAPILLARY), strict=True))


def set_official(monkeypatch: pytest.MonkeyPatch, name: str, **more: int) -> None:
    """Makes the size of a fake tree, and `more` of a split, the official one."""
    counts = {split: len(keys) + more.get(split, 0) for split, keys in VENDORS[name].keys.items()}
    monkeypatch.setattr(DATA_SETS[name], "counts", counts)


def find_split(report: dict[str, Any], name: str, split: str) -> dict[str, Any]:
    (data_set,) = (data_set for data_set in report["data_sets"] if data_set["name"] == name)
    return next(found for found in data_set["splits"] if found["split"] == split)


def write_folder(root: Path, number: int, size: tuple[int, int] = (4, 6), split: str = "") -> list[np.ndarray]:
    """Writes images and labels of Cityscapes' train ids into one folder each, or of a split; returns the labels."""
    generator = np.random.default_rng(3)
    labels = [generator.choice([0, 1, 10, 18, 255], size).astype(np.uint8) for _ in range(number)]
    for index, mask in enumerate(labels):
        image = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
        write_image(root / "images" / split / f"{index:03d}.png", image)
        write_image(root / "labels" / split / f"{index:03d}.png", mask)
    return labels


def write_yaml(path: Path, name: str, **arguments: Any) -> Path:
    path.write_text(json.dumps({"class_path": f"datamodules.{name}", "init_args": arguments}))  # JSON is YAML
    return path
