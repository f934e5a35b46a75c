"""Writes one contact sheet per domain of the generated street scenes, and prints how often each class appears."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datamodules.labels import CITYSCAPES_COLOURS
from datamodules.scenery import DOMAINS, draw_scene
from experiments.command_line import to_path
from experiments.pages import format_markdown

MAX_BYTES = 300_000
LEGEND_ROW = 22

PALETTE = np.array(list(CITYSCAPES_COLOURS.values()), np.uint8)


def draw_legend(width: int) -> np.ndarray:
    """Draws the names and colours of the classes as a (rows, width, 3) uint8 RGB image."""
    columns = max(1, width // 160)
    rows = -(-len(CITYSCAPES_COLOURS) // columns)
    legend = np.full((rows * LEGEND_ROW + 6, width, 3), 255, np.uint8)
    for number, (name, colour) in enumerate(CITYSCAPES_COLOURS.items()):
        left, top = 8 + (number % columns) * (width // columns), 6 + (number // columns) * LEGEND_ROW
        cv2.rectangle(legend, (left, top), (left + 20, top + 13), colour, -1)
        cv2.putText(legend, name, (left + 27, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return legend


def make_sheet(domain: str, options: argparse.Namespace) -> np.ndarray:
    """Draws two scenes per row, each beside its coloured labels, and a legend below."""
    pairs = []
    for index in range(2 * options.rows):
        image, labels = draw_scene(domain, "train", index, 0, options.height, options.width)
        pairs.append(np.hstack([image, cv2.addWeighted(image, 0.35, PALETTE[labels], 0.65, 0)]))
    sheet = np.vstack([np.hstack(pairs[row : row + 2]) for row in range(0, len(pairs), 2)])
    return np.vstack([sheet, draw_legend(sheet.shape[1])])


def write_sheet(sheet: np.ndarray, path: Path) -> None:
    """Writes a JPEG file at the best quality that stays below `MAX_BYTES`."""
    for quality in range(88, 30, -6):
        encoded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(encoded) < MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())


def count_classes(domain: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of scenes that contain each class, and each class's share of pixels, at 128x256."""
    counts = np.zeros((count, len(PALETTE)))
    for index in range(count):
        _, labels = draw_scene(domain, "train", index, 0, 128, 256)
        counts[index] = np.bincount(labels.ravel(), minlength=len(PALETTE))
    return (counts > 0).mean(axis=0), counts.sum(axis=0) / counts.sum()


def print_frequencies(frequencies: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Prints a table of the percentages of scenes and of pixels with each class, per domain."""
    heads = ["class", *(f"{domain}, {what} %" for domain in frequencies for what in ("scenes", "pixels"))]
    shares = 100 * np.stack([share for pair in frequencies.values() for share in pair])
    rows = [[name, *(f"{share:.2f}" for share in own)] for name, own in zip(CITYSCAPES_COLOURS, shares.T, strict=True)]
    print(format_markdown(heads, rows, numbers=range(1, len(heads))))


def main(args: Sequence[str] | None = None) -> None:
    """Writes the sheets and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.contact_sheets", description=__doc__)
    parser.add_argument("--folder", type=to_path, default=Path("docs/scenes"), help="where to write the JPEG files")
    parser.add_argument("--rows", type=int, default=4, help="rows of two scenes each")
    parser.add_argument("--height", type=int, default=256, help="height of a scene in pixels")
    parser.add_argument("--width", type=int, default=512, help="width of a scene in pixels")
    parser.add_argument("--count", type=int, default=200, help="scenes per domain for the class frequencies; 0: skip")
    options = parser.parse_args(args)
    for domain in DOMAINS:
        path = options.folder / f"{domain}.jpg"
        write_sheet(make_sheet(domain, options), path)
        print(f"wrote {path} ({path.stat().st_size // 1000} kB)")
    if options.count:
        print_frequencies({domain: count_classes(domain, options.count) for domain in DOMAINS})


if __name__ == "__main__":
    main()
