"""How large a report is and how fast it opens: reports with many pictures of generated scenes, in headless Chromium.

Time is measured in the page, from asking for it until every picture in view is decoded; the page is opened at its
pictures. Then all pictures are scrolled through. The predictions are the truth with smooth noise.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.gallery import Gallery
from callbacks.panels import make_palette
from callbacks.records import write_manifest
from callbacks.report import REPORT, write_report
from callbacks.run_folder import MANIFEST, RECORDS
from callbacks.views import IMAGENET
from datamodules.labels import LabelSpace
from datamodules.scenery import draw_scene
from experiments.browser import open_browser, open_page, wait_for_pictures
from experiments.command_line import to_path
from experiments.comparison import name_machine
from lightning_modules.metrics import IGNORED, score_image

DOMAINS = ("haze", "dusk")
SIZES = ("128x256", "512x1024")
OPENINGS = 5  # of which the median counts
NOISE = {"baseline": 2.2, "prediction": 1.7}  # of the logits, against 4 for the truth
COARSE = 16  # pixels per cell of noise
SCROLL = """
const done = arguments[0];
(async () => {
  for (const card of document.querySelectorAll(".pair")) {
    card.scrollIntoView({ behavior: "instant" });
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
  }
  const images = [...document.querySelectorAll(".pair img")];
  while (!images.every((image) => image.complete && image.naturalWidth > 0)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  done(images.length);
})();
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report_speed", description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="HxW", help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=100, help="in the gallery, over both domains")
    parser.add_argument("--folder", type=to_path, help="where the reports stay; a temporary folder if not given")
    return parser.parse_args(arguments)


def parse_size(text: str) -> tuple[int, int]:
    """Reads a size such as 512x1024 as (height, width).

    Raises:
        ValueError: If it is none.
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"the size is {text!r}: expected HEIGHTxWIDTH in pixels, e.g. 512x1024")
    return int(parts[0]), int(parts[1])


def write_folder(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Writes records and a gallery of generated scenes, all of them among the first images.

    Args:
        folder: New.
        images: Over both domains.
        size: (height, width).
    """
    labels, generator = LabelSpace.of_size(19), torch.Generator().manual_seed(0)
    palette = make_palette(19, labels.colours)
    gallery = Gallery(folder, images)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"method": {"name": "less noise"}, "class_names": list(labels.names)}
    write_manifest(folder / MANIFEST, {"settings": settings, "runs": []})
    with (folder / RECORDS).open("w", encoding="utf-8") as file:
        for number in range(images):
            domain, name = DOMAINS[number % len(DOMAINS)], f"scene_{number:03d}"
            pixels, train_ids = draw_scene(domain, "test", number, 0, *size)
            truth = torch.from_numpy(train_ids).long()
            image = IMAGENET.apply(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
            guesses = {layer: disturb(truth, noise, generator) for layer, noise in NOISE.items()}
            record: dict[str, Any] = {"domain": domain, "name": name, "milliseconds": 1.0, "adaptation": None}
            record |= score_image(guesses["prediction"], truth).to_record()
            record["baseline"] = score_image(guesses["baseline"], truth).to_record()
            file.write(json.dumps(record) + "\n")
            gallery.add(domain, name, 0.0, image, truth, guesses["baseline"], guesses["prediction"], palette)


def disturb(truth: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Makes (19, H, W) probabilities of (H, W) labels with smooth noise on the logits."""
    certain = 4.0 * F.one_hot(truth.where(truth != IGNORED, 0), 19).permute(2, 0, 1)
    height, width = truth.shape
    coarse = torch.randn(1, 19, height // COARSE, width // COARSE, generator=generator)
    return (certain + noise * F.interpolate(coarse, (height, width), mode="bilinear")[0]).softmax(dim=0)


def measure(path: Path) -> dict[str, float]:
    """Opens a report several times; returns median milliseconds and, once, those of scrolling through all pictures."""
    opened = []
    for _ in range(OPENINGS):
        with open_browser() as driver:  # a new one each time: nothing is in its memory
            open_page(driver, path, "pictures")
            opened.append(wait_for_pictures(driver))
    with open_browser() as driver:
        open_page(driver, path, "pictures")
        wait_for_pictures(driver)
        driver.set_script_timeout(300)
        start = time.perf_counter()
        driver.execute_async_script(SCROLL)
        scrolled = 1000 * (time.perf_counter() - start)
    return {"open": median(opened), "scroll": scrolled}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes and measures a report for each size; prints a table in Markdown."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{name_machine()}\n")
        print("| images | size | report (MB) | writing it (s) | until pictures in view (ms) | through all (ms) |")
        print("|---|---|---|---|---|---|", flush=True)
        for text in options.sizes:
            folder = (options.folder or Path(temporary)) / text
            write_folder(folder, options.images, parse_size(text))
            start = time.perf_counter()
            path = write_report(folder)
            seconds = time.perf_counter() - start
            times = measure(path)
            megabytes = (folder / REPORT).stat().st_size / 1e6
            numbers = f"{megabytes:.1f} | {seconds:.1f} | {times['open']:.0f} | {times['scroll']:.0f}"
            print(f"| {options.images} | {text} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
