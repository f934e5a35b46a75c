"""What a file's pixels are: for each way to store them these values, or an error; never other values."""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from datamodules.base import DataError
from datamodules.folder import FolderDataModule
from datamodules.labels import UNKNOWN, look_up
from datamodules.reading.headers import ORIENTATION, read_orientation
from datamodules.reading.own_labels import read_colours, read_labels
from datamodules.reading.pixels import read_image, read_index, read_red_16_bit

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


# Values

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


@pytest.mark.parametrize("kind", PICTURES)
def test_images_have_the_values_that_pillow_reads(tmp_path: Path, kind: str) -> None:
    name, write = PICTURES[kind]
    write(tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        expected = np.asarray(stored.convert("RGBA").convert("RGB"))
    for pixels in (read_image(tmp_path / name), read_image(tmp_path / name, upright=True)):  # which changes nothing
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and np.array_equal(pixels, expected)


def test_cmyk_photographs_are_read(tmp_path: Path) -> None:
    smooth = cv2.resize(COLOURS[:4, :4], (40, 40), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        expected = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 1  # by the rounding of the conversion


IMAGES: dict[str, tuple[str, Write, np.ndarray]] = {
    "png 16": ("a.png", store(DEEP), LEVELS),
    "png 16 with alpha": ("a.png", store(np.dstack([DEEP] * 3 + [DEEP[::-1]])), LEVELS),
    "tiff 16 of Pillow": ("a.tif", save(DEEP), LEVELS),
    "tiff 16 of OpenCV": ("a.tif", store(DEEP), LEVELS),
    "tiff 16, white is 0": ("a.tif", tiff(DEEP, 16, 0), 255 - LEVELS),
    "tiff 16 colours": ("a.tif", store(np.dstack([DEEP] * 3)), LEVELS),
    "tiff 8": ("a.tif", tiff(LEVELS, 8), LEVELS),
    "tiff 8, white is 0": ("a.tif", tiff(LEVELS, 8, 0), 255 - LEVELS),
    "tiff 4": ("a.tif", tiff(IDS, 4), IDS * 17),
    "tiff 12": ("a.tif", tiff(DEEP >> 4, 12), LEVELS),
    "png 2": ("a.png", png(IDS, 2), IDS * 85),
    "pgm 3": ("a.pgm", put(b"P5\n22 11\n3\n" + IDS.tobytes()), IDS * 85),
    "pgm 16": ("a.pgm", put(b"P5 22 11 65535\n" + DEEP.astype(">u2").tobytes()), LEVELS),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_the_upper_8_bits_of_what_its_file_holds(kind: str, tmp_path: Path) -> None:
    name, write, expected = IMAGES[kind]
    write(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.array_equal(pixels, np.dstack([expected] * 3))


LABELS: dict[str, tuple[str, Write, np.ndarray]] = {
    **{f"png {depth}": ("a.png", png(IDS, depth), IDS) for depth in (2, 4, 8)},
    **{f"tiff {depth}": ("a.tif", tiff(IDS, depth), IDS) for depth in (2, 4, 8)},
    **{f"tiff {depth}, white is 0": ("a.tif", tiff(IDS, depth, 0), IDS) for depth in (4, 8)},
    **{f"pgm {most}": ("a.pgm", put(b"P5 22 11 %d\n" % most + IDS.tobytes()), IDS) for most in (3, 18, 100, 255)},
    "pgm 1000": ("a.pgm", put(b"P5 22 11 1000\n" + IDS.astype(">u2").tobytes()), IDS.astype(np.uint16)),
    "pgm in letters": ("a.pgm", put(f"P2\n# a\n22 11\n3\n{' '.join(map(str, IDS.ravel().tolist()))}\n".encode()), IDS),
    "bmp": ("a.bmp", save(IDS), IDS),
    "gray": ("a.png", save(LEVELS), LEVELS),
    "1 bit": ("a.png", save(IDS > 1), (IDS > 1).astype(np.uint8)),
    "palette of 4 bits": ("a.png", save(with_palette(IDS, [(level,) * 3 for level in range(4)]), bits=4), IDS),
    "16 bits": ("a.png", save(DEEP), DEEP),
    "tiff of 16 bits": ("a.tif", save(DEEP), DEEP),
    "tiff of 32 bits": ("a.tif", save(DEEP.astype(np.int32)), DEEP),
    "tiff lzw": ("a.tif", save(LEVELS, compression="tiff_lzw"), LEVELS),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_numbers_that_their_file_holds(kind: str, tmp_path: Path) -> None:
    name, write, expected = LABELS[kind]
    write(tmp_path / name)
    for ids in (read_index(tmp_path / name), read_labels(tmp_path / name)):
        assert np.array_equal(ids, expected) and ids.dtype in (np.uint8, np.uint16)


def test_red_channel_of_16_bit_labels(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.stack([DEEP[::-1], DEEP[:, ::-1], DEEP], axis=2))
    ids = read_red_16_bit(tmp_path / "a.png")
    assert ids.dtype == np.uint16 and ids.flags.c_contiguous and np.array_equal(ids, DEEP)
    with Image.open(tmp_path / "a.png") as picture:  # what the reader is there to avoid
        assert not np.array_equal(np.asarray(picture)[..., 0], DEEP)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [256, 2**16])
def test_lookup_is_that_of_the_table(dtype: type, size: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    ids = np.arange(256).reshape(8, 32).astype(dtype)
    for given in (ids, ids[::-1, ::2], ids[:1, :1]):
        labels = look_up(given, table)
        assert labels.dtype == np.uint8 and np.array_equal(labels, table[given])
    beyond = look_up(np.array([[7, 65535]], dtype=np.uint16), table).tolist()  # are unknown, and do not wrap
    assert beyond == [[table[7], UNKNOWN if size == 256 else table[65535]]]


# Orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_files_are_turned_only_when_asked_and_labels_as_images_are(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    COLOURED.save(path, exif=turn(orientation))
    assert read_orientation(path) == orientation
    with Image.open(path) as stored:
        stored.load()  # which turns a TIFF
        as_stored, expected = np.asarray(stored), np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(read_image(path), as_stored)
    assert np.array_equal(read_image(path, upright=True), expected)
    if suffix in ("png", "tif"):
        Image.fromarray(IDS).save(path, exif=turn(orientation))
        assert np.array_equal(read_index(path, upright=True), upright(IDS, orientation))


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    picture = Image.fromarray(values)
    picture.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize(("image", "labels"), [(3, 1), (1, 3), (6, 8), (3, 3), (6, 6), (1, 1)])
def test_a_pair_says_one_orientation(image: int, labels: int, tmp_path: Path) -> None:
    for folder, orientation, pixels in (("images", image, np.dstack([IDS] * 3)), ("labels", labels, IDS)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png", exif=turn(orientation))
    data = FolderDataModule(str(tmp_path), classes=["a", "b", "c", "d"], num_workers=0)
    if image != labels:
        with pytest.raises(DataError, match=f"EXIF orientation {image}, its labels {labels}.*the same for both"):
            next(iter(data.test_dataloader()))
        return
    (batch,) = data.test_dataloader()
    assert np.array_equal(batch["mask"][0].numpy(), upright(IDS, image))
    photographs = FolderDataModule(str(tmp_path), images="images", num_workers=0)
    assert next(iter(photographs.predict_dataloader()))["size"].tolist() == [list(upright(IDS, image).shape)]


# Damage

FILES: dict[str, tuple[Reader, str, Write]] = {
    **{f"image: {kind}": (read_image, name, write) for kind, (name, write) in PICTURES.items()},
    "labels: gray": (read_index, "a.png", save(LEVELS)),
    "labels: palette": (read_index, "a.png", save(with_palette(LEVELS, COLOURS.reshape(-1, 3)[:256].tolist()))),
    "labels: 16 bits": (read_index, "a.png", save(DEEP)),
    "labels: tiff": (read_index, "a.tif", save(DEEP)),
    "labels: bmp": (read_index, "a.bmp", save(LEVELS)),
    "labels: 16-bit red": (read_red_16_bit, "a.png", store(np.dstack([DEEP] * 3))),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FILES)
def test_truncated_files_and_wrong_bytes_are_errors(tmp_path: Path, kind: str) -> None:
    read, name, write = FILES[kind]
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for size in np.linspace(1, len(data) - 8, 9).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=rf"{re.escape(str(path))} \({size} bytes\) cannot be decoded: expected"):
            read(path)
    if not data.startswith(b"\x89PNG"):
        return
    for place in np.linspace(8, len(data) - 20, 9).astype(int):
        flipped = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        stopped = data[:place] + bytes(len(data) - place)  # a download that stopped, in a file of full length
        for damaged in (flipped, stopped):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match="cannot be decoded"):
                read(path)


@pytest.mark.parametrize("read", [read_image, read_index, read_red_16_bit])
def test_files_that_are_none_are_errors(tmp_path: Path, read: Reader) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\): expected a.*\. Unpack it again") as caught:
        read(tmp_path / "empty.png")
    assert caught.value.kind == "unreadable"
    for start in (b"<html>not found</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"):
        (tmp_path / "other.png").write_bytes(start + b"?" * 30)
        with pytest.raises(DataError, match=rf"other\.png \({len(start) + 30} bytes\) cannot be decoded") as caught:
            read(tmp_path / "other.png")
        assert caught.value.kind == "unreadable"
    with pytest.raises(DataError, match=r"none\.png cannot be read: No such file") as caught:
        read(tmp_path / "none.png")
    assert caught.value.kind == "missing"
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path)
    if os.geteuid() != 0:  # the superuser may read anything
        (tmp_path / "other.png").chmod(0)
        with pytest.raises(DataError, match=r"other\.png cannot be read: Permission denied"):
            read(tmp_path / "other.png")


@pytest.mark.parametrize("read", [read_image, read_index])
@pytest.mark.parametrize("place", [18, 22])  # of width and height
def test_a_size_that_no_image_has_is_damage(place: int, read: Reader, tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.bmp")
    data = (tmp_path / "a.bmp").read_bytes()
    (tmp_path / "a.bmp").write_bytes(data[:place] + (2**31 - 2).to_bytes(4, "little") + data[place + 4 :])
    with pytest.raises(DataError, match=r"a\.bmp \(\d+ bytes\) cannot be decoded"):
        read(tmp_path / "a.bmp")


WHAT: dict[str, tuple[str, Write, str]] = {
    "lfs": (
        "a.png",
        put(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        "a Git LFS pointer.*git lfs pull",
    ),
    "html": ("a.jpg", put(b"\n<!DOCTYPE html><html>"), "a web page .*download it again"),
    "heic": ("a.jpg", put(b"\0\0\0\x18ftypheic" + bytes(99)), "a HEIC.*convert it to PNG"),
    "avif": ("a.jpg", put(b"\0\0\0\x18ftypavif" + bytes(99)), "an AVIF.*convert it to PNG"),
    "pdf": ("a.png", put(b"%PDF-1.4" + bytes(99)), "It is a PDF: save it as PNG"),
    "float colours": (
        "a.tif",
        store(np.dstack([LEVELS] * 3).astype(np.float32)),
        "floating-point numbers: save it with 8 or 16 bits",
    ),
    "float64": ("a.tif", store(IDS.astype(np.float64)), "floating-point numbers"),
    "bmp 4": ("a.bmp", bmp(4, 16, IDS), "a BMP with 4 bits per pixel.*save it as PNG"),
    "bmp 8 of 2 colours": ("a.bmp", bmp(8, 2, IDS % 2), "a BMP with 8 bits.*save it as PNG"),
}


@pytest.mark.parametrize("kind", WHAT)
def test_files_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    name, write, found = WHAT[kind]
    write(tmp_path / name)
    for read, expected in ((read_image, "an image"), (read_index, "a label image")):
        with pytest.raises(DataError, match=rf"(?s){name} .*cannot be decoded: expected {expected}.*{found}"):
            read(tmp_path / name)


# What is refused: how to read, the file, words of the message

ONE_CHANNEL = "expected labels with one channel"
MINUS = np.where(IDS == 3, -1, IDS)
REFUSED: dict[str, tuple[Reader, str, Write, str]] = {
    "ids of more than 16 bits": (
        read_index, "a.tif", save(np.array([[7, 65543]], np.int32)),
        r"holds numbers from 7 to 65543: expected ids in \[0, 65535\]",
    ),
    **{
        f"labels of mode {mode}": (
            read_index, "a.tif" if mode == "F" else "a.png", save(Image.fromarray(LEVELS).convert(mode)),
            f"is an image of mode {mode}: {ONE_CHANNEL}",
        )
        for mode in ("RGB", "RGBA", "LA", "F")
    },
    "lossy TIFF": (
        read_index, "a.tif", save(Image.fromarray(IDS), compression="jpeg"),
        "is a TIFF with lossy compression.*export the labels again as PNG",
    ),
    "1 as black": (read_index, "a.pgm", put(b"P4 22 11\n" + pack(IDS % 2, 1)), "cannot be decoded"),
    "red of 8 bits": (read_red_16_bit, "a.png", save(COLOURED), "has 3 channels of uint8: expected a 16-bit RGB PNG"),
    "red of gray": (read_red_16_bit, "a.png", save(IDS), "has 1 channels of uint8: expected"),
    "red of deep gray": (read_red_16_bit, "a.png", save(DEEP), "has 1 channels of uint16: expected"),
    "red of a JPEG": (read_red_16_bit, "a.jpg", save(COLOURED), "cannot be decoded: expected a 16-bit RGB PNG"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_other_labels_than_ids_are_errors(kind: str, tmp_path: Path) -> None:
    read, name, write, said = REFUSED[kind]
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"(?s){name} .*{said}"):
        read(tmp_path / name)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_ids_of_signed_numbers_are_from_0_on(kind: type, tmp_path: Path) -> None:
    for values, said in ((IDS, ""), (MINUS, r"a\.tif holds numbers from -1 to 2: expected ids in .*Save .* as 255")):
        store(values.astype(kind))(tmp_path / "a.tif")
        if not said:
            assert np.array_equal(read_index(tmp_path / "a.tif"), IDS)
            continue
        with pytest.raises(DataError, match=said):
            read_index(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (LEVELS.astype(np.float32) / 255, "floating-point numbers"),
        (LEVELS.astype(np.int32) * 1000, "signed whole numbers of 32 bits"),
        (LEVELS.astype(np.int32), "signed whole numbers of 32 bits"),  # which may be 8-bit values all the same
        (LEVELS.astype(np.int16), "signed whole numbers of 16 bits"),
        (LEVELS.astype(np.int8), "signed whole numbers of 8 bits"),
    ],
)
def test_an_image_without_a_known_white_is_an_error(values: np.ndarray, found: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    with pytest.raises(DataError, match=rf"a\.tif holds {found}: expected 8 or 16 bits per channel"):
        read_image(tmp_path / "a.tif")


# Colours and palettes

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
GRAYS = [(level, level, level) for level in range(4)]
CITYSCAPES = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156)]
OWN = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (1, 2, 3)]
ANY_COLOUR = np.zeros(2**24, dtype=np.uint8)


@pytest.mark.parametrize("colours", [VOC, GRAYS, CITYSCAPES, VOC[::-1], GRAYS[::-1], OWN])
def test_a_palette_of_another_order_than_usual_is_an_error(colours: list[tuple[int, ...]], tmp_path: Path) -> None:
    with_palette(IDS, colours).save(tmp_path / "a.png")
    if colours in (VOC, GRAYS, CITYSCAPES):
        assert np.array_equal(read_labels(tmp_path / "a.png"), IDS)
        return
    with pytest.raises(DataError, match=r"a\.png is a palette image in which index \d has the colour .*label_colours"):
        read_labels(tmp_path / "a.png")
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:4] = colours
    assert np.array_equal(read_labels(tmp_path / "a.png", palette), IDS)  # of this project's own predictions


def test_colours_that_compression_made_up_are_named_as_such(tmp_path: Path) -> None:
    COLOURED.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"colours that are not defined.*Lossy compression.*export the labels again"):
        read_colours(tmp_path / "a.png", np.full(2**24, 254, dtype=np.uint8))


