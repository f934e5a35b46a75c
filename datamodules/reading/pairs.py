"""How files of images and labels pair up, by what the patterns of a layout match in their paths."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from datamodules.base import Problem, Split

NAMED = 5  # how many files an error names


@dataclass(frozen=True)
class Pair:
    """An image and its labels.

    Attributes:
        name: Unique in the data set; a relative path without an extension.
        image: File of the image.
        labels: File of the labels; None where they are not needed.
    """

    name: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie.

    Patterns are relative to the root; ``{split}`` stands for the split's folder, and what the stars match, joined by
    slashes, is the name that pairs an image with its labels.

    Attributes:
        images: Patterns of image files.
        labels: Patterns of label files.
        splits: Names of the splits' folders, where they are not ``train``, ``val`` and ``test``.
        holds: The splits there are.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    splits: Mapping[Split, str] = field(default_factory=dict)
    holds: tuple[Split, ...] = get_args(Split)

    def find_images(self, root: Path, split: Split) -> dict[str, Path]:
        """Returns the image files of a split by name."""
        return self._find(root, self.images, split)

    def find_labels(self, root: Path, split: Split) -> dict[str, Path]:
        """Returns the label files of a split by name."""
        return self._find(root, self.labels, split)

    def describe(self, split: Split) -> tuple[str, str]:
        """Returns the patterns of images and of labels for an error message."""
        folder = self.splits.get(split, split)
        images, labels = (
            " or ".join(pattern.format(split=folder) for pattern in patterns) for patterns in (self.images, self.labels)
        )
        return images, labels

    def lies_in(self, root: Path) -> bool:
        """Returns whether a folder holds one of the folders of this layout."""
        return any(
            (root / pattern.format(split=self.splits.get(split, split)).split("*")[0]).is_dir()
            for pattern in (*self.images, *self.labels)
            for split in self.holds
        )

    def _find(self, root: Path, patterns: Sequence[str], split: Split) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for pattern in patterns if split in self.holds else ():
            found |= find_files(root, pattern.format(split=self.splits.get(split, split)))
        return found


def find_files(root: Path, pattern: str) -> dict[str, Path]:
    """Returns the files that match a pattern, by what its stars match, joined by slashes; hidden files do not count."""
    expression = re.compile("([^/]+)".join(re.escape(part) for part in pattern.split("*")))
    found = {}
    for path in sorted(root.glob(pattern)):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and not path.name.startswith("."):
            found["/".join(match.groups())] = path
    return found


def describe_file(path: Path) -> str:
    """Returns a file's size in bytes and time of change in nanoseconds; ``missing`` if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def match_files(images: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[list[Pair], list[Problem]]:
    """Pairs files by name; returns the pairs sorted by name, and the files without a partner."""
    pairs = [Pair(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
    problems = [
        Problem(name, "missing", f"{images[name]} has no labels" if name in images else f"{labels[name]} has no image")
        for name in sorted(images.keys() ^ labels.keys())
    ]
    return pairs, problems


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, sorted; hidden ones do not count."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
