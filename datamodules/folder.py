"""Your own images, with or without labels: any folders, any classes.

Data card:
    Source: yours.
    Layout: a folder of images and a folder of labels with the same names below it; or files matched by patterns; or a
        CSV of pairs. Images alone are enough for `predict`.
    Encoding: one-channel label images (8 or 16 bits, palette or gray) with any ids, or RGB ones with any colours.
    Splits: by folder, by list file, by fraction, or by a column of the CSV.
    Sizes: any; each image and its labels have the same.
    Traps: label images saved as JPEG hold wrong ids at every edge and are refused.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from datamodules.base import DataError, Problem, Role, Split
from datamodules.files import (
    NAMED,
    FilesDataModule,
    FilesDataset,
    Pair,
    find_files,
    list_folders,
    match_files,
    read_image,
    read_index,
)
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS, UNKNOWN, Colour, LabelSpace
from datamodules.transforms import Transform

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".ppm")  # lossless
LIST_SUFFIXES = (".txt", ".lst", ".csv")


class FolderDataModule(FilesDataModule):
    """Images and labels in folders of your own.

    Args:
        root: The folder that the other paths are relative to; None is ``$SEGADAPT_DATA/DOMAIN``.
        domain: Name of the data set, under which its scores are reported; None is the name of the root.
        role: ``source`` to train on, ``development`` to choose on, ``target`` to test on.
        images: Folder of the images, searched to any depth, or a pattern with stars. ``{split}`` stands for the split's
            folder. None tries ``images/{split}``, ``images`` and the root itself.
        labels: The same of the labels, which have the names of their images. None is `images` with ``images`` replaced
            by ``labels``.
        pairs: A CSV file with the columns ``image``, ``label`` (may be empty) and, if it says them, ``split``; takes
            the place of `images` and `labels`.
        splits: For ``train``, ``val`` and ``test``: the name of the folder, a list file (``.txt`` or ``.csv``, first
            field of each line an image), or a fraction of all images. None is folders of these names; where
            the paths do not have ``{split}``, every split has all images.
        split: What `test` and `predict` read; None is ``test``.
        classes: Names in the order of the network's classes; or for each name the Cityscapes classes it gathers, as
            for other data sets. None is Cityscapes' 19, or the 16 of SYNTHIA (`num_classes`).
        ids: The class of each id in the labels. None: id c is class c.
        label_colours: The colour of each class in the labels, or several colours; for RGB labels, in place of `ids`.
        ignored: Ids, or colours, that belong to no class; 255 always is such an id.
        broken: As for `FilesDataModule`.
        num_classes: 19 or 16 where `classes` are not given.
        **kwargs: As for `SegmentationDataModule`.

    Raises:
        ValueError: If an argument is outside its range, or they contradict each other.
    """

    layouts = ()
    counts: Mapping[Split, int] = {}
    archives = "your images and labels"

    def __init__(
        self,
        root: str | None = None,
        domain: str | None = None,
        role: Role = "target",
        images: str | None = None,
        labels: str | None = None,
        pairs: str | None = None,
        splits: dict[Split, str | float] | None = None,
        split: Split | None = None,
        classes: list[str] | dict[str, list[str]] | None = None,
        ids: dict[int, str] | None = None,
        label_colours: dict[str, list[int] | list[list[int]]] | None = None,
        ignored: list[int | list[int]] | None = None,
        broken: Any = "error",
        num_classes: int = 19,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, split=split, broken=broken, num_classes=num_classes, **kwargs)
        if role not in get_args(Role):
            raise ValueError(f"role is {role!r}: expected one of {', '.join(get_args(Role))}")
        if classes is not None:
            self.set_labels(LabelSpace.of_classes(classes))
        if ids is not None and label_colours is not None:
            raise ValueError("ids and label_colours are both given: expected one of them, as labels are stored one way")
        if pairs is not None and (images is not None or labels is not None):
            raise ValueError("pairs is given beside images or labels: expected the CSV alone, it says where files are")
        self.role = role
        self.domain = domain or (Path(root).expanduser().resolve().name if root else "folder")
        self.images = images
        self.label_files = labels
        self.pairs = pairs
        self.splits = check_splits(splits or {})
        self.stored_as_classes = isinstance(classes, list)
        self.table, self.colour_table = self._make_tables(ids, label_colours, ignored or [])

    @property
    def folders(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the folder may be called under ``$SEGADAPT_DATA``."""
        return (self.domain.lower(),)

    def open_pairs(self, pairs: Sequence[Pair], transform: Transform, labelled: bool = True) -> FilesDataset:
        """Makes a dataset of pairs."""
        hint = "Say what they are in ids (or label_colours), or list them in ignored"
        return FilesDataset(
            self.domain, pairs, self.table, transform, self.read_label, self.seed, labelled, upright=True, hint=hint
        )

    def read_label(self, path: Path) -> np.ndarray:
        """Reads a label file as (H, W) ids; colours become labels on the way.

        Raises:
            DataError: If it cannot be read, has another number of channels than expected, or an unknown colour.
        """
        if self.colour_table is None:
            return read_index(path)
        pixels = read_image(path).astype(np.uint32)
        keys = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        labels = self.colour_table[keys]
        if (labels == UNKNOWN).any():
            unknown = [int(key) for key in np.unique(keys[labels == UNKNOWN])]
            examples = [(key >> 16, key >> 8 & 255, key & 255) for key in unknown[:NAMED]]
            raise DataError(
                f"{path} holds {len(unknown)} colours without a class, e.g. {examples}: expected those in "
                "label_colours, or in ignored",
                "id",
            )
        return labels

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner."""
        root = self.find_root()
        if self.pairs is not None:
            images, labels = self._read_table(root / self.pairs, split)
        else:
            images, labels = self._find_in_folders(root, split, labelled)
        images = self._select(root, images, split)
        if not labelled:
            return [Pair(name, path, None) for name, path in sorted(images.items())], []
        if images and not labels:
            raise DataError(
                f"{self.domain}: there are no labels beside the {len(images)} images of {split} in {root}: expected "
                f"{self.label_files or 'a folder labels'}. Without labels there is only `predict`",
                "missing",
            )
        labels = labels if self._shows_split(labels=True) else {name: labels[name] for name in images if name in labels}
        return match_files(images, labels)

    def find_root(self) -> Path:
        """Returns the folder that paths are relative to."""
        base, given = self._find_base()
        if given:
            return base
        named = [child for child in list_folders(base) if child.name.lower() in self.folders]
        if not named:
            raise DataError(f"there is no folder {self.domain} in {base}: set root to the folder of your images")
        return named[0]

    def _find_in_folders(self, root: Path, split: Split, labelled: bool) -> tuple[dict[str, Path], dict[str, Path]]:
        images, labels = self._locate(root)
        folder = self.splits.get(split, split)
        folder = folder if isinstance(folder, str) and not is_list(folder) else split
        found = find_named(root, images.replace("{split}", folder), IMAGE_SUFFIXES)
        if not found:
            entries = sorted(path.name for path in root.iterdir())[:10]
            raise DataError(
                f"{self.domain}: there are no images of {split} in {root}: expected files in or like "
                f"{images.replace('{split}', folder)} ({', '.join(IMAGE_SUFFIXES)}), found {', '.join(entries)}. Set "
                "images, and split or splits if the folders are called differently",
                "missing",
            )
        if not labelled or labels is None:
            return found, {}
        return found, find_named(root, labels.replace("{split}", folder), LABEL_SUFFIXES)

    def _locate(self, root: Path) -> tuple[str, str | None]:
        """Returns the patterns of images and labels, with those that were not given."""
        images = self.images
        if images is None:
            names = [self.splits.get(split, split) for split in get_args(Split)]
            by_split = any((root / "images" / str(name)).is_dir() for name in names)
            images = "images/{split}" if by_split else "images" if (root / "images").is_dir() else "."
        labels = self.label_files
        if labels is None and "images" in images:
            labels = images.replace("images", "labels")
        return images, labels

    def _shows_split(self, labels: bool) -> bool:
        """Returns whether paths alone tell the splits apart: then a label file without an image misses it."""
        return self.pairs is None and not any(
            isinstance(value, float) or is_list(str(value)) for value in self.splits.values()
        )

    def _select(self, root: Path, images: dict[str, Path], split: Split) -> dict[str, Path]:
        """Leaves the images of a split, where a list file or a fraction says which these are."""
        value = self.splits.get(split)
        if isinstance(value, float):
            order = sorted(images, key=lambda name: hashlib.sha1(name.encode()).hexdigest())
            shares = [float(share) for key in get_args(Split) if isinstance(share := self.splits.get(key), float)]
            keys = [key for key in get_args(Split) if isinstance(self.splits.get(key), float)]
            first = sum(shares[: keys.index(split)])
            chosen = order[round(first * len(order)) : round((first + value) * len(order))]
            return {name: images[name] for name in sorted(chosen)}
        if isinstance(value, str) and is_list(value):
            return {name: images[name] for name in read_list(root / value, images)}
        if self.splits and value is None and not all(isinstance(known, str) for known in self.splits.values()):
            raise DataError(f"{self.domain}: splits says what {sorted(self.splits)} are, but not {split}", "missing")
        return images

    def _read_table(self, path: Path, split: Split) -> tuple[dict[str, Path], dict[str, Path]]:
        """Reads the CSV of pairs."""
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or []
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read ({error}): expected a CSV: image,label[,split]") from error
        if "image" not in columns or "label" not in columns:
            raise DataError(f"{path} has the columns {', '.join(columns) or 'none'}: expected image, label[, split]")
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        wanted = self.splits.get(split, split)
        for number, row in enumerate(rows, start=2):
            if "split" in columns and row["split"] != wanted:
                continue
            if not row["image"]:
                raise DataError(f"{path}, line {number}: there is no image: expected its path")
            name = Path(row["image"]).with_suffix("").as_posix().lstrip("/").replace("../", "")
            if name in images:
                raise DataError(f"{path}, line {number}: a second image is called {name}: expected different names")
            for kind, files in (("image", images), ("label", labels)):
                if row[kind]:
                    files[name] = path.parent / row[kind]
                    if not files[name].is_file():
                        raise DataError(f"{path}, line {number}: there is no file {files[name]}", "missing")
        if not images:
            raise DataError(f"{path} has no image with split {wanted!r}: expected one or more", "missing")
        return images, labels

    def _make_tables(
        self,
        ids: Mapping[int, str] | None,
        colours: Mapping[str, Sequence[Any]] | None,
        ignored: Sequence[int | Sequence[int]],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Makes the lookup from ids to labels and, if labels are colours, that from colours to labels."""
        ignored_ids = [value for value in ignored if isinstance(value, int)]
        ignored_colours = [check_colour(value) for value in ignored if not isinstance(value, int)]
        table = np.full(2**16, UNKNOWN, dtype=np.uint8)
        table[IGNORED] = IGNORED
        if colours is not None:
            if ignored_ids:
                raise ValueError(f"ignored holds ids ({ignored_ids[:3]}), but labels are colours: expected colours")
            table[: self.num_classes] = np.arange(self.num_classes)
            colour_table = np.full(2**24, UNKNOWN, dtype=np.uint8)
            classes = {name: self._find_class(name) for name in colours}
            coloured = [(colour, classes[name]) for name in colours for colour in list_colours(colours[name])]
            for (red, green, blue), label in [*coloured, *((colour, IGNORED) for colour in ignored_colours)]:
                colour_table[red << 16 | green << 8 | blue] = label
            return table, colour_table
        if ignored_colours:
            raise ValueError(f"ignored holds colours ({ignored_colours[:3]}), but label_colours is not given")
        if ids is not None:
            for value, name in ids.items():
                table[check_id(value)] = self._find_class(name)
        elif self.stored_as_classes:
            table[: self.num_classes] = np.arange(self.num_classes)
        else:
            table[:256] = self.labels.table(TRAIN_IDS)
        for value in ignored_ids:
            table[check_id(value)] = IGNORED
        return table, None

    def _find_class(self, name: str) -> int:
        """Returns the label of a class by its own name, or by that of a Cityscapes class that it gathers."""
        if name in self.labels.names:
            return self.labels.names.index(name)
        for label, gathered in enumerate(self.labels.members):
            if name in gathered:
                return label
        if name in CITYSCAPES_COLOURS and not self.stored_as_classes:
            return IGNORED
        raise ValueError(f"there is no class {name!r}: expected one of {', '.join(self.labels.names)}")