def test_colours_below_transparent_pixels_are_errors(tmp_path: Path) -> None:
    alpha = np.full(IDS.shape, 255, dtype=np.uint8)
    Image.fromarray(np.dstack([IDS] * 3 + [alpha])).save(tmp_path / "a.png")
    assert not read_colours(tmp_path / "a.png", ANY_COLOUR).any()
    alpha[0] = 0
    Image.fromarray(np.dstack([IDS] * 3 + [alpha])).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png has 22 transparent pixels.*Flatten the image"):
        read_colours(tmp_path / "a.png", ANY_COLOUR)


@pytest.mark.parametrize("extra", [{}, {"icc_profile": bytes(101)}])
def test_a_webp_holds_labels_if_it_is_lossless(extra: dict[str, bytes], tmp_path: Path) -> None:
    table = np.arange(2**24) % 256
    Image.fromarray(np.dstack([IDS * 60] * 3)).save(tmp_path / "a.png", "WEBP", lossless=True, **extra)
    assert np.array_equal(read_colours(tmp_path / "a.png", table), IDS * 60)
    Image.fromarray(np.dstack([IDS * 60] * 3)).save(tmp_path / "a.png", "WEBP", **extra)
    for read in (read_index, lambda path: read_colours(path, table)):
        with pytest.raises(DataError, match=r"a\.png is a lossy WebP.*export the labels again"):
            read(tmp_path / "a.png")


