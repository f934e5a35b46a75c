"""Guesses the `FolderDataModule` arguments for a user's folder from its names and labels, and writes the YAML."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from datamodules.base import DataError
from datamodules.labels import IGNORED
from datamodules.reading.census import Ids, count_ids
from datamodules.reading.headers import read_header
from datamodules.reading.own_files import SPLITS
from datamodules.reading.own_labels import LABEL_SUFFIXES, LOSSY_COLOURS
from datamodules.reading.pairs import list_files
from datamodules.reading.pixels import IMAGE_SUFFIXES, read_image, read_index

LOOKED_AT = 50  # label files sampled
LABEL_FOLDER = re.compile(
    r"gt(Fine|Coarse)?|ground_?truth|(class_?)?ids?|classes|semantics?|\w*annot\w*|sem_?seg|seg(mentation\w*|maps?)?|labels?\w*|masks?\w*",
    re.IGNORECASE,
)
BLACK = (0, 0, 0)
ENDING = re.compile(r"(_[A-Za-z]+)+$")  # of a name: _leftImg8bit, _gtFine_labelIds, _mask
LABEL_ENDING = re.compile(r"_(L|gt.*|.*label.*|.*mask.*|.*seg.*|.*annot.*)$", re.IGNORECASE)
NOTE = "# Written by `python -m experiments.check_data` from the files in {root}.\n"
STAND_INS = """\
# class_0 and so on are placeholders: replace them with the names of your classes. If the ids are Cityscapes' 19 train
# ids, leave classes and ids out.
"""


def guess_arguments(base: Path) -> dict[str, Any] | None:
    """Guesses the `FolderDataModule` arguments that read a folder; None if it contains no images.

    Images and labels are told apart by the names of folders and files, and splits by the names of folders. Classes are
    read from the ids or colours of a sample of the labels.
    """
    files = [PurePosixPath(name) for name in list_files(base) if name.lower().endswith(IMAGE_SUFFIXES)]
    labels = [path for path in files if is_label(path)]
    images = [path for path in files if not is_label(path)]
    if not images:
        return None
    arguments: dict[str, Any] = {"root": str(base), "images": make_pattern(images)}
    if labels:
        arguments["labels"] = make_pattern(labels)
        arguments |= guess_classes([base / path for path in labels[:: max(1, len(labels) // LOOKED_AT)]])
    found = {SPLITS[part.lower()]: part for path in images for part in path.parts if part.lower() in SPLITS}
    if "{split}" not in arguments["images"]:
        found = {}  # no single pattern covers their folders
    if any(split != part for split, part in found.items()):
        arguments["splits"] = dict(found)
    if found and "test" not in found:
        arguments["split"] = "val" if "val" in found else "train"
    return arguments


def is_label(path: PurePosixPath) -> bool:
    """Returns whether the name of a file, or of a folder above it, marks it as labels."""
    folders = any(LABEL_FOLDER.fullmatch(part) for part in path.parts[:-1])
    return (folders or bool(LABEL_ENDING.search(path.stem))) and path.suffix.lower() in LABEL_SUFFIXES


def make_pattern(paths: Sequence[PurePosixPath]) -> str:
    """Returns the narrowest `FolderDataModule` pattern that matches all given files."""
    folders = [[mark_split(part) for part in path.parts[:-1]] for path in paths]
    common = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))]
    endings = {match[0] if (match := ENDING.search(path.stem)) else "" for path in paths}
    deeper = any(len(parts) > len(common) for parts in folders)
    stars = "**/*" if deeper else "*"
    if len(endings) == 1 and endings != {""}:
        return "/".join([*common, f"{stars}{endings.pop()}"])
    last = {parts[-1] for parts in folders if parts}
    if not common and len(last) == 1 and all(folders):  # a/images, b/images
        return f"**/{last.pop()}/*"
    return "/".join(common) or "."


def mark_split(part: str) -> str:
    """Replaces the split in a folder's name, such as ``train`` or ``trainannot``, by ``{split}``."""
    bare, annot = re.fullmatch(r"(.*?)(annot)?", part, re.IGNORECASE).groups()  # type: ignore[union-attr]
    return "{split}" + (annot or "") if bare.lower() in SPLITS else part


def guess_classes(paths: Sequence[Path]) -> dict[str, Any]:
    """Guesses the class arguments from label files, with placeholders as class names.

    Each colour but black becomes a class, or else each id but 255; ids 0 and 255 alone are background and foreground.
    """
    ids: Ids = Ids()
    colours: set[tuple[int, ...]] = set()
    for path in paths:
        header = read_header(path)
        with suppress(DataError):  # check_data reports what is wrong with it
            if header is not None and header.coloured:
                colours |= set(map(tuple, np.unique(read_image(path).reshape(-1, 3), axis=0).tolist()))
            else:
                ids += count_ids(read_index(path, upright=True))
    if sorted(ids) == [0, IGNORED]:
        return {"classes": ["background", "foreground"], "ids": {0: "background", IGNORED: "foreground"}}
    if colours and not ids and len(colours) <= LOSSY_COLOURS:
        named = {f"class_{place}": list(colour) for place, colour in enumerate(sorted(colours - {BLACK}))}
        void = {"ignored": [list(BLACK)]} if BLACK in colours else {}
        return {"classes": list(named), "label_colours": named, **void}
    classes = {value: f"class_{value}" for value in sorted(ids) if value != IGNORED}
    return {"classes": list(classes.values()), "ids": classes} if len(classes) > 1 else {}


def format_yaml(arguments: dict[str, Any]) -> str:
    """Formats `FolderDataModule` arguments as the YAML that main.py takes after ``--data``."""
    unnamed = any(name.startswith("class_") for name in arguments.get("classes", ()))
    note = NOTE.format(root=arguments["root"]) + (STAND_INS if unnamed else "")
    lines = note + "class_path: datamodules.FolderDataModule\ninit_args:\n"
    for key, value in arguments.items():
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=True)
        lines += f"  {key}: {text.strip().removesuffix('...').strip()}\n"
    return lines
