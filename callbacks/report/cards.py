"""The pictures in a report: a card with a slider for each image of the gallery."""

import base64
from itertools import takewhile
from pathlib import Path
from typing import Any

from PIL import Image

from callbacks.report.page import format_number
from callbacks.report.run_data import DomainData, ImageRow, RunData

MIME = {".jpg": "image/jpeg", ".png": "image/png"}
LAYERS = ("image", "truth", "baseline", "prediction")


def list_cards(data: RunData) -> dict[str, Any]:
    """Returns what the template needs for the pictures: of each domain the first images, the best, and the worst."""
    chosen = [
        (domain.name, title, rows)
        for domain in data.domains.values()
        for title, rows in group_cards(data, domain).items()
        if rows
    ]
    paths = {row: data.pictures(row) for _, _, rows in chosen for row in rows}
    numbers = {row: f"picture-{number}" for number, row in enumerate(paths, start=1)}
    return {
        "galleries": [
            {"domain": domain, "title": title, "pictures": [make_card(row, numbers[row], paths[row]) for row in rows]}
            for domain, title, rows in chosen
        ],
        "sources": {
            numbers[row]: {layer: encode_file(files[layer]) for layer in LAYERS if layer in files}
            for row, files in paths.items()
        },
        "layers": [layer for layer in LAYERS if any(layer in files for files in paths.values())],
    }


def group_cards(data: RunData, domain: DomainData) -> dict[str, list[ImageRow]]:
    """Returns the images of a domain that have pictures, by what they are shown for."""
    best, worst = domain.rank()
    return {
        "first images": list(takewhile(data.pictures, domain.rows)),
        "gained most" if domain.has_baseline else "highest mean IoU": list(filter(data.pictures, best)),
        "gained least, or lost" if domain.has_baseline else "lowest mean IoU": list(filter(data.pictures, worst)),
    }


def encode_file(path: Path) -> str:
    """Returns a picture as a data URI."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def make_card(row: ImageRow, number: str, paths: dict[str, Path]) -> dict[str, Any]:
    """Makes the card of an image; by its number the page finds the pictures."""
    with Image.open(paths["image"]) as photograph:
        width, height = photograph.size
    scores = f"{format_number(row.miou, 1)} %"
    if row.baseline_miou is not None:
        scores = f"{format_number(row.baseline_miou, 1)} → {scores} ({format_number(row.gain, 1, '+')})"
    return {
        "id": number,
        "name": row.name,
        "width": width,
        "height": height,
        "layers": [layer for layer in LAYERS if layer in paths],
        "scores": f"mean IoU {scores}",
        "note": row.note,
    }
