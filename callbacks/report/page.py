"""The reports of a run and of a training: one self-contained HTML page each, which loads nothing."""

import base64
import csv
import io
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from callbacks.report.charts import list_charts
from callbacks.report.figures import CURVES, LOSS_NAME, MIOU_NAME, draw_training, format_milliseconds
from callbacks.report.run_data import BASELINE, DomainData, ImageRow, RunData, name_method, read_run
from callbacks.report.search_figure import format_value
from callbacks.run.folder import REPORT, SEARCH
from callbacks.run.records import write_file
from callbacks.run.settings import flatten

TRAINING_REPORT = "training.html"
COLUMNS = {  # title of each column of the table of scores: key, decimals and sign
    "mean IoU (%)": ("miou", 2, ""),
    f"{BASELINE} (%)": ("baseline_miou", 2, ""),
    "gain": ("gain", 2, "+"),
    "accuracy (%)": ("accuracy", 2, ""),
    "ECE (%)": ("ece", 2, ""),
    "class-wise ECE (%)": ("classwise_ece", 2, ""),
    "Brier": ("brier", 4, ""),
    "NLL": ("nll", 4, ""),
    "ms / image": ("ms_per_image", 1, ""),
    "images": ("images", 0, ""),
    "fallbacks": ("fallbacks", 0, ""),
    "images worse (%)": ("worse_than_baseline", 1, ""),
}
LAYERS = ("image", "truth", "baseline", "prediction")
MIME = {".jpg": "image/jpeg", ".png": "image/png"}
WIDE = 7.0  # inches; a wider figure gets a row of its own


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a results folder, also for an interrupted run.

    Args:
        folder: The folder of a test or validate run; anything but the scores may be missing, which the page then says.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: If there are no scores.
        OSError: If the report cannot be written.
    """
    data = read_run(folder)
    return write_html(
        folder / REPORT,
        "report.html.j2",
        run=data,
        baseline=BASELINE,
        columns=COLUMNS,
        lines=list_lines(data),
        search_is_spoilt=data.search is None and (folder / SEARCH).is_file(),
        figures=draw_figures(data),
        facts=list_facts(data),
        **list_cards(data),
    )


def write_training_report(folder: Path) -> Path | None:
    """Writes `training.html` into the folder of a fit run: curves, best epoch, checkpoints and configuration.

    Args:
        folder: The folder with the `metrics.csv` of Lightning's CSVLogger.

    Returns:
        The path of the report; None if the folder holds no training curves.

    Raises:
        OSError: If the report cannot be written.
    """
    curves = read_curves(folder / "metrics.csv")
    if LOSS_NAME not in curves:
        return None
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    checkpoints = {str(path.relative_to(folder)): f"{path.stat().st_size / 2**20:.1f} MiB" for path in paths}
    return write_html(
        folder / TRAINING_REPORT,
        "training.html.j2",
        losses=curves[LOSS_NAME],
        mious=curves.get(MIOU_NAME),
        figures={"Curves": [embed(draw_training(curves))]},
        facts={"Checkpoints": checkpoints or {"none": "no checkpoint in this folder"}},
    )


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Reads the curves in a CSVLogger's file as points (step, value) by name; empty if the file is missing."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line.get("step")]
    curves = {}
    for name in CURVES:
        points = [(float(line["step"]), float(line[name])) for line in lines if line.get(name)]
        curves[name] = [point for point in points if math.isfinite(point[1])]
    return {name: points for name, points in curves.items() if points}


def write_html(path: Path, template: str, **content: Any) -> Path:
    """Writes a page atomically, with the run's configuration at its end; returns its path.

    Args:
        path: Path of the page, in the run's folder.
        template: File name of the template, which is next to this module.
        content: Values that the template fills in; its first lines list them.
    """
    import jinja2  # only a page needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "method": name_method,
        "number": format_decimal,
        "milliseconds": format_milliseconds,
        "setting": describe_setting,
        "value": format_value,
    }
    config = path.with_name("config.yaml")
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    page = environment.get_template(template).render(content, config=text, now=datetime.now(UTC))
    write_file(path, page.encode())
    return path


def embed(figure: Figure, caption: str = "") -> dict[str, Any]:
    """Encodes a figure as inline SVG: no namespaces or ids, text as text, black replaced by the page's text colour."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "segadapt"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href").replace("#000000", "currentColor")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids would repeat in each figure
    opening = f'<svg role="img" style="width: 100%; max-width: {figure.get_figwidth() * 96:.0f}px; height: auto"'
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', opening, text)
    return {"svg": svg, "caption": caption, "is_wide": figure.get_figwidth() > WIDE}


