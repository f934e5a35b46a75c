"""Labels of a user's own data set: lookups from ids or colours to classes, and reading files of ids or colours."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, TRAIN_IDS, UNKNOWN, Colour, LabelSpace
from datamodules.reading.headers import read_header, read_palette, refuse_transparency
from datamodules.reading.pairs import NAMED
from datamodules.reading.pixels import WHY_NOT_LOSSY, read_encoded, read_image, read_index, refuse_loss

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")  # lossless
LOSSY_COLOURS = 64  # more undefined colours than this in one file come from lossy compression


def read_labels(path: Path, palette: np.ndarray | None = None) -> np.ndarray:
    """Reads a label file of one channel as (H, W) ids; `palette` is (256, 3) uint8, see `check_palette`."""
    refuse_loss(path, read_encoded(path))  # first: other complaints advise to convert the file
    try:
        ids = read_index(path, upright=True)
    except DataError as error:
        header = read_header(path)
        if header is None or not header.coloured:
            raise
        raise DataError(f"{error}. If its colours represent classes, list them in label_colours", error.kind) from error
    check_palette(path, ids, palette)
    return ids


def check_palette(path: Path, ids: np.ndarray, own: np.ndarray | None = None) -> None:
    """Raises DataError if a palette image was made by colour reduction: its indices are then no ids.

    A palette made for labels shows each id as the gray of that level, or in its colour in PASCAL VOC, Cityscapes or
    this project's predictions (`own`). With any other palette, the meaning of the indices is unknown.
    """
    palette = read_palette(path)
    if palette is None:
        return
    for index in np.unique(ids):
        colour = tuple(palette[index].tolist()) if index < len(palette) else (0, 0, 0)
        usual = list_usual_colours(int(index)) + ([] if own is None else [tuple(own[index].tolist())])
        if index != IGNORED and colour not in usual:
            raise DataError(
                f"{path} is a palette image in which index {index} has the colour {list(colour)}: expected a palette "
                "made for ids (gray, PASCAL VOC or Cityscapes). Set the colour of each class in label_colours, or "
                "save the ids as a gray PNG",
                "id",
            )


def list_usual_colours(index: int) -> list[Colour]:
    """Lists the colours of an id in the usual palettes for labels: gray, PASCAL VOC, Cityscapes."""
    bits = [[index >> (3 * place + channel) & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << (7 - place) for place, bit in enumerate(channel)) for channel in bits)
    cityscapes = list(CITYSCAPES_COLOURS.values())
    return [(index, index, index), (red, green, blue), *cityscapes[index : index + 1]]


def read_colours(path: Path, table: np.ndarray) -> np.ndarray:
    """Reads a label file of opaque RGB colours as (H, W) uint8 labels; `table` is that of `tabulate_colours`."""
    refuse_loss(path, read_encoded(path))
    pixels = read_image(path, upright=True)
    refuse_transparency(path)
    keys = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):
        keys <<= 8
        keys |= pixels[..., channel]
    labels = table[keys]
    unknown = labels == UNKNOWN
    if unknown.any():
        found = [[int(key) >> 16, int(key) >> 8 & 255, int(key) & 255] for key in np.unique(keys[unknown])]
        remedy = WHY_NOT_LOSSY if len(found) > LOSSY_COLOURS else "Add them there"
        if all(table[blue << 16 | green << 8 | red] != UNKNOWN for red, green, blue in found):
            remedy = "With red and blue swapped, all are defined: write them as [red, green, blue], not as OpenCV does"
        raise DataError(
            f"{path} contains {len(found)} colours that are not defined, e.g. {', '.join(map(str, found[:NAMED]))}: "
            f"expected only those of label_colours and ignored. {remedy}",
            "id",
        )
    return labels


def tabulate_ids(space: LabelSpace, own: bool, ids: Mapping[int, str] | None, ignored: Sequence[Any]) -> np.ndarray:
    """Builds the lookup from ids to labels: (65536,) uint8, 255 where ignored, 254 where the id is not defined.

    Without `ids`, id c is class c if the user named the classes (`own`); otherwise ids are Cityscapes' train ids.
    """
    table = np.full(2**16, UNKNOWN, dtype=np.uint8)
    table[IGNORED] = IGNORED
    if ids is None and not own:
        table[:256] = space.table(TRAIN_IDS)
    named = ids or {}
    if ids is None and own:
        named = dict(enumerate(space.names))
    for value, name in named.items():
        table[check_id(value)] = find_class(space, own, name)
    for value in ignored:
        if not isinstance(value, int):
            raise ValueError(
                f"ignored contains {value}: expected ids (whole numbers). For colours, set label_colours too"
            )
        if value in named and ids is not None:
            raise ValueError(f"id {value} is {ids[value]} in ids, but also in ignored: expected it in one of them")
        if value in named:
            free = (number for number in count() if number not in ignored)
            mapping = ", ".join(f"{number}: {name}" for number, name in zip(free, space.names, strict=False))
            raise ValueError(
                f"ignored contains {value}, which is the id of {named[value]} as long as ids is not set: set ids, e.g. "
                f"{{{mapping}}}, or remove {value} from ignored"
            )
        table[check_id(value)] = IGNORED
    return table


def tabulate_colours(
    space: LabelSpace, own: bool, colours: Mapping[str, Sequence[Any]], ignored: Sequence[Any]
) -> np.ndarray:
    """Builds the lookup from red * 65536 + green * 256 + blue to labels: (2**24,) uint8, see `tabulate_ids`."""
    table = np.full(2**24, UNKNOWN, dtype=np.uint8)
    given = [(colour, find_class(space, own, name)) for name, some in colours.items() for colour in list_colours(some)]
    missing = set(range(len(space.names))) - {label for _, label in given}
    if missing and own:
        names = ", ".join(space.names[label] for label in sorted(missing))
        raise ValueError(
            f"label_colours has no colour of {names}: expected one for every class. Add it (any unused colour, if "
            "the class does not occur), or remove the class from classes"
        )
    for (red, green, blue), label in [*given, *((check_colour(colour), IGNORED) for colour in ignored)]:
        key = red << 16 | green << 8 | blue
        if table[key] not in (UNKNOWN, label):
            raise ValueError(
                f"the colour [{red}, {green}, {blue}] is given twice, for two classes or for a class and in "
                "ignored: expected each colour once"
            )
        table[key] = label
    return table


def find_class(space: LabelSpace, own: bool, name: str) -> int:
    """Returns the label of a class by its name or that of a Cityscapes class it merges; 255 if none merges it."""
    for label, gathered in enumerate(space.members):
        if name == space.names[label] or (name in gathered and name not in space.names):
            return label
    if name in CITYSCAPES_COLOURS and not own:
        return IGNORED
    more = "" if own else ", or a class of Cityscapes"
    raise ValueError(f"there is no class {name!r}: expected one of {', '.join(space.names)}{more}")


def check_id(value: int) -> int:
    """Returns an id of a label file; raises ValueError if it is not in [0, 65535]."""
    if not 0 <= value < 2**16:
        raise ValueError(f"ids or ignored has {value}: expected 0 to 65535, the range of 8- and 16-bit label images")
    return value


def check_colour(value: Any) -> Colour:
    """Returns a colour; raises ValueError if it is not three numbers in [0, 255]."""
    match value:
        case [int(red), int(green), int(blue)] if min(value) >= 0 and max(value) <= 255:
            return red, green, blue
    raise ValueError(f"{value!r} is not a colour: expected three numbers in [0, 255], e.g. [128, 64, 128]")


def list_colours(value: Sequence[Any]) -> list[Colour]:
    """Returns one colour or several as a list; raises ValueError if one of them is not a colour."""
    several = len(value) > 0 and all(isinstance(part, Sequence) for part in value)
    return [check_colour(colour) for colour in (value if several else [value])]
