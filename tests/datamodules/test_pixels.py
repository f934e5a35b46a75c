"""What a file's pixels are: for each way to store them these values, or an error; never other values."""

import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from datamodules.base import DataError
from datamodules.folder import FolderDataModule
from datamodules.reading.own_labels import read_colours, read_labels
from datamodules.reading.pixels import ORIENTATION, read_image, read_index, read_orientation
from tests.fakes import write_image

LEVELS = np.random.default_rng(0).integers(0, 256, (11, 22), dtype=np.uint8)
DEEP = LEVELS.astype(np.uint16) << 8 | np.random.default_rng(1).integers(0, 256, (11, 22)).astype(np.uint16)
IDS = np.random.default_rng(2).integers(0, 4, (11, 22), dtype=np.uint8)

Write = Callable[[Path], None]


def pack(values: np.ndarray, depth: int) -> bytes:
    """Packs (H, W) numbers of a few bits into rows of bytes."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
    return b"".join(np.packbits(row.ravel()).tobytes() for row in bits)


def pack_12(values: np.ndarray) -> bytes:
    """Packs (H, W) numbers of 12 bits into rows of bytes, the width even."""
    bits = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=2)[..., 4:]
    return np.packbits(bits).tobytes()


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
    "tiff 12": ("a.tif", lambda path: write_tiff(path, pack_12(DEEP >> 4), DEEP.shape, 12), LEVELS),
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
    with pytest.raises(DataError, match=r"a\.tif is a TIFF with lossy compression.*export the labels again as PNG"):
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
            DataError, match=f"EXIF orientation {image}, its labels {labels}.*expected the same for both"
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
    with pytest.raises(DataError, match=r"1\.png is a 1-bit mask \(ids 0 and 1\), .*all of one"):
        FolderDataModule(str(tmp_path), classes=["background", "road"], num_workers=0).test_dataloader()


def test_ids_are_asked_for_where_0_is_ignored() -> None:
    with pytest.raises(ValueError, match=r"ignored holds 0.*set ids, e\.g\. \{1: sky, 2: road\}"):
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
    with pytest.warns(UserWarning, match=r"skipped 1 files that cannot be read \(c\.HEIC\)"):
        assert len(FolderDataModule(str(tmp_path), num_workers=0).predict_dataloader()) == 2


PICTURE, OTHER = Image.fromarray(IDS), Image.fromarray(IDS[::-1])
SEVERAL: dict[str, tuple[str, dict[str, object]]] = {
    "tiff": ("a.tif", {"format": "TIFF"}),
    "apng": ("a.png", {"format": "PNG"}),
    "webp": ("a.png", {"format": "WEBP", "lossless": True}),
    "gif": ("a.png", {"format": "GIF"}),
}


@pytest.mark.parametrize("read", [read_image, read_index])
@pytest.mark.parametrize("kind", SEVERAL)
def test_files_of_several_pictures_are_errors(kind: str, read: Callable[[Path], np.ndarray], tmp_path: Path) -> None:
    name, options = SEVERAL[kind]
    PICTURE.save(tmp_path / name, save_all=True, append_images=[OTHER], **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"{name} holds 2 pages or frames: expected one.*Save the one"):
        read(tmp_path / name)


def test_photographs_of_phones_and_smaller_copies_are_read(tmp_path: Path) -> None:
    PICTURE.convert("RGB").save(tmp_path / "a.jpg")
    PICTURE.convert("RGB").save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[OTHER.convert("RGB")])
    assert np.array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))
    small = PICTURE.resize((11, 5))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    PICTURE.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as stored:
        assert stored.n_frames == 2  # type: ignore[attr-defined]
    assert np.array_equal(read_index(tmp_path / "a.tif"), IDS)


def test_colours_below_transparent_pixels_are_errors(tmp_path: Path) -> None:
    table = np.zeros(2**24, dtype=np.uint8)
    alpha = np.full(IDS.shape, 255, dtype=np.uint8)
    for transparent in (0, 22):
        alpha.ravel()[:transparent] = 0
        Image.fromarray(np.dstack([IDS] * 3 + [alpha])).save(tmp_path / "a.png")
        if not transparent:
            assert not read_colours(tmp_path / "a.png", table).any()
    with pytest.raises(DataError, match=r"a\.png has 22 transparent pixels.*Flatten the image"):
        read_colours(tmp_path / "a.png", table)


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
@pytest.mark.parametrize("size", [(12_000, 8_000), (1_100_000, 1)])
def test_large_images_are_read_without_a_word(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    compression = {"compression": "tiff_deflate"} if name == "a.tif" else {"compress_level": 1}
    Image.new("L", size, 3).save(tmp_path / name, **compression)  # type: ignore[arg-type]
    assert read_index(tmp_path / name).shape == size[::-1]
    if min(size) == 1:  # which OpenCV does not read
        assert read_image(tmp_path / name).shape == (*size[::-1], 3)


def test_images_have_no_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is None


def write_bmp(path: Path, bits: int, colours: int, values: np.ndarray) -> None:
    """Writes a BMP of 4 or 8 bits with a gray palette, or one of black and white."""
    height, width = values.shape
    rows = np.zeros((height, -(-width * bits // 32) * 32 // bits), dtype=np.uint8)
    rows[:, :width] = values[::-1]
    packed = pack(rows, bits)
    palette = b"".join(bytes([level, level, level, 0]) for level in ([0, 255] if colours == 2 else range(colours)))
    start = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(packed), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(packed), 0, 0, colours, 0)
    path.write_bytes(head + info + palette + packed)


WHAT: dict[str, tuple[str, Write, str]] = {
    "lfs": (
        "a.png",
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        "a Git LFS pointer.*git lfs pull",
    ),
    "html": ("a.jpg", lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "a web page .*download it again"),
    "heic": ("a.jpg", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "a HEIC.*convert it to PNG"),
    "avif": ("a.jpg", lambda path: path.write_bytes(b"\0\0\0\x18ftypavif" + bytes(99)), "an AVIF.*convert it to PNG"),
    "pdf": ("a.png", lambda path: path.write_bytes(b"%PDF-1.4" + bytes(99)), "It is a PDF: save it as PNG"),
    "float colours": (
        "a.tif",
        lambda path: cv2.imwrite(str(path), np.dstack([LEVELS] * 3).astype(np.float32)),
        "floating-point numbers: save it with 8 or 16 bits",
    ),
    "float64": ("a.tif", lambda path: cv2.imwrite(str(path), IDS.astype(np.float64)), "floating-point numbers"),
    "bmp 4": ("a.bmp", lambda path: write_bmp(path, 4, 16, IDS), "a BMP with 4 bits per pixel.*save it as PNG"),
    "bmp 8 of 2 colours": ("a.bmp", lambda path: write_bmp(path, 8, 2, IDS % 2), "a BMP with 8 bits.*save it as PNG"),
}


@pytest.mark.parametrize("kind", WHAT)
def test_files_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    name, write, found = WHAT[kind]
    write(tmp_path / name)
    with pytest.raises(DataError, match=rf"(?s){name} .*cannot be decoded: expected an image.*{found}"):
        read_image(tmp_path / name)
    with pytest.raises(DataError, match=f"(?s){name} .*cannot be decoded: expected a label image.*{found}"):
        read_index(tmp_path / name)


@pytest.mark.parametrize("extra", [{}, {"icc_profile": bytes(101)}])
def test_a_webp_holds_labels_if_it_is_lossless(extra: dict[str, bytes], tmp_path: Path) -> None:
    colours = np.dstack([IDS * 60] * 3)
    table = np.arange(2**24) % 256
    for lossless in (True, False):
        Image.fromarray(colours).save(tmp_path / "a.png", "WEBP", lossless=lossless, **extra)
        if lossless:
            assert np.array_equal(read_colours(tmp_path / "a.png", table), IDS * 60)
    for read in (read_index, lambda path: read_colours(path, table)):
        with pytest.raises(DataError, match=r"a\.png is a lossy WebP.*export the labels again"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_ids_of_signed_numbers_are_from_0_on(kind: type, tmp_path: Path) -> None:
    ids = IDS.astype(kind)
    cv2.imwrite(str(tmp_path / "a.tif"), ids)
    assert np.array_equal(read_index(tmp_path / "a.tif"), IDS)
    ids[0, 0] = -1
    cv2.imwrite(str(tmp_path / "a.tif"), ids)
    with pytest.raises(DataError, match=r"a\.tif holds numbers from -1 to 3: expected ids in .*Save .* as 255"):
        read_index(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (LEVELS.astype(np.uint16) << 4, r"4,080 of 65,535.*12-bit values.*almost black: multiply them by 16"),
        (LEVELS.astype(np.uint16), "255 of 65,535.*8-bit values.*black: save them as 8-bit images"),
        (DEEP, ""),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_that_are_almost_black_are_named(
    values: np.ndarray, found: str, name: str, channels: int, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / name), values if channels == 1 else np.dstack([values] * 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = FolderDataModule(str(tmp_path), num_workers=0)
        loader = data.predict_dataloader()
    said = [str(warning.message) for warning in caught if "16-bit images hold" in str(warning.message)]
    assert len(said) == bool(found) and all(re.search(found, text) for text in said)
    assert loader.dataset.check(0).image.brightest == values.max()  # of check_data


def test_a_mask_of_what_is_valid_is_no_second_page(tmp_path: Path) -> None:
    first, mask = (Image.fromarray(np.full((4, 6), value, dtype=np.uint8)) for value in (3, 255))
    mask.encoderinfo = {"tiffinfo": {254: 4}}  # type: ignore[attr-defined]
    first.save(tmp_path / "a.tif", save_all=True, append_images=[mask])
    assert (read_index(tmp_path / "a.tif") == 3).all()


@pytest.mark.parametrize("read", [read_image, read_index])
@pytest.mark.parametrize("place", [18, 22])  # of width and height
def test_a_size_that_no_image_has_is_damage(place: int, read: Callable[[Path], np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.bmp")
    data = bytearray((tmp_path / "a.bmp").read_bytes())
    data[place : place + 4] = (2**31 - 2).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.bmp \(\d+ bytes\) cannot be decoded"):
        read(tmp_path / "a.bmp")