# Pages, text and size

PICTURE, OTHER = Image.fromarray(IDS), Image.fromarray(IDS[::-1])
SEVERAL = {"a.tif": {"format": "TIFF"}, "a.png": {"format": "PNG"}}
SEVERAL |= {"b.png": {"format": "WEBP", "lossless": True}, "c.png": {"format": "GIF"}}  # type: ignore[dict-item]


@pytest.mark.parametrize("read", [read_image, read_index])
@pytest.mark.parametrize("name", SEVERAL)
def test_files_of_several_pictures_are_errors(name: str, read: Reader, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / name, save_all=True, append_images=[OTHER], **SEVERAL[name])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"{name} holds 2 pages or frames: expected one.*Save the one"):
        read(tmp_path / name)


def test_photographs_of_phones_and_smaller_copies_are_read(tmp_path: Path) -> None:
    PICTURE.convert("RGB").save(tmp_path / "a.jpg")
    PICTURE.convert("RGB").save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[OTHER.convert("RGB")])
    assert np.array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))
    for kind, second in ((1, PICTURE.resize((11, 5))), (4, OTHER)):  # a smaller copy, and a mask of what is valid
        second.encoderinfo = {"tiffinfo": {254: kind}}  # type: ignore[attr-defined]
        PICTURE.save(tmp_path / "a.tif", save_all=True, append_images=[second])
        with Image.open(tmp_path / "a.tif") as stored:
            assert stored.n_frames == 2  # type: ignore[attr-defined]
        assert np.array_equal(read_index(tmp_path / "a.tif"), IDS)


