"""What a file's pixels are: for each way to store them these values, or an error; never other values."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.base import DataError
from datamodules.folder import FolderDataModule
from datamodules.own_labels import read_colours, read_labels
from datamodules.pixels import ORIENTATION, read_image, read_index, read_orientation
from tests.fakes import write_image

LEVELS = np.random.default_rng(0).integers(0, 256, (11, 22), dtype=np.uint8)
DEEP = LEVELS.astype(np.uint16) << 8 | np.random.default_rng(1).integers(0, 256, (11, 22)).astype(np.uint16)
IDS = np.random.default_rng(2).integers(0, 4, (11, 22), dtype=np.uint8)

Write = Callable[[Path], None]


def pack(values: np.ndarray, depth: int) -> bytes:
    """Packs (H, W) numbers of a few bits into rows of bytes."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
    return b"".join(np.packbits(row.ravel()).tobytes() for row in bits)


def write_png(path: Path, values: np.ndarray, depth: int) -> None:
    """Writes a gray PNG of 1, 2, 4 or 8 bits, which Pillow cannot."""
    height, width = values.shape
    packed = pack(values, depth)
    size = len(packed) // height
    rows = b"".join(b"\0" + packed[start : start + size] for start in range(0, len(packed), size))
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def write_tiff(path: Path, data: bytes, size: tuple[int, int], depth: int, photometric: int = 1, form: int = 1) -> None:
    """Writes a TIFF of one strip: of some bits, with 0 for white (photometric 0) or for black (1)."""
    height, width = size
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {339: form}).items())
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 10) + entries + bytes(4))


