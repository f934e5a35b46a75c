"""Cityscapes: street scenes of 50 cities in fine weather, a target.

Data card:
    Source: Cordts et al. (2016); https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip and
        gtFine_trainvaltest.zip).
    Layout: ``leftImg8bit/{split}/CITY/*_leftImg8bit.png`` and ``gtFine/{split}/CITY/*_gtFine_labelIds.png``.
    Encoding: 8-bit PNG of label ids 0 to 33 (-1, the license plate, would be 255); 19 of them have a train id.
    Counts: 2,975 train, 500 val, 1,525 test; 2048x1024. The protocol tests on val.
    Licence: non-commercial research only (see the page above).
    Traps: the labels of test are not public; its label files contain only void. ``*_labelTrainIds.png``, which some
        tools write beside the labels, use another encoding and are not read.
"""

from typing import ClassVar

from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.pairs import Layout

# Label ids in the order of the train ids 0 to 18; the other ids of 0 to 33 belong to no class.
IN_ORDER = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LABEL_IDS: dict[int, int] = dict.fromkeys((*range(34), 255), IGNORED) | {
    label_id: train_id for train_id, label_id in enumerate(IN_ORDER)
}


class CityscapesDataModule(FilesDataModule):
    """Cityscapes (Cordts et al., 2016); see the data card in datamodules/cityscapes.py."""

    role = "target"
    test_split = "val"
    domain = "cityscapes"
    folders = ("cityscapes",)
    layouts = (
        Layout(images=("leftImg8bit/{split}/*/*_leftImg8bit.png",), labels=("gtFine/{split}/*/*_gtFine_labelIds.png",)),
    )
    train_ids: ClassVar = LABEL_IDS
    counts: ClassVar = {"train": 2975, "val": 500, "test": 1525}
    unlabelled_splits = frozenset(["test"])
    archives = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
