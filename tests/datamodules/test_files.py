import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules.base import DataError, Split, collate
from datamodules.files import FilesDataModule
from datamodules.labels import TRAIN_IDS, UNKNOWN, look_up
from datamodules.reading.dataset import FilesDataset, check_dataset
from datamodules.reading.pairs import Layout, Pair, find_files, list_folders, match_files
from datamodules.reading.pixels import Header, read_image, read_index, read_red_16_bit
from datamodules.transforms import MEAN, STD, EvaluationTransform, TrainingTransform

GENERATOR = np.random.default_rng(0)
COLOURS = GENERATOR.integers(0, 256, (37, 50, 3), dtype=np.uint8)  # sizes that are no multiples of anything
IDS = GENERATOR.integers(0, 19, (37, 50), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def palette(ids: np.ndarray) -> Image.Image:
    """Colours that repeat: an id is not to be told from them."""
    picture = Image.fromarray(ids)
    picture.putpalette(np.repeat(np.arange(128, dtype=np.uint8), 6).tobytes())
    return picture


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


PICTURES: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "jpeg": ("a.jpg", Image.fromarray(COLOURS), {}),
    "jpeg best": ("a.jpeg", Image.fromarray(COLOURS), {"quality": 100, "subsampling": 0}),
    "jpeg progressive": ("a.jpg", Image.fromarray(COLOURS), {"progressive": True}),
    "jpeg gray": ("a.jpg", Image.fromarray(IDS * 13), {}),
    "jpeg with a PNG's suffix": ("a.png", Image.fromarray(COLOURS), {"format": "JPEG"}),
    "png": ("a.png", Image.fromarray(COLOURS), {}),
    "png with alpha": ("a.png", Image.fromarray(np.dstack([COLOURS, IDS * 13])), {}),
    "png palette": ("a.png", Image.fromarray(COLOURS).quantize(200), {}),
    "png palette of 4 bits": ("a.png", Image.fromarray(COLOURS).quantize(16), {"bits": 4}),
    "png palette with transparency": ("a.png", Image.fromarray(COLOURS).quantize(200), {"transparency": 3}),
    "png gray": ("a.png", Image.fromarray(IDS * 13), {}),
    "png gray with alpha": ("a.png", Image.fromarray(np.dstack([IDS * 13, IDS]), mode="LA"), {}),
    "png of 1 bit": ("a.png", Image.fromarray(IDS > 9), {}),
    "webp": ("a.webp", Image.fromarray(COLOURS), {"lossless": True}),
    "bmp": ("a.bmp", Image.fromarray(COLOURS), {}),
    "tiff": ("a.tif", Image.fromarray(COLOURS), {"compression": "tiff_lzw"}),
    "ppm": ("a.ppm", Image.fromarray(COLOURS), {}),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", PICTURES)
def test_images_have_the_values_that_pillow_reads(tmp_path: Path, kind: str) -> None:
    name, picture, options = PICTURES[kind]
    path = tmp_path / name
    picture.save(path, **options)
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGBA").convert("RGB"))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.array_equal(pixels, expected)
    assert np.array_equal(read_image(path, upright=True), expected)  # nothing says that it is turned


def test_cmyk_photographs_are_read(tmp_path: Path) -> None:
    smooth = cv2.resize(COLOURS[:4, :4], (40, 40), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
        expected = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 1  # by the rounding of the conversion


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_only_when_asked(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    Image.fromarray(COLOURS).save(path, exif=rotated(orientation))
    with Image.open(path) as stored:
        as_stored, upright = np.asarray(stored), np.asarray(ImageOps.exif_transpose(stored))
    assert orientation == 1 or as_stored.shape != upright.shape or not np.array_equal(as_stored, upright)
    assert np.array_equal(read_image(path), as_stored)
    assert np.array_equal(read_image(path, upright=True), upright)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_images_keep_their_upper_8_bits(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(channels).integers(0, 2**16, (20, 30, channels)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), deep)
    expected = (deep[..., [2, 1, 0]] if channels > 1 else deep.repeat(3, axis=2)) >> 8
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)


WriteFile = Callable[[Path], None]
LABELS: dict[str, tuple[str, WriteFile]] = {
    "gray": ("a.png", lambda path: Image.fromarray(IDS).save(path)),
    "palette": ("a.png", lambda path: palette(IDS).save(path)),
    "palette of 4 bits": ("a.png", lambda path: palette(IDS % 16).save(path, bits=4)),
    "16 bits": ("a.png", lambda path: Image.fromarray(IDS.astype(np.uint16) * 3000).save(path)),
    "tiff": ("a.tif", lambda path: Image.fromarray(IDS).save(path, compression="tiff_lzw")),
    "tiff of 16 bits": ("a.tif", lambda path: Image.fromarray(IDS.astype(np.uint16) * 3000).save(path)),
    "tiff of 32 bits": ("a.tif", lambda path: Image.fromarray(IDS.astype(np.int32) * 3000).save(path)),
    "bmp": ("a.bmp", lambda path: Image.fromarray(IDS).save(path)),
    "1 bit": ("a.png", lambda path: Image.fromarray(IDS > 9).save(path)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_stored_ids(tmp_path: Path, kind: str) -> None:
    name, write = LABELS[kind]
    write(tmp_path / name)
    ids = read_index(tmp_path / name)
    expected = {"palette of 4 bits": IDS % 16, "1 bit": IDS > 9}.get(kind, IDS)
    deep = "16" in kind or "32" in kind
    assert ids.dtype == (np.uint16 if deep else np.uint8)
    assert np.array_equal(ids, expected.astype(np.uint16) * (3000 if deep else 1))


@pytest.mark.parametrize(("ids", "found"), [([[7, 65543]], "7 to 65543"), ([[-1, 7]], "-1 to 7")])
def test_ids_that_16_bits_do_not_hold_are_errors(tmp_path: Path, ids: list[list[int]], found: str) -> None:
    Image.fromarray(np.array(ids, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif holds numbers from {found}: expected ids in \[0, 65535\]"):
        read_index(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_labels_of_another_mode_are_errors(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    Image.fromarray(IDS).convert(mode).save(path)
    with pytest.raises(DataError, match=f"is an image of mode {mode}: expected labels with one channel"):
        read_index(path)


def test_red_channel_of_16_bit_labels(tmp_path: Path) -> None:
    red, green, blue = (GENERATOR.integers(0, 2**16, (21, 30)).astype(np.uint16) for _ in range(3))
    assert cv2.imwrite(str(tmp_path / "a.png"), np.stack([blue, green, red], axis=2))
    ids = read_red_16_bit(tmp_path / "a.png")
    assert ids.dtype == np.uint16 and ids.flags.c_contiguous and np.array_equal(ids, red)
    with Image.open(tmp_path / "a.png") as picture:  # what the reader is there to avoid
        assert not np.array_equal(np.asarray(picture)[..., 0], red)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (Image.fromarray(COLOURS), "3 channels of uint8"),
        (Image.fromarray(IDS), "1 channels of uint8"),
        (Image.fromarray(IDS.astype(np.uint16)), "1 channels of uint16"),
    ],
)
def test_other_pngs_than_16_bit_rgb_are_errors(tmp_path: Path, picture: Image.Image, found: str) -> None:
    picture.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"has {found}: expected a 16-bit RGB PNG"):
        read_red_16_bit(tmp_path / "a.png")
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg .* cannot be decoded: expected a 16-bit RGB PNG"):
        read_red_16_bit(tmp_path / "a.jpg")


Reader = Callable[[Path], np.ndarray]


def write_red(path: Path) -> None:
    assert cv2.imwrite(str(path), np.dstack([IDS] * 3).astype(np.uint16) * 500)


FILES: dict[str, tuple[Reader, str, WriteFile]] = {
    **{
        f"image: {kind}": (read_image, name, lambda path, p=picture, o=options: p.save(path, **o))
        for kind, (name, picture, options) in PICTURES.items()
    },
    **{f"labels: {kind}": (read_index, name, write) for kind, (name, write) in LABELS.items()},
    "labels: 16-bit red": (read_red_16_bit, "a.png", write_red),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FILES)
def test_truncated_files_are_errors(tmp_path: Path, kind: str) -> None:
    read, name, write = FILES[kind]
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for size in np.linspace(1, len(data) - 8, 25).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=rf"{re.escape(str(path))} \({size} bytes\) cannot be decoded: expected"):
            read(path)


PNGS = [kind for kind, (_, name, _) in FILES.items() if name == "a.png" and "suffix" not in kind]


@pytest.mark.parametrize("kind", PNGS)
def test_pngs_with_wrong_bytes_are_errors(tmp_path: Path, kind: str) -> None:
    read, name, write = FILES[kind]
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    for place in np.linspace(8, len(data) - 20, 25).astype(int):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be decoded"):
            read(path)
        path.write_bytes(data[:place] + bytes(len(data) - place))  # a download that stopped, in a file of full length
        with pytest.raises(DataError, match="cannot be decoded"):
            read(path)


def test_labels_that_pillow_would_make_up_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.repeat(IDS, 40, axis=0)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (start,) = (match.start() for match in re.finditer(b"IDAT", bytes(data)))
    (length,) = struct.unpack(">I", data[start - 4 : start])
    assert zlib.crc32(data[start : start + 4 + length]) != 0  # the checksum, now 0, is wrong
    path.write_bytes(data)
    with pytest.raises(DataError, match="truncated, damaged or of another kind"):
        read_index(path)


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


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read anything")
@pytest.mark.parametrize("read", [read_image, read_index, read_red_16_bit])
def test_files_without_permission_are_errors(tmp_path: Path, read: Reader) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match=r"a\.png cannot be read: Permission denied"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [256, 2**16])
def test_lookup_is_that_of_the_table(dtype: type, size: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    ids = np.arange(256).reshape(8, 32).astype(dtype)
    for given in (ids, ids[::-1, ::2], ids[:1, :1]):
        labels = look_up(given, table)
        assert labels.dtype == np.uint8 and labels.shape == given.shape and np.array_equal(labels, table[given])


def test_ids_beyond_the_table_are_unknown_and_do_not_wrap() -> None:
    table = np.arange(256, dtype=np.uint8)
    ids = np.array([[7, 255, 256, 263, 65535]], dtype=np.uint16)
    assert look_up(ids, table).tolist() == [[7, 255, UNKNOWN, UNKNOWN, UNKNOWN]]
    long = np.zeros(2**16, dtype=np.uint8)
    long[[7, 263, 65535]] = [1, 2, 3]
    assert look_up(ids, long).tolist() == [[1, 0, 0, 2, 3]]


def write_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_found_by_what_the_stars_match(tmp_path: Path) -> None:
    write_files(tmp_path, "a/x/1_img.png", "a/x/2_img.png", "a/y/1_img.png", "a/y/z/3_img.png", "a/4_img.png")
    write_files(tmp_path, "a/x/1_mask.png", "a/x/._1_img.png", "a/x/_img.png", "a/x/1_img.png.bak")
    found = find_files(tmp_path, "a/*/*_img.png")
    assert found == {name: tmp_path / f"a/{name}_img.png" for name in ("x/1", "x/2", "y/1")}
    assert list(found) == sorted(found)
    assert find_files(tmp_path, "b/*.png") == {}
    write_files(tmp_path, "c/a+b(1).png", "c/a+b[2].png")  # what patterns of names would misread
    assert set(find_files(tmp_path, "c/*.png")) == {"a+b(1)", "a+b[2]"}


def test_layout_finds_its_splits(tmp_path: Path) -> None:
    layout = Layout(
        ("{split}/*.png", "{split}/*.jpg"), ("masks/{split}/*.png",), {"val": "validation"}, ("train", "val")
    )
    write_files(tmp_path, "validation/2.png", "validation/1.jpg", "val/3.png", "masks/validation/1.png", "test/4.png")
    assert set(layout.find_images(tmp_path, "val")) == {"1", "2"}
    assert set(layout.find_labels(tmp_path, "val")) == {"1"}
    assert layout.find_images(tmp_path, "train") == {} == layout.find_images(tmp_path, "test")
    assert layout.describe("val") == ("validation/*.png or validation/*.jpg", "masks/validation/*.png")
    assert layout.lies_in(tmp_path) and not layout.lies_in(tmp_path / "validation")
    write_files(tmp_path / "other", "test/1.png")
    assert not layout.lies_in(tmp_path / "other")  # it has no split of that name


def test_files_are_paired_by_name(tmp_path: Path) -> None:
    images = {name: tmp_path / f"{name}.jpg" for name in ("c", "a", "d")}
    labels = {name: tmp_path / f"{name}.png" for name in ("b", "c", "a")}
    pairs, problems = match_files(images, labels)
    assert pairs == [Pair(name, images[name], labels[name]) for name in ("a", "c")]
    assert [(problem.name, problem.kind, problem.message) for problem in problems] == [
        ("b", "missing", f"{labels['b']} has no image"),
        ("d", "missing", f"{images['d']} has no labels"),
    ]


def test_folders_are_listed_sorted_without_hidden_ones_and_files(tmp_path: Path) -> None:
    write_files(tmp_path, "b/1", "a/1", ".git/1", "c.txt")
    assert list_folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]


class SmallDataModule(FilesDataModule):
    """Images and labels of one folder each per split."""

    domain = "small"
    folders = ("small", "small_v2")
    layouts = (Layout(("images/{split}/*.png",), ("labels/{split}/*.png",)),)
    train_ids: ClassVar = TRAIN_IDS
    counts: ClassVar = {}
    archives = "small.zip"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"num_workers": 0, **kwargs})

    def open(self, split: Split = "test") -> FilesDataset:
        return self.make_dataset(split, self.evaluation_transform)


def write_small(root: Path, names: str = "abcd", split: str = "test") -> Path:
    for number, name in enumerate(names):
        for folder, pixels in (("images", np.roll(COLOURS, number, axis=0)), ("labels", np.roll(IDS, number, axis=0))):
            path = root / folder / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize("place", ["", "small", "Small_V2", "SMALL/inner", "small/Deep Folder"])
def test_root_is_found_in_a_folder_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_small(tmp_path / place)
    (tmp_path / "other" / "images" / "test").mkdir(parents=True)
    if not place:  # then it has to be given itself
        assert SmallDataModule(str(tmp_path)).find_root() == tmp_path
        return
    assert SmallDataModule(str(tmp_path)).find_root() == tmp_path / place
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    assert SmallDataModule().find_root() == tmp_path / place
    assert len(SmallDataModule().open()) == 4


def test_roots_that_are_wrong_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)
    with pytest.raises(DataError, match=r"the folder of small is not set: set root .* or .* SEGADAPT_DATA"):
        SmallDataModule().find_root()
    with pytest.raises(DataError, match=r"root is .*none, which is not a folder"):
        SmallDataModule(str(tmp_path / "none")).find_root()
    write_files(tmp_path, "file", "half/readme.txt", "small/readme.txt")
    with pytest.raises(DataError, match=r"root is .*file, which is not a folder"):
        SmallDataModule(str(tmp_path / "file")).find_root()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"\$SEGADAPT_DATA is .*file, which is not a folder"):
        SmallDataModule().find_root()
    with pytest.raises(DataError, match=r"half, which holds readme\.txt: expected images/test/.* Unpack small\.zip"):
        SmallDataModule(str(tmp_path / "half")).find_root()
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path / "half"))
    with pytest.raises(DataError, match="expected a folder small with images/test"):
        SmallDataModule().find_root()


