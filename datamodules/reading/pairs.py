"""Finds the files of a data set by path patterns, and pairs images and labels by name."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import get_args

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError, Problem, Split

NAMED = 5  # maximum number of files that an error names
NOT_READ = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # formats not supported
TRAIN_IDS_BESIDE = "*_labelTrainIds.*"  # copies that other projects write beside labels
PASSED_OVER = {  # folders, in lower case, that operating systems and servers create
    "@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip

Files = dict[str, Path]  # by name


@dataclass(frozen=True)
class Pair:
    """An image and its labels, or None; the name, a relative path without suffix, is unique in the data set."""

    name: str
    image: Path
    labels: Path | None

    @property
    def files(self) -> list[Path]:
        """The image file and, if there is one, the label file."""
        return [self.image] if self.labels is None else [self.image, self.labels]


@dataclass(frozen=True)
class Layout:
    """The folder layout of a data set.

    Patterns are relative to the root; ``{split}`` stands for the split's folder. The parts that the stars match, joined
    by slashes, are the name that pairs an image with its labels.

    Attributes:
        images: Patterns of image files.
        labels: Patterns of label files.
        splits: Names of the splits' folders, if they are not ``train``, ``val`` and ``test``.
        holds: Splits that the layout contains.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    splits: Mapping[Split, str] = field(default_factory=dict)
    holds: tuple[Split, ...] = get_args(Split)

    def find(self, root: Path, patterns: Sequence[str], split: Split) -> Files:
        """Returns the files of a split that match the patterns (`images` or `labels`), by name."""
        found: Files = {}
        for pattern in self.fill(patterns, split) if split in self.holds else ():
            found |= find_files(root, pattern, [Path(pattern).suffix], [TRAIN_IDS_BESIDE])
        return found

    def fill(self, patterns: Sequence[str], split: Split) -> list[str]:
        """Returns the patterns with the folder of a split inserted."""
        return [pattern.format(split=self.splits.get(split, split)) for pattern in patterns]

    def lies_in(self, root: Path) -> bool:
        """Returns whether a folder contains one of the folders of this layout."""
        filled = [pattern for split in self.holds for pattern in self.fill((*self.images, *self.labels), split)]
        return any(split_pattern(root, pattern)[0].is_dir() for pattern in filled)


def split_pattern(root: Path, pattern: str) -> tuple[Path, str]:
    """Splits a pattern into the folder before its first star and the rest."""
    parts = Path(pattern).parts
    fixed = list(takewhile(lambda part: "*" not in part, parts))
    return root.joinpath(*fixed), "/".join(parts[len(fixed) :])


def find_files(root: Path, pattern: str, suffixes: Sequence[str], exclude: Sequence[str] = ()) -> Files:
    """Returns the files that match a pattern, or lie anywhere below a folder, by name: the parts that its stars match.

    In a pattern ``*`` is any name, ``**/`` any number of folders, and the suffix may be omitted. Files have one of
    the `suffixes`, in any case. Patterns of `exclude` are compared from the end of the path.
    """
    folder, stars = split_pattern(root, pattern)
    stars = stars or "**/*"
    suffix = Path(stars).suffix
    if suffix == ".*" or suffix.lower() in suffixes:
        stars = stars.removesuffix(suffix)
    accepted = [suffix.lower()] if suffix.lower() in suffixes else suffixes
    wild = {"**/": "(?:(.+)/)?", "*": "([^/]+)"}
    expression = re.compile("".join(wild.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*)", stars)))
    found: Files = {}
    not_read = []
    for relative in list_files(folder):
        path, suffix = folder / relative, Path(relative).suffix.lower()
        stem = unicodedata.normalize("NFC", relative).rpartition(".")[0]  # macOS decomposes umlauts
        match = expression.fullmatch(stem)
        if match is None or any(path.match(excluded) for excluded in exclude):
            continue
        if suffix in NOT_READ:
            not_read.append(relative)
        if suffix not in accepted:
            continue
        check_name(path)
        name = "/".join(filter(None, match.groups()))
        if name in found:
            raise DataError(
                f"{found[name]} and {path} are both called {name}: expected names that differ before the suffix. "
                f"Rename one, or read only one kind with a pattern such as *{path.suffix}"
            )
        found[name] = path
    if not_read:
        rank_zero_warn(
            f"{folder}: skipped {len(not_read)} files that cannot be read ({', '.join(not_read[:NAMED])}): "
            f"expected {', '.join(suffixes)}. Convert them to JPEG or PNG to use them"
        )
    return found


def check_name(path: Path) -> None:
    """Raises DataError if a file's name is not valid UTF-8, as lists and results could not contain it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{str(path)!a} is not a UTF-8 name: rename the file (convmv -t utf8)") from error


def refuse_folder(error: OSError) -> None:
    """Raises DataError if a folder may not be listed; callers report missing folders themselves."""
    if isinstance(error, PermissionError):
        raise DataError(
            f"{error.filename} cannot be listed: {error.strerror}. Expected a folder that you may read: change its "
            "permissions"
        )


def list_files(folder: Path) -> list[str]:
    """Lists the files below a folder recursively, sorted; follows links to folders, but visits each folder once.

    Skips hidden files and folders, and the folders in `PASSED_OVER`.
    """
    found: list[str] = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse_folder):
        identity = Path(place).resolve()
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() not in PASSED_OVER)
        above = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        found += [above + name for name in files if not name.startswith(".")]
    return sorted(found)


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, sorted; skips hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def match_files(images: Files, labels: Files | None) -> tuple[list[Pair], list[Problem]]:
    """Pairs files by name, or images with None; returns the sorted pairs, and the files without a partner."""
    if labels is None:
        return [Pair(name, images[name], None) for name in sorted(images)], []
    pairs = [Pair(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
    problems = [
        Problem(name, "missing", f"{images[name]} has no labels" if name in images else f"{labels[name]} has no image")
        for name in sorted(images.keys() ^ labels.keys())
    ]
    return pairs, problems


def find_lost(pairs: Sequence[Pair]) -> list[Problem]:
    """Returns the missing files of pairs, such as broken links."""
    files = [(pair.name, path) for pair in pairs for path in pair.files]
    return [Problem(name, "missing", f"there is no file {path}") for name, path in files if not path.is_file()]
