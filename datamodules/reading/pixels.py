"""Decodes image and label files; the only place that decides which pixel values a file holds.

The result is the values stored in the file, or an error that says what was found: never values invented by a decoder.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torchvision.io import ImageReadMode, decode_jpeg

from datamodules.base import DataError
from datamodules.reading import kinds

# Files are the user's own, so lift Pillow's limits against attacks by many pixels or long text chunks.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**30

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
GRAY = 0  # PNG colour type
MOST_OF_OPENCV = 10**6, 2**30  # maximum pixels per side, and in total
UNREADABLE = (  # exceptions that decoders raise on damaged files
    IndexError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError, cv2.error,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip
WHY_NOT_LOSSY = (
    "Lossy compression, such as JPEG, changes values near edges, which ruins ids and colours: export the labels again "
    "as PNG"
)


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Reads an image of any format as (H, W, 3) uint8 RGB; keeps the upper 8 bits of up to 16 per channel.

    On demand it is turned upright according to its EXIF orientation; a TIFF always is. Signed or floating-point numbers
    and more than 16 bits are errors. JPEG and PNG have decoders that detect damage and give the same values as Pillow,
    but faster: torchvision for JPEG (OpenCV fills in truncated data), OpenCV for PNG (torchvision crashes on wrong
    bytes).
    """
    with read_file(path, "an image") as file:
        if file.startswith(kinds.JPEG):
            data = torch.frombuffer(bytearray(file), dtype=torch.uint8)
            planes = decode_jpeg(data, ImageReadMode.RGB, apply_exif_orientation=upright)
            return np.ascontiguousarray(planes.permute(1, 2, 0).numpy())
        if file.startswith(kinds.PNG) and not is_huge(file):
            orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
            return cv2.cvtColor(decode_png(file, cv2.IMREAD_COLOR | orientation), cv2.COLOR_BGR2RGB)
        with open_picture(file, upright) as picture:
            if numbers := kinds.name_numbers(file, picture.mode):
                raise DataError(f"{path} contains {numbers}: expected 8 or 16 bits per channel. Save it as such")
            if not is_deep(picture):
                return np.asarray(picture.convert("RGB"))
            levels = np.asarray(picture)
        tags = next(iter(kinds.read_tags(file)), kinds.DEFAULTS | {kinds.BITS_PER_SAMPLE: 16})
    depth = tags[kinds.BITS_PER_SAMPLE]
    gray = (levels if tags[kinds.PHOTOMETRIC] else 2**depth - 1 - levels).astype(np.uint16) >> (depth - 8)
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def read_index(path: Path, upright: bool = False) -> np.ndarray:
    """Reads a label file of one channel as (H, W) ids: uint8 for palette or 8-bit gray images, uint16 for deeper ones.

    The ids are the stored numbers, also with fewer than 8 bits, which decoders stretch for display. Files stored with
    loss, more than one channel, and ids outside [0, 65535] are errors.
    """
    with read_file(path, "a label image") as file:
        refuse_loss(path, file)  # first: whether a decoder reads it or not, the remedy is another export
        with open_picture(file, upright) as picture:
            mode, levels = picture.mode, np.array(picture)
        if not (mode in ("P", "L", "1") or mode.startswith("I")):
            raise DataError(
                f"{path} is an image of mode {mode}: expected labels with one channel (gray or palette). If it is a "
                "photograph, images and labels are swapped; a coloured picture of the labels contains no ids: use the "
                "original label files"
            )
        ids = undo_stretching(levels, mode, file)
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= 2**16:
        raise DataError(
            f"{path} contains numbers from {ids.min()} to {ids.max()}: expected ids in [0, 65535]. Save unlabelled "
            "pixels as 255",
            "id",
        )
    return ids.astype(np.uint16 if mode.startswith("I") else np.uint8, copy=False)


def read_red_16_bit(path: Path) -> np.ndarray:
    """Reads the first (red) channel of a 16-bit RGB PNG as (H, W) uint16; Pillow would silently make it 8-bit."""
    with read_file(path, "a 16-bit RGB PNG") as file:
        pixels = decode_png(file, cv2.IMREAD_UNCHANGED)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint16 or channels < 3:
        raise DataError(
            f"{path} has {channels} channels of {pixels.dtype}: expected a 16-bit RGB PNG as the vendor wrote it "
            "(class in red, instance in green). A tool may have converted it to 8-bit: unpack it again"
        )
    return np.ascontiguousarray(pixels[..., 2])  # OpenCV has blue first


