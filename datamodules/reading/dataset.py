"""Pairs of files as a data set, and what reading each to the last byte finds."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import numpy as np

from datamodules.base import DataError, SegmentationDataset
from datamodules.labels import TRAIN_IDS, UNKNOWN
from datamodules.reading.census import PairCheck, count_ids
from datamodules.reading.pairs import Pair, describe_file
from datamodules.reading.pixels import Header, read_header, read_image, read_orientation
from datamodules.transforms import Transform


class FilesDataset(SegmentationDataset):
    """Pairs of files.

    Args:
        domain: Name of the data set.
        pairs: In the order of the samples.
        table: Lookup from stored ids to labels, see `LabelSpace.table`.
        transform: What happens to each pair.
        read_ids: Reads a label file as (H, W) uint8 or uint16 ids.
        seed: Of the augmentation.
        labelled: Whether samples have a mask.
        upright: Whether images are turned as their EXIF orientation says.
        hint: What to add to errors about ids that the data set does not define.
    """

    def __init__(
        self,
        domain: str,
        pairs: Sequence[Pair],
        table: np.ndarray,
        transform: Transform,
        read_ids: Callable[[Path], np.ndarray],
        seed: int = 0,
        labelled: bool = True,
        upright: bool = False,
        hint: str = "",
    ) -> None:
        super().__init__(domain, table, transform, seed, labelled)
        self.pairs = pairs
        self.read_ids = read_ids
        self.upright = upright
        self.hint = hint

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Returns what tells the file from others, e.g. ``frankfurt/frankfurt_000000_000294``."""
        return self.pairs[index].name

    def describe_pair(self, index: int) -> str:
        """Returns the name of a pair, and size and time of change of its files."""
        pair = self.pairs[index]
        used = [path for path in (pair.image, pair.labels) if path is not None]
        return " ".join([pair.name, *(describe_file(path) for path in used)])

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
        """Raises DataError if images are turned upright, and one file of a pair says another turn than the other.

        Labels may have been drawn on the stored pixels or on the upright ones: nothing tells.
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
        """Returns the message about unknown ids; says so if they look like Cityscapes' own, not its train ids."""
        found, path = list(found), self.pairs[index].labels
        named = path is not None and "labelIds" in path.name
        train_ids = set(np.flatnonzero(self.table != UNKNOWN)) == {*TRAIN_IDS}
        alike = set(found) <= {*range(34)} and (named or train_ids)
        hint = ". They look like Cityscapes' label ids: use CityscapesDataModule, or give ids" if alike else ""
        return super().explain_ids(index, found) + hint

    def where(self, index: int) -> str:
        """Returns the two files."""
        return f"{self.pairs[index].image} and {self.pairs[index].labels}"

    def check(self, index: int) -> PairCheck:
        """Reads a pair to the last byte; says what it holds, and what is wrong with it."""
        pair, found = self.pairs[index], PairCheck(self.name(index))
        size = None
        try:
            size = self.load_image(index).shape[:2]
            found.image = read_header(pair.image, brightest=True)
            data = pair.image.read_bytes()
            found.digest = len(data), crc32(data)
        except DataError as error:
            found.add(error)
        if not self.labelled:
            return found
        try:
            ids = self.load_ids(index)
            assert pair.labels is not None
            polygons = Header(pair.labels.suffix.removeprefix(".").upper(), ids.shape)
            found.labels, found.ids = read_header(pair.labels) or polygons, count_ids(ids)
            if size is not None and size != ids.shape:
                found.add(DataError(self.explain_sizes(index, size, ids.shape), "size"))
            self.convert_ids(index, ids)
        except DataError as error:
            found.add(error)
        try:
            self.check_orientation(index)
        except DataError as error:
            found.add(error)
        return found


def check_dataset(
    dataset: FilesDataset, indices: Sequence[int] | None = None, num_threads: int | None = None
) -> Iterator[PairCheck]:
    """Reads pairs with all cores; yields what is found in each, in order, see `FilesDataset.check`."""
    chosen = range(len(dataset)) if indices is None else indices
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:  # decoders leave Python's lock
        yield from pool.map(dataset.check, chosen)
