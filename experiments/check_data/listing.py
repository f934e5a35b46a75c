"""Which data sets and splits are there, and which pairs of them are to be read: nothing is decoded yet."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import LightningDataModule

import datamodules
from callbacks.run.parser import expand_home, refuse_repeated_keys, shorten_message
from datamodules.base import DataError, Split
from datamodules.files import FilesDataModule
from datamodules.reading.guess import format_yaml, guess_arguments
from datamodules.reading.pairs import list_files, list_folders
from experiments.check_data.checks import DATA_SETS, DataSetCheck, SplitCheck
from experiments.command_line import to_path

QUICK_PAIRS = 50  # that --quick reads of each split


def find_below(place: str, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds the seven data sets in a folder, by the names of the folders in it; where none is, images of one's own.

    Args:
        place: Folder with one folder per data set; or the folder of a data set itself; or one of other images.
        wanted: Those to look for, which then have to be there; None looks for all.

    Raises:
        ValueError: If there is no such folder, nothing in it, or no data set of a wanted name.
    """
    base = to_path(place)
    if not base.is_dir():
        raise ValueError(
            f"{base} is not a folder: expected one that holds a folder per data set ({', '.join(DATA_SETS)})"
        )
    check_names(wanted, DATA_SETS)
    here = {base.resolve().name.lower(), *(child.name.lower() for child in list_folders(base))}
    found = []
    for name in wanted or DATA_SETS:
        kind = DATA_SETS[name]
        there = not here.isdisjoint(kind.folders)
        error = "" if there else f"{name} is not in {base}: expected a folder called {' or '.join(kind.folders)}"
        found.append(DataSetCheck(name, kind(root=str(base)), required=there or wanted is not None, error=error))
    if any(data_set.required for data_set in found):
        return found
    if own := guess_arguments(base):
        module = datamodules.FolderDataModule(**own)
        return [DataSetCheck(module.domain, module, yaml=format_yaml(own))]
    names = ", ".join(kind.folders[0] for kind in DATA_SETS.values())
    raise ValueError(f"there is no data set in {place}: expected folders called {names}, or images of your own")


def open_config(path: Path, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds what a data YAML of main.py reads: of one data set all splits, of several those of `fit` and `test`.

    Args:
        path: Of the YAML.
        wanted: Names of its data sets to check; None checks all.

    Raises:
        ValueError: If there is no such file, it describes no datamodule, or none whose data lie in files.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: expected the YAML of a datamodule, e.g. configs/data/camvid.yaml")
    refuse_repeated_keys(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        opened = parser.instantiate_classes(expand_home(parser.parse_args([f"--data={path}"]))).data
    except ArgumentError as error:
        raise ValueError(f"{path} is not the YAML of a datamodule: {shorten_message(str(error))}") from error
    found: list[DataSetCheck] = []
    if isinstance(opened, datamodules.TargetsDataModule):
        members: list[tuple[Any, Split]] = [(opened.source, "train"), (opened.development, "val")]
        members += [(target, target.test_split) for target in opened.targets]
        found = [DataSetCheck(m.domain, m, [split]) for m, split in members if isinstance(m, FilesDataModule)]
    elif isinstance(opened, FilesDataModule):
        found = [DataSetCheck(opened.domain, opened)]
    if not found:
        raise ValueError(
            f"{path} describes a {type(opened).__name__}, which reads no files, so there is nothing to check"
        )
    check_names(wanted, [member.name for member in found])
    return [member for member in found if wanted is None or member.name in wanted]


def check_names(wanted: Sequence[str] | None, known: Collection[str]) -> None:
    """Raises ValueError if a wanted data set is not known."""
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise ValueError(f"there is no data set {', '.join(unknown)}: expected some of {', '.join(known)}")


def list_splits(found: DataSetCheck, quick: bool) -> None:
    """Lists the files of a data set; fills in its checks, or its error."""
    if found.error:
        return
    module, whole = found.module, len(found.splits) == len(get_args(Split))
    try:
        root = module.find_root()
    except DataError as error:
        found.error = str(error)
        return
    held = {split for layout in module.layouts for split in layout.holds} or set(get_args(Split))
    checks: list[SplitCheck] = []
    for split in (split for split in found.splits if split in held):
        check = list_split(module, split, quick)
        check.required = found.required and not whole
        twin = next((other for other in checks if have_same_pairs(check, other)), None)
        if twin is not None:
            twin.same.append(split)
        elif not check.absent or check.required or split in module.counts or not module.counts:
            checks.append(check)
    if all(check.absent for check in checks):
        found.error = checks[0].absent if checks else f"{found.name} has no split {' or '.join(found.splits)}"
    else:
        found.checks = checks
    if whole:
        with suppress(DataError):  # of a folder that may not be listed: the data may lie in others
            found.passed_over = find_passed_over(root, checks)


def find_passed_over(root: Path, checks: Sequence[SplitCheck]) -> dict[str, list[str]]:
    """Returns the files below a folder that are of no pair, by their suffixes; the most frequent suffix first."""
    used = {path for check in checks for pair in check.dataset.pairs for path in pair.files}
    passed_over: dict[str, list[str]] = {}
    for name in list_files(root):
        if root / name not in used:
            passed_over.setdefault(Path(name).suffix.lower(), []).append(name)
    return dict(sorted(passed_over.items(), key=lambda item: -len(item[1])))


def find_strangers(base: Path) -> list[str]:
    """Returns the folders beside data sets that are none themselves, by their names; none in a data set's own."""
    known = {name for kind in DATA_SETS.values() for name in kind.folders}
    if base.resolve().name.lower() in known:
        return []
    return [child.name for child in list_folders(base) if child.name.lower() not in known]


def have_same_pairs(check: SplitCheck, other: SplitCheck) -> bool:
    """Returns whether two splits have pairs, and all of them in common, and nothing says that they should differ."""
    splits = check.module.files.splits if isinstance(check.module, datamodules.FolderDataModule) else {}
    if splits and splits.get(check.split, check.split) != splits.get(other.split, other.split):
        return False
    return bool(check.dataset.pairs) and check.dataset.pairs == other.dataset.pairs


def list_split(module: FilesDataModule, split: Split, quick: bool) -> SplitCheck:
    """Lists the files of a split and what is missing among them, without reading them."""
    nothing = module.open_pairs([], module.evaluation_transform)
    check = SplitCheck(module, split, nothing, labelled=split not in module.unlabelled_splits)
    try:
        pairs, check.unpaired = module.find_pairs(split, labelled=False)
    except DataError as error:
        check.absent, check.unusable = (str(error), "") if error.kind == "missing" else ("", str(error))
        return check
    names = {pair.name for pair in pairs}
    check.images = len(names)
    try:
        if check.labelled:
            pairs, check.unpaired = module.find_pairs(split)
            check.labels = len(pairs) + sum(problem.name not in names for problem in check.unpaired)
    except DataError as error:
        alone = isinstance(module, datamodules.FolderDataModule) and module.files.labels is None
        if not alone or error.kind != "missing":
            check.unusable = str(error)
            return check
        check.labelled = False  # images that nobody said have labels
    check.known = sorted(module.known_broken & (names | {problem.name for problem in check.unpaired}))
    check.dataset = module.open_pairs(pairs, module.evaluation_transform, check.labelled)
    check.chosen = range(len(pairs))
    if quick:  # evenly spread ones, and those known to be broken
        spread = np.linspace(0, len(pairs) - 1, min(len(pairs), QUICK_PAIRS)).round().astype(int).tolist()
        check.chosen = sorted({*spread, *(index for index, pair in enumerate(pairs) if pair.name in check.known)})
    return check
