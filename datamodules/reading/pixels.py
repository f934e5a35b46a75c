"""What a file's pixels are: the one place that decides it, for images and for labels.

Either the values that the file holds, or an error that says what was found: never values of a decoder's own.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torchvision.io import ImageReadMode, decode_jpeg

from datamodules.base import DataError
from datamodules.reading.kinds import (
    BITS_PER_SAMPLE,
    DEFAULTS,
    JPEG,
    PHOTOMETRIC,
    PNG,
    SAMPLE_FORMAT,
    count_pictures,
    explain_kind,
    find_loss,
    is_odd_bitmap,
    name_numbers,
    read_tags,
)  # fmt: skip

# Files are the user's own, so large ones are no attack: neither many pixels nor long texts beside them.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**30

PALETTE, GRAY = 3, 0  # colour types of PNG
ORIENTATION = 0x0112  # tag of EXIF
MODES = {"1": "1-bit", "L": "gray", "LA": "gray with alpha", "P": "palette", "I": "16-bit gray", "F": "floating-point"}
MOST_OF_OPENCV = 10**6, 2**30  # pixels in a row or column, and of all
UNREADABLE = (  # what decoders raise on damaged files
    IndexError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError, cv2.error,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip
WHY_NOT_LOSSY = (
    "Lossy compression, such as JPEG, changes values near edges, which ruins ids and colours: export the labels again "
    "as PNG"
)


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Reads an image of any kind as (H, W, 3) uint8 RGB; of more bits per channel, up to 16, the upper 8.

    Each kind has the decoder that notices damage, and both are faster than Pillow for the same values: JPEG is decoded
    by torchvision (OpenCV fills up what is cut off), PNG by OpenCV (torchvision crashes on wrong bytes).

    Args:
        path: File of the image.
        upright: Whether to turn it as its EXIF orientation says; a TIFF is turned in any case.

    Raises:
        DataError: If the file is missing, truncated, no image, holds several pages or frames, or numbers that are
            signed, of more than 16 bits or floating-point.
    """
    data = _read_bytes(path)
    file = data.tobytes()
    _refuse_several(path, file, "an image")
    try:
        if _starts_with(data, JPEG):
            pixels = decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB, apply_exif_orientation=upright)
            return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        if _starts_with(data, PNG) and not _is_huge(file):
            orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
            return cv2.cvtColor(_decode_png(data, cv2.IMREAD_COLOR | orientation), cv2.COLOR_BGR2RGB)
        with Image.open(BytesIO(file)) as picture:
            _check(file)
            picture.load()
            turned = ImageOps.exif_transpose(picture) if upright else picture
            numbers = name_numbers(file, picture.mode)
            if not numbers and not _is_deep(turned):
                return np.asarray(turned.convert("RGB"))
            levels, tags = np.asarray(turned), next(iter(read_tags(file)), DEFAULTS | {BITS_PER_SAMPLE: 16})
    except UNREADABLE as error:
        raise DataError(_explain_unreadable(path, file, "an image")) from error
    if numbers:
        raise DataError(f"{path} holds {numbers}: expected 8 or 16 bits per channel. Save it as an 8- or 16-bit image")
    depth = tags[BITS_PER_SAMPLE]
    gray = (levels if tags[PHOTOMETRIC] else 2**depth - 1 - levels).astype(np.uint16) >> (depth - 8)
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def read_index(path: Path, upright: bool = False) -> np.ndarray:
    """Reads a label file of one channel as (H, W) ids: uint8 of a palette or gray image, uint16 of a deeper one.

    The ids are the numbers that the file holds, also of fewer than 8 bits, which decoders stretch to be seen.

    Args:
        path: File of the labels.
        upright: Whether to turn them as their EXIF orientation says.

    Raises:
        DataError: If the file is missing, damaged, no image, stored with loss, holds several pages or frames, or has
            more than one channel, ids below 0 or above 65535.
    """
    file = _read_bytes(path).tobytes()
    _refuse_several(path, file, "a label image")
    try:
        _check(file)
        with Image.open(BytesIO(file)) as picture:
            mode = picture.mode
            single = mode in ("P", "L", "1") or mode.startswith("I")
            picture.load()
            turned = ImageOps.exif_transpose(picture) if upright else picture
            ids = _undo_stretching(np.array(turned), picture, file) if single else None
    except UNREADABLE as error:
        raise DataError(_explain_unreadable(path, file, "a label image")) from error
    refuse_loss(path, file)
    if ids is None:
        raise DataError(
            f"{path} is an image of mode {mode}: expected labels with one channel (gray or palette). A coloured "
            "picture of the labels holds no ids: use the original label files"
        )
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= 2**16:
        raise DataError(
            f"{path} holds numbers from {ids.min()} to {ids.max()}: expected ids in [0, 65535]. Save unlabelled pixels "
            "as 255",
            "id",
        )
    return ids.astype(np.uint16 if mode.startswith("I") else np.uint8, copy=False)


