"""The pictures that a report shows: of each domain the first images, and those that gained and lost most.

An image is up to four files in `gallery/DOMAIN/`: `NAME.truth.png`, `NAME.baseline.png` and `NAME.prediction.png`,
8-bit PNGs of train ids with the palette of the classes (255 where ignored), and `NAME.image.jpg`, which is written last
and deleted first: where it is, the image is whole.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from callbacks.report.panels import encode_jpeg, encode_png, fit_labels, restore_photograph
from callbacks.report.summary import rank_extremes
from callbacks.run.folder import GALLERY
from callbacks.run.records import shorten_name, write_file

MAX_WIDTH = 1024  # pixels; wider pictures would make reports of a hundred images large
ENDINGS = {"truth": ".truth.png", "baseline": ".baseline.png", "prediction": ".prediction.png", "image": ".image.jpg"}

Key = tuple[str, str]  # domain and name of an image


class Gallery:
    """Keeps the pictures of few images while all of them pass by, and survives a kill at any moment.

    Each process, and each run that goes on from another, has its own over the same folder: what is among the first or
    the extreme ones of all is so among those of its process. `trim` leaves those of all.

    Add an image before its record is written: an image with a record is not predicted again.

    Args:
        root: Folder of the run; pictures lie in its `gallery`.
        first: How many images per domain are kept as they come.
    """

    def __init__(self, root: Path, first: int) -> None:
        self.root = root
        self.first = first
        self._kept: defaultdict[str, dict[str, float]] = defaultdict(dict)  # scores by domain and name, as they come

    def wants(self, domain: str, name: str, score: float) -> bool:
        """Returns whether an image would be kept; one whose score is NaN is neither good nor bad."""
        return name in choose_images({**self._kept[domain], name: score}, self.first)

    def add(
        self,
        domain: str,
        name: str,
        score: float,
        image: Tensor,
        truth: Tensor,
        baseline: Tensor | None,
        prediction: Tensor,
        palette: np.ndarray,
    ) -> None:
        """Writes the pictures of an image that it `wants`, and deletes those of one that is not extreme any more.

        Args:
            domain: Of the image.
            name: Of the image; slashes make folders.
            score: The higher the better.
            image: (3, H, W) float, normalised; the pictures get its size, or 1024 pixels in width if it is wider.
            truth: (H', W') int64 train ids, 255 where ignored.
            baseline: (K, h, w) probabilities of the unadapted network, or None if there is no other.
            prediction: (K, h, w) probabilities.
            palette: (256, 3) uint8 RGB.
        """
        if not self.wants(domain, name, score):
            return
        photograph = shrink(restore_photograph(image))
        paths, size = locate_pictures(self.root, domain, name), (image.shape[-2], image.shape[-1])
        for layer, labels in (("truth", truth), ("baseline", baseline), ("prediction", prediction)):
            if labels is not None:
                fitted = fit_labels(labels, size, photograph.shape[:2])
                write_file(paths[layer], encode_png(fitted, palette))
        write_file(paths["image"], encode_jpeg(photograph))
        kept = self._kept[domain]
        kept[name] = score
        for fallen in kept.keys() - choose_images(kept, self.first):
            delete_pictures(self.root, domain, fallen)
            del kept[fallen]

    def trim(self, scores: Mapping[Key, float]) -> None:
        """Deletes what is not among the first or the extreme images of all processes, and what a kill left behind.

        Args:
            scores: Of all images that have a record, in the order of the data.
        """
        there: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for (domain, name), score in scores.items():
            if find_pictures(self.root, domain, name):
                there[domain][name] = score
        kept = {
            path
            for domain, found in there.items()
            for name in choose_images(found, self.first)
            for path in locate_pictures(self.root, domain, name).values()
        }
        for path in sorted((self.root / GALLERY).rglob("*"), reverse=True):  # what is in a folder before the folder
            if path.is_dir():
                with suppress(OSError):  # something is left in it
                    path.rmdir()
            elif path not in kept and path.name.endswith((*ENDINGS.values(), ".part")):
                path.unlink(missing_ok=True)


def choose_images(scores: Mapping[str, float], first: int) -> set[str]:
    """Returns the names of so many first images, and of the best and the worst."""
    best, worst = rank_extremes(scores)
    return {*list(scores)[:first], *best, *worst}


def list_predictions(root: Path) -> list[Path]:
    """Lists the label maps of a run's gallery."""
    return sorted((root / GALLERY).rglob(f"*{ENDINGS['prediction']}"))


def locate_pictures(root: Path, domain: str, name: str) -> dict[str, Path]:
    """Returns where the pictures of an image are, or would be: ``truth``, ``baseline``, ``prediction``, ``image``."""
    return {layer: root / GALLERY / domain / f"{shorten_name(name)}{ending}" for layer, ending in ENDINGS.items()}


def find_pictures(root: Path, domain: str, name: str) -> dict[str, Path]:
    """Returns the pictures of an image that are there, by layer; empty unless the image is whole."""
    paths = locate_pictures(root, domain, name)
    return {layer: path for layer, path in paths.items() if path.exists()} if paths["image"].exists() else {}


def delete_pictures(root: Path, domain: str, name: str) -> None:
    """Deletes the pictures of an image, the photograph first."""
    for path in reversed(locate_pictures(root, domain, name).values()):
        path.unlink(missing_ok=True)


def shrink(photograph: np.ndarray) -> np.ndarray:
    """Makes an (H, W, 3) picture at most 1024 pixels wide, in its proportions."""
    height, width = photograph.shape[:2]
    if width <= MAX_WIDTH:
        return photograph
    size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
    return cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
