"""WildDash 2: hard dashcam frames from all over the world, the development set of the protocol.

Data card:
    Source: Zendel et al. (2018, 2022); https://www.wilddash.cc.
    Layout: ``images/*.jpg`` and ``labels/*.png`` (or ``*_labelIds.png``, as the vendor's converter names them); or, in
        place of labels, ``panoptic/*.png`` and ``panoptic.json``.
    Encoding: 8-bit PNG of class ids. The beta wd_public_02 has ids 0 to 38, the final wd_public_v2p0 ids 0 to 80 (80
        classes and void), of which 0 to 38 mean the same. Panoptic labels are RGB, segment = R + 256 G + 65536 B.
    Counts: 4,256, all for development; 1920x1080.
    Licence: CC BY-NC 4.0 (see the page above).
    Traps: the final release read with the beta's table silently loses every id above 38, so the release is detected and
        logged. Which is which: the final has ids above 38, or panoptic labels alone.
    Protocol: the paper used the beta, with pickup and van as car and road marking as road; the ids beyond it follow
        WildDash's own conversion to Cityscapes (wd2_unified_label_policy.json). There pickup is truck; here it
        stays car in both releases, so that they can be compared.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from datamodules.base import DataError, Problem, Split
from datamodules.cityscapes import LABEL_IDS
from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.dataset import FilesDataset
from datamodules.reading.pairs import Layout, Pair
from datamodules.reading.pixels import read_image, read_index
from datamodules.transforms import Transform

LAST_BETA_ID, LAST_ID = 38, 80
SAMPLED = 200  # label files looked at to tell the releases apart; nearly each of the final one has an id above 38
RELEASES = {"beta": "the beta wd_public_02 (ids 0 to 38)", "final": "the final wd_public_v2p0 (80 classes)"}

# By train id: what the paper's table adds to Cityscapes' (34 to 38), and the official conversion beyond it.
ADDED = {
    0: (38, 41, 43, 61, 64, 70, 74, 75, 76, 79),
    1: (52, 65, 77, 80),
    3: (56,),
    5: (45, 46),
    9: (78,),
    12: (47, 48, 49),
    13: (34, 35),
    17: (58,),
}

Release = Literal["beta", "final"]


class WildDashDataModule(FilesDataModule):
    """WildDash 2 (Zendel et al., 2022); see the data card of this file.

    Attributes:
        release: ``beta`` or ``final``, once the files have been looked at.
    """

    role = "development"
    test_split = "val"
    domain = "wilddash"
    folders = ("wilddash", "wilddash2", "wd", "wd2", "wd_public_02", "wd_public_v2p0")
    layouts = (
        Layout(images=("images/*.jpg",), labels=("labels/*_labelIds.png",), holds=("val",)),
        Layout(images=("images/*.jpg",), labels=("labels/*.png",), holds=("val",)),
        Layout(images=("images/*.jpg",), labels=("panoptic/*.png",), holds=("val",)),
    )
    train_ids: ClassVar = (
        dict.fromkeys(range(LAST_ID + 1), IGNORED)
        | LABEL_IDS
        | {value: train_id for train_id, values in ADDED.items() for value in values}
    )
    counts: ClassVar = {"val": 4256}
    archives = "wd_public_02.zip or wd_public_v2p0.zip"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.release: Release | None = None

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs, sorted by name, and the files without a partner; logs which release it is."""
        pairs, problems = super().find_pairs(split, labelled)
        if labelled and pairs and self.release is None:
            self.release = detect_release(self.find_root(), [pair.labels for pair in pairs if pair.labels])
            rank_zero_info(f"wilddash: {self.find_root()} is {RELEASES[self.release]}")
        return pairs, problems

    def open_pairs(self, pairs: Sequence[Pair], transform: Transform, labelled: bool = True) -> FilesDataset:
        """Makes a dataset of pairs, with the ids of the release."""
        dataset = super().open_pairs(pairs, transform, labelled)
        if self.release == "beta":
            known = {
                value: train_id for value, train_id in self.train_ids.items() if not LAST_BETA_ID < value <= LAST_ID
            }
            dataset.table = self.labels.table(known)
        if labelled and pairs and pairs[0].labels and pairs[0].labels.parent.name == "panoptic":
            segments = read_segments(pairs[0].labels.parent.parent / "panoptic.json")
            dataset.read_ids = partial(read_panoptic, segments=segments)
        return dataset

    def describe(self) -> dict[str, Any]:
        """Returns what a report on results should say about the data, for JSON."""
        return super().describe() | {"release": self.release}


def detect_release(root: Path, labels: Sequence[Path]) -> Release:
    """Tells the beta from the final release, by its name, panoptic labels, or ids above 38 in a sample."""
    if not labels or labels[0].parent.name == "panoptic":
        return "final"
    if any(f"_{name}" in root.name.lower() for name in ("v2p0", "public_v2")):
        return "final"
    step = -(-len(labels) // SAMPLED)
    for path in labels[::step]:
        try:
            ids = read_index(path)
        except DataError:
            continue  # reading the pair will say what is wrong with the file
        if ((ids > LAST_BETA_ID) & (ids <= LAST_ID)).any():
            return "final"
    return "beta"


def read_segments(path: Path) -> dict[str, dict[int, int]]:
    """Reads the class of each segment from panoptic.json, by name of the label file.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        return {
            entry["file_name"]: {int(info["id"]): int(info["category_id"]) for info in entry["segments_info"]}
            for entry in annotations
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): expected the panoptic annotations of WildDash "
            "2, which say what the segments in panoptic/*.png are. Unpack it again"
        ) from error


def read_panoptic(path: Path, segments: Mapping[str, Mapping[int, int]]) -> np.ndarray:
    """Reads panoptic labels as (H, W) uint8 class ids, 0 (void) where there is no segment.

    Raises:
        DataError: If panoptic.json does not know the file, or one of its segments.
    """
    if path.name not in segments:
        raise DataError(
            f"{path} is not listed in panoptic.json: expected an annotation with this file_name. Unpack both from the "
            "same archive",
            "id",
        )
    pixels = read_image(path).astype(np.uint32)
    found, places = np.unique(pixels[..., 0] | pixels[..., 1] << 8 | pixels[..., 2] << 16, return_inverse=True)
    classes = {0: 0} | dict(segments[path.name])
    unknown = [int(segment) for segment in found if int(segment) not in classes]
    if unknown:
        raise DataError(
            f"{path} has segments that panoptic.json does not list: {unknown[:5]}. Unpack both from the same archive",
            "id",
        )
    table = np.array([classes[int(segment)] for segment in found], dtype=np.uint8)
    return table[places].reshape(pixels.shape[:2])
