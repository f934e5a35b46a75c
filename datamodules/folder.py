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

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.base import DataError, Problem, Role, Split
from datamodules.files import FilesDataModule
from datamodules.reading.census import Census, find_odd_pairs
from datamodules.reading.dataset import FilesDataset, look_at
from datamodules.reading.own_files import OwnFiles
from datamodules.reading.own_labels import read_colours, read_labels, tabulate_colours, tabulate_ids
from datamodules.reading.pairs import Pair, find_lost, list_folders, match_files
from datamodules.transforms import Resize, Transform

LOOKED_AT = 50  # pairs of a split, to see whether they hold what they are taken for
MOST_LOOKED_AT = 300  # where something seems to be wrong with these


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
        evaluation_resize: As for `SegmentationDataModule`, but images of more than 1024x2048 pixels keep their
            proportions: they may stand upright.
        **kwargs: As for `FilesDataModule`.

    Raises:
        ValueError: If an argument is outside its range, or they contradict each other.
    """

    layouts = ()
    counts: ClassVar[Mapping[Split, int]] = {}
    archives = "your images and labels"
    upright = True
    hint = "Say what they are in ids, or list them in ignored"

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
        evaluation_resize: Resize = "keep_aspect",
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, split=split, classes=classes, evaluation_resize=evaluation_resize, **kwargs)
        if role not in get_args(Role):
            raise ValueError(f"role is {role!r}: expected one of {', '.join(get_args(Role))}")
        if ids is not None and label_colours is not None:
            raise ValueError(
                "ids and label_colours are both given: expected one of them. Use ids for labels that hold ids, "
                "label_colours for labels in colour"
            )
        self.role = role
        self.domain = domain or (Path(root).expanduser().resolve().name if root else "") or "folder"
        images, labels = (path and path.replace("\\", "/") for path in (images, labels))
        self.files = OwnFiles(self.domain, images, labels, tuple(exclude or ()), pairs, splits or {})
        self.own_names = isinstance(classes, list)
        self.coloured = label_colours is not None
        if label_colours is None:
            self.table = tabulate_ids(self.labels, self.own_names, ids, ignored or [])
            self.read_ids = partial(read_labels, palette=self.labels.palette)  # type: ignore[method-assign]
        else:  # which are read as labels
            self.table = tabulate_ids(self.labels, True, None, [])
            colours = tabulate_colours(self.labels, self.own_names, label_colours, ignored or [])
            self.read_ids = partial(read_colours, table=colours)  # type: ignore[method-assign]
        self._looked_at: set[Split] = set()

    @property
    def folders(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the folder may be called under ``$SEGADAPT_DATA``."""
        return (self.domain.lower(),)

    def describe(self) -> dict[str, Any]:
        """Returns what a report on results should say about the data, for JSON."""
        return super().describe() | {"files": self.files.describe()}

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FilesDataset:
        """Opens one split; looks at some of its files, and says the worst that a user should know of them.

        Raises:
            DataError: As for `FilesDataModule`, or if masks of one bit lie beside others.
        """
        dataset = super().make_dataset(split, transform, labelled)
        if split not in self._looked_at:
            self._looked_at.add(split)
            where, census = f"{self.domain} {split}", look_at(dataset, LOOKED_AT)
            if len(dataset) > LOOKED_AT and self.find_warnings(dataset, census, where):
                census = look_at(dataset, MOST_LOOKED_AT)  # a class may be rare
            if mixture := census.find_mixture(where):
                raise DataError(mixture, "id")
            if warnings := self.find_warnings(dataset, census, where):
                rank_zero_warn(warnings[0])
            elif notes := census.find_notes(where, self.evaluation_transform):
                rank_zero_info(notes[0])
        return dataset

    def find_warnings(self, dataset: FilesDataset, census: Census, where: str) -> list[str]:
        """Returns what speaks for files, pixels or labels that mean something else than is thought, the worst first."""
        odd = find_odd_pairs(dataset.pairs, where)
        return odd + census.find_warnings(where, self.table, self.class_names, self.own_names, self.coloured)

    def make_table(self) -> np.ndarray:
        """Returns the lookup from ids, or from what `read_colours` makes of colours, to labels."""
        return self.table

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner."""
        images, labels = self.files.find(self.find_root(), split, labelled)
        pairs, problems = match_files(images, labels if labelled else None)
        if self.broken == "error":  # to skip broken pairs is to read them all, which finds these too
            lost = find_lost(pairs)
            names = {problem.name for problem in lost}
            pairs, problems = [pair for pair in pairs if pair.name not in names], problems + lost
        return pairs, problems

    def find_root(self) -> Path:
        """Returns the folder that paths are relative to."""
        base, given = self.find_base()
        named = [child for child in list_folders(base) if child.name.lower() in self.folders]
        candidates = [base, *named] if given else named
        if not candidates:
            raise DataError(
                f"there is no folder {self.domain} in {base}: set root to the folder of your images, or domain to the "
                "name of a folder there"
            )
        return next((folder for folder in candidates if self.files.lie_in(folder)), candidates[0])
