"""Your own images, with or without labels: any folders, any classes.

Data card:
    Source: yours.
    Layout: a folder of images and a folder of labels with the same relative names; or files matched by patterns; or a
        CSV of pairs. Images alone are enough for `predict`. See docs/own_data.md.
    Encoding: one-channel label images (8 or 16 bits, palette or gray) with any ids, or RGB ones with any colours.
    Splits: by folder, by list file, by fraction, or by a column of the CSV.
    Sizes: any, but the same for an image and its labels.
    Traps: labels saved as JPEG hold wrong ids at every edge and are refused. Images and labels are turned upright by
        their own EXIF orientation, and a pair that disagrees is refused. So is a palette from colour reduction, as its
        indices are no ids. Fractions of a video put neighbouring frames into different splits: use lists instead.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError, Problem, Role, Split
from datamodules.files import FilesDataModule, require_choice
from datamodules.reading.census import Census, find_odd_pairs
from datamodules.reading.dataset import FilesDataset, look_at
from datamodules.reading.own_files import OwnFiles
from datamodules.reading.own_labels import read_colours, read_labels, tabulate_colours, tabulate_ids
from datamodules.reading.pairs import Pair, find_lost, list_folders, match_files
from datamodules.transforms import Resize, Transform

LOOKED_AT = 50  # pairs of a split sampled to find misread files
MOST_LOOKED_AT = 300  # sampled if these cause a warning


class FolderDataModule(FilesDataModule):
    """Images and labels in folders of your own.

    Args:
        root: Folder that the other paths are relative to, or its parent if the folder is named like the domain; None
            is ``$SEGADAPT_DATA``.
        domain: Name of the data set, under which its scores are reported; None is the name of the root.
        role: ``source`` to train on, ``development`` to tune on, ``target`` to test on.
        images: Folder of the images, searched recursively, or a pattern such as ``frames/*_left.png``: ``*`` is any
            name, ``**/`` any folders, ``{split}`` the split's folder. An image's name is its path below the folder
            without suffix, or what the stars match. None tries ``images/{split}``, ``images`` and the root itself.
        labels: The same for the labels, which must have the names of their images. None is `images` with its folder
            ``images`` replaced by ``labels``.
        exclude: Patterns of files to skip although `images` or `labels` matches them, such as ``*_inst_label.png``
            beside ``*_label.png``; a pattern without a folder applies in every folder.
        pairs: CSV file with the columns ``image``, ``label`` (may be empty) and optionally ``split``, instead of
            `images` and `labels`. Separated by commas, semicolons or tabs.
        splits: For ``train``, ``val`` and ``test``: the value of ``{split}`` or of the CSV's column; or a list file
            (``.txt``, ``.lst`` or ``.csv``, first field of each line an image); or a fraction of all images, drawn by
            name only. None is these three words; if nothing divides the images into splits, each split has all.
        split: Split that `test` and `predict` read; None is ``test``.
        classes: Class names in the order of the network's outputs; or for each name the Cityscapes classes it merges,
            as for other data sets. None is Cityscapes' 19 classes, or the 16 shared with SYNTHIA (`num_classes`).
        ids: Class of each id in the labels, 0 to 65535. None: if `classes` is a list, id c is class c; otherwise ids
            are Cityscapes' 19 train ids. If `classes` is no list, names of Cityscapes classes work too: they count as
            the class that merges them, or as ignored.
        label_colours: For RGB labels, instead of `ids`: the colour or colours of each class.
        ignored: Ids, or colours, that belong to no class. Id 255 is always ignored unless `ids` names it.
        evaluation_resize: As for `SegmentationDataModule`, but by default images of more than 1024x2048 pixels keep
            their aspect ratio, as they may be in portrait format.
        **kwargs: Arguments of `FilesDataModule`.

    Raises:
        ValueError: If an argument is outside its range, or arguments contradict each other.
    """

    layouts = ()
    counts: ClassVar[Mapping[Split, int]] = {}
    archives = "your images and labels"
    upright = True
    hint = "Define them in ids, or list them in ignored"

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
        if ids is not None and label_colours is not None:
            raise ValueError(
                "ids and label_colours are both given: expected one of them. Use ids for labels that contain "
                "ids, label_colours for coloured labels"
            )
        self.role = require_choice("role", role, Role)
        self.domain = domain or (Path(root).expanduser().resolve().name if root else "") or "folder"
        images, labels = (path and path.replace("\\", "/") for path in (images, labels))
        self.files = OwnFiles(self.domain, images, labels, tuple(exclude or ()), pairs, splits or {})
        self.own_names = isinstance(classes, list)
        self.coloured = label_colours is not None
        if label_colours is None:
            self.table = tabulate_ids(self.labels, self.own_names, ids, ignored or [])
            self.read_ids = partial(read_labels, palette=self.labels.palette)  # type: ignore[method-assign]
        else:  # colours are read as labels directly
            self.table = tabulate_ids(self.labels, True, None, [])
            colours = tabulate_colours(self.labels, self.own_names, label_colours, ignored or [])
            self.read_ids = partial(read_colours, table=colours)  # type: ignore[method-assign]
        self._looked_at: set[Split] = set()

    @property
    def folders(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names that the folder may have under ``$SEGADAPT_DATA``, in lower case."""
        return (self.domain.lower(),)

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        return super().describe() | {"files": self.files.describe()}

    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> FilesDataset:
        """Opens one split; checks a sample of its files and logs the worst warning about them."""
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
        return dataset

    def find_warnings(self, dataset: FilesDataset, census: Census, where: str) -> list[str]:
        """Returns warnings about files, pixels or labels that are probably misread, worst first."""
        odd = find_odd_pairs(dataset.pairs, where)
        return odd + census.find_warnings(where, self.table, self.class_names, self.own_names, self.coloured)

    def make_table(self) -> np.ndarray:
        """Returns the lookup to labels from ids, or from the output of `read_colours`."""
        return self.table

    def find_pairs(self, split: Split, labelled: bool = True) -> tuple[list[Pair], list[Problem]]:
        """Lists the pairs of a split, sorted by name, and the files without a partner."""
        images, labels = self.files.find(self.find_root(), split, labelled)
        pairs, problems = match_files(images, labels if labelled else None)
        if self.broken == "error":  # skip reads all pairs, which finds these too
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
