"""Pictures that a run draws as it processes its images: panels of the first images, and the gallery of its report.

The gallery holds the first images of each domain, and those that gained and lost most. An image has up to four files in
`gallery/DOMAIN/`: `NAME.truth.png`, `NAME.baseline.png` and `NAME.prediction.png`, 8-bit PNGs of train ids with the
palette of the classes (255 where ignored), and `NAME.image.jpg`. The latter is written last and deleted first, so that
the image is complete if this file exists.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.report.panels import draw_panel, encode_jpeg, encode_png, fit_labels, restore_photograph
from callbacks.report.summary import ImageRow, gain_of_image, rank_extremes
from callbacks.run.folder import GALLERY, PANELS, RunFolder
from callbacks.run.records import shorten_name, write_file

MAX_WIDTH = 1024  # pixels; wider pictures would make reports of a hundred images large
ENDINGS = {"image": ".image.jpg", "truth": ".truth.png", "baseline": ".baseline.png", "prediction": ".prediction.png"}


class RunPictures:
    """Draws `panels/DOMAIN/NAME.png` and maintains the gallery.

    Args:
        folder: The run's folder.
        trainer: The run's Trainer, whose processes share the panels.
        panels: Number of images per domain and process that get a panel, and of first images in the gallery.
        gallery: Whether to keep a gallery.
        palette: (256, 3) uint8 RGB.
    """

    def __init__(self, folder: RunFolder, trainer: Trainer, panels: int, gallery: bool, palette: np.ndarray) -> None:
        self._root = folder.root
        self._palette = palette
        self._panels = panels
        self._trainer = trainer
        drawn = (folder.root / PANELS).rglob("*.png")  # by earlier runs
        self._drawn = Counter(path.relative_to(folder.root / PANELS).parts[0] for path in drawn)
        self._left: dict[str, int] = {}
        self._gallery = Gallery(folder.root, panels, palette) if gallery else None

    def draw(
        self, image: Tensor, truth: Tensor, baseline: Tensor | None, prediction: Tensor, record: Mapping[str, Any]
    ) -> None:
        """Draws an image with this record if it belongs to the panels or the gallery, see `Gallery.add`."""
        maps = {"truth": truth, "baseline": baseline, "prediction": prediction}
        known = {layer: labels for layer, labels in maps.items() if labels is not None}
        if self._gallery is not None:
            self._gallery.add(record["domain"], record["name"], gain_of_image(record), image, known)
        domain = record["domain"]
        if self._count_left(domain) > 0:
            self._left[domain] -= 1
            panel = draw_panel(image, list(known.values()), self._palette)
            write_file(self._root / PANELS / domain / f"{shorten_name(record['name'])}.png", encode_png(panel))

    @property
    def has_gallery(self) -> bool:
        """Whether the run keeps a gallery."""
        return self._gallery is not None

    def trim(self, rows: Iterable[ImageRow]) -> None:
        """Deletes the pictures that the report of these images does not show."""
        if self._gallery is not None:
            self._gallery.trim({(row.domain, row.name): row.score for row in rows})

    def _count_left(self, domain: str) -> int:
        """Returns how many more panels of a domain this process may draw."""
        if domain not in self._left:
            processes, rank = self._trainer.world_size, self._trainer.global_rank
            left = max(0, self._panels * processes - self._drawn[domain])
            self._left[domain] = (left + processes - 1 - rank) // processes
        return self._left[domain]


class Gallery:
    """Keeps the pictures of a few images while a run processes all of them; safe against a kill at any moment.

    Each process, and each resumed run, makes its own selection in the same folder: an image among the first or extreme
    ones of all processes is also among those of its own process. `trim` then reduces them to the overall selection.

    Add an image before its record is written: an image with a record is not predicted again.

    Args:
        root: The run's folder; pictures go into its `gallery`.
        first: Number of first images to keep per domain.
        palette: (256, 3) uint8 RGB.
    """

    def __init__(self, root: Path, first: int, palette: np.ndarray) -> None:
        self.root = root
        self.first = first
        self.palette = palette
        self._kept: defaultdict[str, dict[str, float]] = defaultdict(dict)  # scores by domain and name, in order

    def add(self, domain: str, name: str, score: float, image: Tensor, maps: Mapping[str, Tensor]) -> None:
        """Writes the pictures of an image if it is to be kept, and deletes those of images that no longer are.

        Args:
            domain: Domain of the image.
            name: Name of the image; slashes make folders.
            score: Higher is better; an image with NaN is neither among the best nor among the worst.
            image: (3, H, W) float, normalised; pictures have its size, or a width of 1024 pixels if it is wider.
            maps: ``truth``, (H', W') int64 train ids, 255 where ignored; ``prediction`` and, if the unadapted network
                was scored, ``baseline``, (K, h, w) probabilities.
        """
        kept = self._kept[domain]
        chosen = choose_images({**kept, name: score}, self.first)
        if name not in chosen:
            return
        paths, photograph = locate_pictures(self.root, domain, name), restore_photograph(image)
        full = height, width = photograph.shape[:2]
        if width > MAX_WIDTH:
            size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
            photograph = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
        for layer, labels in maps.items():
            write_file(paths[layer], encode_png(fit_labels(labels, full, photograph.shape[:2]), self.palette))
        write_file(paths["image"], encode_jpeg(photograph))
        kept[name] = score
        for fallen in kept.keys() - chosen:
            for path in locate_pictures(self.root, domain, fallen).values():
                path.unlink(missing_ok=True)
            del kept[fallen]

    def trim(self, scores: Mapping[tuple[str, str], float]) -> None:
        """Deletes all but the first and the extreme images of all processes, and files that a kill left behind.

        Args:
            scores: Scores of all images that have a record, by domain and name, in the order of the data.
        """
        complete: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for (domain, name), score in scores.items():
            if find_pictures(self.root, domain, name):
                complete[domain][name] = score
        kept = set()
        for domain, found in complete.items():
            for name in choose_images(found, self.first):
                kept |= set(locate_pictures(self.root, domain, name).values())
        for path in set((self.root / GALLERY).rglob("*.*")) - kept:
            if path.is_file() and path.name.endswith((*ENDINGS.values(), ".part")):
                path.unlink(missing_ok=True)


def choose_images(scores: Mapping[str, float], first: int) -> set[str]:
    """Returns the names of the first `first` images, and of the best and the worst."""
    best, worst = rank_extremes(scores)
    return {*list(scores)[:first], *best, *worst}


def list_predictions(root: Path) -> list[Path]:
    """Lists the predicted label maps in a run's gallery."""
    return sorted((root / GALLERY).rglob(f"*{ENDINGS['prediction']}"))


def locate_pictures(root: Path, domain: str, name: str) -> dict[str, Path]:
    """Returns the paths of an image's pictures, existing or not: ``image``, ``truth``, ``baseline``, ``prediction``."""
    return {layer: root / GALLERY / domain / f"{shorten_name(name)}{ending}" for layer, ending in ENDINGS.items()}


def find_pictures(root: Path, domain: str, name: str) -> dict[str, Path]:
    """Returns the existing pictures of an image, by layer; empty unless the image is complete."""
    paths = locate_pictures(root, domain, name)
    return {layer: path for layer, path in paths.items() if path.exists()} if paths["image"].exists() else {}
