"""Label spaces: the 19 train ids of Cityscapes, and the 16 of them that SYNTHIA knows.

Source: Cordts et al. (2016) for the train ids and colours; paper, Appendix F for the 16 classes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

IGNORED = 255

CITYSCAPES_COLOURS: dict[str, tuple[int, int, int]] = {
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


@dataclass(frozen=True)
class LabelSpace:
    """The classes a network tells apart; class c has train id c.

    Attributes:
        names: K class names.
        colours: K RGB colours, 0 to 255.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_size(cls, num_classes: int) -> "LabelSpace":
        """Returns the space of 19 classes, or of the 16 that are left without terrain, truck and train.

        Raises:
            ValueError: If the number is neither 19 nor 16.
        """
        if num_classes not in (19, 16):
            raise ValueError(f"num_classes is {num_classes}: expected 19 (Cityscapes) or 16 (shared with SYNTHIA)")
        kept = [name for name in CITYSCAPES_COLOURS if num_classes == 19 or name not in NOT_IN_SYNTHIA]
        return cls(tuple(kept), tuple(CITYSCAPES_COLOURS[name] for name in kept))

    @cached_property
    def from_train_ids(self) -> np.ndarray:
        """The (256,) uint8 table from the 19 train ids to this space; what is not in it becomes 255."""
        table = np.full(256, IGNORED, dtype=np.uint8)
        for train_id, name in enumerate(CITYSCAPES_COLOURS):
            if name in self.names:
                table[train_id] = self.names.index(name)
        return table

    @cached_property
    def palette(self) -> np.ndarray:
        """The (256, 3) uint8 RGB colour of each label; labels that are no class are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        palette[: len(self.colours)] = self.colours
        return palette
