"""What a file's pixels are: for each way to store them these values, and never others; damaged files are errors."""

import os
import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from datamodules.base import DataError
from datamodules.folder import FolderDataModule
from datamodules.reading.headers import ORIENTATION, read_orientation
from datamodules.reading.own_labels import read_colours, read_labels
from datamodules.reading.pixels import read_image, read_index, read_red_16_bit
from tests.datamodules.pictures import (
    COLOURED,
    COLOURS,
    DEEP,
    IDS,
    LEVELS,
    PICTURES,
    Reader,
    Write,
    bmp,
    pack,
    png,
    put,
    save,
    store,
    tiff,
    turn,
    with_palette,
)

# Values

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


@pytest.mark.parametrize("kind", [*PICTURES, *IMAGES])
def test_an_image_has_the_values_that_pillow_reads_or_the_upper_8_bits(kind: str, tmp_path: Path) -> None:
    name, write, *given = PICTURES.get(kind) or IMAGES[kind]
    write(tmp_path / name)
    if given:
        expected = np.dstack([given[0]] * 3)
    else:
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


# Orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_files_are_turned_only_when_asked(orientation: int, suffix: str, tmp_path: Path) -> None:
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


# Colours and palettes

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
GRAYS = [(level, level, level) for level in range(4)]
CITYSCAPES = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156)]
OWN = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (1, 2, 3)]


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


def test_colours_below_transparent_pixels_and_made_up_ones_are_errors(tmp_path: Path) -> None:
    pixels, any_colour = np.dstack([IDS] * 3 + [np.full_like(IDS, 255)]), np.zeros(2**24, dtype=np.uint8)
    save(pixels)(tmp_path / "a.png")
    assert not read_colours(tmp_path / "a.png", any_colour).any()
    pixels[0, :, 3] = 0
    save(pixels)(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png has 22 transparent pixels.*Flatten the image"):
        read_colours(tmp_path / "a.png", any_colour)
    COLOURED.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"colours that are not defined.*Lossy compression.*export the labels again"):
        read_colours(tmp_path / "a.png", any_colour + 254)


@pytest.mark.parametrize("extra", [{}, {"icc_profile": bytes(101)}])
def test_a_webp_holds_labels_if_it_is_lossless(extra: dict[str, bytes], tmp_path: Path) -> None:
    table = np.arange(2**24) % 256
    picture = Image.fromarray(np.dstack([IDS * 60] * 3))
    picture.save(tmp_path / "a.png", "WEBP", lossless=True, **extra)
    assert np.array_equal(read_colours(tmp_path / "a.png", table), IDS * 60)
    picture.save(tmp_path / "a.png", "WEBP", **extra)
    for read in (read_index, lambda path: read_colours(path, table)):
        with pytest.raises(DataError, match=r"a\.png is a lossy WebP.*export the labels again"):
            read(tmp_path / "a.png")


# Pages, text and size

PICTURE, OTHER = Image.fromarray(IDS), Image.fromarray(IDS[::-1])
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Comment", "x" * 3_000_000, zip=True)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "GIF"])
def test_files_of_several_pictures_are_errors(kind: str, tmp_path: Path) -> None:
    name = "a.tif" if kind == "TIFF" else "a.png"
    PICTURE.save(tmp_path / name, kind, save_all=True, append_images=[OTHER], lossless=True)
    for read in (read_image, read_index):
        with pytest.raises(DataError, match=rf"{name} has 2 pages or frames: expected one.*Save only the one"):
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


