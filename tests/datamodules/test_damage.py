"""Files that are damaged, of another kind, or hold no ids: errors that name them, and never other values."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
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
    put,
    save,
    store,
    with_palette,
)

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
    for number, start in enumerate(
        (b"<html>not found</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP")
    ):
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
