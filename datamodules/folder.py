"""Your own images, with or without labels: any folders, any classes.

Data card:
    Source: yours.
    Layout: a folder of images and a folder of labels with the same names below it; or files matched by patterns; or a
        CSV of pairs. Images alone are enough for `predict`. See docs/own_data.md.
    Encoding: one-channel label images (8 or 16 bits, palette or gray) with any ids, or RGB ones with any colours.
    Splits: by folder, by list file, by fraction, or by a column of the CSV.
    Sizes: any; each image and its labels have the same.
    Traps: labels saved as JPEG hold wrong ids at every edge and are refused. Images and labels are turned as their own
        EXIF data say, and a pair that disagrees is refused. A reduced palette holds no ids. Fractions of a video put
        neighbouring frames into different splits: give lists instead.
"""

import csv
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.base import DataError, Problem, Role, Split
from datamodules.census import Census, count_ids
from datamodules.files import NAMED, Broken, FilesDataModule, FilesDataset, Pair, list_folders, match_files
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS, UNKNOWN, Colour
from datamodules.own_labels import LABEL_SUFFIXES, read_colours, read_labels
from datamodules.pixels import WHY_NOT_LOSSY, read_header
from datamodules.transforms import Resize, Transform

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NOT_READ = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # photographs of other kinds
LIST_SUFFIXES = (".txt", ".lst", ".csv")
LOOKED_AT = 50  # pairs of a split, to see whether they hold what they are taken for
DEEP_LOOKED_AT = 5  # of their 16-bit images, of which the pixels have to be decoded

Files = dict[str, Path]


