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

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.base import DataError, Problem, Role, Split
from datamodules.files import Broken, FilesDataModule
from datamodules.folder_arguments import check_colour, check_id, check_ignored, check_splits, list_colours
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS, UNKNOWN
from datamodules.reading.census import MOSTLY, Census, Ids, count_ids
from datamodules.reading.dataset import FilesDataset
from datamodules.reading.folders import (
    IMAGE_SUFFIXES,
    Files,
    find_lost,
    find_named,
    find_odd_pairs,
    guess_splits,
    is_list,
    list_files,
    read_list,
    read_table,
    split_pattern,
)
from datamodules.reading.own_labels import LABEL_SUFFIXES, read_colours, read_labels
from datamodules.reading.pairs import Pair, list_folders, match_files
from datamodules.reading.pixels import WHY_NOT_LOSSY, read_header
from datamodules.transforms import Resize, Transform

LOOKED_AT = 50  # pairs of a split, to see whether they hold what they are taken for
MOST_LOOKED_AT = 300  # where something seems to be wrong with these
DEEP_LOOKED_AT = 5  # of their 16-bit images, of which the pixels have to be decoded


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
            raise ValueError(
                "exclude and pairs are both set: expected one of them. With pairs, leave exclude out, as the CSV "
                "alone says where files are"
            )
        if "" in (exclude or ()):
            raise ValueError("exclude holds an empty pattern: expected patterns such as *_inst_label.png")
        if pairs is not None and (images is not None or labels is not None):
            raise ValueError(
                "pairs is set together with images or labels: expected pairs alone, as the CSV says where files are. "
                "Leave the others out"
            )
        if ids is not None and label_colours is not None:
            raise ValueError(
                "ids and label_colours are both given: expected one of them. Use ids for labels that hold ids, "
                "label_colours for labels in colour"
            )
        self._looked_at: set[Split] = set()
        self.role = role
        self.domain = domain or (Path(root).expanduser().resolve().name if root else "") or "folder"
        self.images = images and images.replace("\\", "/")
        self.label_files = labels and labels.replace("\\", "/")
        self.exclude = tuple(exclude or ())
        self.pairs = pairs
        self.splits = check_splits(splits or {})
        self.own_names = isinstance(classes, list)
        if ids is None and label_colours is None and isinstance(classes, list):
            check_ignored(ignored or [], classes)
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
            where, census = f"{self.domain} {split}", self.look_at(dataset, LOOKED_AT)
            if len(dataset) > LOOKED_AT and self.find_warnings(census, where):
                census = self.look_at(dataset, MOST_LOOKED_AT)  # a class may be rare
            census.check_bits(where)
            if warnings := [*find_odd_pairs(dataset.pairs, where), *self.find_warnings(census, where)]:
                rank_zero_warn(warnings[0])
            elif notes := census.find_notes(where, self.evaluation_transform):
                rank_zero_info(notes[0])
        return dataset

    def look_at(self, dataset: FilesDataset, number: int) -> Census:
        """Looks at some pairs of a split: at the headers of the images, a few deep ones, and the ids of the labels.

        Args:
            dataset: The split.
            number: Of pairs, about, evenly spread.
        """
        census = Census()
        for pair in dataset.pairs[:: max(1, len(dataset) // number)]:
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
        """Returns what speaks for pixels or labels that mean something else than is thought: `Census.find_warnings`."""
        if self.colour_table is not None:
            files = f"{where}: in {census.labels.total():,} label files"
            return [*census.find_dark_images(where), *self._find_warnings_of_colours(census.all_ids, files)]
        return census.find_warnings(where, self.table, self.class_names, own=self.own_names)

    def _find_warnings_of_colours(self, pixels: Ids, where: str) -> list[str]:
        """Returns the same for label colours, which are read as labels: the number of pixels of each."""
        if not pixels:
            return []
        absent = [name for label, name in enumerate(self.class_names) if label not in pixels] if self.own_names else []
        share = pixels[IGNORED] / pixels.total()
        warnings = []
        if absent:
            warnings.append(
                f"{where} no pixel has a colour of {', '.join(absent)}. If some should, correct label_colours"
            )
        if share > MOSTLY:
            warnings.append(
                f"{where} {share:.0%} of the pixels are ignored, in training and scores, as their colours are in "
                "ignored"
            )
        return warnings

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
            images, labels, divided = read_table(
                root / self.pairs, root, self._name_folder(split), self._is_listed(split)
            )
        else:
            images, labels, divided = self._find_in_folders(root, split, labelled)
        chosen = self._choose(root, images, labels, split, divided)
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
        line = self._suggest_splits(root, images)
        if not found:
            entries = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
            raise DataError(
                f"{self.domain}: there are no images of {split} in {root}, which holds {entries}: expected "
                f"{', '.join(IMAGE_SUFFIXES)} in {images.replace('{split}', folder)}. Set root and images, or, if the "
                f"folders of the splits have other names, splits{line and f', e.g. {line}'}",
                "missing",
            )
        divided = "{split}" in images
        if not labelled or labels is None:
            return found, {}, divided
        if not named and (lossy := find_named(root, pattern, IMAGE_SUFFIXES, self.exclude)):
            path = next(iter(lossy.values()))
            why = "WebP is not read as labels, not even lossless: save them as PNG"
            why = why if path.suffix.lower() == ".webp" else WHY_NOT_LOSSY
            raise DataError(f"{path}: expected labels as {', '.join(LABEL_SUFFIXES)}. {why}")
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
                    "expected all in one place. Set images to images to read that folder, or to . to read both"
                )
        labels = self.label_files
        if labels is None and "images" in Path(images).parts:
            labels = Path(*("labels" if part == "images" else part for part in Path(images).parts)).as_posix()
        return images, labels

    def _suggest_splits(self, root: Path, images: str) -> str:
        """Returns the line of the YAML that says what the folders of the splits are called; empty if none is needed.

        Raises:
            DataError: If folders that are called as splits lie below `images`, and nothing says what they are.
        """
        folder = split_pattern(root, images.partition("{split}")[0])[0]
        names = guess_splits(folder)
        line = f"splits: {{{', '.join(f'{split}: {name}' for split, name in names.items())}}}"
        if len(names) > 1 and not self.splits and "{split}" not in images and "*" not in images:
            place = "" if images == "." else f"{images}/"
            raise DataError(
                f"{self.domain}: {folder} holds the folders {', '.join(names.values())}: are they the splits? If so, "
                f'set images to "{place}{{split}}" (labels, if given, likewise) and {line}. If not, set images to '
                f'"{place}**/*" to read all of them as one'
            )
        return line if any(split != name for split, name in names.items()) else ""

    def _choose(self, root: Path, images: Files, labels: Files, split: Split, divided: bool) -> Files:
        """Leaves the images of a split, where a list file or a fraction says which these are."""
        value = self.splits.get(split)
        if isinstance(value, float):
            if divided:
                raise DataError(
                    f"{self.domain}: splits has fractions, but {self.pairs or 'the folders'} in {root} already divide "
                    "the images: expected one of them. Set images to a path without {split}, or leave splits out"
                )
            order = sorted(images, key=lambda name: hashlib.sha1(name.encode()).hexdigest())
            shares = [float(self.splits.get(other, 0)) for other in get_args(Split)]
            position = get_args(Split).index(split)
            first, last = (round(sum(shares[:end]) * len(order)) for end in (position, position + 1))
            if first == last:
                raise DataError(
                    f"{self.domain}: {split} is {value} of {len(order)} images, which rounds to none: expected one or "
                    "more. Set splits to larger fractions, or to lists"
                )
            return {name: images[name] for name in sorted(order[first:last])}
        if value is not None and is_list(value):
            return read_list(root / value, images, labels)
        if value is not None and not divided:
            where = (
                f"{self.pairs} has no column split: add one"
                if self.pairs
                else "images has no {split}: put it where the folder is, e.g. images/{split}"
            )
            raise DataError(f"{self.domain}: splits calls {split} {value!r}, but {where}, or leave splits out")
        if value is None and self.splits and not divided:
            known = ", ".join(self.splits)
            raise DataError(
                f"{self.domain}: splits has {known}, but not {split}: add it there, or set split to another"
            )
        if split == "train" and not divided:
            rank_zero_warn(
                f"{self.domain}: train, val and test are the same {len(images)} images, as splits is not set. Set it "
                "to score on other images than those trained on"
            )
        return images

    def _explain_no_labels(self, root: Path, split: Split, count: int) -> str:
        pattern = None if self.pairs else self._locate(root)[1]
        folder = split_pattern(root, (pattern or "").replace("{split}", self._name_folder(split)))[0]
        others = [name for name in list_files(folder) if not name.lower().endswith(IMAGE_SUFFIXES)] if pattern else []
        expected = self.pairs or pattern or "labels to be set"
        if others:
            what = "the polygons" if others[0].lower().endswith((".json", ".xml")) else "them"
            expected += f" as {', '.join(LABEL_SUFFIXES)}, found {len(others)} files of other kinds in {folder}, e.g. "
            expected += f"{others[0]}. Export {what} as PNG masks"
        return (
            f"{self.domain}: there are no labels for the {count} images of {split} in {root}: expected {expected}. "
            "Without labels, only `predict` can run"
        )

    def _explain_no_common_names(self, root: Path, split: Split, images: Files, labels: Files) -> str:
        image, label = min(images), min(labels)
        return (
            f"{self.domain}: none of the {len(images)} images of {split} in {root} has labels of the same name: images "
            f"are called {image}, labels {label}. Set images and labels to patterns whose * stands for the same part, "
            "e.g. images/*_image and labels/*_label"
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
                raise ValueError(
                    f"ignored holds {value}: expected ids (whole numbers). For colours, set label_colours too"
                )
            if ids is not None and value in ids:
                raise ValueError(f"id {value} is {ids[value]} in ids, but also in ignored: expected it in one of them")
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
                f"label_colours has no colour of {names}: expected one for every class. Add it (any unused colour, if "
                "the class does not occur), or remove the class from classes"
            )
        for (red, green, blue), label in [*coloured, *((check_colour(colour), IGNORED) for colour in ignored)]:
            key = red << 16 | green << 8 | blue
            if table[key] not in (UNKNOWN, label):
                raise ValueError(
                    f"the colour [{red}, {green}, {blue}] is given twice, for two classes or for a class and in "
                    "ignored: expected each colour once"
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
