"""Text files that list images: lists of one split, and CSVs of pairs."""

import csv
import os
import re
from collections.abc import Callable
from pathlib import Path

from datamodules.base import DataError
from datamodules.reading.own_labels import LABEL_SUFFIXES
from datamodules.reading.pairs import NAMED, Files
from datamodules.reading.pixels import IMAGE_SUFFIXES

LIST_SUFFIXES = (".txt", ".lst", ".csv")


def is_list(value: str) -> bool:
    """Returns whether a value of `splits` is a list file."""
    return value.lower().endswith(LIST_SUFFIXES)


def read_lines(path: Path, expected: str) -> list[str]:
    """Reads lines in UTF-8, or UTF-16 as Excel and PowerShell write it; Excel's first line ``sep=;`` becomes empty."""
    try:
        data = path.read_bytes()
        lines = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected {expected}, in UTF-8") from error
    if lines and lines[0].lower().startswith("sep="):
        lines[0] = ""
    return lines


def remove_suffix(entry: str) -> str:
    """Returns an entry of a list without the suffix of an image or label file, if it has one."""
    return entry[: -len(Path(entry).suffix)] if entry.lower().endswith((*IMAGE_SUFFIXES, *LABEL_SUFFIXES)) else entry


def make_finder(files: Files) -> Callable[[str], list[str]]:
    """Returns a function that finds the names that a list entry matches: by name, else by the end of a path."""
    by_end: dict[str, set[str]] = {}
    for name, path in files.items():
        for end in list_ends(path.with_suffix("").as_posix()):
            by_end.setdefault(end, set()).add(name)

    def find(entry: str) -> list[str]:
        bare = remove_suffix(entry)
        if bare in files:
            return [bare]
        return sorted(by_end.get(bare, set()).union(end for end in list_ends(bare) if end in files))

    return find


def list_ends(path: str) -> list[str]:
    """Lists a path, the path without its first folder, without its first two, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def split_line(line: str, images: Files) -> list[list[str]]:
    """Returns the ways to split a line into fields, likeliest first: names and folders may contain spaces."""
    if remove_suffix(line) in images:
        return [[line]]
    fields = [field.strip("'\" ") for field in re.split(r"[,;\t]|(?<=\.\w{3})\s+|(?<=\.\w{4})\s+", line)]
    ways = [fields, line.split()]
    return ways[::-1] if " " in fields[0].rpartition("/")[0] else ways


def read_list(path: Path, images: Files, labels: Files) -> Files:
    """Returns the images, out of all `images` by name, that a list file names.

    The first field of each line is an image: its name or its path, with or without suffix; a path from another machine
    works if it ends with the name. A second field that is a label file must be that of the image, if `labels` has one.
    Lines that begin with ``#`` are skipped.
    """
    lines = read_lines(path, "a text file with one image per line")
    if not any("\\" in name for name in images):
        lines = [line.replace("\\", "/") for line in lines]
    find_image, find_labels = make_finder(images), make_finder(labels)
    chosen = set()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        ways = [(find_image(fields[0]), fields) for fields in split_line(line, images)]
        matches, fields = next((way for way in ways if way[0]), ([], []))
        if len(matches) != 1:
            found = f"is not one of the {len(images)} images: expected the name or path of one"
            if matches:
                found = f"could be {', '.join(matches[:NAMED])}: expected one image. Write more of its path"
            raise DataError(f"{path}, line {number}: {line} {found}")
        (name,) = matches
        second = "".join(fields[1:2])
        bare = remove_suffix(second)
        is_file = bare != second  # and not, for instance, a class of the whole image
        is_image = any(images[other].with_suffix("").as_posix().endswith(f"/{bare}") for other in find_image(bare))
        if name in labels and is_file and not is_image and name not in find_labels(bare):
            raise DataError(
                f"{path}, line {number}: {second} is not the label of the image {name}; going by its name, that is "
                f"{labels[name]}: expected that file, or no label. To pair files with different names, set pairs to a "
                "CSV"
            )
        chosen.add(name)
    if not chosen:
        raise DataError(f"{path} lists no images: expected one per line")
    return {name: images[name] for name in sorted(chosen)}


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Reads a CSV of pairs: the line number of each row, and its cells by column: image, label and maybe split."""
    expected = "a CSV: image,label[,split]"
    lines = read_lines(path, expected)
    delimiter = max(",;\t", key=next(filter(str.strip, lines), "").count)
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error}. Expected {expected}") from error
    table = [
        (number, list(map(str.strip, cells))) for number, cells in enumerate(rows, start=1) if "".join(cells).strip()
    ]
    columns = [column.lower() for column in table[0][1]] if table else []
    if not {"image", "label"} <= set(columns):
        raise DataError(
            f"{path} has the columns {', '.join(columns) or '(none)'}: expected a first line image,label or "
            "image,label,split"
        )
    empty = dict.fromkeys(columns, "")
    return [(number, empty | dict(zip(columns, cells, strict=False))) for number, cells in table[1:]]


def read_pairs(path: Path, root: Path, split: str | None) -> tuple[Files, Files, bool]:
    """Reads a CSV of pairs: images and labels of a split by name, and whether it has a column ``split``.

    Paths are relative to `root`. The split is the value of the column ``split``, in any case; None selects all rows.
    """
    rows = read_csv(path)
    divided = any("split" in row for _, row in rows)
    images: Files = {}
    labels: Files = {}
    for number, row in rows:
        if divided and split is not None and row["split"].lower() != split.lower():
            continue
        if not row["image"]:
            raise DataError(f"{path}, line {number}: the column image is empty: expected a path")
        image = root / to_posix(root, row["image"])
        parts = Path(os.path.relpath(image, root)).with_suffix("").parts
        name = "/".join(part for part in parts if part != "..")
        if name in images:
            raise DataError(
                f"{path}, line {number}: a second image is called {name}: expected different names before the suffix. "
                "Remove or rename one"
            )
        images[name] = image
        if row["label"]:
            labels[name] = root / to_posix(root, row["label"])
    if not images:
        values = sorted({row["split"] for _, row in rows} - {""}) if divided else []
        found = f", only {', '.join(values) or 'empty cells'}" if divided else ""
        raise DataError(
            f"{path} has no image of split {split!r}{found}. Correct the CSV, or set splits to the names in it",
            "missing",
        )
    return images, labels, divided


def to_posix(root: Path, path: str) -> str:
    """Replaces Windows' backslashes in a path by slashes, unless a file of exactly that name exists."""
    return path if "\\" not in path or (root / path).exists() else path.replace("\\", "/")
