"""Finds data sets and splits, lists their files and chooses the pairs to read; does not decode any file."""

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

QUICK_PAIRS = 50  # pairs per split that --quick reads


def find_below(base: Path, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds the seven data sets in a folder by its name or those of its subfolders, or else the user's own images.

    Data sets that are `wanted` are required; None looks for all.
    """
    names = ", ".join(DATA_SETS)
    if not base.is_dir():
        raise ValueError(f"{base} is not a folder: expected one with a subfolder per data set ({names})")
    check_known(wanted, DATA_SETS)
    here = {base.resolve().name.lower(), *(child.name.lower() for child in list_folders(base))}
    found = []
    for name in wanted or DATA_SETS:
        module = DATA_SETS[name](root=str(base))
        there = not here.isdisjoint(module.folders)
        error = "" if there else f"{name} is not in {base}: expected a folder called {' or '.join(module.folders)}"
        found.append(DataSetCheck(module, required=there or wanted is not None, error=error))
    if any(data_set.required for data_set in found):
        return found
    own = guess_arguments(base)
    if own is None:
        raise ValueError(f"{base} contains no data set: expected folders called {names}, or your own images")
    return [DataSetCheck(datamodules.FolderDataModule(**own), yaml=format_yaml(own))]


def open_config(path: Path, wanted: Sequence[str] | None) -> list[DataSetCheck]:
    """Finds the data sets of a main.py data YAML: all splits of a single one, else those that `fit` and `test` use."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected the YAML of a datamodule, e.g. configs/data/camvid.yaml")
    refuse_repeated_keys(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        opened = parser.instantiate_classes(expand_home(parser.parse_args([f"--data={path}"]))).data
    except ArgumentError as error:
        raise ValueError(f"{path} is not the YAML of a datamodule: {shorten_message(str(error))}") from error
    members: list[tuple[Any, Sequence[Split]]] = [(opened, get_args(Split))]
    if isinstance(opened, datamodules.TargetsDataModule):
        members = [(opened.source, ["train"]), (opened.development, ["val"])]
        members += [(target, [target.test_split]) for target in opened.targets]
    found = [DataSetCheck(module, splits) for module, splits in members if isinstance(module, FilesDataModule)]
    if not found:
        raise ValueError(
            f"{path} describes a {type(opened).__name__}, which reads no files, so there is nothing to check"
        )
    check_known(wanted, [member.module.domain for member in found])
    return [member for member in found if wanted is None or member.module.domain in wanted]


def check_known(wanted: Sequence[str] | None, known: Collection[str]) -> None:
    """Raises ValueError if a wanted data set is unknown."""
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise ValueError(f"unknown data set {', '.join(unknown)}: expected some of {', '.join(known)}")


def list_splits(found: DataSetCheck, quick: bool) -> None:
    """Lists the files of a data set; sets its `checks` or its `error`."""
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
        check = list_split(module, split, quick, required=found.required and not whole)
        twin = next((other for other in checks if have_same_pairs(check, other)), None)
        if twin is not None:
            twin.same.append(split)
        elif not check.absent or check.required or split in module.counts or not module.counts:
            checks.append(check)
    if all(check.absent for check in checks):
        found.error = checks[0].absent if checks else f"{module.domain} has no split {' or '.join(found.splits)}"
    else:
        found.checks = checks
    if not whole or not found.own:
        return
    used = {path for check in checks for pair in check.dataset.pairs for path in pair.files}
    with suppress(DataError):  # an unreadable folder; the data may lie in others
        for name in list_files(root):
            if root / name not in used:
                found.passed_over.setdefault(Path(name).suffix.lower(), []).append(name)


def find_strangers(base: Path) -> list[str]:
    """Returns the names of subfolders that match no data set; empty if the folder itself is a data set's."""
    known = {name for kind in DATA_SETS.values() for name in kind.folders}
    if base.resolve().name.lower() in known:
        return []
    return [child.name for child in list_folders(base) if child.name.lower() not in known]


def have_same_pairs(check: SplitCheck, other: SplitCheck) -> bool:
    """Returns whether two splits consist of the same pairs; false if they have none, or are configured to differ."""
    splits = check.module.files.splits if isinstance(check.module, datamodules.FolderDataModule) else {}
    if splits and splits.get(check.split, check.split) != splits.get(other.split, other.split):
        return False
    return bool(check.dataset.pairs) and check.dataset.pairs == other.dataset.pairs


def list_split(module: FilesDataModule, split: Split, quick: bool, required: bool) -> SplitCheck:
    """Lists the files of a split and those without a partner, without reading any."""
    nothing = module.open_pairs([], module.evaluation_transform)
    check = SplitCheck(module, split, nothing, required, labelled=split not in module.unlabelled_splits)
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
        check.labelled = False  # labels were not configured, so they are optional
    check.known = sorted(module.known_broken & (names | {problem.name for problem in check.unpaired}))
    check.dataset = module.open_pairs(pairs, module.evaluation_transform, check.labelled)
    check.chosen = range(len(pairs))
    if quick:  # evenly spread pairs, plus those known to be broken
        spread = np.linspace(0, len(pairs) - 1, min(len(pairs), QUICK_PAIRS)).round().astype(int).tolist()
        check.chosen = sorted({*spread, *(index for index, pair in enumerate(pairs) if pair.name in check.known)})
    return check