def list_lines(data: RunData) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the rows of the table of scores: one per domain, and last their mean if it is known."""
    lines: list[tuple[str, Mapping[str, Any]]] = []
    for name, domain in data.domains.items():
        lines.append((name, {"fallbacks": 0, **domain.scores, **domain.numbers, "expected": domain.expected}))
    if len(lines) > 1 and data.mean["miou"] is not None:
        fallbacks = sum(numbers["fallbacks"] for _, numbers in lines)
        lines.append(("mean", {**data.mean, "images": data.images, "fallbacks": fallbacks}))
    return lines


def draw_figures(data: RunData) -> dict[str, list[dict[str, Any]]]:
    """Draws all figures of a run, grouped by section title."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for chart in list_charts(data).values():
        groups.setdefault(chart.title, []).extend(embed(figure, chart.caption) for figure in chart.draw_parts())
    return groups


def list_facts(data: RunData) -> dict[str, dict[str, Any]]:
    """Returns everything known about the origin of the results, as tables of names and values by title."""
    known = data.summary | {"complete": data.complete}
    groups = {
        "Run": {key: value for key, value in known.items() if key not in ("domains", "mean", "method", "data")},
        "Method": data.method or {"name": f"none: the network as trained ({BASELINE})"},
        "Data": data.settings.get("data") or data.summary.get("data") or {},
        "Fingerprints": {
            key: value for key, value in data.settings.items() if key not in ("method", "data", "class_names")
        },
        "Commands": {f"command {number}": run for number, run in enumerate(data.runs, start=1)},
    }
    return {title: flatten(values) for title, values in groups.items() if values}


def list_cards(data: RunData) -> dict[str, Any]:
    """Returns the template's values for the pictures: the first, the best and the worst images of each domain."""
    galleries = {
        f"{name}: {title}": rows
        for name, domain in data.domains.items()
        for title, rows in group_pictures(data, domain).items()
        if rows
    }
    files = {row: data.pictures(row) for rows in galleries.values() for row in rows}
    return {
        "galleries": galleries,
        "cards": {row: make_card(number, files[row]) for number, row in enumerate(files, start=1)},
        "layers": [layer for layer in LAYERS if any(layer in paths for paths in files.values())],
    }


def group_pictures(data: RunData, domain: DomainData) -> dict[str, list[ImageRow]]:
    """Groups the images of a domain that have pictures into first, best and worst, by title."""
    best, worst = domain.rank()
    return {
        "first images": list(takewhile(data.pictures, domain.rows)),
        "gained most" if domain.has_baseline else "highest mean IoU": list(filter(data.pictures, best)),
        "gained least, or lost" if domain.has_baseline else "lowest mean IoU": list(filter(data.pictures, worst)),
    }


def make_card(number: int, paths: Mapping[str, Path]) -> dict[str, Any]:
    """Returns the pictures of an image as data URIs by layer, with their size and an id."""
    with Image.open(paths["image"]) as photograph:
        width, height = photograph.size
    sources = {
        layer: f"data:{MIME[paths[layer].suffix]};base64,{base64.b64encode(paths[layer].read_bytes()).decode()}"
        for layer in LAYERS
        if layer in paths
    }
    return {"id": f"picture-{number}", "width": width, "height": height, "sources": sources}


def format_decimal(value: float | None, digits: int = 2, sign: str = "") -> str:
    """Formats a number, with a leading + if `sign` is ``+`` and it is positive, or as a dash if it is unknown."""
    return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def describe_setting(value: Any) -> str:
    """Formats a setting for display."""
    if value is None:
        return "none"
    return ", ".join(describe_setting(item) for item in value) if isinstance(value, list | tuple) else str(value)
