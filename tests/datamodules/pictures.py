"""Writers of image files, also of kinds that no library writes."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from datamodules.reading.headers import ORIENTATION

LEVELS = np.random.default_rng(0).integers(0, 256, (11, 22), dtype=np.uint8)
DEEP = LEVELS.astype(np.uint16) << 8 | np.random.default_rng(1).integers(0, 256, (11, 22)).astype(np.uint16)
IDS = np.random.default_rng(2).integers(0, 4, (11, 22), dtype=np.uint8)
COLOURS = np.random.default_rng(3).integers(0, 256, (37, 50, 3), dtype=np.uint8)  # no multiples of anything
COLOURED = Image.fromarray(COLOURS)

Write = Callable[[Path], object]
Reader = Callable[[Path], np.ndarray]


def save(picture: Any, **options: Any) -> Write:
    """Returns what writes an image, or an array, with Pillow."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return lambda path: picture.save(path, **options)


def store(pixels: np.ndarray) -> Write:
    """Returns what writes an array with OpenCV."""
    return lambda path: cv2.imwrite(str(path), pixels)


def put(content: bytes) -> Write:
    """Returns what writes bytes."""
    return lambda path: path.write_bytes(content)


def pack(values: np.ndarray, depth: int) -> bytes:
    """Packs (H, W) numbers of up to 16 bits into rows of bytes."""
    bits = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=2)[..., 16 - depth :]
    return b"".join(np.packbits(row.ravel()).tobytes() for row in bits)


def png(values: np.ndarray, depth: int) -> Write:
    """Returns what writes a gray PNG of 1, 2, 4 or 8 bits, which Pillow cannot."""
    packed = pack(values, depth)
    size = len(packed) // len(values)
    rows = b"".join(b"\0" + packed[start : start + size] for start in range(0, len(packed), size))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return put(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def tiff(values: np.ndarray, depth: int, photometric: int = 1) -> Write:
    """Returns what writes a TIFF of one strip: of some bits, with 0 for white (photometric 0) or for black (1)."""
    data = values.tobytes() if depth == 16 else pack(values, depth)
    height, width = values.shape
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {339: 1}).items())
    return put(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 10) + entries + bytes(4))


def bmp(bits: int, colours: int, values: np.ndarray) -> Write:
    """Returns what writes a BMP of 4 or 8 bits with a gray palette, or one of black and white."""
    height, width = values.shape
    rows = np.zeros((height, -(-width * bits // 32) * 32 // bits), dtype=np.uint8)
    rows[:, :width] = values[::-1]
    packed = pack(rows, bits)
    palette = b"".join(bytes([level, level, level, 0]) for level in ([0, 255] if colours == 2 else range(colours)))
    start = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(packed), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(packed), 0, 0, colours, 0)
    return put(head + info + palette + packed)


def with_palette(ids: np.ndarray, colours: Any) -> Image.Image:
    picture = Image.fromarray(ids)
    picture.putpalette([level for colour in colours for level in colour])
    return picture


def turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


PICTURES: dict[str, tuple[str, Write]] = {  # whose values are those that Pillow reads
    "jpeg": ("a.jpg", save(COLOURED)),
    "jpeg best": ("a.jpeg", save(COLOURED, quality=100, subsampling=0)),
    "jpeg progressive": ("a.jpg", save(COLOURED, progressive=True)),
    "jpeg gray": ("a.jpg", save(LEVELS)),
    "jpeg with a PNG's suffix": ("a.png", save(COLOURED, format="JPEG")),
    "png": ("a.png", save(COLOURED)),
    "png with alpha": ("a.png", save(np.dstack([COLOURS, COLOURS[..., 0]]))),
    "png palette": ("a.png", save(COLOURED.quantize(200))),
    "png palette of 4 bits": ("a.png", save(COLOURED.quantize(16), bits=4)),
    "png palette with transparency": ("a.png", save(COLOURED.quantize(200), transparency=3)),
    "png gray": ("a.png", save(LEVELS)),
    "png gray with alpha": ("a.png", save(np.dstack([LEVELS, IDS]))),
    "png of 1 bit": ("a.png", save(LEVELS > 99)),
    "webp": ("a.webp", save(COLOURED, lossless=True)),
    "bmp": ("a.bmp", save(COLOURED)),
    "tiff": ("a.tif", save(COLOURED, compression="tiff_lzw")),
    "ppm": ("a.ppm", save(COLOURED)),
}
