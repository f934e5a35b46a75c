"""Label files of one's own: ids, or colours that stand for classes.

Beside what `reading.pixels` refuses of any label file, these refuse what vendors do not have: colours that are stored
with loss or transparent, and palettes that a program has made.
"""

from pathlib import Path

import numpy as np

from datamodules.base import DataError
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED, UNKNOWN, Colour
from datamodules.reading.headers import read_header, read_palette, refuse_transparency
from datamodules.reading.pairs import NAMED
from datamodules.reading.pixels import WHY_NOT_LOSSY, read_file, read_image, read_index, refuse_loss

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")  # lossless
LOSSY_COLOURS = 64  # more undefined colours than this in one file were not drawn by hand


def read_labels(path: Path, palette: np.ndarray | None = None) -> np.ndarray:
    """Reads a label file of one channel as (H, W) ids.

    Args:
        path: The file.
        palette: (256, 3) uint8 colours of the classes, in which predictions are written; see `check_palette`.

    Raises:
        DataError: If it is missing, truncated, stored with loss, has more than one channel or a palette that tells no
            ids.
    """
    refuse_loss(path, read_file(path))
    try:
        ids = read_index(path, upright=True)
    except DataError as error:
        header = read_header(path)
        if header is None or not header.coloured:
            raise
        raise DataError(f"{error}. If its colours stand for classes, list them in label_colours", error.kind) from error
    check_palette(path, ids, palette)
    return ids


def check_palette(path: Path, ids: np.ndarray, own: np.ndarray | None = None) -> None:
    """Raises DataError if a palette image was made by reducing colours: its indices are then no ids.

    A palette that was written for labels shows each id in gray of that level, or in its colour of PASCAL VOC, of
    Cityscapes or of this project's predictions; one of another order does not say what its indices are.

    Args:
        path: File of the labels.
        ids: (H, W) indices that it holds.
        own: (256, 3) uint8 colours of the classes.

    Raises:
        DataError: If it was.
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
                "made for ids (gray, PASCAL VOC or Cityscapes). Say in label_colours which colour is which class, or "
                "save the ids as a gray PNG",
                "id",
            )


def list_usual_colours(index: int) -> list[Colour]:
    """Lists the colours that an id has in palettes that are written for labels: gray, PASCAL VOC, Cityscapes."""
    bits = [[index >> (3 * place + channel) & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << (7 - place) for place, bit in enumerate(channel)) for channel in bits)
    cityscapes = list(CITYSCAPES_COLOURS.values())
    return [(index, index, index), (red, green, blue), *cityscapes[index : index + 1]]


def read_colours(path: Path, table: np.ndarray) -> np.ndarray:
    """Reads a label file of RGB colours as (H, W) uint8 labels.

    Args:
        path: The file.
        table: (2**24,) uint8 lookup from red * 65536 + green * 256 + blue to labels, 254 where unknown.

    Raises:
        DataError: If it is missing, truncated, stored with loss, has pixels that are transparent, or a colour that is
            not in the table.
    """
    refuse_loss(path, read_file(path))
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
            f"{path} holds {len(found)} colours that are not defined, e.g. {', '.join(map(str, found[:NAMED]))}: "
            f"expected only those of label_colours and ignored. {remedy}",
            "id",
        )
    return labels