def refuse_loss(path: Path, file: bytes | None = None) -> None:
    """Raises DataError if labels are stored with loss, whatever the name says; `file` is what `path` holds."""
    try:
        loss = find_loss(_read_bytes(path).tobytes() if file is None else file)
    except UNREADABLE:
        return  # whoever decodes it says why
    if loss:
        raise DataError(f"{path} is {loss}: expected labels as .png or in another lossless format. {WHY_NOT_LOSSY}")


def count_transparent(path: Path) -> int:
    """Returns how many pixels of an image are not fully opaque, so that their colours are not what is seen.

    Raises:
        DataError: If the file is missing, damaged or no image.
    """
    file = _read_bytes(path).tobytes()
    try:
        with Image.open(BytesIO(file)) as picture:
            if _is_deep(picture) or not picture.has_transparency_data:
                return 0
            return int(np.count_nonzero(np.asarray(picture.convert("RGBA"))[..., 3] < 255))
    except UNREADABLE as error:
        raise DataError(_explain_unreadable(path, file, "an image")) from error


def read_red_16_bit(path: Path) -> np.ndarray:
    """Reads the first (red) channel of a 16-bit RGB PNG as (H, W) uint16; Pillow would silently make it 8-bit.

    Raises:
        DataError: If the file is missing, damaged, or no 16-bit RGB PNG.
    """
    data = _read_bytes(path)
    _refuse_several(path, data.tobytes(), "a 16-bit RGB PNG")
    try:
        pixels = _decode_png(data, cv2.IMREAD_UNCHANGED)
    except UNREADABLE as error:
        raise DataError(_explain_unreadable(path, data.tobytes(), "a 16-bit RGB PNG")) from error
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint16 or channels < 3:
        raise DataError(
            f"{path} has {channels} channels of {pixels.dtype}: expected a 16-bit RGB PNG as the vendor wrote it "
            "(class in red, instance in green). A tool may have made it 8-bit: unpack it again"
        )
    return np.ascontiguousarray(pixels[..., 2])  # OpenCV has blue first


def has_colours(path: Path) -> bool:
    """Returns whether a file is an RGB image."""
    try:
        with Image.open(path) as picture:
            return picture.mode.startswith("RGB")
    except UNREADABLE:
        return False


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels before they are decoded.

    Attributes:
        kind: Format and what a pixel is, e.g. ``JPEG RGB``, ``PNG palette``, ``TIFF 16-bit gray``, ``PNG 1-bit``.
        size: (height, width) as stored.
        orientation: Of EXIF, 1 to 8; 1 is upright.
        brightest: The highest value of an image of 16 bits, if it has been looked for.
    """

    kind: str
    size: tuple[int, int]
    orientation: int = 1
    brightest: int | None = None

    @property
    def turned_size(self) -> tuple[int, int]:
        """(height, width) after the image is turned as its orientation says."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(path: Path, brightest: bool = False) -> Header | None:
    """Reads what an image file says of its pixels; None of a file that is no image.

    Args:
        path: The file.
        brightest: Whether to decode the pixels too if they have 16 bits, for the highest value.
    """
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
    most = _find_brightest(path) if brightest and depth == 16 else None
    return Header(f"{'JPEG' if name == 'MPO' else name} {pixel}", size, read_orientation(path), most)


