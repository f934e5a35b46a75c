"""Statistics of the files of a split (kinds, sizes, orientations, ids), and warnings about them before a run."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.base import DataError, Problem
from datamodules.labels import IGNORED, UNKNOWN, format_ids
from datamodules.reading.pairs import Pair

COMMON = ("road", "building", "vegetation", "sky", "car")  # classes that almost any ten street scenes contain
ENOUGH = 10  # label files, to expect the common classes in
MOSTLY = 0.5  # share of ignored pixels above which a warning is due
DARK = 2**14  # 16-bit images whose maximum is below this use at most 14 bits
COUNTED = 2**20  # pixels counted at a time
LABEL_NAME = re.compile(r"(.+)(_(?:L|gt|masks?|labels?|seg|annot))", re.IGNORECASE)  # of labels beside images
ONE_BIT = "1-bit"  # end of `Header.kind` for black-and-white masks

Ids = Counter[int]  # number of pixels by id


@dataclass
class Census:
    """Statistics of the pairs checked so far, and the problems found in them."""

    read: int = 0  # number of pairs checked
    problems: list[Problem] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)  # number of image files by kind
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # by (height, width), upright where asked
    turned: int = 0  # number of images turned by their EXIF orientation
    labels: dict[str, list[Path]] = field(default_factory=dict)  # label files by kind
    ids: dict[str, Ids] = field(default_factory=dict)  # by kind of label file
    brightest: list[int] = field(default_factory=list)  # maximum values of the 16-bit images that were decoded
    digests: dict[tuple[int, int], str] = field(default_factory=dict)  # image by size and CRC-32, to find copies

    @property
    def all_ids(self) -> Ids:
        """Number of pixels by id, over all kinds of label files."""
        return sum(self.ids.values(), Counter())

    @property
    def label_files(self) -> int:
        """Number of label files."""
        return sum(map(len, self.labels.values()))

    @contextmanager
    def note_problem(self, name: str) -> Iterator[None]:
        """Catches a DataError about a pair and adds it to the problems."""
        try:
            yield
        except DataError as error:
            self.problems.append(Problem(name, error.kind, str(error)))

    def update(self, other: "Census") -> None:
        """Adds the statistics and problems of other pairs."""
        self.read += other.read
        self.problems += other.problems
        self.turned += other.turned
        self.brightest += other.brightest
        self.images.update(other.images)
        self.sizes.update(other.sizes)
        for kind, ids in other.ids.items():
            self.ids.setdefault(kind, Counter()).update(ids)
            self.labels.setdefault(kind, []).extend(other.labels[kind])
        self.digests |= other.digests

    def find_mixture(self, where: str) -> str:
        """Returns the message about 1-bit masks (ids 0 and 1) mixed with other labels; empty if there are none."""
        first = {kind.endswith(ONE_BIT): paths[0] for kind, paths in self.labels.items()}
        if len(first) < 2:
            return ""
        return (
            f"{where}: {first[True]} is a 1-bit mask (ids 0 and 1), {first[False]} is not: expected all of one kind. "
            "Save all labels as 8-bit images of ids"
        )

    def find_warnings(
        self, where: str, table: np.ndarray, names: Sequence[str], own: bool, coloured: bool = False
    ) -> list[str]:
        """Returns warnings about pixels or labels that are probably misread, worst first.

        Of the user's `own` classes all are expected to occur, of Cityscapes' only the common ones. The ids of
        `coloured` labels are those of classes already.
        """
        ids, warnings = self.all_ids, self.find_dark_images(where)
        seen = {int(table[value]) for value in ids}
        common = COMMON if self.label_files >= ENOUGH else ()
        absent = [name for number, name in enumerate(names) if number not in seen and (own or name in common)]
        if ids and absent:
            guess = ", ".join(f"{value}: {name}" for value, name in zip(sorted(ids), names, strict=False))
            held = f", which contain the ids {format_ids(sorted(ids))}. "
            remedy = f"{held}If they are not Cityscapes' 19 train ids, set classes and ids"
            if own:
                remedy = f"{held}If they do not number your classes in order, set ids, e.g. (a guess) ids: {{{guess}}}"
            if coloured:
                remedy = ". If it should, correct label_colours"
            warnings.append(f"{where}: {', '.join(absent)} never occurs in {self.label_files:,} label files{remedy}")
        ignored = [value for value in sorted(ids) if table[value] == IGNORED]
        share = sum(ids[value] for value in ignored) / max(1, ids.total())
        if share > MOSTLY:
            what = "colours" if coloured else f"ids ({format_ids(ignored)})"
            warnings.append(
                f"{where}: {share:.0%} of the label pixels are ignored, in training and scores, as their {what} map "
                f"to no class. If they should, correct {'label_colours' if coloured else 'ids'} or ignored"
            )
        return warnings

    def find_dark_images(self, where: str) -> list[str]:
        """Returns a warning if 16-bit images use so few bits that they are read as black, or almost."""
        most = max(self.brightest, default=0)
        if not 0 < most < DARK:
            return []
        found = f"{where}: {len(self.brightest):,} 16-bit images have values up to {most:,} of 65,535"
        bits = max(8, most.bit_length())
        remedy = "save them as 8-bit images" if bits == 8 else f"multiply them by {2 ** (16 - bits)}"
        return [f"{found}, so these look like {bits}-bit values and are read as almost black: {remedy}"]

    def describe(self, table: np.ndarray, names: Sequence[str], coloured: bool) -> dict[str, object]:
        """Returns the statistics, in JSON types."""
        mapped = [] if coloured else sorted(self.all_ids)
        return {
            "images": dict(self.images.most_common()),
            "sizes": {format_size(size): number for size, number in self.sizes.most_common()},
            "turned": self.turned,
            "labels": {kind: len(paths) for kind, paths in self.labels.items()},
            "ids": {kind: {str(value): ids[value] for value in sorted(ids)} for kind, ids in self.ids.items()},
            "mapping": {str(value): name_id(value, table, names) for value in mapped},
        }


def find_odd_pairs(pairs: Sequence[Pair], where: str) -> list[str]:
    """Returns warnings about images whose names look like labels, and about labels shared by several images."""
    names = {pair.name for pair in pairs}
    masks = {name: match[2] for name in sorted(names) if (match := LABEL_NAME.fullmatch(name)) and match[1] in names}
    users = Counter(pair.labels for pair in pairs if pair.labels is not None)
    shared = [path for path, number in users.items() if number > 1]
    warnings = []
    if masks and 2 * len(masks) >= len(names):
        example, ending = next(iter(masks.items()))
        warnings.append(
            f"{where}: {len(masks)} of {len(names)} images look like the labels of others, e.g. {example}: leave them "
            f'out with exclude: ["*{ending}.*"], or set labels'
        )
    if shared:
        warnings.append(
            f"{where}: {sum(users[path] for path in shared)} images share {len(shared)} label files, e.g. {shared[0]}: "
            "expected one per image. Correct the CSV, unless these images show the same scene"
        )
    return warnings


def name_id(value: int, table: np.ndarray, names: Sequence[str]) -> str:
    """Returns the class name of an id, ``ignored``, or ``unknown``."""
    label = int(table[value]) if value < len(table) else UNKNOWN
    return {IGNORED: "ignored", UNKNOWN: "unknown"}.get(label) or names[label]


def format_size(size: tuple[int, int]) -> str:
    """Formats (height, width) as ``WxH``."""
    return f"{size[1]}x{size[0]}"


def count_ids(ids: np.ndarray) -> Ids:
    """Counts the pixels of each id in (H, W) uint8 or uint16 ids."""
    counts = np.zeros(2**16, dtype=np.int64)
    rows = max(1, COUNTED // max(1, ids.shape[1]))
    for first in range(0, len(ids), rows):  # bincount takes 8 bytes per pixel
        counts += np.bincount(ids[first : first + rows].ravel(), minlength=2**16)
    return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
