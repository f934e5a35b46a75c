"""The pictures that a report shows: of each domain the first images, and those that gained and lost most.

An image is up to four files in `gallery/DOMAIN/`: `NAME.truth.png`, `NAME.baseline.png` and `NAME.prediction.png`,
8-bit PNGs of train ids with the palette of the classes (255 where ignored), and `NAME.image.jpg`, which is written last
and deleted first: where it is, the image is whole.
"""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from callbacks.report.panels import encode_jpeg, encode_png, restore_photograph
from callbacks.run.folder import GALLERY
from callbacks.run.records import shorten_name, write_file
from callbacks.views import IMAGENET, Normalization
from lightning_modules.probabilities import resize_probabilities

EXTREMES = 3
MAX_WIDTH = 1024  # pixels; wider pictures would make reports of a hundred images large
ENDINGS = {"truth": ".truth.png", "baseline": ".baseline.png", "prediction": ".prediction.png", "image": ".image.jpg"}

Key = tuple[str, str]  # domain and name of an image


class Gallery:
    """Keeps the pictures of few images while all of them pass by, and survives a kill at any moment.

    Under several processes each has its own, over the same folder: what is among the first or the extreme ones of all
    is so among those of its process. `trim` leaves those of all.

    Add an image before its record is written: an image with a record is not predicted again.

    Args:
        root: Folder of the run; pictures lie in its `gallery`.
        first: How many images per domain are kept as they come.
        extremes: How many of the best and how many of the worst are kept per domain.
    """

    def __init__(self, root: Path, first: int, extremes: int = EXTREMES) -> None:
        self.root = root
        self.first = first
        self.extremes = extremes
        self._left: defaultdict[str, int] = defaultdict(lambda: first)
        self._protected: defaultdict[str, set[str]] = defaultdict(set)  # the first ones
        self._ranked: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)  # the extreme ones, worst first

    def wants(self, domain: str, name: str, score: float) -> bool:
        """Returns whether an image would be kept.

        Args:
            domain: Of the image.
            name: Of the image; slashes make folders.
            score: The higher the better; an image whose score is NaN is neither good nor bad.
        """
        return self._left[domain] > 0 or self._is_extreme(domain, name, score)

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
        normalization: Normalization = IMAGENET,
    ) -> None:
        """Writes the pictures of an image that it `wants`, and deletes those of one that is not extreme any more.

        Args:
            domain: Of the image.
            name: Of the image.
            score: The higher the better.
            image: (3, H, W) float, normalised; the pictures get its size, or 1024 pixels in width if it is wider.
            truth: (H', W') int64 train ids, 255 where ignored.
            baseline: (K, h, w) probabilities of the unadapted network, or None if there is no other.
            prediction: (K, h, w) probabilities.
            palette: (256, 3) uint8 RGB.
            normalization: How the image was normalised.
        """
        if not self.wants(domain, name, score):
            return
        photograph = shrink(restore_photograph(image, normalization))
        maps = {"truth": truth.cpu().numpy().astype(np.uint8)}
        for layer, probabilities in (("baseline", baseline), ("prediction", prediction)):
            if probabilities is not None:
                resized = resize_probabilities(probabilities[None], image.shape[-2:])[0]
                maps[layer] = resized.argmax(dim=0).cpu().numpy().astype(np.uint8)
        paths = locate_pictures(self.root, domain, name)
        for layer, labels in maps.items():
            write_file(paths[layer], encode_png(fit_labels(labels, photograph.shape[:2]), palette))
        write_file(paths["image"], encode_jpeg(photograph))
        if self._left[domain] > 0:
            self._left[domain] -= 1
            self._protected[domain].add(name)
        for fallen in self._rank(domain, name, score):
            if fallen not in self._protected[domain]:
                delete_pictures(self.root, domain, fallen)

    def reopen(self, scores: Mapping[Key, float]) -> None:
        """Goes on from the files of earlier runs.

        The count of first images starts anew: under several processes the records are not those of the first images.

        Args:
            scores: Of the images that have a record, in the order of the data.
        """
        for domain, names in group_domains(scores).items():
            there = [name for name in names if has_pictures(self.root, domain, name)]
            self._protected[domain] = set(there[: self.first])
            for name in there:
                self._rank(domain, name, scores[domain, name])

    def trim(self, scores: Mapping[Key, float]) -> None:
        """Deletes what is not among the first or the extreme images of all processes, and what a kill left behind.

        Args:
            scores: Of all images that have a record, in the order of the data.
        """
        kept: set[Path] = set()
        for domain, names in group_domains(scores).items():
            there = {name: scores[domain, name] for name in names if has_pictures(self.root, domain, name)}
            best, worst = rank_extremes(there, self.extremes)
            for name in {*names[: self.first], *best, *worst} & there.keys():
                kept.update(locate_pictures(self.root, domain, name).values())
        folder = self.root / GALLERY
        for path in list(folder.rglob("*")):
            ours = path.name.endswith((*ENDINGS.values(), ".part"))
            if ours and path not in kept and path.is_file():
                path.unlink(missing_ok=True)
        for path in sorted(folder.rglob("*"), reverse=True):  # inner folders first
            with suppress(OSError):  # files, and folders that hold some
                path.rmdir()

    def _is_extreme(self, domain: str, name: str, score: float) -> bool:
        if math.isnan(score) or self.extremes == 0:
            return False
        ranked = self._ranked[domain]
        if len(ranked) < 2 * self.extremes:
            return True
        return (score, name) > ranked[-self.extremes] or (score, name) < ranked[self.extremes - 1]

    def _rank(self, domain: str, name: str, score: float) -> list[str]:
        """Puts an image among the extreme ones; returns the names of those that are not any more."""
        if not self._is_extreme(domain, name, score):
            return []
        ranked = self._ranked[domain]
        if (score, name) not in ranked:
            insort(ranked, (score, name))
        fallen = ranked[self.extremes : -self.extremes]
        del ranked[self.extremes : -self.extremes]
        return [fallen_name for _, fallen_name in fallen]


