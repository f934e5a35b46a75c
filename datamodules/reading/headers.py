"""Metadata of image files: kind, size, orientation, palette, transparency."""

import re
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datamodules.base import DataError
from datamodules.reading.kinds import BITS_PER_SAMPLE, PNG
from datamodules.reading.pixels import UNREADABLE, is_deep, read_file

ORIENTATION = 0x0112  # EXIF tag
MODES = {"1": "1-bit", "L": "gray", "LA": "gray with alpha", "P": "palette", "I": "16-bit gray", "F": "floating-point"}


@dataclass(frozen=True)
class Header:
    """Metadata of an image file."""

    kind: str  # format and type of pixels, e.g. JPEG RGB, PNG palette, TIFF 16-bit gray, PNG 1-bit
    size: tuple[int, int]  # (height, width) as stored
    orientation: int = 1  # of EXIF, 1 to 8; 1 is upright

    @property
    def turned_size(self) -> tuple[int, int]:
        """(height, width) after the EXIF orientation is applied."""
        return self.size[::-1] if self.orientation > 4 else self.size

    @property
    def coloured(self) -> bool:
        """Whether pixels are RGB colours."""
        return "RGB" in self.kind


def read_header(path: Path) -> Header | None:
    """Reads the metadata of an image file; None if it is not an image."""
    try:
        with Image.open(path) as picture:
            mode, size, name = picture.mode, picture.size[::-1], picture.format or ""
            bits = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
        with path.open("rb") as file:
            start = file.read(26)
    except UNREADABLE:
        return None
    depth = start[24] if start.startswith(PNG) else int(bits[0])
    pixel = MODES.get(mode.partition(";")[0], mode)
    if depth not in (1, 8) and mode not in ("P", "F"):
        pixel = f"{depth}-bit {pixel.removeprefix('16-bit ')}"
    return Header(f"{'JPEG' if name == 'MPO' else name} {pixel}", size, read_orientation(path))


def find_brightest(path: Path) -> list[int]:
    """Returns the maximum value of a 16-bit image without alpha; nothing if it is not one or cannot be decoded."""
    with suppress(*UNREADABLE):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if pixels is not None and pixels.dtype == np.uint16:
            return [int(pixels.max())]
    return []


def read_orientation(path: Path) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1 (upright) if it has none or cannot be read."""
    found = 1
    with suppress(*UNREADABLE), Image.open(path) as picture:
        # Pillow would decode a whole PNG to find out that it has none.
        if picture.format != "PNG" or re.search(b"eXIf|exif", path.read_bytes()):
            found = picture.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def read_palette(path: Path) -> np.ndarray | None:
    """Returns the (N, 3) uint8 palette of an image, in the order of the indices; None if it has no palette."""
    with suppress(*UNREADABLE), Image.open(path) as picture:
        if picture.mode == "P":
            return np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    return None


def refuse_transparency(path: Path) -> None:
    """Raises DataError if pixels are not fully opaque, as their stored colours are then not what a viewer shows."""
    with read_file(path, "an image") as file, Image.open(BytesIO(file)) as picture:
        if is_deep(picture) or not picture.has_transparency_data:
            return
        transparent = int(np.count_nonzero(np.asarray(picture.convert("RGBA"))[..., 3] < 255))
    if transparent:
        raise DataError(
            f"{path} has {transparent} transparent pixels: expected opaque ones, as their hidden colours mean nothing. "
            "Flatten the image, or paint them in a colour of ignored",
            "id",
        )
