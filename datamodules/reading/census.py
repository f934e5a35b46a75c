"""What the files of a split hold, and what a user should hear of it before a run: kinds, sizes, orientations, ids."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.base import DataError, Problem
from datamodules.labels import IGNORED, UNKNOWN, format_ids
from datamodules.reading.pixels import Header
from datamodules.transforms import MAX_EVALUATION_SIZE, EvaluationTransform

COMMON = ("road", "building", "vegetation", "sky", "car")  # classes that hardly any ten street scenes are without
ENOUGH = 10  # label files
MOSTLY = 0.5  # share of ignored pixels from which on they are worth a warning
DARK = 2**14  # a brightest value of 16-bit images from which on they are none of 14 bits or fewer
COUNTED = 2**20  # pixels at a time
ONE_BIT = "1-bit"  # how `Header.kind` ends for masks of black and white alone

Ids = Counter[int]  # number of pixels by id


@dataclass
class PairCheck:
    """What reading an image and its labels to the last byte has found.

    Attributes:
        name: Of the pair.
        image: Kind, size and orientation of the image; None if it could not be read.
        labels: The same of the label file; None if there is none, or it could not be read.
        ids: Number of pixels by id.
        problems: What is wrong.
        digest: Size and CRC-32 of the image file, which copies have too; None if there is none.
    """

    name: str
    image: Header | None = None
    labels: Header | None = None
    ids: Ids = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    digest: tuple[int, int] | None = None

    def add(self, error: DataError) -> None:
        """Adds a problem."""
        self.problems.append(Problem(self.name, error.kind, str(error)))


@dataclass
class Census:
    """What the files of a split hold, as far as they have been looked at.

    Attributes:
        images: Number of image files by kind.
        sizes: Number of images by (height, width), as they are seen: turned where they are turned.
        turned: Names of the images that are turned as their EXIF orientation says.
        labels: Number of label files by kind.
        ids: Number of pixels by id, by kind of label file.
        example: A label file of each kind.
        brightest: The highest values of images of 16 bits, as far as they have been looked for.
    """

    images: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    turned: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    ids: dict[str, Ids] = field(default_factory=dict)
    example: dict[str, Path] = field(default_factory=dict)
    brightest: list[int] = field(default_factory=list)

    @property
    def all_ids(self) -> Ids:
        """Number of pixels by id, of all kinds of label files."""
        return sum(self.ids.values(), Counter())

    def add_image(self, name: str, image: Header, upright: bool) -> None:
        """Counts an image; `upright` says whether it is turned as its EXIF orientation says."""
        self.images[image.kind] += 1
        self.sizes[image.turned_size if upright else image.size] += 1
        if upright and image.orientation != 1:
            self.turned.append(name)
        if image.brightest is not None:
            self.brightest.append(image.brightest)

    def add_labels(self, path: Path, labels: Header, ids: Ids) -> None:
        """Counts a label file."""
        self.labels[labels.kind] += 1
        self.example.setdefault(labels.kind, path)
        self.ids.setdefault(labels.kind, Counter()).update(ids)

    def check_bits(self, where: str) -> None:
        """Raises DataError if masks of one bit lie beside others: 1 would be one thing here and 255 another there."""
        binary = [kind for kind in self.labels if kind.endswith(ONE_BIT)]
        others = [kind for kind in self.labels if kind not in binary]
        if binary and others:
            raise DataError(
                f"{where}: {self.example[binary[0]]} is a 1-bit mask (ids 0 and 1), {self.example[others[0]]} is not: "
                "expected all of one kind. Save all labels as 8-bit images of ids",
                "id",
            )

    def find_warnings(self, where: str, table: np.ndarray, names: Sequence[str], own: bool) -> list[str]:
        """Returns what speaks for pixels or ids that mean something else than is thought, the worst first.

        Args:
            where: Data set and split.
            table: Lookup from ids to labels.
            names: Classes of the labels.
            own: Whether the user has named them; of Cityscapes' only the common ones are expected to occur.
        """
        ids, warnings = self.all_ids, self.find_dark_images(where)
        if not ids:
            return warnings
        seen = {int(table[value]) for value in ids}
        common = COMMON if self.labels.total() >= ENOUGH else ()
        absent = [name for number, name in enumerate(names) if number not in seen and (own or name in common)]
        ignored = sum(number for value, number in ids.items() if table[value] == IGNORED)
        share = ignored / ids.total()
        found = format_ids(sorted(ids))
        if absent:
            mapping = ", ".join(f"{value}: {name}" for value, name in zip(sorted(ids), names, strict=False))
            taken = (
                "the ids do not number your classes in order, say what they are, e.g. (a guess, in the order of the "
                f"ids found) ids: {{{mapping}}}"
                if own
                else "they are not Cityscapes' 19 train ids, set classes and ids"
            )
            warnings.append(
                f"{where}: {', '.join(absent)} never occurs in {self.labels.total():,} label files, which hold the ids "
                f"{found}. If {taken}"
            )
        if share > MOSTLY:
            warnings.append(
                f"{where}: {share:.0%} of the label pixels are ignored, in training and scores, as their ids "
                f"({format_ids(value for value in sorted(ids) if table[value] == IGNORED)}) stand for no class. If "
                "they should, correct ids or ignored"
            )
        return warnings

    def find_dark_images(self, where: str) -> list[str]:
        """Returns a warning if images of 16 bits use so few of them that they are read as black, or almost."""
        most = max(self.brightest, default=0)
        if not 0 < most < DARK:
            return []
        found = f"{where}: {len(self.brightest):,} 16-bit images hold values up to {most:,} of 65,535"
        if most < 2**8:
            return [f"{found}, so these are 8-bit values and are read as black: save them as 8-bit images"]
        bits = most.bit_length()
        return [
            f"{found}, so these look like {bits}-bit values and are read as almost black: multiply them by "
            f"{2 ** (16 - bits)} and save them again"
        ]

    def find_notes(self, where: str, transform: EvaluationTransform) -> list[str]:
        """Returns what happens to the images before they reach the network."""
        notes = []
        number = self.sizes.total()
        fitted = {size: transform.fit(size) for size in self.sizes}
        changed = Counter({size: count for size, count in self.sizes.items() if fitted[size] != size})
        if changed:
            (size, _), count = changed.most_common(1)[0], changed.total()
            squeezed = transform.resize == "protocol" and fitted[size][0] * size[1] != fitted[size][1] * size[0]
            how = "changing the aspect ratio" if squeezed else "keeping the aspect ratio"
            notes.append(
                f"{where}: {count:,} of {number:,} images have more than "
                f"{MAX_EVALUATION_SIZE[0]}x{MAX_EVALUATION_SIZE[1]} pixels and are resized for evaluation, {how}, e.g. "
                f"{format_size(size)} to {format_size(fitted[size])} (WxH; see evaluation_resize)"
            )
        if self.turned:
            notes.append(
                f"{where}: {len(self.turned):,} of {number:,} images are turned as their EXIF orientation says, e.g. "
                f"{self.turned[0]}"
            )
        return notes

    def describe(self, table: np.ndarray, names: Sequence[str]) -> dict[str, object]:
        """Returns everything, for JSON."""
        return {
            "images": dict(self.images.most_common()),
            "sizes": {format_size(size): number for size, number in self.sizes.most_common()},
            "turned": self.turned,
            "labels": dict(self.labels.most_common()),
            "ids": {kind: {str(value): ids[value] for value in sorted(ids)} for kind, ids in self.ids.items()},
            "mapping": {str(value): name_id(value, table, names) for value in sorted(self.all_ids)},
        }


def name_id(value: int, table: np.ndarray, names: Sequence[str]) -> str:
    """Returns the class that an id counts as; ``ignored``, or ``unknown``."""
    label = int(table[value]) if value < len(table) else UNKNOWN
    return {IGNORED: "ignored", UNKNOWN: "unknown"}.get(label) or names[label]


def format_size(size: tuple[int, int]) -> str:
    """Writes (height, width) as ``WxH``."""
    return f"{size[1]}x{size[0]}"


def count_ids(ids: np.ndarray) -> Ids:
    """Counts the pixels of each id in (H, W) uint8 or uint16 ids."""
    counts = np.zeros(2**16, dtype=np.int64)
    rows = max(1, COUNTED // max(1, ids.shape[1]))
    for first in range(0, len(ids), rows):  # bincount takes 8 bytes for each pixel
        counts += np.bincount(ids[first : first + rows].ravel(), minlength=2**16)
    return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