def _find_brightest(path: Path) -> int | None:
    """Returns the highest value of a 16-bit image, without its alpha channel; None if it cannot be decoded."""
    try:
        pixels = cv2.imdecode(_read_bytes(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except UNREADABLE:
        return None
    return None if pixels is None or pixels.dtype != np.uint16 else int(pixels.max())


def read_palette(path: Path) -> np.ndarray | None:
    """Returns the (N, 3) uint8 colours of a palette image in the order of its indices; None of any other file."""
    try:
        with Image.open(path) as picture:
            colours = picture.getpalette("RGB") if picture.mode == "P" else None
    except UNREADABLE:
        return None
    return None if colours is None else np.array(colours, dtype=np.uint8).reshape(-1, 3)


def read_orientation(path: Path) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1, which is upright, if it says none or cannot be read."""
    try:
        with path.open("rb") as file:
            is_png = file.read(len(PNG)) == PNG
        if is_png and not re.search(b"eXIf|exif", path.read_bytes()):
            return 1  # Pillow would decode all of it to know
        with Image.open(path) as picture:
            found = picture.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return found if found in range(1, 9) else 1


def _is_deep(picture: Image.Image) -> bool:
    """Returns whether a picture has one channel of more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _undo_stretching(levels: np.ndarray, picture: Image.Image, data: bytes) -> np.ndarray:
    """Returns the numbers that a gray file holds of what Pillow shows: 0 to 255 (or 65535) from black to white."""
    most = 255 if picture.mode == "L" else 2**16 - 1
    if picture.format == "PNG":
        depth, colour = data[24], data[25]
        return levels // (255 // (2**depth - 1)) if colour == GRAY and depth in (2, 4) else levels
    if picture.format == "PPM":
        if picture.mode == "1":
            raise ValueError("a PBM stores 1 as black, so it holds no ids")
        highest = int(re.sub(rb"#[^\n]*\n", b" ", data[:4096]).split(maxsplit=4)[3])
        return np.round(levels * (highest / most)).astype(levels.dtype)
    if picture.format == "TIFF" and picture.mode in ("L", "1"):
        tags = read_tags(data)[0]
        depth = tags[BITS_PER_SAMPLE]
        shown = levels if tags[PHOTOMETRIC] else ~levels
        if tags[SAMPLE_FORMAT] == 2:
            return shown.view(np.int8)
        return shown // (255 // (2**depth - 1)) if depth in (2, 4) else shown
    return levels


def _starts_with(data: np.ndarray, signature: bytes) -> bool:
    return data[: len(signature)].tobytes() == signature


def _decode_png(data: np.ndarray, flags: int) -> np.ndarray:
    """Decodes a PNG with OpenCV; raises ValueError if it is none, or damaged."""
    pixels = cv2.imdecode(data, flags) if _starts_with(data, PNG) else None
    if pixels is None:
        raise ValueError("not a PNG, or a damaged one")
    return pixels


def _is_huge(file: bytes) -> bool:
    """Returns whether a PNG has more pixels than OpenCV decodes."""
    size = [int.from_bytes(file[start : start + 4]) for start in (16, 20)]
    return max(size) > MOST_OF_OPENCV[0] or size[0] * size[1] > MOST_OF_OPENCV[1]


def _refuse_several(path: Path, file: bytes, expected: str) -> None:
    """Raises DataError if a file holds several pictures, or does not say how many."""
    try:
        number = count_pictures(file)
    except UNREADABLE as error:
        raise DataError(_explain_unreadable(path, file, expected)) from error
    if number > 1:
        raise DataError(f"{path} holds {number} pages or frames: expected one. Save the one you want alone, as PNG")


def _check(file: bytes) -> None:
    """Raises ValueError if a file is damaged, or of a kind, of which Pillow would make up the pixels."""
    if file.startswith(PNG):
        _check_sums(file)
    if is_odd_bitmap(file):
        raise ValueError("two colours, but more than one bit a pixel")


def _check_sums(data: bytes) -> None:
    """Raises ValueError if a PNG is cut off or has a wrong checksum: Pillow reads over that and makes up pixels."""
    kind, start = b"", len(PNG)
    while kind != b"IEND":
        kind = data[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(data[start : start + 4])
        if end + 4 > len(data) or zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ValueError(f"the part {kind!r} from byte {start} is cut off or has a wrong checksum")
        start = end + 4


def _read_bytes(path: Path) -> np.ndarray:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "missing") from error


def _explain_unreadable(path: Path, file: bytes, expected: str) -> str:
    if len(file) == 0:
        return f"{path} is empty (0 bytes): expected {expected}. Unpack it again"
    try:
        why = explain_kind(file)
    except UNREADABLE:
        why = ""
    why = why or "It is truncated, damaged or of another kind: unpack it again"
    remedy = f"{why}, or leave such pairs out with broken=skip"
    return f"{path} ({len(file)} bytes) cannot be decoded: expected {expected}. {remedy}"
