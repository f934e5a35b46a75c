"""Label spaces: the 19 Cityscapes classes, the 16 of them shared with SYNTHIA, and user-defined classes.

Source: Cordts et al. (2016) for the train ids and colours; paper, Appendix F for the 16 classes.
"""

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

IGNORED = 255
UNKNOWN = 254  # in lookup tables: an id that the data set does not define

Colour = tuple[int, int, int]

CITYSCAPES_COLOURS: dict[str, Colour] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
NOT_IN_SYNTHIA = ("terrain", "truck", "train")
TRAIN_IDS = {train_id: train_id for train_id in (*range(len(CITYSCAPES_COLOURS)), IGNORED)}  # identity


@dataclass(frozen=True)
class LabelSpace:
    """The classes that a network predicts; class c has label c.

    Attributes:
        names: K class names.
        colours: K RGB colours, 0 to 255.
        members: For each class, the Cityscapes classes that it merges.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    members: tuple[tuple[str, ...], ...]

    @classmethod
    def of_size(cls, num_classes: int) -> "LabelSpace":
        """Returns the space of all 19 Cityscapes classes, or of the 16 without terrain, truck and train.

        Raises:
            ValueError: If the number is neither 19 nor 16.
        """
        if num_classes not in (19, 16):
            raise ValueError(
                f"num_classes is {num_classes}: expected 19 (Cityscapes) or 16 (shared with SYNTHIA); for other "
                "classes set `classes`"
            )
        kept = [name for name in CITYSCAPES_COLOURS if num_classes == 19 or name not in NOT_IN_SYNTHIA]
        return cls.of_classes({name: [name] for name in kept})

    @classmethod
    def of_classes(cls, classes: Mapping[str, Sequence[str]] | Sequence[str]) -> "LabelSpace":
        """Returns a space of user-defined classes.

        Args:
            classes: Class names; or for each name the Cityscapes classes that it merges, so that data sets with
                Cityscapes labels can be used. Cityscapes classes that are not listed are ignored.

        Raises:
            ValueError: If there are not 2 to 253 different names, or a merged class is unknown or listed twice.
        """
        names = tuple(str(name) for name in classes)
        alike = len({name.strip().casefold() for name in names}) != len(names)
        if alike or not 2 <= len(names) < UNKNOWN or not all(map(str.strip, names)):
            raise ValueError(
                f"classes are {list(names)}: expected 2 to {UNKNOWN - 1} names, none empty, all different (ignoring "
                "case and spaces)"
            )
        members: tuple[tuple[str, ...], ...]
        if isinstance(classes, Mapping):
            members = tuple(tuple(gathered) for gathered in classes.values())
        else:
            members = tuple((name,) if name in CITYSCAPES_COLOURS else () for name in names)
        flat = [member for gathered in members for member in gathered]
        wrong = sorted({member for member in flat if member not in CITYSCAPES_COLOURS or flat.count(member) > 1})
        if wrong:
            raise ValueError(
                f"classes combines {', '.join(wrong)}: expected classes of Cityscapes, each at most once "
                f"({', '.join(CITYSCAPES_COLOURS)})"
            )
        colours = [CITYSCAPES_COLOURS[gathered[0]] if gathered else None for gathered in members]
        hues = (colorsys.hsv_to_rgb(number * 0.618 % 1, 0.7, 0.95) for number in range(len(names)))
        spare = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
        return cls(names, tuple(colour or free for colour, free in zip(colours, spare, strict=True)), members)

    @cached_property
    def from_train_ids(self) -> np.ndarray:
        """The (256,) uint8 lookup from the 19 train ids to this space; all other values become 255."""
        return self.table(dict.fromkeys(range(256), IGNORED) | TRAIN_IDS)

    def table(self, train_ids: Mapping[int, int]) -> np.ndarray:
        """Builds the lookup from a data set's ids to this space.

        Args:
            train_ids: The Cityscapes train id, or 255, of each id (0 to 255) that the data set defines.

        Returns:
            (256,) uint8 labels, 255 where ignored, 254 where the id is not defined.
        """
        classes = {
            train_id: number
            for train_id, name in enumerate(CITYSCAPES_COLOURS)
            for number, gathered in enumerate(self.members)
            if name in gathered
        }
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        for value, train_id in train_ids.items():
            table[value] = classes.get(train_id, IGNORED)
        return table

    @cached_property
    def palette(self) -> np.ndarray:
        """The (256, 3) uint8 RGB colour of each label; values without a class are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: len(self.colours)] = self.colours
        return palette


def look_up(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Looks up (H, W) uint8 or uint16 ids in a (256,) or (65536,) uint8 table; ids beyond the table become 254."""
    most = int(ids.max(initial=0))
    if most < 256:
        return cv2.LUT(ids.astype(np.uint8, copy=False), table[:256])
    if len(table) <= most:
        table = np.concatenate([table, np.full(2**16 - len(table), UNKNOWN, dtype=np.uint8)])
    return table[ids]


def format_ids(ids: Iterable[int]) -> str:
    """Formats sorted numbers with consecutive ones as ranges, e.g. ``0-33, 255``."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = int(number)
        else:
            runs.append([int(number), int(number)])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
