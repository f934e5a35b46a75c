"""How the files of a folder of one's own are found: by patterns, in list files, in a CSV of pairs."""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError, Problem, Split
from datamodules.reading.own_labels import LABEL_SUFFIXES
from datamodules.reading.pairs import NAMED, Pair, list_folders

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NOT_READ = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # photographs of other kinds
LIST_SUFFIXES = (".txt", ".lst", ".csv")
PASSED_OVER = {  # folders, in lower case, that systems and servers keep among one's own files
    "@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
SPLITS: dict[str, Split] = {  # what their folders are usually called, in lower case
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
LABEL_NAME = re.compile(r"(.+)_(L|gt|masks?|labels?|seg|annot)", re.IGNORECASE)  # of labels beside photographs

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
                f"Rename one, or read only one kind with a pattern such as *{path.suffix}"
            )
        found[name] = path
    if passed_over:
        rank_zero_warn(
            f"{folder}: skipped {len(passed_over)} files that cannot be read ({', '.join(passed_over[:NAMED])}): "
            f"expected {', '.join(suffixes)}. Convert them to JPEG or PNG to use them"
        )
    return found


def check_name(path: Path) -> None:
    """Raises DataError if a file's name is no Unicode text, which no list or result could hold."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{str(path)!a} is not a UTF-8 name: rename the file (convmv -t utf8)") from error


def refuse_folder(error: OSError) -> None:
    """Raises DataError about a folder that may not be listed; of one that is not there the caller says more."""
    if isinstance(error, PermissionError):
        raise DataError(
            f"{error.filename} cannot be listed: {error.strerror}. Expected a folder that you may read: change its "
            "permissions"
        )


def list_files(folder: Path) -> list[str]:
    """Lists the files below a folder to any depth, sorted; linked folders count, each once.

    Hidden files and folders do not, nor do the folders that systems and servers keep, see `PASSED_OVER`.
    """
    found: list[str] = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse_folder):
        identity = Path(place).resolve()
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() not in PASSED_OVER)
        above = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        found += [above + name for name in files if not name.startswith(".")]
    return sorted(found)


def read_lines(path: Path, expected: str) -> list[str]:
    """Returns the lines of a text file in UTF-8, or in UTF-16 as Excel and PowerShell write it.

    A first line ``sep=;``, which is Excel's, is emptied.

    Args:
        path: The file.
        expected: What it should hold, for the error.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        data = path.read_bytes()
        lines = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected {expected}, in UTF-8") from error
    if lines and lines[0].lower().startswith("sep="):
        lines[0] = ""
    return lines


def to_posix(root: Path, path: str) -> str:
    """Returns a path with slashes in place of Windows' backslashes, unless there is a file of the name as it stands."""
    return path if "\\" not in path or (root / path).exists() else path.replace("\\", "/")


def make_finder(files: Files) -> Callable[[str], list[str]]:
    """Returns a function that names the files that an entry of a list could be: by name, else by the end of a path."""
    by_end: dict[str, list[tuple[str, str]]] = {}  # of one part and of two: frames of many videos may be called 0001
    for name, path in files.items():
        bare_path = f"/{path.with_suffix('').as_posix()}"
        for parts in (1, 2):
            by_end.setdefault("/".join(bare_path.split("/")[-parts:]), []).append((bare_path, name))

    def find(entry: str) -> list[str]:
        bare = remove_suffix(entry)
        if bare in files:
            return [bare]
        parts = bare.split("/")
        names = {name for start in range(1, len(parts)) if (name := "/".join(parts[start:])) in files}
        alike = by_end.get("/".join(parts[-2:]), ())
        return sorted(names | {name for bare_path, name in alike if bare_path.endswith(f"/{bare}")})

    return find


def remove_suffix(entry: str) -> str:
    """Returns an entry of a list without the suffix of an image or of labels, if it has one."""
    return entry[: -len(Path(entry).suffix)] if entry.lower().endswith((*IMAGE_SUFFIXES, *LABEL_SUFFIXES)) else entry


def ends_with(path: Path, bare: str) -> bool:
    """Returns whether a path without its suffix ends with some of its parts."""
    return f"/{path.with_suffix('').as_posix()}".endswith(f"/{bare}")


def split_line(line: str, images: Files) -> list[list[str]]:
    """Returns the ways to read a line of a list as fields, the likeliest first: names and folders may have blanks."""
    if remove_suffix(line) in images:
        return [[line]]
    fields = [field.strip("'\" ") for field in re.split(r"[,;\t]|(?<=\.\w{3})\s+|(?<=\.\w{4})\s+", line)]
    ways = [fields, line.split()]
    return ways[::-1] if " " in fields[0].rpartition("/")[0] else ways


def read_list(path: Path, images: Files, labels: Files) -> Files:
    """Returns the images that a list file names.

    The first field of each line is an image: its name or its path, with or without suffix; a path from another machine
    will do if its end is the name. A second field that is a label file has to be that of the image. Lines that begin
    with ``#`` do not count.

    Args:
        path: The list.
        images: All images, by name.
        labels: Their labels, by the same names; empty if they are not needed.

    Raises:
        DataError: If the file cannot be read, names no image, one that is not there or could be several, or other
            labels than those of the image's name.
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
            found = (
                f"could be {', '.join(matches[:NAMED])}: expected one image. Write more of its path"
                if matches
                else f"is none of the {len(images)} images: expected the name or path of one"
            )
            raise DataError(f"{path}, line {number}: {line} {found}", "missing")
        (name,) = matches
        second = remove_suffix("".join(fields[1:2]))
        another_image = any(ends_with(images[other], second) for other in find_image(second))
        if name in labels and "".join(fields[1:2]) != second and not another_image and name not in find_labels(second):
            raise DataError(
                f"{path}, line {number}: {fields[1]} is not the label of the image {name}, which by its name is "
                f"{labels[name]}: expected that file, or no label. To pair files of other names, set pairs to a CSV",
                "missing",
            )
        chosen.add(name)
    if not chosen:
        raise DataError(f"{path} lists no images: expected one per line")
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
    expected = "a CSV: image,label[,split]"
    lines = read_lines(path, expected)
    header = next(filter(str.strip, lines), "")
    delimiter = max(",;\t", key=header.count)
    try:
        rows = list(enumerate(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), start=1))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error}. Expected {expected}") from error
    table = [(number, [cell.strip() for cell in cells]) for number, cells in rows if any(map(str.strip, cells))]
    columns = [column.lower() for column in table[0][1]] if table else []
    if not {"image", "label"} <= set(columns):
        raise DataError(
            f"{path} has the columns {', '.join(columns) or '(none)'}: expected a first line image,label or "
            "image,label,split"
        )
    images: Files = {}
    labels: Files = {}
    values = set()
    for number, cells in table[1:]:
        row = dict(zip(columns, cells, strict=False))
        values.add(row.get("split", ""))
        if "split" in columns and not listed and row.get("split", "").lower() != split.lower():
            continue
        if not row.get("image"):
            raise DataError(f"{path}, line {number}: the column image is empty: expected a path")
        image, label = (to_posix(root, row.get(column, "")) for column in ("image", "label"))
        parts = Path(os.path.relpath(root / image, root)).with_suffix("").parts
        name = "/".join(part for part in parts if part != "..")
        if name in images:
            raise DataError(
                f"{path}, line {number}: a second image is called {name}: expected different names before the suffix. "
                "Remove or rename one"
            )
        images[name] = root / image
        if label:
            labels[name] = root / label
    if not images:
        found = f", only {', '.join(sorted(values)).strip(', ') or 'empty cells'}" if "split" in columns else ""
        raise DataError(
            f"{path} has no image of split {split!r}{found}. Correct the CSV, or set splits to the names in it",
            "missing",
        )
    return images, labels, "split" in columns


def guess_splits(folder: Path) -> dict[Split, str]:
    """Returns what the folders of the splits are called that lie in a folder, as far as usual names tell."""
    names = [child.name for child in list_folders(folder)] if folder.is_dir() else []
    return {SPLITS[name.lower()]: name for name in names if name.lower() in SPLITS}


def find_odd_pairs(pairs: Sequence[Pair], where: str) -> list[str]:
    """Returns what the names of the files speak for: labels taken for images, or for those of several images."""
    names = {pair.name for pair in pairs}
    masks = sorted(name for name in names if (match := LABEL_NAME.fullmatch(name)) and match[1] in names)
    users = Counter(pair.labels for pair in pairs if pair.labels is not None)
    shared = [path for path, number in users.items() if number > 1]
    warnings = []
    if masks and 2 * len(masks) >= len(names):
        ending = masks[0].removeprefix(str(LABEL_NAME.fullmatch(masks[0])[1]))  # type: ignore[index]
        warnings.append(
            f"{where}: {len(masks)} of {len(names)} images look like the labels of others, e.g. {masks[0]}: leave them "
            f'out with exclude: ["*{ending}.*"], or set labels'
        )
    if shared:
        warnings.append(
            f"{where}: {sum(users[path] for path in shared)} images share {len(shared)} label files, e.g. {shared[0]}: "
            "expected one per image. Correct the CSV, unless these images show the same scene"
        )
    return warnings


def find_lost(pairs: Sequence[Pair]) -> list[Problem]:
    """Returns the files of pairs that are not there, such as links that lead nowhere."""
    return [
        Problem(pair.name, "missing", f"there is no file {path}")
        for pair in pairs
        for path in (pair.image, pair.labels)
        if path is not None and not path.is_file()
    ]


def is_list(value: str) -> bool:
    """Returns whether a value of `splits` is a list file."""
    return value.lower().endswith(LIST_SUFFIXES)