@pytest.mark.parametrize("extra", [{"pnginfo": TEXT}, {"icc_profile": bytes(3_000_000)}], ids=["text", "profile"])
def test_much_text_beside_the_pixels_is_no_damage(extra: dict[str, Any], tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png", **extra)
    assert np.array_equal(read_index(tmp_path / "a.png"), IDS)
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], IDS)


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
    values: np.ndarray, found: str, name: str, channels: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for number in range(6):  # of 8 bits
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((2, 2), dtype=np.uint8))
    store(np.dstack([values] * channels))(tmp_path / name)
    loader = FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()
    said = [str(warning.message) for warning in recwarn if "16-bit images have" in str(warning.message)]
    assert len(said) == bool(found) and all(re.search(found, text) for text in said)
    assert loader.dataset.check(6).brightest == [values.max()]  # of check_data


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("size", [(12_000, 8_000), (1_100_000, 1)])
def test_images_have_no_limit(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    compression = {"compression": "tiff_deflate"} if name == "a.tif" else {"compress_level": 1}
    Image.new("L", size, 3).save(tmp_path / name, **compression)  # type: ignore[arg-type]
    assert Image.MAX_IMAGE_PIXELS is None
    assert read_index(tmp_path / name).shape == size[::-1]
    if min(size) == 1:  # which OpenCV does not read
        assert read_image(tmp_path / name).shape == (*size[::-1], 3)


# Damaged files, files of another kind, and files that hold no ids

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
    expected = {
        "empty.png": (r"empty\.png is empty \(0 bytes\): expected a.*\. Unpack it again", "unreadable"),
        "none.png": (r"none\.png cannot be read: No such file", "missing"),
        ".": ("cannot be read: Is a directory", "missing"),
    }
    starts = (b"<html>not found</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP")
    for number, start in enumerate(starts):
        size = (tmp_path / f"{number}.png").write_bytes(start + b"?" * 30)
        is_lossy = read is read_index and start == b"\xff\xd8\xff"  # a JPEG, damaged or not, is no label file
        said = "is a JPEG: expected labels" if is_lossy else rf"\({size} bytes\) cannot be decoded"
        expected[f"{number}.png"] = rf"{number}\.png {said}", "unreadable"
    if os.geteuid() != 0:  # the superuser may read anything
        (tmp_path / "closed.png").touch(0)
        expected["closed.png"] = r"closed\.png cannot be read: Permission denied", "missing"
    for name, (said, kind) in expected.items():
        with pytest.raises(DataError, match=said) as caught:
            read(tmp_path / name)
        assert caught.value.kind == kind


# A BMP whose width or height, at this byte, no image has.
BMP = b"BM" + struct.pack("<IHHIIiiHHI", 1142, 0, 0, 1078, 40, 22, 11, 1, 8, 0) + bytes(1200)
IMPOSSIBLE = {place: put(BMP[:place] + (2**31 - 2).to_bytes(4, "little") + BMP[place + 4 :]) for place in (18, 22)}
WHAT: dict[str, tuple[str, Write, str]] = {
    "lfs": ("a.png", put(b"version https://git-lfs.github.com/spec/v1\nsize 12345\n"), "a Git LFS .*git lfs pull"),
    "html": ("a.jpg", put(b"\n<!DOCTYPE html><html>"), "a web page .*download it again"),
    "heic": ("a.jpg", put(b"\0\0\0\x18ftypheic" + bytes(99)), "a HEIC.*convert it to PNG"),
    "avif": ("a.jpg", put(b"\0\0\0\x18ftypavif" + bytes(99)), "an AVIF.*convert it to PNG"),
    "pdf": ("a.png", put(b"%PDF-1.4" + bytes(99)), "It is a PDF: save it as PNG"),
    "float colours": ("a.tif", store(np.dstack([LEVELS] * 3).astype(np.float32)), "floating-point numbers: save it"),
    "float64": ("a.tif", store(IDS.astype(np.float64)), "floating-point numbers"),
    "bmp 4": ("a.bmp", bmp(4, 16, IDS), "a BMP with 4 bits per pixel.*save it as PNG"),
    "bmp of impossible width": ("a.bmp", IMPOSSIBLE[18], "truncated, damaged"),
    "bmp of impossible height": ("a.bmp", IMPOSSIBLE[22], "truncated, damaged"),
    "bmp 8 of 2 colours": ("a.bmp", bmp(8, 2, IDS % 2), "a BMP with 8 bits.*save it as PNG"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHAT)
def test_files_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    name, write, found = WHAT[kind]
    write(tmp_path / name)
    for read, expected in ((read_image, "an image"), (read_index, "a label image")):
        with pytest.raises(DataError, match=rf"(?s){name} .*cannot be decoded: expected {expected}.*{found}"):
            read(tmp_path / name)


SIGNED = "signed whole numbers of"
# What is refused: how to read, the file, words of the message
REFUSED: dict[str, tuple[Reader, str, Write, str]] = {
    **{
        f"an image without a known white: {found} {values.min()}": (
            read_image, "a.tif", store(values), f"contains {found}: expected 8 or 16 bits per channel",
        )
        for values, found in (
            (LEVELS.astype(np.float32) / 255, "floating-point numbers"),
            (LEVELS.astype(np.int32) * 1000 + 1, f"{SIGNED} 32 bits"),
            (LEVELS.astype(np.int32), f"{SIGNED} 32 bits"),  # which may be 8-bit values all the same
            (LEVELS.astype(np.int16), f"{SIGNED} 16 bits"),
            (LEVELS.astype(np.int8), f"{SIGNED} 8 bits"),
        )
    },
    "ids of more than 16 bits": (
        read_index, "a.tif", save(np.array([[7, 65543]], np.int32)),
        r"contains numbers from 7 to 65543: expected ids in \[0, 65535\]",
    ),
    **{
        f"labels of mode {mode}": (
            read_index, "a.tif" if mode == "F" else "a.png", save(Image.fromarray(LEVELS).convert(mode)),
            f"is an image of mode {mode}: expected labels with one channel",
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
def test_numbers_that_are_neither_levels_nor_ids_are_errors(kind: str, tmp_path: Path) -> None:
    read, name, write, said = REFUSED[kind]
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"(?s){name} .*{said}"):
        read(tmp_path / name)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_ids_of_signed_numbers_are_from_0_on(kind: type, tmp_path: Path) -> None:
    store(IDS.astype(kind))(tmp_path / "a.tif")
    assert np.array_equal(read_index(tmp_path / "a.tif"), IDS)
    store(np.where(IDS == 3, -1, IDS.astype(int)).astype(kind))(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"(?s)a.tif .*contains numbers from -1 to 2: expected ids in .*Save .* as 255"):
        read_index(tmp_path / "a.tif")