@pytest.mark.parametrize("places", [("small", "small_v2"), ("small/one", "small/two")])
def test_two_roots_are_an_error(tmp_path: Path, places: tuple[str, str]) -> None:
    for place in places:
        write_small(tmp_path / place, "a")
    named = ", ".join(str(tmp_path / place) for place in places)
    with pytest.raises(DataError, match=f"small was found more than once in .*: {named}. Set root to one"):
        SmallDataModule(str(tmp_path)).find_root()
    assert SmallDataModule(str(tmp_path / places[1])).find_root() == tmp_path / places[1]


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    write_small(tmp_path, "ab")
    (tmp_path / "images" / "test" / "c.png").mkdir()
    with pytest.raises(DataError, match=r"1 files of test have no partner: .*c\.png has no labels"):
        SmallDataModule(str(tmp_path)).open()
    write_files(tmp_path, "images/train")
    with pytest.raises(DataError, match="there are no images of train"):
        SmallDataModule(str(tmp_path)).open("train")


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    write_small(tmp_path, "abcdefgh")
    for name in "bcdefg":
        (tmp_path / "labels" / "test" / f"{name}.png").unlink()
    message = (
        r"6 files of test have no partner: .*/b\.png has no labels; .*/f\.png has no labels; and 1 more\. Complete"
    )
    with pytest.raises(DataError, match=message):
        SmallDataModule(str(tmp_path)).open()
    with pytest.warns(UserWarning, match="left out 6 broken pairs of test: b, c, d, e, f, g"):
        dataset = SmallDataModule(str(tmp_path), broken="skip").open()
    assert [pair.name for pair in dataset.pairs] == ["a", "h"]
    for path in (tmp_path / "labels" / "test").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"there are no labels of test in .*: expected files like labels/test/\*\.png"):
        SmallDataModule(str(tmp_path)).open()
    assert len(SmallDataModule(str(tmp_path)).predict_dataloader()) == 8


