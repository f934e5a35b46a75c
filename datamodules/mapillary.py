"""Mapillary Vistas v1.2: street-level photographs of all continents and cameras, a target.

Data card:
    Source: Neuhold et al. (2017); https://www.mapillary.com/dataset/vistas.
    Layout: ``{training,validation}/images/*.jpg`` and ``{training,validation}/v1.2/labels/*.png``; older zips have
        ``{training,validation}/labels/*.png``.
    Encoding: 8-bit PNG of 66 class ids (config_v1.2.json).
    Counts: 18,000 training, 2,000 validation, 5,000 testing; at least 1920x1080, often much larger. The protocol tests
        on validation, sorted by name. (The authors' code takes the first 2,000 files of an unsorted listing of
        training, which differ between machines; the paper says validation.)
    Licence: CC BY-NC-SA 4.0.
    Traps: v2.0 has 124 ids in another order and is refused; its zip contains both versions. The labels of testing are
        not public.
"""

from typing import ClassVar

from datamodules.base import DataError, Problem, Split
from datamodules.files import FilesDataModule
from datamodules.labels import IGNORED
from datamodules.reading.headers import read_palette
from datamodules.reading.pairs import Layout, Pair

TRAIN_IDS_OF_VISTAS = {
    13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10, 19: 11,
    20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
}  # fmt: skip
NUM_IDS = 66
COLOUR_2_OF_V2 = (250, 170, 31)  # of id 2, the first id whose colour differs between the versions
FOLDERS: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}
REFUSAL = (
    "Vistas v2.0 has 124 classes with other ids than v1.2 and would be read wrongly: expected "
    "{training,validation}/v1.2/labels, which the zip of v2.0 contains as well"
)


class MapillaryDataModule(FilesDataModule):
    """Mapillary Vistas v1.2 (Neuhold et al., 2017); see the data card in datamodules/mapillary.py."""

    role = "target"
    test_split = "val"
    domain = "mapillary"
    folders = (
        "mapillary", "mapillary-vistas", "mapillary_vistas", "vistas", "mapillary-vistas-dataset_public_v1.2",
        "mapillary-vistas-dataset_public_v2.0",
    )  # fmt: skip
    layouts = (
        Layout(images=("{split}/images/*.jpg",), labels=("{split}/v1.2/labels/*.png",), splits=FOLDERS),
        Layout(images=("{split}/images/*.jpg",), labels=("{split}/labels/*.png",), splits=FOLDERS),
    )
    train_ids: ClassVar = dict.fromkeys(range(NUM_IDS), IGNORED) | TRAIN_IDS_OF_VISTAS
    counts: ClassVar = {"train": 18000, "val": 2000, "test": 5000}
    unlabelled_splits = frozenset(["test"])
    archives = "mapillary-vistas-dataset_public_v1.2.zip (or that of v2.0, which contains v1.2 too)"
    hint = f"Ids above 65 come from v2.0: {REFUSAL}"

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner.

        Raises:
            DataError: As for `FilesDataModule`, or if the labels are those of v2.0.
        """
        folder = self.find_root() / FOLDERS[split]
        others = (folder / "v1.2" / "labels", folder / "labels")
        if labelled and (folder / "v2.0").is_dir() and not any(other.is_dir() for other in others):
            raise DataError(f"{folder} contains only v2.0. {REFUSAL}", "id")
        pairs, problems = super().find_pairs(split, labelled)
        palette = read_palette(pairs[0].labels) if pairs and pairs[0].labels else None
        if palette is not None and tuple(palette[2]) == COLOUR_2_OF_V2:
            raise DataError(f"{pairs[0].labels} has the palette of v2.0. {REFUSAL}", "id")
        return pairs, problems