def list_predictions(root: Path) -> list[Path]:
    """Lists the label maps of a run's gallery."""
    return sorted((root / GALLERY).rglob(f"*{ENDINGS['prediction']}"))


def locate_pictures(root: Path, domain: str, name: str) -> dict[str, Path]:
    """Returns where the pictures of an image are, or would be: ``truth``, ``baseline``, ``prediction``, ``image``."""
    return {layer: root / GALLERY / domain / f"{shorten_name(name)}{ending}" for layer, ending in ENDINGS.items()}


def has_pictures(root: Path, domain: str, name: str) -> bool:
    """Returns whether all pictures of an image are there."""
    return locate_pictures(root, domain, name)["image"].exists()


def delete_pictures(root: Path, domain: str, name: str) -> None:
    """Deletes the pictures of an image, the photograph first."""
    for path in reversed(locate_pictures(root, domain, name).values()):
        path.unlink(missing_ok=True)


def rank_extremes(scores: Mapping[str, float], extremes: int = EXTREMES) -> tuple[list[str], list[str]]:
    """Returns the names of the best images (best first) and of the worst (worst first), none of them in both.

    Args:
        scores: By name, the higher the better; NaN is left out. Equal scores are ordered by name.
        extremes: How many of each; fewer if there are not enough, the best before the worst.
    """
    ranked = [name for _, name in sorted((score, name) for name, score in scores.items() if not math.isnan(score))]
    best = min(extremes, math.ceil(len(ranked) / 2))
    worst = min(extremes, len(ranked) - best)
    return ranked[::-1][:best], ranked[:worst]


def group_domains(keys: Mapping[Key, float]) -> dict[str, list[str]]:
    """Returns the names of the images of each domain, in order."""
    grouped: dict[str, list[str]] = {}
    for domain, name in keys:
        grouped.setdefault(domain, []).append(name)
    return grouped


def shrink(photograph: np.ndarray) -> np.ndarray:
    """Makes an (H, W, 3) picture at most 1024 pixels wide, in its proportions."""
    height, width = photograph.shape[:2]
    if width <= MAX_WIDTH:
        return photograph
    size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
    return cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)


def fit_labels(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Brings (H, W) uint8 labels to a size (height, width) by the nearest neighbour."""
    if labels.shape == tuple(size):
        return labels
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))
