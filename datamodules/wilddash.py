"""WildDash 2: hard dashcam frames from all over the world, the development set of the protocol.

Data card:
    Source: Zendel et al. (2018, 2022); https://www.wilddash.cc.
    Layout: ``images/*.jpg`` and ``labels/*.png`` (or ``*_labelIds.png``, as the vendor's converter names them); or,
        instead of ``labels``, ``panoptic/*.png`` and ``panoptic.json``.
    Encoding: 8-bit PNG of class ids. The beta wd_public_02 has ids 0 to 38, the final wd_public_v2p0 ids 0 to 80 (80
        classes and void), of which 0 to 38 mean the same. Panoptic labels are RGB, segment = R + 256 G + 65536 B.
    Counts: 4,256, all for development; 1920x1080.
    Licence: CC BY-NC 4.0 (see the page above).
    Traps: read with the beta's table, the final release would lose every id above 38. The release is detected by such
        ids, or by panoptic labels without others, and logged.
    Protocol: the paper used the beta, with pickup and van as car and road marking as road; the ids beyond it follow
        wd2_unified_label_policy.json. There pickup is truck; here it stays car, so that both releases compare.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from datamodules.base import DataError, Problem, Split
from datamodules.cityscapes import LABEL_IDS
from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.annotations import read_panoptic, read_segments
from datamodules.reading.pairs import Layout, Pair
from datamodules.reading.pixels import read_index

LAST_BETA_ID, LAST_ID = 38, 80
SAMPLED = 200  # label files read to detect the release; nearly every one of the final release has an id above 38
RELEASES = {"beta": "the beta wd_public_02 (ids 0 to 38)", "final": "the final wd_public_v2p0 (80 classes)"}

# By train id: ids 34 to 38 as in the paper, higher ones as in the official conversion.
ADDED = {0: (38, 41, 43, 61, 64, 70, 74, 75, 76, 79), 1: (52, 65, 77, 80), 3: (56,), 5: (45, 46), 9: (78,),
         12: (47, 48, 49), 13: (34, 35), 17: (58,)}  # fmt: skip


class WildDashDataModule(FilesDataModule):
    """WildDash 2 (Zendel et al., 2022); see the data card in datamodules/wilddash.py."""

    release: str | None = None  # beta or final, set once the files are listed
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

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs, sorted by name, and the files without a partner; logs the release."""
        pairs, problems = super().find_pairs(split, labelled)
        if labelled and pairs and self.release is None:
            self.release = detect_release([path for pair in pairs for path in pair.files[1:]])
            rank_zero_info(f"wilddash: {self.find_root()} is {RELEASES[self.release]}")
        return pairs, problems

    def make_table(self) -> np.ndarray:
        """Builds the lookup from the ids of the release to labels."""
        beyond = range(LAST_BETA_ID + 1, LAST_ID + 1) if self.release == "beta" else ()
        return self.labels.table({value: train_id for value, train_id in self.train_ids.items() if value not in beyond})

    @staticmethod
    def read_ids(path: Path) -> np.ndarray:
        """Reads (H, W) ids from a label image of ids or a panoptic one."""
        if path.parent.name != "panoptic":
            return read_index(path)
        return read_panoptic(path, read_segments(path.parent.with_name("panoptic.json")))

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        return super().describe() | {"release": self.release}


def detect_release(labels: list[Path]) -> str:
    """Detects the release, ``final`` if labels are panoptic or a sample has ids above 38, else ``beta``."""
    if labels[0].parent.name == "panoptic":
        read_segments(labels[0].parent.with_name("panoptic.json"))  # fails now, not at the first image
        return "final"
    for path in labels[:: -(-len(labels) // SAMPLED)]:
        try:
            ids = read_index(path)
        except DataError:
            continue  # reported when the pair is read
        if ((ids > LAST_BETA_ID) & (ids <= LAST_ID)).any():
            return "final"
    return "beta"
