"""Labels that are not images of ids: polygons, and segments whose classes are listed in a JSON file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.base import DataError
from datamodules.labels import IGNORED
from datamodules.reading.pixels import read_image

Segments = Mapping[str, Mapping[int, int]]  # by name of the label file: class by segment number


@contextmanager
def explain_content(path: Path, expected: str) -> Iterator[None]:
    """Raises DataError in place of any error from reading a file that is damaged or holds something else."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): expected {expected}. Unpack it again"
        ) from error


def draw_polygons(path: Path, classes: Mapping[str, int], domain: str) -> np.ndarray:
    """Draws the ids of a polygon file, object by object in the order of the file.

    Like IDD's own tool, it skips objects that are deleted, have fewer than three points, or are of a class without an
    id in `classes`; ``cargroup``, for example, counts as ``car``. Returns (H, W) uint8 ids, 255 where nothing is drawn.

    Source: AutoNUE public code, preperation/json2labelImg.py.
    """
    with explain_content(path, "a polygon file with imgWidth, imgHeight and objects"):
        annotation = json.loads(path.read_text(encoding="utf-8"))
        objects = [
            (str(entry["label"]), [(float(x), float(y)) for x, y in entry["polygon"]])
            for entry in annotation["objects"]
            if not entry.get("deleted")
        ]
        canvas = Image.new("L", (int(annotation["imgWidth"]), int(annotation["imgHeight"])), IGNORED)
    pencil = ImageDraw.Draw(canvas)
    for name, points in objects:
        known = name if name in classes else name.removesuffix("group")
        if known not in classes:
            warn_of_class(name, domain)
        elif len(points) >= 3:
            pencil.polygon(points, fill=classes[known])
    return np.array(canvas)


@cache
def warn_of_class(name: str, domain: str) -> None:
    """Warns once about a class that a data set does not have."""
    rank_zero_warn(f"{domain}: objects of class {name!r} are skipped, as {domain} has no such class")


@cache
def read_segments(path: Path) -> Segments:
    """Reads the class of each segment from annotations in COCO's panoptic format."""
    with explain_content(path, "panoptic annotations, which say what the segments of the label images are"):
        return {
            entry["file_name"]: {int(info["id"]): int(info["category_id"]) for info in entry["segments_info"]}
            for entry in json.loads(path.read_text(encoding="utf-8"))["annotations"]
        }


def read_panoptic(path: Path, segments: Segments) -> np.ndarray:
    """Reads panoptic labels, RGB with segment = R + 256 G + 65536 B, as (H, W) uint8 ids; segment 0 is id 0."""
    if path.name not in segments:
        raise DataError(
            f"{path} is not listed in the panoptic annotations: expected an entry with this file_name. Unpack both "
            "from the same archive",
            "id",
        )
    pixels = read_image(path).astype(np.uint32)
    found, places = np.unique(pixels[..., 0] | pixels[..., 1] << 8 | pixels[..., 2] << 16, return_inverse=True)
    classes = {0: 0} | dict(segments[path.name])
    if unknown := [segment for segment in found.tolist() if segment not in classes]:
        raise DataError(
            f"{path} has segments that its annotations do not list: {unknown[:5]}. Unpack both from the same archive",
            "id",
        )
    return np.array([classes[segment] for segment in found.tolist()], dtype=np.uint8)[places].reshape(pixels.shape[:2])