def find_named(root: Path, pattern: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Returns files by name: those that match a pattern with stars, or all below a folder, by their relative path.

    Raises:
        DataError: If two files have the same name but for their suffix.
    """
    if "*" in pattern:
        return {name: path for name, path in find_files(root, pattern).items() if path.suffix.lower() in suffixes}
    folder = root / pattern
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in suffixes or any(part.startswith(".") for part in relative.parts):
            continue
        name = relative.with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {path} share a name: expected names that differ before the suffix")
        found[name] = path
    return found


def read_list(path: Path, images: Mapping[str, Path]) -> list[str]:
    """Reads a list file: the first field of each line is an image, as a path of any length, with or without suffix.

    Returns:
        The names of these images, sorted.

    Raises:
        DataError: If the file cannot be read, or names an image that is not there or could be several.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected a text file with an image in each line") from error
    by_stem: dict[str, list[str]] = {}
    for name in images:
        by_stem.setdefault(name.rpartition("/")[2], []).append(name)
    chosen = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        entry = line.replace(",", " ").split()[0]
        bare = entry.rsplit(".", 1)[0] if entry.lower().endswith(IMAGE_SUFFIXES) else entry
        stem = bare.rpartition("/")[2]
        matches = [name for name in by_stem.get(stem, []) if f"/{bare}".endswith(f"/{name}") or name.endswith(bare)]
        if len(matches) != 1:
            found = f"could be {', '.join(matches)}" if matches else f"is none of the {len(images)} images"
            raise DataError(f"{path}, line {number}: {entry} {found}: expected one image", "missing")
        chosen.add(matches[0])
    return sorted(chosen)


def check_splits(splits: Mapping[Split, str | float]) -> dict[Split, str | float]:
    """Returns the splits; raises ValueError if one is unknown, or fractions are mixed with names or exceed 1."""
    fractions = [value for value in splits.values() if not isinstance(value, str)]
    if set(splits) - set(get_args(Split)):
        raise ValueError(f"splits says {sorted(splits)}: expected train, val and test")
    if fractions and (len(fractions) < len(splits) or min(fractions) < 0 or sum(fractions) > 1 + 1e-9):
        raise ValueError(f"splits is {dict(splits)}: expected names, or fractions from 0 that add up to at most 1")
    return {split: value if isinstance(value, str) else float(value) for split, value in splits.items()}


def is_list(value: str) -> bool:
    """Returns whether a value of `splits` is a list file."""
    return value.lower().endswith(LIST_SUFFIXES)


def check_id(value: int) -> int:
    """Returns an id of a label file; raises ValueError if it is not in [0, 65535]."""
    if not 0 <= value < 2**16:
        raise ValueError(f"ids has {value}: expected ids in [0, 65535], as an 8- or 16-bit label image holds them")
    return value


def check_colour(value: Any) -> Colour:
    """Returns a colour; raises ValueError if it is not three numbers in [0, 255]."""
    if len(value) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in value):
        raise ValueError(f"{value} is no colour: expected three numbers in [0, 255], e.g. [128, 64, 128]")
    return tuple(value)


def list_colours(value: Sequence[Any]) -> list[Colour]:
    """Returns several colours as they are, one as a list of one; raises ValueError if one is no colour."""
    return [check_colour(value)] if value and isinstance(value[0], int) else [check_colour(colour) for colour in value]
