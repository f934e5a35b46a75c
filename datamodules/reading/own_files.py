"""Finds the images and labels of a user's own data set, and those of each split."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError, Split
from datamodules.reading.lists import is_list, read_list, read_pairs
from datamodules.reading.own_labels import LABEL_SUFFIXES
from datamodules.reading.pairs import Files, find_files, list_files, list_folders, split_pattern
from datamodules.reading.pixels import IMAGE_SUFFIXES, WHY_NOT_LOSSY

SPLITS: dict[str, Split] = {  # usual names of their folders, in lower case
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class OwnFiles:
    """Finds images and labels in folders or in a CSV; the arguments are those of `FolderDataModule`."""

    domain: str
    images: str | None = None
    labels: str | None = None
    exclude: tuple[str, ...] = ()
    pairs: str | None = None
    splits: Mapping[Split, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the arguments."""
        given = [name for name in ("images", "labels", "exclude") if getattr(self, name)]
        if self.pairs is not None and given:
            raise ValueError(
                f"pairs is set together with {' and '.join(given)}: expected pairs alone, as the CSV says where files "
                "are. Omit the others"
            )
        if "" in self.exclude:
            raise ValueError("exclude contains an empty pattern: expected patterns such as *_inst_label.png")
        if set(self.splits) - set(get_args(Split)):
            raise ValueError(f"splits has {', '.join(self.splits)}: expected only train, val and test")
        shares = [value for value in self.splits.values() if not isinstance(value, str)]
        if shares and (len(shares) < len(self.splits) or min(shares) <= 0 or not sum(shares) <= 1 + 1e-9):
            raise ValueError(
                f"splits is {dict(self.splits)}: expected names, or fractions above 0 that add up to at most 1"
            )

    def describe(self) -> dict[str, object]:
        """Returns the arguments, in JSON types."""
        described = {"images": self.images, "labels": self.labels, "pairs": self.pairs, "splits": dict(self.splits)}
        return described | ({"exclude": list(self.exclude)} if self.exclude else {})

    def lie_in(self, folder: Path) -> bool:
        """Returns whether a folder contains the images, or the CSV of pairs."""
        if self.pairs is not None:
            return (folder / self.pairs).is_file()
        patterns = [self._fill(self.images or "images", split) for split in get_args(Split)]
        return any(split_pattern(folder, pattern)[0].is_dir() for pattern in patterns)

    def find(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files]:
        """Returns the images and the labels of a split by name."""
        if self.pairs is not None:
            folder = None if self._is_listed(split) else self._fill("{split}", split)
            images, labels, divided = read_pairs(root / self.pairs, root, folder)
        else:
            images, labels, divided = self._find_in_folders(root, split, labelled)
        images = self._choose(root, images, labels, split, divided)
        if self._is_listed(split):
            labels = {name: labels[name] for name in images if name in labels}
        if labelled and not labels:
            raise DataError(self._explain_no_labels(root, split, len(images)), "missing")
        if labelled and images.keys().isdisjoint(labels):
            raise DataError(
                f"{self.domain}: none of the {len(images)} images of {split} in {root} has labels of the same name: "
                f"images are called {min(images)}, labels {min(labels)}. Set images and labels to patterns whose * "
                "stands for the same part, e.g. images/*_image and labels/*_label",
                "missing",
            )
        return images, labels

    def _fill(self, pattern: str, split: Split) -> str:
        """Replaces ``{split}`` in a pattern by the name of the split's folder."""
        name = split if self._is_listed(split) else str(self.splits.get(split, split))
        return pattern.replace("{split}", name)

    def _is_listed(self, split: Split) -> bool:
        """Returns whether a list file or a fraction defines the images of a split."""
        value = self.splits.get(split, split)
        return not isinstance(value, str) or is_list(value)

    def _find_in_folders(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files, bool]:
        """Returns the images and labels by name, and whether the pattern of the images contains ``{split}``."""
        images, labels = self._locate(root)
        line = self._suggest_splits(root, images)
        found = find_files(root, self._fill(images, split), IMAGE_SUFFIXES, self.exclude)
        named: Files = {}
        if labels is not None:
            labels = self._fill(labels, split)
            named = find_files(root, labels, LABEL_SUFFIXES, self.exclude)
            of_labels = set(named.values())
            found = {name: path for name, path in found.items() if path not in of_labels}
        if not found:
            entries = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
            raise DataError(
                f"{self.domain}: there are no images of {split} in {root}, which contains {entries}: expected "
                f"{', '.join(IMAGE_SUFFIXES)} in {root / self._fill(images, split)}. Set root and images; if the "
                f"folders of the splits have other names, splits{line and f', e.g. {line}'}; if there is no {split} "
                "split, make test and predict read another with split, e.g. split: val",
                "missing",
            )
        if labelled and labels is not None and not named:
            for path in find_files(root, labels, IMAGE_SUFFIXES, self.exclude).values():
                webp = path.suffix.lower() == ".webp"
                why = "WebP labels are not read, even lossless ones: save them as PNG" if webp else WHY_NOT_LOSSY
                raise DataError(f"{path}: expected labels as {', '.join(LABEL_SUFFIXES)}. {why}")
        return found, named if labelled else {}, "{split}" in images

    def _locate(self, root: Path) -> tuple[str, str | None]:
        """Returns the patterns of images and labels, with defaults for those that were not given."""
        images, labels = self.images, self.labels
        if images is None and (root / "images").is_dir():
            by_split = any((root / self._fill("images/{split}", split)).is_dir() for split in get_args(Split))
            images = "images/{split}" if by_split else "images"
            beside = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
            if beside:
                raise DataError(
                    f"{self.domain}: {root} has a folder images and {len(beside)} images beside it, e.g. {beside[0]}: "
                    "expected all in one place. Set images to images to read that folder, or to . to read both"
                )
        images = images or "."
        if labels is None and "images" in Path(images).parts:
            labels = Path(*("labels" if part == "images" else part for part in Path(images).parts)).as_posix()
        return images, labels

    def _suggest_splits(self, root: Path, images: str) -> str:
        """Returns the line of the YAML that names the folders of the splits; empty if none is needed.

        If `images` contains folders named like splits, and no argument says whether they are, this is an error.
        """
        folder = split_pattern(root, images.partition("{split}")[0])[0]
        children = [child.name for child in list_folders(folder)] if folder.is_dir() else []
        names = {SPLITS[name.lower()]: name for name in children if name.lower() in SPLITS}
        line = f"splits: {{{', '.join(f'{split}: {name}' for split, name in names.items())}}}"
        if len(names) > 1 and not self.splits and "{split}" not in images and "*" not in images:
            place = "" if images == "." else f"{images}/"
            raise DataError(
                f"{self.domain}: {folder} contains the folders {', '.join(names.values())}: are they the splits? If "
                f'so, set images to "{place}{{split}}" (also labels, if given) and {line}. If not, set images to '
                f'"{place}**/*" to read all of them as one'
            )
        return line if any(split != name for split, name in names.items()) else ""

    def _choose(self, root: Path, images: Files, labels: Files, split: Split, divided: bool) -> Files:
        """Selects the images of a split by its list file or fraction, if it has one."""
        value = self.splits.get(split)
        fraction = value is not None and not isinstance(value, str)
        if isinstance(value, str) and is_list(value):
            return read_list(root / value, images, labels)
        if divided and fraction:
            raise DataError(
                f"{self.domain}: splits has fractions, but {self.pairs or 'the folders'} in {root} already divide "
                "the images: expected one of them. Set images to a path without {split}, or omit splits"
            )
        if divided:
            return images
        if fraction:
            return self._draw(images, split)
        if value is not None:
            where = f"{self.pairs} has no column split" if self.pairs else "images has no {split}"
            raise DataError(f"{self.domain}: splits calls {split} {value!r}, but {where}: add it, or omit splits")
        if self.splits:
            known = ", ".join(self.splits)
            raise DataError(
                f"{self.domain}: splits has {known}, but not {split}: add it there, or set split to another"
            )
        if split == "train":
            rank_zero_warn(
                f"{self.domain}: train, val and test are the same {len(images)} images, as splits is not set. Set it "
                "to score on images that were not trained on"
            )
        return images

    def _draw(self, images: Files, split: Split) -> Files:
        """Draws the fraction of a split, by a hash of the images' names only."""
        order = sorted(images, key=lambda name: hashlib.sha1(name.encode()).hexdigest())
        shares = [float(self.splits.get(other, 0)) for other in get_args(Split)]
        position = get_args(Split).index(split)
        first, last = (round(sum(shares[:end]) * len(order)) for end in (position, position + 1))
        if first == last:
            raise DataError(
                f"{self.domain}: {split} is {self.splits[split]} of {len(order)} images, which rounds to none: "
                "expected one or more. Set splits to larger fractions, or to lists"
            )
        return {name: images[name] for name in sorted(order[first:last])}

    def _explain_no_labels(self, root: Path, split: Split, count: int) -> str:
        pattern = None if self.pairs else self._locate(root)[1]
        expected = self.pairs or pattern or "labels to be set"
        folder = split_pattern(root, self._fill(pattern or "", split))[0]
        others = [name for name in list_files(folder) if not name.lower().endswith(IMAGE_SUFFIXES)] if pattern else []
        if others:
            expected += (
                f" as {', '.join(LABEL_SUFFIXES)}, found {len(others)} files of other types in {folder}, e.g. "
                f"{others[0]}. Export them as PNG masks"
            )
        return (
            f"{self.domain}: there are no labels for the {count} images of {split} in {root}: expected {expected}. "
            "Without labels, only `predict` can run"
        )
