"""Identifies image files by their bytes, before decoding: format, lossy compression, number of pictures."""

import re
from collections.abc import Mapping
from io import BytesIO

from PIL import Image, TiffImagePlugin

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
COPIES = 1 | 4  # bits of SUBFILE: a reduced copy, a mask of what is valid
SUBFILE, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT = 254, 258, 259, 262, 339  # TIFF tags
DEFAULTS = {SUBFILE: 0, BITS_PER_SAMPLE: 1, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLE_FORMAT: 1}
LOSSY_TIFF = {6, 7, 33003, 33005, 34712, 34892, 50001, 50002, 52546}  # JPEG, JPEG 2000, WebP, JPEG XL
LOSSY = {JPEG: "a JPEG", b"\0\0\0\x0cjP  ": "a JPEG 2000", b"\xff\x4f\xff\x51": "a JPEG 2000"}
BRANDS = dict.fromkeys(("avif", "avis"), "an AVIF") | dict.fromkeys(
    ("heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"), "a HEIC"
)
SIGNATURES = {  # other files that carry an image's suffix
    b"%PDF": "a PDF", b"PK\3\4": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"\x93NUMPY": "a NumPy array",
    b"v/1\x01": "an OpenEXR image", b"\xff\x0a": "a JPEG XL", b"\0\0\0\x0cJXL ": "a JPEG XL",
}  # fmt: skip

Tags = dict[int, int]


def read_tags(data: bytes) -> list[Tags]:
    """Returns the `DEFAULTS` tags (first value) of each picture in a TIFF; an empty list for other files."""
    found: list[Tags] = []
    if not data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return found
    file, seen = BytesIO(data), {0}
    head = data[: 16 if 43 in data[2:4] else 8]  # 43 marks a BigTIFF
    place = TiffImagePlugin.ImageFileDirectory_v2(head).next
    while place not in seen:
        seen.add(place)
        file.seek(place)
        directory = TiffImagePlugin.ImageFileDirectory_v2(head)
        directory.load(file)
        values = {tag: directory.get(tag, default) for tag, default in DEFAULTS.items()}
        found.append({tag: int(value[0] if isinstance(value, tuple) else value) for tag, value in values.items()})
        place = directory.next or 0
    return found


def count_pictures(data: bytes) -> int:
    """Returns the number of pages or frames, without copies and masks of a TIFF's first page, or in a phone's JPEG."""
    if data.startswith(JPEG) or (data.startswith(PNG) and b"acTL" not in data[: data.find(b"IDAT")]):
        return 1
    if pages := read_tags(data):
        return 1 + sum(not page[SUBFILE] & COPIES for page in pages[1:])
    with Image.open(BytesIO(data)) as picture:
        return getattr(picture, "n_frames", 1)


def find_loss(data: bytes) -> str:
    """Returns the lossy format of a file, e.g. ``a JPEG``; empty if it is lossless."""
    if is_lossy_webp(data):
        return "a lossy WebP"
    if any(page[COMPRESSION] in LOSSY_TIFF for page in read_tags(data)):
        return "a TIFF with lossy compression"
    return find_signature(data, LOSSY) or name_photograph(data)


def find_signature(data: bytes, names: Mapping[bytes, str]) -> str:
    """Returns the name of the signature that a file starts with; empty if there is none."""
    return next((name for signature, name in names.items() if data.startswith(signature)), "")


def is_lossy_webp(data: bytes) -> bool:
    """Returns whether a file is a WebP with lossy (VP8) data in any of its frames."""
    place = 12 if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else len(data)
    while place < len(data) and data[place : place + 4] != b"VP8 ":
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        # A frame of an animation (ANMF) has a header of 16 bytes, then chunks like those of the file.
        place += 24 if data[place : place + 4] == b"ANMF" else 8 + size + size % 2
    return place < len(data)


def name_photograph(data: bytes) -> str:
    """Returns the format of a phone's or camera's file: ``an AVIF``, ``a HEIC`` or its brand; otherwise empty."""
    brand = data[8:12].decode("latin-1").strip()
    return BRANDS.get(brand, f"a photograph in the format {brand}") if data[4:8] == b"ftyp" else ""


def name_numbers(data: bytes, mode: str = "") -> str:
    """Returns the number type of a file; empty for unsigned integers of up to 16 bits. `mode` is Pillow's mode."""
    tags = next(iter(read_tags(data)), DEFAULTS)
    bits, form = tags[BITS_PER_SAMPLE], tags[SAMPLE_FORMAT]
    if form in (3, 6) or mode == "F":
        return "floating-point numbers"
    if form in (2, 5):
        return f"signed whole numbers of {bits} bits"
    return f"whole numbers of {bits} bits" if bits > 16 else ""


def is_odd_bitmap(data: bytes) -> bool:
    """Returns whether a file is a 4- or 8-bit BMP with 1 or 2 colours, which Pillow misreads."""
    bits, colours = (int.from_bytes(data[start : start + 2], "little") for start in (28, 46))
    return data[:2] == b"BM" and bits in (4, 8) and colours in (1, 2)


def explain_kind(data: bytes) -> str:
    """Returns why no decoder reads a file, and what to do; empty if it is merely damaged."""
    if data.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer instead of the file itself: run git lfs pull"
    if re.match(rb"\s*<", data.removeprefix(b"\xef\xbb\xbf")):
        start = data[:40].decode("utf-8", "replace").strip()
        return f"It is text such as a web page ({start!r}): the download failed, so download it again"
    if photograph := name_photograph(data):
        return f"It is {photograph}, whatever its name says: convert it to PNG"
    if name := find_signature(data, SIGNATURES):
        return f"It is {name}: save it as PNG"
    bits = int.from_bytes(data[28:30], "little")
    if data[:2] == b"BM" and (bits < 8 or is_odd_bitmap(data)):
        return (
            f"It is a BMP with {bits} bits per pixel, of a variant that cannot be read (or truncated): save it as PNG"
        )
    return ""
