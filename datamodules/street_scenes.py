"""StreetScenes: street scenes drawn on the fly with exact labels, to try everything without licensed data.

Data card:
    Source: drawn by `datamodules.scenery`; no files on disk, no licence needed.
    Domains: ``source`` (clean, sunny, game-like), ``development`` (a mixture, moderately shifted), and the targets
        ``haze``, ``dusk`` and ``dust``, each with another kind of shift. The geometry follows the same rules in all.
    Encoding: train ids of Cityscapes, all 19 classes, no ignored pixels.
    Sizes: any from 128x256 to 1024x2048.
    Determinism: an image depends only on (domain, split, index, world seed) and the size.
    Traps: this is a synthetic demonstration; scores on it are no evidence for the paper's numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.base import Role, SegmentationDataModule, SegmentationDataset, Split, require_least
from datamodules.labels import TRAIN_IDS
from datamodules.scenery import DOMAINS, SMALLEST, draw_scene
from datamodules.targets import TargetsDataModule
from datamodules.transforms import Transform

TARGETS = tuple(name for name in DOMAINS if name not in ("source", "development"))


class StreetScenesDataset(SegmentationDataset):
    """Street scenes of one split; those to train on are kept in memory (per worker) if they take less than 1 GB."""

    def __init__(self, data: "StreetScenesDataModule", split: Split, transform: Transform, labelled: bool) -> None:
        super().__init__(data.domain, data.labels.table(TRAIN_IDS), transform, data.seed, labelled)
        self.split, self.length, self.size, self.world_seed = split, data.lengths[split], data.size, data.world_seed
        self.cache = split == "train" and self.length * self.size[0] * self.size[1] * 4 < 1e9
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.length

    def name(self, index: int) -> str:
        """Returns e.g. ``haze_test_00012``."""
        return f"{self.domain}_{self.split}_{index:05d}"

    def load_image(self, index: int) -> np.ndarray:
        """Draws an image."""
        return self._draw(index)[0]

    def load_ids(self, index: int) -> np.ndarray:
        """Draws the train ids of an image."""
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._drawn:
            if not self.cache:
                self._drawn.clear()
            self._drawn[index] = draw_scene(self.domain, self.split, index, self.world_seed, *self.size)
        return self._drawn[index]


class StreetScenesDataModule(SegmentationDataModule):
    """One domain of StreetScenes.

    Args:
        domain: ``source``, ``development``, ``haze``, ``dusk`` or ``dust``; it determines the role.
        height: Image height in pixels.
        width: Image width in pixels.
        num_train: Images in the train split.
        num_val: Images in the val split.
        num_test: Images in the test split.
        world_seed: Seed of the scenes; another seed draws other images of the same domain.
        **kwargs: Arguments of `SegmentationDataModule`.

    Raises:
        ValueError: If the domain is unknown or a number is out of range.
    """

    def __init__(
        self,
        domain: str = "source",
        height: int = 256,
        width: int = 512,
        num_train: int = 240,
        num_val: int = 24,
        num_test: int = 48,
        world_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if domain not in DOMAINS:
            raise ValueError(f"unknown domain {domain!r}: expected one of {', '.join(DOMAINS)}")
        require_least(0, num_train=num_train, num_val=num_val, num_test=num_test, world_seed=world_seed)
        require_least(SMALLEST[0], height=height)
        require_least(SMALLEST[1], width=width)
        self.domain = domain
        self.role: Role = "target" if domain in TARGETS else "source" if domain == "source" else "development"
        self.size = (height, width)
        self.world_seed = world_seed
        self.lengths: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        return super().describe() | {"size": list(self.size), "world_seed": self.world_seed}

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> StreetScenesDataset:
        """Opens one split."""
        return StreetScenesDataset(self, split, transform, labelled)


class StreetScenesProtocol(TargetsDataModule):
    """The whole protocol on StreetScenes: train on source, tune on development, test on haze, dusk and dust.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        num_train: Images to train on.
        num_val: Images to tune on.
        num_test: Test images per target.
        targets: Domains to test on.
        world_seed: Seed of the source and development scenes; another seed draws other images.
        target_seed: Seed of the target scenes.
        **kwargs: Arguments of `SegmentationDataModule`.

    Raises:
        ValueError: If a domain is unknown or a number is out of range.
    """

    def __init__(
        self,
        height: int = 256,
        width: int = 512,
        num_train: int = 240,
        num_val: int = 24,
        num_test: int = 48,
        targets: Sequence[str] = TARGETS,
        world_seed: int = 0,
        target_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        def open_domain(domain: str, seed: int) -> StreetScenesDataModule:
            return StreetScenesDataModule(domain, height, width, num_train, num_val, num_test, seed, **kwargs)

        super().__init__(
            targets=[open_domain(domain, target_seed) for domain in targets],
            source=open_domain("source", world_seed),
            development=open_domain("development", world_seed),
        )
