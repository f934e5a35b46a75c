"""The pictures in a report: a card with a slider for each image of the gallery."""

from typing import Any

from PIL import Image

from callbacks.report.page import Page, encode_file, format_number, format_signed
from callbacks.report.run_data import ImageRow, RunData

LAYERS = ("image", "truth", "baseline", "prediction")


def add_pictures(page: Page, data: RunData) -> None:
    """Fills in the galleries: of each domain the first images, the best, and the worst."""
    sections = []
    for domain in data.domains.values():
        best, worst = domain.rank()
        first = []
        for row in domain.rows:
            if not data.pictures(row):
                break
            first.append(row)
        relative = domain.baseline is not None
        sections += [
            (domain, "first images", first),
            (domain, "gained most" if relative else "highest mean IoU", best),
            (domain, "gained least, or lost" if relative else "lowest mean IoU", worst),
        ]
    seen: dict[tuple[str, str], str] = {}
    for domain, title, rows in sections:
        pictures = [show_picture(data, row, seen) for row in rows if data.pictures(row)]
        if pictures:
            page.galleries.append({"domain": domain.name, "title": title, "pictures": pictures})
    shown = [picture for gallery in page.galleries for picture in gallery["pictures"]]
    page.layers = [layer for layer in LAYERS if any(layer in picture["layers"] for picture in shown)]
    page.left = "baseline" if "baseline" in page.layers else "image"


def show_picture(data: RunData, row: ImageRow, seen: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Makes the card of an image; the first of its cards holds the pictures.

    Args:
        data: Of the run.
        row: Of the image.
        seen: The number of each image that has a card already; gets this one.
    """
    paths = data.pictures(row)
    key = (row.domain, row.name)
    sources = {} if key in seen else {layer: encode_file(paths[layer]) for layer in LAYERS if layer in paths}
    number = seen.setdefault(key, f"picture-{len(seen) + 1}")
    with Image.open(paths["image"]) as photograph:
        width, height = photograph.size
    scores = f"mean IoU {format_number(row.miou, 1)} %"
    if row.baseline_miou is not None:
        before = format_number(row.baseline_miou, 1)
        scores = f"mean IoU {before} → {format_number(row.miou, 1)} % ({format_signed(row.difference, 1)})"
    return {
        "id": number,
        "name": row.name,
        "width": width,
        "height": height,
        "layers": [layer for layer in LAYERS if layer in paths],
        "left": "baseline" if "baseline" in paths else "image",
        "right": "prediction",
        "scores": scores,
        "note": row.note or "",
        "sources": sources,
    }
