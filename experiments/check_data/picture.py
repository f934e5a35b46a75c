"""Draws some pairs, to check by eye that images and labels match and that the classes are right."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from callbacks.report.panels import draw_overlay, make_palette
from datamodules.base import DataError
from datamodules.labels import IGNORED
from experiments.check_data.checks import DataSetCheck, SplitCheck

PAIRS = 3  # pairs per split
WIDTH, HEIGHT = 4.0, 6.0  # inches of an image with its labels below
PIXELS = 800  # maximum side of a drawn image: more is not visible, and large photographs would fill the memory
NAME = 46  # maximum number of characters shown of a file name

Pairs = list[tuple[str, np.ndarray, np.ndarray | None]]  # name, image, labels


def draw_pairs(found: Sequence[DataSetCheck], path: Path) -> None:
    """Writes a PNG with three images per split, each above its overlay of image and labels, and a legend."""
    rows = [(check, pairs) for data_set in found for check in data_set.checks if (pairs := load_pairs(check))]
    if not rows:
        raise ValueError(f"{path} was not drawn: no pair could be read")
    figure = Figure(figsize=(PAIRS * WIDTH, len(rows) * HEIGHT), layout="constrained", dpi=100)
    for part, (check, pairs) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        draw_split(part, check, pairs)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def draw_split(part: SubFigure, check: SplitCheck, pairs: Pairs) -> None:
    """Draws some pairs of a split into its part of the figure."""
    palette = make_palette(check.module.num_classes, check.module.colours)
    axes = part.subplots(2, PAIRS, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    seen: set[int] = set()
    for (above, below), (name, image, labels) in zip(axes.T, pairs, strict=False):
        above.imshow(image)
        title = name if len(name) <= NAME else f"...{name[-NAME:]}"
        above.set_title(title, fontsize=8, parse_math=False)  # $ is no math
        if labels is not None:
            below.imshow(draw_overlay(image, labels, palette))
            seen |= set(np.unique(labels).tolist())
    part.suptitle(check.name, parse_math=False)
    names = dict(enumerate(check.module.class_names)) | {IGNORED: "ignored"}
    handles = [Patch(facecolor=palette[label] / 255, edgecolor="gray", label=names[label]) for label in sorted(seen)]
    if handles:
        part.legend(handles=handles, loc="outside lower center", ncols=min(10, len(handles)), fontsize=8)


def load_pairs(check: SplitCheck) -> Pairs:
    """Returns name, image and labels of a few evenly spread pairs of a split; skips pairs that cannot be read."""
    dataset, read, pairs = check.dataset, check.census.read, Pairs()
    for place in np.linspace(0, read - 1, min(read, PAIRS)).round().astype(int):
        index = check.chosen[place]
        with suppress(DataError):  # listed in the report
            image, labels = dataset.load_pair(index) if check.labelled else (dataset.load_image(index), None)
            pairs.append((dataset.name(index), thin_out(image), None if labels is None else thin_out(labels)))
    return pairs


def thin_out(pixels: np.ndarray) -> np.ndarray:
    """Subsamples an image or labels to at most `PIXELS` rows and columns."""
    step = -(-max(pixels.shape[:2]) // PIXELS)  # same step for both axes, to keep the aspect ratio
    return pixels[::step, ::step].copy()