IMAGES: dict[str, tuple[str, Write, np.ndarray]] = {
    "png 16": ("a.png", lambda path: cv2.imwrite(str(path), DEEP), LEVELS),
    "tiff 16 of Pillow": ("a.tif", lambda path: Image.fromarray(DEEP).save(path), LEVELS),
    "tiff 16 of OpenCV": ("a.tif", lambda path: cv2.imwrite(str(path), DEEP), LEVELS),
    "tiff 16, white is 0": ("a.tif", lambda path: write_tiff(path, DEEP.tobytes(), DEEP.shape, 16, 0), 255 - LEVELS),
    "tiff 16 colours": ("a.tif", lambda path: cv2.imwrite(str(path), np.dstack([DEEP] * 3)), LEVELS),
    "tiff 8": ("a.tif", lambda path: write_tiff(path, LEVELS.tobytes(), LEVELS.shape, 8), LEVELS),
    "tiff 8, white is 0": ("a.tif", lambda path: write_tiff(path, LEVELS.tobytes(), LEVELS.shape, 8, 0), 255 - LEVELS),
    "tiff 4": ("a.tif", lambda path: write_tiff(path, pack(IDS, 4), IDS.shape, 4), IDS * 17),
    "png 2": ("a.png", lambda path: write_png(path, IDS, 2), IDS * 85),
    "pgm 3": ("a.pgm", lambda path: path.write_bytes(b"P5\n22 11\n3\n" + IDS.tobytes()), IDS * 85),
    "pgm 16": ("a.pgm", lambda path: path.write_bytes(b"P5 22 11 65535\n" + DEEP.astype(">u2").tobytes()), LEVELS),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_the_upper_8_bits_of_what_its_file_holds(kind: str, tmp_path: Path) -> None:
    name, write, expected = IMAGES[kind]
    write(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.array_equal(pixels, np.dstack([expected] * 3))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (LEVELS.astype(np.float32) / 255, "floating-point numbers from 0 to 1"),
        (LEVELS.astype(np.int32) * 1000, "whole numbers from 0 to 255000"),
        (LEVELS.astype(np.int32) - 300, "whole numbers from -300 to -45"),
    ],
)
def test_an_image_without_a_known_white_is_an_error(values: np.ndarray, found: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif holds {found}: expected 8 or 16 bits per channel"):
        read_image(tmp_path / "a.tif")


LABELS: dict[str, tuple[str, Write]] = {
    **{f"png {depth}": ("a.png", lambda path, depth=depth: write_png(path, IDS, depth)) for depth in (2, 4, 8)},
    **{
        f"tiff {depth}": ("a.tif", lambda path, depth=depth: write_tiff(path, pack(IDS, depth), IDS.shape, depth))
        for depth in (2, 4, 8)
    },
    **{
        f"tiff {depth}, white is 0": (
            "a.tif",
            lambda path, depth=depth: write_tiff(path, pack(IDS, depth), IDS.shape, depth, 0),
        )
        for depth in (4, 8)
    },
    "tiff 16": ("a.tif", lambda path: Image.fromarray(IDS.astype(np.uint16)).save(path)),
    **{
        f"pgm {most}": ("a.pgm", lambda path, most=most: path.write_bytes(b"P5 22 11 %d\n" % most + IDS.tobytes()))
        for most in (3, 18, 100, 255)
    },
    "pgm 1000": ("a.pgm", lambda path: path.write_bytes(b"P5 22 11 1000\n" + IDS.astype(">u2").tobytes())),
    "pgm in letters": (
        "a.pgm",
        lambda path: path.write_text("P2\n# a comment\n22 11\n3\n" + " ".join(map(str, IDS.ravel().tolist())) + "\n"),
    ),
    "bmp": ("a.bmp", lambda path: Image.fromarray(IDS).save(path)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_numbers_that_their_file_holds(kind: str, tmp_path: Path) -> None:
    name, write = LABELS[kind]
    write(tmp_path / name)
    assert np.array_equal(read_index(tmp_path / name), IDS)
    assert np.array_equal(read_labels(tmp_path / name), IDS)


def test_labels_that_are_stored_with_loss_are_errors(tmp_path: Path) -> None:
    Image.fromarray(IDS).convert("L").save(tmp_path / "a.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"a\.tif is stored with loss \(TIFF\).*export the labels again, as PNG"):
        read_index(tmp_path / "a.tif")


def test_a_bitmap_that_counts_1_as_black_holds_no_ids(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P4 22 11\n" + pack(IDS % 2, 1))
    with pytest.raises(DataError, match="cannot be decoded"):
        read_index(tmp_path / "a.pgm")


def save_palette(path: Path, ids: np.ndarray, colours: list[tuple[int, int, int]]) -> None:
    picture = Image.fromarray(ids)
    picture.putpalette([level for colour in colours for level in colour])
    picture.save(path)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
GRAYS = [(level, level, level) for level in range(4)]
OWN = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (1, 2, 3)]


@pytest.mark.parametrize("colours", [VOC, GRAYS, [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156)]])
def test_palettes_that_are_written_for_labels_hold_ids(colours: list[tuple[int, int, int]], tmp_path: Path) -> None:
    save_palette(tmp_path / "a.png", IDS, colours)
    assert np.array_equal(read_labels(tmp_path / "a.png"), IDS)


@pytest.mark.parametrize("colours", [VOC[::-1], GRAYS[::-1], OWN, [(85 * level,) * 3 for level in range(4)]])
def test_a_palette_of_another_order_is_an_error(colours: list[tuple[int, int, int]], tmp_path: Path) -> None:
    save_palette(tmp_path / "a.png", IDS, colours)
    with pytest.raises(DataError, match=r"a\.png is a palette image in which index \d has the colour .*label_colours"):
        read_labels(tmp_path / "a.png")
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:4] = colours
    assert np.array_equal(read_labels(tmp_path / "a.png", palette), IDS)  # of this project's own predictions


def test_colours_that_compression_made_up_are_named_as_such(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"colours that are not defined.*Lossy compression.*export the labels again"):
        read_colours(tmp_path / "a.png", np.full(2**24, 254, dtype=np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_and_labels_turn_as_images_do(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.dstack([IDS * 60] * 3)).save(path, exif=exif)
    assert read_orientation(path) == orientation
    with Image.open(path) as stored:
        stored.load()  # which turns a TIFF
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(read_image(path, upright=True), expected)
    if suffix in ("png", "tif"):
        Image.fromarray(IDS).save(path, exif=exif)
        assert np.array_equal(read_index(path, upright=True), upright(IDS, orientation))


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    picture = Image.fromarray(values)
    picture.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize(("image", "labels"), [(3, 1), (1, 3), (6, 8), (3, 3), (6, 6), (1, 1)])
def test_a_pair_says_one_orientation(image: int, labels: int, tmp_path: Path) -> None:
    for folder, orientation in (("images", image), ("labels", labels)):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(IDS if folder == "labels" else np.dstack([IDS * 60] * 3))
        picture.save(tmp_path / folder / "a.png", exif=exif)
    data = FolderDataModule(str(tmp_path), classes=["a", "b", "c", "d"], num_workers=0)
    if image != labels:
        with pytest.raises(
            DataError, match=f"EXIF orientation {image}, its labels {labels}.*expected the same of both"
        ):
            next(iter(data.test_dataloader()))
        return
    (batch,) = data.test_dataloader()
    assert np.array_equal(batch["mask"][0].numpy(), upright(IDS, image))
    photographs = FolderDataModule(str(tmp_path), images="images", num_workers=0)
    assert next(iter(photographs.predict_dataloader()))["size"].tolist() == [list(upright(IDS, image).shape)]


def test_classes_that_never_occur_are_named_with_the_line_that_fits(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", np.dstack([IDS * 60] * 3))
        write_image(tmp_path / "labels" / f"{number}.png", (IDS > 1).astype(np.uint8) * 255)
    data = FolderDataModule(str(tmp_path), classes=["background", "road"], num_workers=0)
    with pytest.warns(
        UserWarning, match=r"test: road never occurs in 3 label files, .* ids 0, 255.*background, 255: r"
    ):
        data.test_dataloader()
    Image.fromarray(IDS > 1).save(tmp_path / "labels" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is a mask of one bit, whose ids are 0 and 1, and .*all of one"):
        FolderDataModule(str(tmp_path), classes=["background", "road"], num_workers=0).test_dataloader()


def test_ids_are_asked_for_where_0_is_ignored() -> None:
    with pytest.raises(ValueError, match=r"ignored holds 0.*expected ids, e\.g\. \{1: sky, 2: road\}"):
        FolderDataModule(classes=["sky", "road"], ignored=[0])
    FolderDataModule(classes=["sky", "road"], ignored=[0], ids={1: "sky", 2: "road"})
    for names in (["", "road"], [" ", "road"]):
        with pytest.raises(ValueError, match="expected 2 to 253 names"):
            FolderDataModule(classes=names)


def test_upright_photographs_keep_their_proportions(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((2016, 1512, 3), dtype=np.uint8))
    (batch,) = FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()
    height, width = batch["image"].shape[-2:]
    assert height * width <= 2048 * 1024 and height / width == pytest.approx(4 / 3, rel=2e-3)


def test_names_in_two_ways_of_unicode_are_one_pair(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "Stra\u00dfe_u\u0308.png", np.dstack([IDS * 60] * 3))
    write_image(tmp_path / "labels" / "Stra\u00dfe_\u00fc.png", IDS)
    data = FolderDataModule(str(tmp_path), classes=["a", "b", "c", "d"], num_workers=0)
    assert len(data.test_dataloader()) == 1


def test_photographs_beside_a_folder_of_images_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    for name in ("1.png", "images/3.png"):
        write_image(tmp_path / name, np.dstack([IDS * 60] * 3))
    with pytest.raises(DataError, match=r"has a folder images and 1 images beside it"):
        FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()
    assert len(FolderDataModule(str(tmp_path), images=".", num_workers=0).predict_dataloader()) == 2


def test_photographs_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.jpe"):
        Image.fromarray(np.dstack([IDS * 60] * 3)).save(tmp_path / name, "JPEG")
    (tmp_path / "c.HEIC").write_bytes(b"?")
    with pytest.warns(UserWarning, match=r"passed over 1 files that cannot be read \(c\.HEIC\)"):
        assert len(FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()) == 2