class FolderDataModule(FilesDataModule):
    """Images and labels in folders of your own.

    Args:
        root: The folder that the other paths are relative to, or one that holds it under the name of the domain; None
            is ``$SEGADAPT_DATA``.
        domain: Name of the data set, under which its scores are reported; None is the name of the root.
        role: ``source`` to train on, ``development`` to choose on, ``target`` to test on.
        images: Folder of the images, searched to any depth, or a pattern such as ``frames/*_left.png``: ``*`` is any
            name, ``**/`` any folders, ``{split}`` the split's folder. The path below the folder without its suffix, or
            what the stars stand for, is an image's name. None tries ``images/{split}``, ``images`` and the root itself.
        labels: The same of the labels, which have the names of their images. None is `images` with its folder
            ``images`` replaced by ``labels``.
        exclude: Patterns of files that `images` or `labels` would match too but are none, such as ``*_inst_label.png``
            beside ``*_label.png``; one without a folder holds in every folder.
        pairs: A CSV file with the columns ``image``, ``label`` (may be empty) and, if it says them, ``split``, in place
            of `images` and `labels`. Separated by commas, semicolons or tabs.
        splits: For ``train``, ``val`` and ``test``: what ``{split}`` or the column of the CSV says; or a list file
            (``.txt``, ``.lst`` or ``.csv``, first field of each line an image); or a fraction of all images, drawn by
            their names alone. None is these three words; where nothing tells splits apart, each has all images.
        split: What `test` and `predict` read; None is ``test``.
        classes: Names in the order of the network's classes; or for each name the Cityscapes classes it gathers, as
            for other data sets. None is Cityscapes' 19, or the 16 of SYNTHIA (`num_classes`).
        ids: The class of each id in the labels, 0 to 65535. None: where `classes` is a list, id c is class c; otherwise
            the ids are Cityscapes' 19 train ids. Classes of Cityscapes are understood too: they count as the class that
            gathers them, or as ignored.
        label_colours: For RGB labels, in place of `ids`: the colour of each class, or several colours.
        ignored: Ids, or colours, that belong to no class; id 255 is one unless `ids` names it.
        broken: As for `FilesDataModule`.
        num_classes: 19 or 16 where `classes` are not given.
        evaluation_resize: As for `SegmentationDataModule`, but images of more than 1024x2048 pixels keep their
            proportions: they may stand upright.
        **kwargs: As for `SegmentationDataModule`.

    Raises:
        ValueError: If an argument is outside its range, or they contradict each other.
    """

    layouts = ()
    counts: ClassVar[Mapping[Split, int]] = {}
    archives = "your images and labels"

    def __init__(
        self,
        root: str | None = None,
        domain: str | None = None,
        role: Role = "target",
        images: str | None = None,
        labels: str | None = None,
        exclude: list[str] | None = None,
        pairs: str | None = None,
        splits: dict[Split, str | float] | None = None,
        split: Split | None = None,
        classes: list[str] | dict[str, list[str]] | None = None,
        ids: dict[int, str] | None = None,
        label_colours: dict[str, list[int] | list[list[int]]] | None = None,
        ignored: list[int | list[int]] | None = None,
        broken: Broken = "error",
        num_classes: int = 19,
        evaluation_resize: Resize = "keep_aspect",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root=root,
            split=split,
            broken=broken,
            num_classes=num_classes,
            classes=classes,
            evaluation_resize=evaluation_resize,
            **kwargs,
        )
        if role not in get_args(Role):
            raise ValueError(f"role is {role!r}: expected one of {', '.join(get_args(Role))}")
        if exclude and pairs is not None:
            raise ValueError("exclude is given beside pairs: expected one of them, the CSV alone says where files are")
        if "" in (exclude or ()):
            raise ValueError("exclude holds an empty pattern: expected patterns such as *_inst_label.png")
        if pairs is not None and (images is not None or labels is not None):
            raise ValueError("pairs is given beside images or labels: expected the CSV alone, it says where files are")
        if ids is not None and label_colours is not None:
            raise ValueError("ids and label_colours are both given: expected one of them, as labels are stored one way")
        self._looked_at: set[Split] = set()
        self.role = role
        self.domain = domain or (Path(root).expanduser().resolve().name if root else "") or "folder"
        self.images = images
        self.label_files = labels
        self.exclude = tuple(exclude or ())
        self.pairs = pairs
        self.splits = check_splits(splits or {})
        self.own_names = isinstance(classes, list)
        if ids is None and label_colours is None and isinstance(classes, list) and 0 in (ignored or []):
            mapping = ", ".join(f"{number}: {name}" for number, name in enumerate(classes, start=1))
            raise ValueError(
                f"ignored holds 0, and ids does not say which id the first class has: expected ids, e.g. {{{mapping}}}"
            )
        self.colour_table = None if label_colours is None else self._tabulate_colours(label_colours, ignored or [])
        self.table = self._tabulate_ids(ids, ignored or [])

    @property
    def folders(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the folder may be called under ``$SEGADAPT_DATA``."""
        return (self.domain.lower(),)

    def describe(self) -> dict[str, Any]:
        """Returns what a report on results should say about the data, for JSON."""
        files: dict[str, Any] = {"images": self.images, "labels": self.label_files, "pairs": self.pairs}
        files["splits"] = dict(self.splits)
        if self.exclude:
            files["exclude"] = list(self.exclude)
        return super().describe() | {"files": files}

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FilesDataset:
        """Opens one split; looks at some of its files, and says the worst that a user should know of them.

        Raises:
            DataError: As for `FilesDataModule`, or if masks of one bit lie beside others.
        """
        dataset = super().make_dataset(split, transform, labelled)
        if split not in self._looked_at:
            self._looked_at.add(split)
            census, where = self.look_at(dataset), f"{self.domain} {split}"
            census.check_bits(where)
            if warnings := self.find_warnings(census, where):
                rank_zero_warn(warnings[0])
            elif notes := census.find_notes(where, self.evaluation_transform):
                rank_zero_info(notes[0])
        return dataset

    def look_at(self, dataset: FilesDataset) -> Census:
        """Looks at some pairs of a split: at the headers of the images, a few deep ones, and the ids of the labels."""
        census = Census()
        for pair in dataset.pairs[:: max(1, len(dataset) // LOOKED_AT)]:
            if image := read_header(pair.image, brightest=len(census.brightest) < DEEP_LOOKED_AT):
                census.add_image(pair.name, image, dataset.upright)
            if pair.labels is None or not (labels := read_header(pair.labels)):
                continue
            try:
                census.add_labels(pair.labels, labels, count_ids(dataset.read_ids(pair.labels)))
            except DataError:
                continue  # whoever reads the pair says what is wrong
        return census

    def find_warnings(self, census: Census, where: str) -> list[str]:
        """Returns what speaks for pixels or ids that mean something else than is thought: `Census.find_warnings`."""
        if self.colour_table is not None:
            return census.find_dark_images(where)
        return census.find_warnings(where, self.table, self.class_names, own=self.own_names)

    def open_pairs(self, pairs: Sequence[Pair], transform: Transform, labelled: bool = True) -> FilesDataset:
        """Makes a dataset of pairs."""
        read = partial(read_labels, palette=self.labels.palette)
        if self.colour_table is not None:
            read = partial(read_colours, table=self.colour_table)
        hint = "Say what they are in ids, or list them in ignored"
        return FilesDataset(
            self.domain, pairs, self.table, transform, read, self.seed, labelled, upright=True, hint=hint
        )

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner."""
        root = self.find_root()
        if self.pairs is not None:
            images, labels, divided = self._read_table(root, split)
        else:
            images, labels, divided = self._find_in_folders(root, split, labelled)
        chosen = self._choose(root, images, split, divided)
        if self._is_listed(split):
            labels = {name: labels[name] for name in chosen if name in labels}
        if labelled and chosen and not labels:
            raise DataError(self._explain_no_labels(root, split, len(chosen)), "missing")
        problems: list[Problem] = []
        pairs = [Pair(name, path, None) for name, path in sorted(chosen.items())]
        if labelled:
            pairs, problems = match_files(chosen, labels)
            if not pairs and labels:
                raise DataError(self._explain_no_common_names(root, split, chosen, labels), "missing")
        if self.broken == "error":  # to skip broken pairs is to read them all, which finds these too
            lost = find_lost(pairs)
            names = {problem.name for problem in lost}
            pairs, problems = [pair for pair in pairs if pair.name not in names], problems + lost
        return pairs, problems

    def find_root(self) -> Path:
        """Returns the folder that paths are relative to."""
        base, given = self._find_base()
        named = [child for child in list_folders(base) if child.name.lower() in self.folders]
        if not given and not named:
            raise DataError(
                f"there is no folder {self.domain} in {base}: set root to the folder of your images, or domain to the "
                "name of a folder there"
            )
        if not given or (named and not self.lies_in(base) and self.lies_in(named[0])):
            return named[0]
        return base

    def lies_in(self, folder: Path) -> bool:
        """Returns whether images, or the CSV of pairs, lie in a folder."""
        if self.pairs is not None:
            return (folder / self.pairs).is_file()
        patterns = [(self.images or "images").replace("{split}", self._name_folder(split)) for split in get_args(Split)]
        return any(split_pattern(folder, pattern)[0].is_dir() for pattern in patterns)

    def _name_folder(self, split: Split) -> str:
        """Returns what stands for a split in paths."""
        return split if self._is_listed(split) else str(self.splits.get(split, split))

    def _is_listed(self, split: Split) -> bool:
        """Returns whether a list file or a fraction says which images a split has."""
        value = self.splits.get(split, split)
        return isinstance(value, float) or is_list(value)

    def _find_in_folders(self, root: Path, split: Split, labelled: bool) -> tuple[Files, Files, bool]:
        """Returns the images and labels of a split by name, and whether they lie in a folder of the split."""
        images, labels = self._locate(root)
        folder = self._name_folder(split)
        found = find_named(root, images.replace("{split}", folder), IMAGE_SUFFIXES, self.exclude)
        named: Files = {}
        if labels is not None:
            pattern = labels.replace("{split}", folder)
            named = find_named(root, pattern, LABEL_SUFFIXES, self.exclude)
            of_labels = set(named.values())
            found = {name: path for name, path in found.items() if path not in of_labels}
        if not found:
            entries = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
            raise DataError(
                f"{self.domain}: there are no images of {split} in {root}: expected {', '.join(IMAGE_SUFFIXES)} in "
                f"{images.replace('{split}', folder)}, found {entries}. Set root and images; and split, or splits, if "
                "the folders are called differently",
                "missing",
            )
        divided = "{split}" in images
        if not labelled or labels is None:
            return found, {}, divided
        if not named and (lossy := find_named(root, pattern, IMAGE_SUFFIXES, self.exclude)):
            path = next(iter(lossy.values()))
            raise DataError(f"{path}: expected labels as {', '.join(LABEL_SUFFIXES)}. {WHY_NOT_LOSSY}")
        return found, named, divided

    def _locate(self, root: Path) -> tuple[str, str | None]:
        """Returns the patterns of images and labels, with those that were not given."""
        images = self.images
        if images is None:
            by_split = any((root / "images" / self._name_folder(split)).is_dir() for split in get_args(Split))
            images = "images/{split}" if by_split else "images" if (root / "images").is_dir() else "."
            beside = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
            if beside and images != ".":
                raise DataError(
                    f"{self.domain}: {root} has a folder images and {len(beside)} images beside it, e.g. {beside[0]}: "
                    "expected them in one place. Set images to images, or to . for all of them"
                )
        labels = self.label_files
        if labels is None and "images" in Path(images).parts:
            labels = Path(*("labels" if part == "images" else part for part in Path(images).parts)).as_posix()
        return images, labels

    def _choose(self, root: Path, images: Files, split: Split, divided: bool) -> Files:
        """Leaves the images of a split, where a list file or a fraction says which these are."""
        value = self.splits.get(split)
        if isinstance(value, float):
            if divided:
                raise DataError(
                    f"{self.domain}: splits has fractions, but {self.pairs or 'the folders'} in {root} tell the splits "
                    "apart: expected one of them. Set images to a path without {split}, or leave splits out"
                )
            order = sorted(images, key=lambda name: hashlib.sha1(name.encode()).hexdigest())
            shares = [float(self.splits.get(other, 0)) for other in get_args(Split)]
            position = get_args(Split).index(split)
            first, last = (round(sum(shares[:end]) * len(order)) for end in (position, position + 1))
            return {name: images[name] for name in sorted(order[first:last])}
        if value is not None and is_list(value):
            return read_list(root / value, images)
        if value is not None and not divided:
            where = f"{self.pairs} has no column split" if self.pairs else "images has no {split}"
            raise DataError(f"{self.domain}: splits calls {split} {value!r}, but {where}: expected one that has")
        if value is None and self.splits and not divided:
            known = ", ".join(self.splits)
            raise DataError(f"{self.domain}: splits says what {known} is, but not {split}: set split, or add it there")
        if split == "train" and not divided:
            rank_zero_warn(
                f"{self.domain}: train, val and test are the same {len(images)} images, as splits is not set"
            )
        return images

    def _read_table(self, root: Path, split: Split) -> tuple[Files, Files, bool]:
        """Reads the CSV: images and labels of a split by name, and whether it has a column of splits."""
        path = root / str(self.pairs)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            header = lines[0] if lines else ""
            delimiter = max(",;\t", key=header.count)
            table = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {error}. Expected a CSV: image,label[,split]") from error
        columns = [column.strip().lower() for column in table[0]] if table else []
        if not {"image", "label"} <= set(columns):
            raise DataError(
                f"{path} begins with the columns {', '.join(columns) or 'of no name'}: expected a first line "
                "image,label or image,label,split"
            )
        images: Files = {}
        labels: Files = {}
        values = set()
        for number, cells in enumerate(table[1:], start=2):
            row = {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}
            if not any(row.values()):
                continue
            values.add(row.get("split", ""))
            if "split" in columns and not self._is_listed(split) and row.get("split") != self._name_folder(split):
                continue
            if not row["image"]:
                raise DataError(f"{path}, line {number}: there is no image: expected its path")
            parts = Path(os.path.relpath(root / row["image"], root)).with_suffix("").parts
            name = "/".join(part for part in parts if part != "..")
            if name in images:
                raise DataError(f"{path}, line {number}: a second image is called {name}: expected each once")
            images[name] = root / row["image"]
            if row.get("label"):
                labels[name] = root / row["label"]
        if not images:
            found = f", only {', '.join(sorted(values))}" if "split" in columns else ""
            raise DataError(f"{path} has no image of split {self._name_folder(split)!r}{found}", "missing")
        return images, labels, "split" in columns

    def _explain_no_labels(self, root: Path, split: Split, count: int) -> str:
        expected = self.pairs or self._locate(root)[1] or "labels to be set"
        return (
            f"{self.domain}: there are no labels for the {count} images of {split} in {root}: expected {expected}. "
            "Without labels there is only `predict`"
        )

    def _explain_no_common_names(self, root: Path, split: Split, images: Files, labels: Files) -> str:
        image, label = min(images), min(labels)
        return (
            f"{self.domain}: none of the {len(images)} images of {split} in {root} has labels of its name: images are "
            f"called {image}, ..., labels {label}, ...: expected the same names. Set images and labels to patterns "
            "whose stars stand for the same, e.g. images/*_image, labels/*_label"
        )

    def _tabulate_ids(self, ids: Mapping[int, str] | None, ignored: Sequence[Any]) -> np.ndarray:
        """Makes the (65536,) lookup from ids, or what colours are read as, to labels."""
        table = np.full(2**16, UNKNOWN, dtype=np.uint8)
        table[IGNORED] = IGNORED
        if ids is not None:
            for value, name in ids.items():
                table[check_id(value)] = self._find_class(name)
        elif self.own_names or self.colour_table is not None:
            table[: self.num_classes] = np.arange(self.num_classes)
        else:
            table[:256] = self.labels.table(TRAIN_IDS)
        if self.colour_table is not None:
            return table
        for value in ignored:
            if not isinstance(value, int):
                raise ValueError(f"ignored holds {value}: expected ids, as label_colours is not given")
            if ids is not None and value in ids:
                raise ValueError(f"id {value} is {ids[value]} in ids and stands in ignored: expected one of them")
            table[check_id(value)] = IGNORED
        return table

    def _tabulate_colours(self, colours: Mapping[str, Sequence[Any]], ignored: Sequence[Any]) -> np.ndarray:
        """Makes the (2**24,) lookup from red * 65536 + green * 256 + blue to labels."""
        table = np.full(2**24, UNKNOWN, dtype=np.uint8)
        coloured = [
            (colour, self._find_class(name)) for name, value in colours.items() for colour in list_colours(value)
        ]
        missing = set(range(self.num_classes)) - {label for _, label in coloured}
        if missing and self.own_names:
            names = ", ".join(self.class_names[label] for label in sorted(missing))
            raise ValueError(
                f"label_colours has no colour of {names}: expected one of every class. Add it (any that is "
                "free, if the class does not occur), or take the class out of classes"
            )
        for (red, green, blue), label in [*coloured, *((check_colour(colour), IGNORED) for colour in ignored)]:
            key = red << 16 | green << 8 | blue
            if table[key] not in (UNKNOWN, label):
                raise ValueError(
                    f"the colour [{red}, {green}, {blue}] stands for two classes, or for one and in ignored: expected "
                    "each colour once"
                )
            table[key] = label
        return table

    def _find_class(self, name: str) -> int:
        """Returns the label of a class by its own name, or by that of a Cityscapes class that it gathers."""
        if name in self.labels.names:
            return self.labels.names.index(name)
        for label, gathered in enumerate(self.labels.members):
            if name in gathered:
                return label
        if name in CITYSCAPES_COLOURS and not self.own_names:
            return IGNORED
        more = "" if self.own_names else ", or a class of Cityscapes"
        raise ValueError(f"there is no class {name!r}: expected one of {', '.join(self.labels.names)}{more}")


def find_lost(pairs: Sequence[Pair]) -> list[Problem]:
    """Returns the files of pairs that are not there, such as links that lead nowhere."""
    return [
        Problem(pair.name, "missing", f"there is no file {path}")
        for pair in pairs
        for path in (pair.image, pair.labels)
        if path is not None and not path.is_file()
    ]


def split_pattern(root: Path, pattern: str) -> tuple[Path, str]:
    """Splits a pattern into the folder before its first star and the rest."""
    parts = Path(pattern).parts
    fixed = list(takewhile(lambda part: "*" not in part, parts))
    return root.joinpath(*fixed), "/".join(parts[len(fixed) :])


def find_named(root: Path, pattern: str, suffixes: Sequence[str], exclude: Sequence[str] = ()) -> Files:
    """Returns the files that match a pattern, or lie anywhere below a folder, by what its stars stand for.

    Args:
        root: What the pattern is relative to.
        pattern: A folder, or a path with stars: ``*`` is any name, ``**/`` any number of folders. A suffix at its end
            may be left out.
        suffixes: Of the files; upper case counts too.
        exclude: Patterns of files that do not count, compared from the end of the path.

    Raises:
        DataError: If two files have the same name.
    """
    folder, stars = split_pattern(root, pattern)
    stars = stars or "**/*"
    suffix = Path(stars).suffix
    if suffix == ".*" or suffix.lower() in suffixes:
        stars = stars.removesuffix(suffix)
    accepted = (suffix.lower(),) if suffix.lower() in suffixes else suffixes
    wild = {"**/": "(?:(.+)/)?", "*": "([^/]+)"}
    expression = re.compile("".join(wild.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*)", stars)))
    found: Files = {}
    passed_over = []
    for relative in list_files(folder):
        if any((folder / relative).match(excluded) for excluded in exclude):
            continue
        stem, _, ending = relative.rpartition(".")
        match = expression.fullmatch(unicodedata.normalize("NFC", stem))  # macOS writes an umlaut as two characters
        if match is not None and f".{ending.lower()}" in NOT_READ:
            passed_over.append(relative)
        if match is None or f".{ending.lower()}" not in accepted:
            continue
        check_name(folder / relative)
        path = folder / relative
        name = "/".join(filter(None, match.groups()))
        if name in found:
            raise DataError(
                f"{found[name]} and {path} are both called {name}: expected names that differ before the suffix. "
                f"Rename one, or read one kind alone with a pattern such as *{path.suffix}"
            )
        found[name] = path
    if passed_over:
        rank_zero_warn(
            f"{folder}: passed over {len(passed_over)} files that cannot be read ({', '.join(passed_over[:NAMED])}): "
            f"expected {', '.join(suffixes)}. Convert them to JPEG or PNG to use them"
        )
    return found


def check_name(path: Path) -> None:
    """Raises DataError if a file's name is no Unicode text, which no list or result could hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{str(path)!a} is no name in UTF-8: expected one. Rename the file (convmv -t utf8)") from error


def refuse_folder(error: OSError) -> None:
    """Raises DataError about a folder that may not be listed; of one that is not there the caller says more."""
    if isinstance(error, PermissionError):
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}. Expected a folder that may be read")


def list_files(folder: Path) -> list[str]:
    """Lists the files below a folder to any depth, sorted; hidden ones do not count, linked folders do (each once)."""
    found: list[str] = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse_folder):
        identity = Path(place).resolve()
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        above = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        found += [above + name for name in files if not name.startswith(".")]
    return sorted(found)


def read_list(path: Path, images: Files) -> Files:
    """Returns the images that a list file names.

    The first field of each line is an image: its name or its path, with or without suffix; a path from another machine
    will do if its end is the name. Lines that begin with ``#`` do not count.

    Raises:
        DataError: If the file cannot be read, or names an image that is not there or could be several.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected a text file with an image in each line") from error
    by_last_part: dict[str, set[str]] = {}
    for name, image in images.items():
        for last in (name.rpartition("/")[2], image.stem):
            by_last_part.setdefault(last, set()).add(name)

    def find(entry: str) -> list[str]:
        bare = entry[: -len(Path(entry).suffix)] if entry.lower().endswith(IMAGE_SUFFIXES) else entry
        if bare in images:
            return [bare]
        return [
            name
            for name in sorted(by_last_part.get(bare.rpartition("/")[2], ()))
            if f"/{bare}".endswith(f"/{name}") or f"/{images[name].with_suffix('').as_posix()}".endswith(f"/{bare}")
        ]

    chosen = set()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        entries = (line, re.split("[,;\t]", line)[0].strip(), line.split()[0])  # names may have blanks
        matches = next(filter(None, map(find, entries)), [])
        if len(matches) != 1:
            found = f"could be {', '.join(matches[:NAMED])}" if matches else f"is none of the {len(images)} images"
            raise DataError(f"{path}, line {number}: {line} {found}: expected one image", "missing")
        chosen.add(matches[0])
    return {name: images[name] for name in sorted(chosen)}


def check_splits(splits: Mapping[Split, str | float]) -> dict[Split, str | float]:
    """Returns the splits; raises ValueError if one is unknown, or fractions are mixed with names or exceed 1."""
    if set(splits) - set(get_args(Split)):
        raise ValueError(f"splits says {', '.join(splits)}: expected train, val and test")
    fractions = [value for value in splits.values() if not isinstance(value, str)]
    if fractions and (len(fractions) < len(splits) or min(fractions) <= 0 or not sum(fractions) <= 1 + 1e-9):
        raise ValueError(f"splits is {dict(splits)}: expected names, or fractions above 0 that add up to at most 1")
    return {split: value if isinstance(value, str) else float(value) for split, value in splits.items()}


def is_list(value: str) -> bool:
    """Returns whether a value of `splits` is a list file."""
    return value.lower().endswith(LIST_SUFFIXES)


def check_id(value: int) -> int:
    """Returns an id of a label file; raises ValueError if it is not in [0, 65535]."""
    if not 0 <= value < 2**16:
        raise ValueError(f"ids or ignored has {value}: expected 0 to 65535, as an 8- or 16-bit label image holds them")
    return value


def check_colour(value: Any) -> Colour:
    """Returns a colour; raises ValueError if it is not three numbers in [0, 255]."""
    numbers = list(value) if isinstance(value, Sequence) else []
    if len(numbers) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in numbers):
        raise ValueError(f"{value!r} is no colour: expected three numbers in [0, 255], e.g. [128, 64, 128]")
    return numbers[0], numbers[1], numbers[2]


def list_colours(value: Sequence[Any]) -> list[Colour]:
    """Returns several colours as they are, one as a list of one; raises ValueError if one is no colour."""
    several = isinstance(value, Sequence) and len(value) > 0 and all(isinstance(part, Sequence) for part in value)
    return [check_colour(colour) for colour in (value if several else [value])]