def read_encoded(path: Path) -> bytes:
    """Returns the bytes of a file; raises DataError if it is missing or may not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "missing") from error


def refuse_loss(path: Path, file: bytes) -> None:
    """Raises DataError if labels are stored with loss, whatever their suffix; `file` is the content of `path`."""
    try:
        loss = kinds.find_loss(file)
    except UNREADABLE:
        return  # the decoder reports why
    if loss:
        raise DataError(f"{path} is {loss}: expected labels as .png or in another lossless format. {WHY_NOT_LOSSY}")


@contextmanager
def read_file(path: Path, expected: str) -> Iterator[bytes]:
    """Yields the bytes of a file with one picture; raises DataError in place of a decoder's error."""
    file = read_encoded(path)
    try:
        if (number := kinds.count_pictures(file)) > 1:
            raise DataError(f"{path} has {number} pages or frames: expected one. Save only the one you want, as PNG")
        yield file
    except DataError:
        raise
    except UNREADABLE as error:
        if not file:
            raise DataError(f"{path} is empty (0 bytes): expected {expected}. Unpack it again") from error
        why = kinds.explain_kind(file)
        with suppress(*UNREADABLE):  # damaged tags
            if isinstance(error, Image.UnidentifiedImageError) and (numbers := kinds.name_numbers(file)):
                why = f"It contains {numbers}: save it with 8 or 16 bits per channel"
        raise DataError(
            f"{path} ({len(file)} bytes) cannot be decoded: expected {expected}. "
            f"{why or 'It is truncated, damaged or in another format: unpack it again'}, or skip such pairs with "
            "broken=skip"
        ) from error


@contextmanager
def open_picture(file: bytes, upright: bool = False) -> Iterator[Image.Image]:
    """Decodes a file with Pillow; raises one of `UNREADABLE` also where Pillow would invent pixels."""
    with Image.open(BytesIO(file)) as picture:
        picture.verify()  # checks the checksums of a PNG, which load() ignores
    with Image.open(BytesIO(file)) as picture:
        if kinds.is_odd_bitmap(file):
            raise ValueError("two colours, but more than one bit per pixel")
        picture.load()
        yield ImageOps.exif_transpose(picture) if upright else picture


def decode_png(file: bytes, flags: int) -> np.ndarray:
    """Decodes a PNG with OpenCV; raises ValueError if it is damaged or not a PNG."""
    pixels = cv2.imdecode(np.frombuffer(file, dtype=np.uint8), flags) if file.startswith(kinds.PNG) else None
    if pixels is None:
        raise ValueError("not a PNG, or a damaged one")
    return pixels


def is_huge(file: bytes) -> bool:
    """Returns whether a PNG has more pixels than OpenCV can decode."""
    width, height = (int.from_bytes(file[start : start + 4]) for start in (16, 20))
    return max(width, height) > MOST_OF_OPENCV[0] or width * height > MOST_OF_OPENCV[1]


def is_deep(picture: Image.Image) -> bool:
    """Returns whether a picture has one channel of more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def undo_stretching(levels: np.ndarray, mode: str, file: bytes) -> np.ndarray:
    """Returns the stored numbers of a gray file, which Pillow stretches to 0 to 255 (or 65535)."""
    if file.startswith(kinds.PNG):
        depth, colour = file[24], file[25]
        return levels // (255 // (2**depth - 1)) if colour == GRAY and depth in (2, 4) else levels
    if re.match(rb"P[1-6]\s", file):  # PBM, PGM or PPM
        if mode == "1":
            raise ValueError("a PBM stores 1 as black, so it contains no ids")
        highest = int(re.sub(rb"#[^\n]*\n", b" ", file[:4096]).split(maxsplit=4)[3])
        return np.round(levels * (highest / (255 if mode == "L" else 2**16 - 1))).astype(levels.dtype)
    if mode in ("L", "1") and (tags := next(iter(kinds.read_tags(file)), None)):
        depth = tags[kinds.BITS_PER_SAMPLE]
        shown = levels if tags[kinds.PHOTOMETRIC] else ~levels
        if tags[kinds.SAMPLE_FORMAT] == 2:
            return shown.view(np.int8)
        return shown // (255 // (2**depth - 1)) if depth in (2, 4) else shown
    return levels