def damage(root: Path) -> None:
    """Makes four of eight pairs wrong, each in its way."""
    (root / "labels" / "test" / "b.png").unlink()
    image = root / "images" / "test" / "c.png"
    image.write_bytes(image.read_bytes()[:-100])
    Image.fromarray(IDS[1:]).save(root / "labels" / "test" / "e.png")
    unknown = IDS.copy()
    unknown[0, :2] = 19, 200
    Image.fromarray(unknown).save(root / "labels" / "test" / "g.png")


def test_broken_pairs_are_left_out_on_request_and_reported(tmp_path: Path) -> None:
    damage(write_small(tmp_path, "abcdefgh"))
    data = SmallDataModule(str(tmp_path), broken="skip")
    with pytest.warns(UserWarning, match="left out 4 broken pairs of test: b, c, e, g"):
        dataset = data.open()
    assert [pair.name for pair in dataset.pairs] == ["a", "d", "f", "h"]
    assert data.describe()["broken"] == "skip"
    assert data.describe()["left_out"]["test"] == [
        {"name": "b", "why": "missing"},
        {"name": "c", "why": "unreadable"},
        {"name": "e", "why": "size"},
        {"name": "g", "why": "id"},
    ]
    with pytest.warns(UserWarning, match="left out 4"):
        loader = data.test_dataloader()
    assert [batch["name"] for batch in loader] == [["a"], ["d"], ["f"], ["h"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("c", r"images/test/c\.png \(\d+ bytes\) cannot be decoded"),
        ("e", r"e\.png: the image has 50x37 pixels \(WxH\), its labels have 50x36: expected the same size"),
        ("g", r"g\.png: the labels hold the ids 19, 200, expected only 0-18, 255"),
    ],
)
def test_broken_pairs_are_errors_where_they_are_read(tmp_path: Path, name: str, message: str) -> None:
    damage(write_small(tmp_path, "abcdefgh"))
    write_small(tmp_path, "b")
    dataset = SmallDataModule(str(tmp_path)).open()
    with pytest.raises(DataError, match=message):
        dataset["abcdefgh".index(name)]
    assert dataset[0]["name"] == "a"


