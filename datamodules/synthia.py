"""SYNTHIA-RAND-CITYSCAPES: generated street scenes with 16 of Cityscapes' classes, the other source.

Data card:
    Source: Ros et al. (2016), "The SYNTHIA Dataset"; https://synthia-dataset.net (SYNTHIA_RAND_CITYSCAPES).
    Layout: ``RGB/*.png`` and ``GT/LABELS/*.png``; or ``leftImg8bit/{train,val}/SEQUENCE/*_leftImg8bit.png`` and
        ``gtFine/{train,val}/SEQUENCE/*_gtFine_labelIds.png``, as the authors of the paper rearrange them (8 bits).
    Encoding: 16-bit RGB PNG; SYNTHIA's own class ids in the first (red) channel, the instance in the second.
    Counts: 9,400, all for training; 1280x760.
    Licence: CC BY-NC-SA 3.0.
    Traps: Pillow silently reads the 16-bit labels as 8-bit ones. The video sequences (SYNTHIA-SEQS) have names of six
        digits, not seven, and other ids: 12 is lane marking there.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import Problem, Split
from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.pairs import Layout, Pair
from datamodules.reading.pixels import read_index, read_red_16_bit

DIGITS_OF_SEQUENCES = 6  # in file names of the video sequences; RAND_CITYSCAPES has 7
# SYNTHIA's ids in the order of Cityscapes' train ids 0 to 18; the other ids of 0 to 22 belong to no class.
IN_ORDER = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)


class SYNTHIADataModule(FilesDataModule):
    """SYNTHIA-RAND-CITYSCAPES (Ros et al., 2016); see the data card in datamodules/synthia.py."""

    role = "source"
    domain = "synthia"
    folders = ("synthia", "rand_cityscapes", "synthia_rand_cityscapes", "synthia-rand-cityscapes")
    layouts = (
        Layout(images=("RGB/*.png",), labels=("GT/LABELS/*.png",), holds=("train",)),
        Layout(
            images=("leftImg8bit/{split}/*/*_leftImg8bit.png",),
            labels=("gtFine/{split}/*/*_gtFine_labelIds.png",),
            holds=("train", "val"),
        ),
    )
    train_ids: ClassVar = dict.fromkeys(range(23), IGNORED) | {value: number for number, value in enumerate(IN_ORDER)}
    counts: ClassVar = {"train": 9400}
    archives = "SYNTHIA_RAND_CITYSCAPES"

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and files without a partner; warns about video sequences."""
        pairs, problems = super().find_pairs(split, labelled)
        if pairs and all(len(pair.image.stem) == DIGITS_OF_SEQUENCES and pair.image.stem.isdigit() for pair in pairs):
            rank_zero_warn(
                f"synthia: images in {pairs[0].image.parent} have names of {DIGITS_OF_SEQUENCES} digits, as in "
                "SYNTHIA's video sequences, whose lane markings would be read as motorcycle (class 12): expected "
                "RAND_CITYSCAPES (0000000.png)"
            )
        return pairs, problems

    @staticmethod
    def read_ids(path: Path) -> np.ndarray:
        """Reads ids from the red channel of the vendor's 16-bit labels, or from the authors' one-channel ones."""
        return read_index(path) if path.name.endswith("_labelIds.png") else read_red_16_bit(path)
