"""The reports of a run and of a training: one self-contained HTML page each, which loads nothing."""

import base64
import csv
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

from callbacks.report.charts import WHOLE, list_charts
from callbacks.report.figures import CURVES, LOSS_NAME, MIOU_NAME, draw_training, encode_figure, format_milliseconds
from callbacks.report.run_data import BASELINE, ImageRow, RunData, name_method
from callbacks.report.search_figure import format_value
from callbacks.run.folder import REPORT
from callbacks.run.records import write_file
from callbacks.run.settings import flatten

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
WIDE = 7.0  # inches; a wider figure gets a row of its own


def write_report(data: RunData) -> Path:
    """Writes `report.html` into a run's folder, also of an interrupted run; returns its path.

    Args:
        data: The content of the folder, see `read_run`; the page says which parts are missing.

    Raises:
        OSError: If the report cannot be written.
    """
    galleries = list_galleries(data)
    shown = dict.fromkeys(row for rows in galleries.values() for row in rows)  # each once, in order
    return write_html(
        data.folder / REPORT,
        "report.html.j2",
        run=data,
        baseline=BASELINE,
        columns=COLUMNS,
        lines=list_lines(data),
        figures=draw_figures(data),
        facts=list_facts(data),
        galleries=galleries,
        cards={row: make_card(number, data.pictures(row)) for number, row in enumerate(shown, start=1)},
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
    checkpoints = {f"checkpoints/{path.name}": f"{path.stat().st_size / 2**20:.1f} MiB" for path in paths}
    return write_html(
        folder / "training.html",
        "training.html.j2",
        losses=curves[LOSS_NAME],
        mious=curves.get(MIOU_NAME),
        figures={"Curves": [embed(draw_training(curves))]},
        facts={"Checkpoints": checkpoints or {"none": "no checkpoint in this folder"}},
    )


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Reads the curves in a CSVLogger's file as finite points (step, value) by name; empty if the file is missing."""
    if not path.is_file():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            for name in CURVES:
                if line.get("step") and line.get(name) and math.isfinite(float(line[name])):
                    curves.setdefault(name, []).append((float(line["step"]), float(line[name])))
    return {name: curves[name] for name in CURVES if name in curves}


def write_html(path: Path, template: str, **content: Any) -> Path:
    """Fills in a template, which is next to this module, with the run's configuration; returns the page's path."""
    import jinja2  # only a page needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "method": name_method,
        "number": format_decimal,
        "milliseconds": format_milliseconds,
        "value": format_value,
    }
    config = path.with_name("config.yaml")
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    page = environment.get_template(template).render(content, config=text, now=datetime.now(UTC))
    write_file(path, page.encode())
    return path


def embed(figure: Figure, caption: str = "") -> dict[str, Any]:
    """Encodes a figure as inline SVG: no namespaces or ids, text as text, black replaced by the page's text colour."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "segadapt"}):
        text = encode_figure(figure, "svg", transparent=True, metadata={"Date": None}).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href").replace("#000000", "currentColor")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids would repeat in each figure
    opening = f'<svg role="img" style="width: 100%; max-width: {figure.get_figwidth() * 96:.0f}px; height: auto"'
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', opening, text)
    return {"svg": svg, "caption": caption, "is_wide": figure.get_figwidth() > WIDE}


def list_lines(data: RunData) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the rows of the table of scores: one per domain, and last their mean if it is known."""
    lines: list[tuple[str, Mapping[str, Any]]] = [(name, domain.numbers) for name, domain in data.domains.items()]
    if len(lines) > 1 and data.mean:
        counts = {key: sum(numbers[key] for _, numbers in lines) for key in ("images", "fallbacks")}
        lines.append(("mean", data.mean | counts))
    return lines


def draw_figures(data: RunData) -> dict[str, list[dict[str, Any]]]:
    """Draws all figures of a run, grouped by section title."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, chart in list_charts(data).items():
        parts = [chart.values] if name in WHOLE else [{domain: values} for domain, values in chart.values.items()]
        groups.setdefault(chart.title, []).extend(embed(chart.draw(part), chart.caption) for part in parts)
    return groups


NO_FINGERPRINTS = ("method", "data", "class_names")  # settings shown elsewhere


def list_facts(data: RunData) -> dict[str, dict[str, Any]]:
    """Returns everything known about the origin of the results, as tables of names and values by title."""
    summary, settings = data.summary, data.settings
    groups = {
        "Run": {key: summary[key] for key in summary if key not in ("domains", "mean", "method", "data")},
        "Method": data.method or {"name": f"none: the network as trained ({BASELINE})"},
        "Data": settings["data"] if data.runs else summary.get("data"),
        "Fingerprints": {key: settings[key] for key in settings if data.runs and key not in NO_FINGERPRINTS},
        "Commands": {f"command {number}": run for number, run in enumerate(data.runs, start=1)},
    }
    return {title: flatten(values) for title, values in groups.items() if values}


def list_galleries(data: RunData) -> dict[str, list[ImageRow]]:
    """Returns the images that have pictures by title: the first, the best and the worst of each domain."""
    extremes = ("highest mean IoU", "lowest mean IoU")
    if data.has_baseline:
        extremes = ("gained most", "gained least, or lost")
    galleries = {}
    for name, domain in data.domains.items():
        galleries[f"{name}: first images"] = list(takewhile(data.pictures, domain.rows))
        for title, rows in zip(extremes, domain.rank(), strict=True):
            galleries[f"{name}: {title}"] = list(filter(data.pictures, rows))
    return {title: rows for title, rows in galleries.items() if rows}


def make_card(number: int, paths: Mapping[str, Path]) -> dict[str, Any]:
    """Returns the pictures of an image as data URIs by layer, with their size and an id."""
    with Image.open(paths["image"]) as photograph:
        width, height = photograph.size
    sources = {}
    for layer, path in paths.items():
        kind = "jpeg" if layer == "image" else "png"
        sources[layer] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"id": f"picture-{number}", "width": width, "height": height, "sources": sources}


def format_decimal(value: float | None, digits: int = 2, sign: str = "") -> str:
    """Formats a number, with a leading + if `sign` is ``+`` and it is positive, or as a dash if it is unknown."""
    return "–" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"