@pytest.mark.parametrize("options", ["text", "profile"])
def test_much_text_beside_the_pixels_is_no_damage(options: str, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 3_000_000, zip=True)
    extra = {"text": {"pnginfo": text}, "profile": {"icc_profile": bytes(3_000_000)}}[options]
    PICTURE.save(tmp_path / "a.png", **extra)  # type: ignore[arg-type]
    assert np.array_equal(read_index(tmp_path / "a.png"), IDS)
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], IDS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_images_have_no_limit(name: str, tmp_path: Path) -> None:
    assert Image.MAX_IMAGE_PIXELS is None
    compression = {"compression": "tiff_deflate"} if name == "a.tif" else {"compress_level": 1}
    Image.new("L", (1_100_000, 1), 3).save(tmp_path / name, **compression)  # type: ignore[arg-type]
    assert read_index(tmp_path / name).shape == (1, 1_100_000)
    assert read_image(tmp_path / name).shape == (1, 1_100_000, 3)  # which OpenCV does not read


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (LEVELS.astype(np.uint16) << 4, r"4,080 of 65,535.*12-bit values.*almost black: multiply them by 16"),
        (LEVELS.astype(np.uint16), "255 of 65,535.*8-bit values.*black: save them as 8-bit images"),
        (DEEP, ""),
    ],
)
@pytest.mark.parametrize(("name", "channels"), [("a.png", 1), ("a.tif", 3)])
def test_16_bit_images_that_are_almost_black_are_named(
    values: np.ndarray, found: str, name: str, channels: int, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / name), values if channels == 1 else np.dstack([values] * 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()
    said = [str(warning.message) for warning in caught if "16-bit images hold" in str(warning.message)]
    assert len(said) == bool(found) and all(re.search(found, text) for text in said)
    assert loader.dataset.check(0).image.brightest == values.max()  # of check_data
