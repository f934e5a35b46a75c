"""How the files of a folder of one's own are found: by patterns, in list files, in a CSV of pairs."""

import csv
import os
import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError
from datamodules.files import NAMED

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NOT_READ = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # photographs of other kinds
LIST_SUFFIXES = (".txt", ".lst", ".csv")

Files = dict[str, Path]  # by name


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


def read_table(path: Path, root: Path, split: str, listed: bool) -> tuple[Files, Files, bool]:
    """Reads a CSV of pairs: images and labels of a split by name, and whether it has a column of splits.

    Args:
        path: The CSV.
        root: What its paths are relative to.
        split: What its column ``split`` says of the images that are wanted.
        listed: Whether a list or a fraction says so in its place.

    Raises:
        DataError: If it cannot be read, has other columns, an image twice, or none of the split.
    """
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
        if "split" in columns and not listed and row.get("split") != split:
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
        raise DataError(f"{path} has no image of split {split!r}{found}", "missing")
    return images, labels, "split" in columns


def is_list(value: str) -> bool:
    """Returns whether a value of `splits` is a list file."""
    return value.lower().endswith(LIST_SUFFIXES)
