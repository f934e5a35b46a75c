"""What it costs to read a sample, beside plain Pillow and NumPy in the same run, and whether both read the same.

Draws street scenes into a temporary folder, in each encoding that the data sets have, and reads them as a worker of a
loader does: one process, one thread, files in the system's cache. The two ways take turns, image by image, so what else
the machine does weighs on both. Fails if they do not read the same values.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import (
    BDDDataModule,
    CityscapesDataModule,
    FolderDataModule,
    GTADataModule,
    IDDDataModule,
    SYNTHIADataModule,
)
from datamodules.base import Split, collate, look_up
from datamodules.files import FilesDataModule, FilesDataset, Pair
from datamodules.idd import TRAIN_ID_OF_CLASS
from datamodules.labels import CITYSCAPES_COLOURS, IGNORED
from datamodules.prefetch import Loader
from datamodules.scenery import draw_scene
from datamodules.transforms import MEAN, STD
from experiments.command_line import to_path
from experiments.pages import insert_report, make_marks

SIZE = (1024, 2048)
NOISE = 0.7  # deviation of the camera's noise in grey levels, with which PNGs get as large as those of Cityscapes
JPEG_QUALITY = 92
LEAST_AREA = 20  # pixels of the smallest polygon that is drawn
PARTS = ("decode image", "decode labels", "look up", "normalise", "sample")
TOLERANCE = 1e-6  # of normalised values: single precision rounds three times the plain way, once in a table

WriteLabels = Callable[[Path, np.ndarray], None]  # a file and (H, W) train ids


@dataclass(frozen=True)
class Encoding:
    """One way in which data sets store their pairs.

    Attributes:
        title: What the files are, and whose.
        datamodule: Reads them.
        options: More arguments for it.
        split: The split that is read.
        image: Where images lie, with ``{}`` for their names.
        labels: The same of the labels.
        write: Writes labels.
        read: Reads labels the plain way.
        by_colour: Whether the plain way reads classes at once, without ids in between.
    """

    title: str
    datamodule: type[FilesDataModule]
    split: Split
    image: str
    labels: str
    write: WriteLabels
    read: Callable[[Path], np.ndarray]
    options: Mapping[str, Any]
    by_colour: bool = False

    def open(self, root: Path, num_workers: int = 0) -> FilesDataModule:
        """Makes the datamodule of a folder."""
        return self.datamodule(str(root), split=self.split, num_workers=num_workers, **self.options)


class Way(Protocol):
    """How samples are read, in parts and as a whole."""

    def load_image(self, index: int) -> np.ndarray:
        """Reads (H, W, 3) uint8 RGB."""

    def load_ids(self, index: int) -> np.ndarray:
        """Reads (H, W) ids as they are stored."""

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Turns ids into labels."""

    def normalise(self, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turns an image and labels into (3, H, W) float32 and (H, W) int64."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a sample."""


class OurWay:
    """The datamodules' way."""

    def __init__(self, dataset: FilesDataset) -> None:
        self.dataset = dataset
        self.load_image = dataset.load_image
        self.load_ids = dataset.load_ids

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Turns ids into labels."""
        return look_up(ids, self.dataset.table)

    def normalise(self, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turns an image and labels into tensors."""
        return self.dataset.transform(image, mask, 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a sample; checks that its labels are known and as large as the image."""
        return self.dataset[index]


class PlainWay(Dataset[dict[str, Any]]):
    """What one writes with Pillow and NumPy, without any checks.

    Args:
        pairs: Files.
        read_ids: Reads a label file.
        table: (N,) uint8 lookup from ids to labels; None where `read_ids` returns labels.
    """

    def __init__(self, pairs: Sequence[Pair], read_ids: Callable[[Path], np.ndarray], table: np.ndarray | None) -> None:
        self.pairs = pairs
        self.read_ids = read_ids
        self.table = table

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.pairs)

    def load_image(self, index: int) -> np.ndarray:
        """Reads an image."""
        return read_plain(self.pairs[index].image, "RGB")

    def load_ids(self, index: int) -> np.ndarray:
        """Reads labels as they are stored."""
        path = self.pairs[index].labels
        assert path is not None
        return self.read_ids(path)

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Turns ids into labels."""
        return ids if self.table is None else self.table[ids]

    def normalise(self, image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turns an image and labels into tensors."""
        mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
        values = (image.astype(np.float32) / 255 - mean) / std
        pixels = np.ascontiguousarray(values.transpose(2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(mask.astype(np.int64))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a sample."""
        image, mask = self.normalise(self.load_image(index), self.look_up(self.load_ids(index)))
        return {"image": image, "mask": mask, "name": self.pairs[index].name}


def read_plain(path: Path, mode: str | None = None) -> np.ndarray:
    """Reads an image with Pillow, converted to a mode or as it is."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode) if mode else picture)


def read_red_plain(path: Path) -> np.ndarray:
    """Reads the red channel of a 16-bit PNG with OpenCV: Pillow would make it 8-bit."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels[..., 2]


def read_colours_plain(path: Path) -> np.ndarray:
    """Reads labels stored as colours."""
    pixels = read_plain(path, "RGB")
    return COLOUR_TABLE[pixels[..., 0], pixels[..., 1], pixels[..., 2]]


def read_polygons_plain(path: Path) -> np.ndarray:
    """Draws the polygons of IDD with Pillow."""
    annotation = json.loads(path.read_text(encoding="utf-8"))
    canvas = Image.new("L", (annotation["imgWidth"], annotation["imgHeight"]), IGNORED)
    for entry in annotation["objects"]:
        points = [tuple(point) for point in entry["polygon"]]
        ImageDraw.Draw(canvas).polygon(points, fill=TRAIN_ID_OF_CLASS[entry["label"]])
    return np.asarray(canvas)


def make_colour_table() -> np.ndarray:
    """Makes the (256, 256, 256) uint8 lookup from the colours of Cityscapes to train ids."""
    table = np.full((256, 256, 256), IGNORED, dtype=np.uint8)
    for train_id, colour in enumerate(CITYSCAPES_COLOURS.values()):
        table[colour] = train_id
    return table


def find_ids(train_ids: Mapping[int, int]) -> np.ndarray:
    """Returns the (19,) uint8 lookup from train ids to one id of a data set each."""
    first = {train_id: value for value, train_id in sorted(train_ids.items(), reverse=True)}
    return np.array([first[train_id] for train_id in range(len(CITYSCAPES_COLOURS))], dtype=np.uint8)


def write_gray(path: Path, train_ids: np.ndarray) -> None:
    """Writes train ids as a gray 8-bit PNG."""
    Image.fromarray(train_ids).save(path)


def write_label_ids(path: Path, train_ids: np.ndarray) -> None:
    """Writes the label ids of Cityscapes as a gray 8-bit PNG."""
    write_gray(path, find_ids(CityscapesDataModule.train_ids)[train_ids])


def write_palette(path: Path, train_ids: np.ndarray) -> None:
    """Writes the ids of GTA5 as a palette PNG."""
    ids = find_ids(GTADataModule.train_ids)
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[ids] = list(CITYSCAPES_COLOURS.values())
    picture = Image.fromarray(ids[train_ids])
    picture.putpalette(palette.tobytes())
    picture.save(path)


def write_16_bit(path: Path, train_ids: np.ndarray) -> None:
    """Writes the ids of SYNTHIA in red and instances in green, 16 bits each."""
    things = (train_ids >= list(CITYSCAPES_COLOURS).index("person")).astype(np.uint8)
    red, green = find_ids(SYNTHIADataModule.train_ids)[train_ids], cv2.connectedComponents(things)[1]
    cv2.imwrite(str(path), np.stack([np.zeros_like(green), green, red], axis=2).astype(np.uint16))


def write_colours(path: Path, train_ids: np.ndarray) -> None:
    """Writes the colours of Cityscapes as an RGB PNG."""
    Image.fromarray(np.array(list(CITYSCAPES_COLOURS.values()), dtype=np.uint8)[train_ids]).save(path)


def write_polygons(path: Path, train_ids: np.ndarray) -> None:
    """Writes the outlines of the connected regions in the form of IDD, larger ones first."""
    names = {train_id: name for name, train_id in TRAIN_ID_OF_CLASS.items()}
    regions = []
    for train_id in np.unique(train_ids):
        outlines = cv2.findContours((train_ids == train_id).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[
            0
        ]
        regions += [(cv2.contourArea(outline), names[int(train_id)], outline) for outline in outlines]
    regions.sort(key=lambda region: region[0], reverse=True)
    objects = [
        {"label": name, "polygon": cv2.approxPolyDP(outline, 1.0, True)[:, 0].tolist(), "deleted": 0}
        for area, name, outline in regions
        if area >= LEAST_AREA
    ]
    height, width = train_ids.shape
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}), encoding="utf-8")


COLOUR_TABLE = make_colour_table()
ENCODINGS = (
    Encoding(
        "JPEG, gray 8-bit PNG (BDD100K, Mapillary, WildDash, IDD part II)", BDDDataModule, "val",
        "images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png", write_gray, read_plain, {},
    ),
    Encoding(
        "PNG, gray 8-bit PNG (Cityscapes, IDD part I)", CityscapesDataModule, "val",
        "leftImg8bit/val/city/{}_leftImg8bit.png", "gtFine/val/city/{}_gtFine_labelIds.png", write_label_ids,
        read_plain, {},
    ),
    Encoding(
        "PNG, palette PNG (GTA5)", GTADataModule, "val",
        "images/val/{}.png", "labels/val/{}.png", write_palette, read_plain, {},
    ),
    Encoding(
        "PNG, 16-bit RGB PNG (SYNTHIA)", SYNTHIADataModule, "train",
        "RGB/{}.png", "GT/LABELS/{}.png", write_16_bit, read_red_plain, {},
    ),
    Encoding(
        "PNG, polygons in JSON (IDD part I)", IDDDataModule, "val",
        "leftImg8bit/val/0/{}_leftImg8bit.png", "gtFine/val/0/{}_gtFine_polygons.json", write_polygons,
        read_polygons_plain, {},
    ),
    Encoding(
        "JPEG, RGB colours in PNG (own folders)", FolderDataModule, "val",
        "images/val/{}.jpg", "labels/val/{}.png", write_colours, read_colours_plain,
        {"label_colours": {name: list(colour) for name, colour in CITYSCAPES_COLOURS.items()}}, by_colour=True,
    ),
)  # fmt: skip


def draw_photographs(count: int, size: tuple[int, int] = SIZE) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws scenes with a camera's noise: (H, W, 3) uint8 images and (H, W) uint8 train ids."""
    pairs = []
    for index in range(count):
        image, train_ids = draw_scene("source", "train", index, 0, *size)
        noise = np.random.default_rng(index).normal(0, NOISE, image.shape)
        pairs.append(((image + noise).round().clip(0, 255).astype(np.uint8), train_ids))
    return pairs


def write_tree(root: Path, encoding: Encoding, pairs: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> None:
    """Writes pairs in the layout of a data set; links to them make `count` of them."""
    for number in range(count):
        for pattern, write, which in ((encoding.image, write_image, 0), (encoding.labels, encoding.write, 1)):
            path, first = root / pattern.format(f"{number:07d}"), root / pattern.format(f"{number % len(pairs):07d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            if number < len(pairs):
                write(path, pairs[number][which])
            else:
                path.hardlink_to(first)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Writes an image, as its suffix says."""
    Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)


def check_equal(ours: Way, plain: Way, index: int) -> None:
    """Compares what two ways read.

    Raises:
        ValueError: If a pixel or a label differs, or a normalised value is not the exact one in single precision.
    """
    pixels, found, expected = ours.load_image(index), ours[index], plain[index]
    exact = (pixels.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    wrong = {
        "pixels": int((pixels != plain.load_image(index)).sum()),
        "labels": int((found["mask"] != expected["mask"]).sum()),
        "normalised values": int((found["image"].numpy() != exact.astype(np.float32).transpose(2, 0, 1)).sum()),
        f"normalised values by more than {TOLERANCE}": int(
            ((found["image"] - expected["image"]).abs() > TOLERANCE).sum()
        ),
    }
    if any(wrong.values()):
        raise ValueError(f"{expected['name']}: the two ways read different {wrong}: expected the same")


def time_parts(way: Way, index: int) -> dict[str, float]:
    """Returns the milliseconds that each of `PARTS` takes."""
    milliseconds = {}

    def run(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        milliseconds[part] = 1000 * (time.perf_counter() - start)
        return result

    image = run("decode image", way.load_image, index)
    mask = run("look up", way.look_up, run("decode labels", way.load_ids, index))
    run("normalise", way.normalise, image, mask)
    del image, mask
    run("sample", way.__getitem__, index)
    return milliseconds


def compare(ours: Way, plain: Way, count: int, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Times two ways in turn; returns the median milliseconds of their parts."""
    taken: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for turn in range(-1, repeats):
        for index in range(count):
            for which in (0, 1) if (turn + index) % 2 else (1, 0):
                parts = time_parts((ours, plain)[which], index)
                if turn >= 0:  # the first turn warms up
                    taken[which].append(parts)
    first, second = ({part: statistics.median(t[part] for t in times) for part in PARTS} for times in taken)
    return first, second


def measure_rate(loader: Loader) -> float:
    """Returns images per second from a loader's first batch to its last."""
    start = count = 0.0
    for number, batch in enumerate(loader):
        if number == 0:
            start = time.perf_counter()
        else:
            count += len(batch["name"])
    return count / (time.perf_counter() - start)


def measure_encoding(
    encoding: Encoding, root: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]], options: argparse.Namespace
) -> dict[str, Any]:
    """Writes pairs in an encoding and reads them.

    Returns:
        ``title``; ``megabytes`` of the average image and label file; ``ours`` and ``plain``, median milliseconds of
        `PARTS`; and ``rates``, images per second of both per number of workers.
    """
    write_tree(root, encoding, pairs, max(len(pairs), options.loaded))
    dataset = encoding.open(root).test_dataloader().dataset
    assert isinstance(dataset, FilesDataset)
    table = None if encoding.by_colour else dataset.table
    ours, plain = OurWay(dataset), PlainWay(dataset.pairs, encoding.read, table)
    for index in range(len(pairs)):
        check_equal(ours, plain, index)
    sizes = [(pair.image.stat().st_size, pair.labels.stat().st_size) for pair in dataset.pairs if pair.labels]
    medians = compare(ours, plain, len(pairs), options.repeats)
    rates = {
        workers: (
            measure_rate(encoding.open(root, workers).test_dataloader()),
            measure_rate(DataLoader(plain, num_workers=workers, collate_fn=collate)),
        )
        for workers in options.workers
    }
    megabytes = tuple(statistics.mean(column) / 1e6 for column in zip(*sizes, strict=True))
    return {"title": encoding.title, "megabytes": megabytes, "ours": medians[0], "plain": medians[1], "rates": rates}


def format_report(rows: Sequence[dict[str, Any]], options: argparse.Namespace, load: float) -> str:
    """Formats what was measured as Markdown."""
    packages = ("torch", "torchvision", "opencv-python-headless", "pillow", "numpy")
    lines = [
        f"Measured on {date.today():%Y-%m-%d}: {name_processor()}, {os.cpu_count()} cores, load {load:.1f} when it "
        f"began; Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + f". Median of {options.repeats} readings of each of {options.scenes} pairs of {SIZE[1]}x{SIZE[0]} pixels.",
        "",
        "Milliseconds per image and worker, ours / plain:",
        "",
        f"| image, labels | MB | {' | '.join(PARTS)} | ours : plain |",
        "|---" + "|---:" * (len(PARTS) + 2) + "|",
    ]
    for row in rows:
        cells = [f"{row['ours'][part]:.1f} / {row['plain'][part]:.1f}" for part in PARTS]
        sizes = " + ".join(f"{size:.2f}" for size in row["megabytes"])
        ratio = row["ours"]["sample"] / row["plain"]["sample"]
        lines.append(f"| {row['title']} | {sizes} | {' | '.join(cells)} | {ratio:.2f} |")
    if options.workers:
        lines += [
            "",
            f"Images per second from a loader ({options.loaded} images, one per batch), ours / plain:",
            "",
            f"| image, labels | {' | '.join(f'{n} worker' + 's' * (n > 1) for n in options.workers)} |",
            "|---" + "|---:" * len(options.workers) + "|",
        ]
        for row in rows:
            cells = [f"{ours:.1f} / {plain:.1f}" for ours, plain in row["rates"].values()]
            lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def name_processor() -> str:
    """Returns what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reading", description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", type=int, default=4, help="different pairs (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="how often each is read each way (%(default)s)")
    parser.add_argument("--loaded", type=int, default=48, help="images per run of a loader (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of these loaders (1 2)")
    parser.add_argument(
        "--write", type=to_path, help=f"a Markdown file to write to, between {' and '.join(make_marks())}"
    )
    return parser.parse_args(args)


def measure(args: Sequence[str] | None = None, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """Measures all encodings and prints the report; returns its rows."""
    options = parse_arguments(args)
    warnings.filterwarnings("ignore", message=".*the official number is")  # of images in the whole data set
    threads = torch.get_num_threads(), cv2.getNumThreads()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        pairs = draw_photographs(options.scenes, size)
        rows = []
        for number, encoding in enumerate(ENCODINGS):
            print(f"{encoding.title} ...", flush=True)
            with tempfile.TemporaryDirectory(prefix=f"reading_{number}_") as folder:
                rows.append(measure_encoding(encoding, Path(folder), pairs, options))
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    report = format_report(rows, options, load)
    print(f"\n{report}")
    if options.write:
        insert_report(options.write, report)
    return rows


if __name__ == "__main__":
    measure()