@pytest.mark.parametrize("num_threads", [None, 1, 3])
def test_pairs_are_checked_in_order_and_their_pixels_counted(tmp_path: Path, num_threads: int | None) -> None:
    write_small(tmp_path, "abcdefgh")
    dataset = SmallDataModule(str(tmp_path)).open()
    damage(tmp_path)
    checked = list(check_dataset(dataset, num_threads=num_threads))
    assert [found.name for found in checked] == list("abcdefgh")
    assert {found.name: [problem.kind for problem in found.problems] for found in checked if found.problems} == {
        "b": ["missing"],
        "c": ["unreadable"],
        "e": ["size"],
        "g": ["id"],
    }
    for found in checked:
        values, counts = np.unique(IDS[1:] if found.name == "e" else IDS, return_counts=True)
        if found.name not in "bg":
            assert found.ids == dict(zip(values.tolist(), counts.tolist(), strict=True))
            assert found.labels == Header("PNG gray", (len(IDS) - (found.name == "e"), IDS.shape[1]))
        assert (found.image is None) == (found.name in "c"), found
    assert not checked[1].ids and sum(checked[6].ids.values()) == IDS.size
    assert [found.name for found in check_dataset(dataset, [5, 0, 2])] == ["f", "a", "c"]


def test_samples_are_the_files_to_the_bit(tmp_path: Path) -> None:
    dataset = SmallDataModule(str(write_small(tmp_path))).open()
    exact = (COLOURS.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    sample = dataset[0]
    assert np.array_equal(sample["image"].numpy(), exact.astype(np.float32).transpose(2, 0, 1))
    assert sample["image"].is_contiguous() and sample["mask"].is_contiguous()
    assert sample["mask"].dtype == torch.int64 and np.array_equal(sample["mask"].numpy(), IDS)


def test_evaluation_resizes_images_and_never_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.transforms.MAX_EVALUATION_SIZE", (16, 32))
    for resize in ("protocol", "keep_aspect", "none"):
        image, mask = EvaluationTransform(resize)(COLOURS, IDS)
        assert (image.shape[1:] == IDS.shape) == (resize == "none")
        assert np.array_equal(mask.numpy(), IDS)


def test_training_never_interpolates_masks() -> None:
    ids = np.where(IDS < 10, 0, 18).astype(np.uint8)
    ids[:5] = 255
    transform = TrainingTransform((64, 96), (0.05, 1.0))  # mostly enlarged: interpolation would show
    found = set()
    for seed in range(40):
        _, mask = transform(COLOURS, ids, seed)
        found |= set(mask.unique().tolist())
    assert found == {0, 18, 255}


def test_batches_of_different_sizes_are_errors(tmp_path: Path) -> None:
    write_small(tmp_path, "ab")
    for folder, pixels in (("images", COLOURS), ("labels", IDS)):
        Image.fromarray(pixels[:20]).save(tmp_path / folder / "test" / "b.png")
    loader = SmallDataModule(str(tmp_path), eval_batch_size=2).test_dataloader()
    message = "a batch holds images of different sizes (20x50, 37x50): expected one size; set eval_batch_size to 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        next(iter(loader))
    same = {"image": torch.zeros(3, 4, 4), "name": "a"}
    sizes = [same | {"mask": torch.zeros(height, 8)} for height in (8, 9)]
    with pytest.raises(ValueError, match=r"a batch holds masks of different sizes \(8x8, 9x8\)"):
        collate(sizes)
    assert collate(sizes[:1] * 2)["mask"].shape == (2, 8, 8)
