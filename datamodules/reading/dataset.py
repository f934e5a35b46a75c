"""A data set of image and label files, and checks of its pairs."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from datamodules.base import DataError, Problem, SegmentationDataset
from datamodules.labels import TRAIN_IDS, UNKNOWN
from datamodules.reading.census import Census, count_ids
from datamodules.reading.headers import find_brightest, read_header, read_orientation
from datamodules.reading.pairs import Pair
from datamodules.reading.pixels import read_encoded, read_image

DEEP_LOOKED_AT = 5  # 16-bit images decoded for their maximum


class FilesDataset(SegmentationDataset):
    """A data set of image and label files.

    Args:
        *args: Arguments of `SegmentationDataset`.
        pairs: Pairs in the order of the samples.
        read_ids: Reads a label file as (H, W) uint8 or uint16 ids.
        upright: Whether images are turned upright according to their EXIF orientation.
        hint: Advice appended to errors about ids that the data set does not define.
    """

    def __init__(
        self, *args: Any, pairs: Sequence[Pair], read_ids: Callable[[Path], np.ndarray], upright: bool, hint: str
    ) -> None:
        super().__init__(*args)
        self.pairs = pairs
        self.read_ids = read_ids
        self.upright = upright
        self.hint = hint

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Returns the name of a pair, e.g. ``frankfurt/frankfurt_000000_000294``."""
        return self.pairs[index].name

    def describe_pair(self, index: int) -> str:
        """Returns the name of a pair, and the size and modification time of its files."""
        described = [self.name(index)]
        for path in self.pairs[index].files:
            with suppress(OSError):  # a missing file
                described.append(f"{path.stat().st_size} {path.stat().st_mtime_ns}")
        return " ".join(described)

    def load_image(self, index: int) -> np.ndarray:
        """Reads an image."""
        return read_image(self.pairs[index].image, self.upright)

    def load_ids(self, index: int) -> np.ndarray:
        """Reads the ids of the pixels of an image."""
        path = self.pairs[index].labels
        if path is None:
            raise DataError(f"{self.pairs[index].image} has no labels: only `predict` can use it", "missing")
        return self.read_ids(path)

    def load_pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image and its labels."""
        self.check_orientation(index)
        return super().load_pair(index)

    def check_orientation(self, index: int) -> None:
        """Raises DataError if `upright` is set and the EXIF orientations of an image and its labels differ.

        The labels may have been drawn on the stored pixels or on the upright ones; the files do not tell which.
        """
        pair = self.pairs[index]
        if not self.upright or pair.labels is None:
            return
        image, labels = read_orientation(pair.image), read_orientation(pair.labels)
        if image != labels:
            raise DataError(
                f"{self.where(index)}: the image has the EXIF orientation {image}, its labels {labels} (1 is upright): "
                "expected the same for both, as the labels may be rotated. Rotate the pixels themselves (mogrify "
                "-auto-orient), or remove the orientation",
                "size",
            )

    def explain_ids(self, index: int, found: Iterable[int]) -> str:
        """Returns the message about unknown ids, with a hint if they look like Cityscapes' label ids."""
        found, path = list(found), self.pairs[index].labels
        named = path is not None and "labelIds" in path.name
        train_ids = set(np.flatnonzero(self.table != UNKNOWN)) == {*TRAIN_IDS}
        alike = set(found) <= {*range(34)} and (named or train_ids)
        hint = ". They look like Cityscapes' label ids: use CityscapesDataModule, or give ids" if alike else ""
        return super().explain_ids(index, found) + hint

    def where(self, index: int) -> str:
        """Returns the paths of the two files."""
        return f"{self.pairs[index].image} and {self.pairs[index].labels}"

    def check(self, index: int, whole: bool = True) -> Census:
        """Reads a pair, `whole` or of the image only the header; returns its statistics and problems."""
        pair, size, found = self.pairs[index], None, Census(read=1)
        with found.note_problem(pair.name):
            if whole:
                size = self.load_image(index).shape[:2]
                file = read_encoded(pair.image)
                found.digests[len(file), crc32(file)] = pair.name
            if header := read_header(pair.image):
                found.images[header.kind] += 1
                found.sizes[header.turned_size if self.upright else header.size] += 1
                found.turned = int(self.upright and header.orientation != 1)
                if whole and "16-bit" in header.kind:
                    found.brightest = find_brightest(pair.image)
        if not self.labelled:
            return found
        with found.note_problem(pair.name):
            ids = self.load_ids(index)
            assert pair.labels is not None
            header = read_header(pair.labels)
            kind = header.kind if header else pair.labels.suffix.removeprefix(".").upper()  # polygons
            found.labels[kind], found.ids[kind] = [pair.labels], count_ids(ids)
            if size is not None and size != ids.shape:
                found.problems.append(Problem(pair.name, "size", self.explain_sizes(index, size, ids.shape)))
            self.convert_ids(index, ids)
        with found.note_problem(pair.name):
            self.check_orientation(index)
        return found


def check_dataset(
    dataset: FilesDataset, indices: Iterable[int] | None = None, num_threads: int | None = None
) -> Iterator[Census]:
    """Checks pairs on all cores; yields the census of each, in order, see `FilesDataset.check`."""
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:  # decoders release the GIL
        yield from pool.map(dataset.check, range(len(dataset)) if indices is None else indices)


def look_at(dataset: FilesDataset, number: int) -> Census:
    """Checks about `number` pairs, evenly spread: labels, image headers, and the pixels of a few 16-bit images."""
    census = Census()
    for index in range(0, len(dataset), max(1, len(dataset) // number)):
        found = dataset.check(index, whole=False)
        if any("16-bit" in kind for kind in found.images) and len(census.brightest) < DEEP_LOOKED_AT:
            found.brightest = find_brightest(dataset.pairs[index].image)
        census.update(found)
    return census
