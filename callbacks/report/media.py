"""The tables, charts and pictures of a run, as Weights & Biases shows them. Importing it loads wandb."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from PIL import Image

from callbacks.report.charts import list_charts
from callbacks.report.figures import summarize_losses
from callbacks.report.reliability import encode_figure
from callbacks.report.run_data import BASELINE, ImageRow, RunData
from callbacks.report.search_figure import format_value
from lightning_modules.metrics import IGNORED

UNLABELLED = "ignored"


def collect_media(data: RunData) -> dict[str, Any]:
    """Returns everything that a run shows beside its scores, by key."""
    charts = {chart.name: chart for chart in list_charts(data)}
    entries: dict[str, Any] = {}
    for name, chart in charts.items():
        picture = Image.open(io.BytesIO(encode_figure(chart.draw(chart.values))))
        entries[f"{name}_figure"] = wandb.Image(picture)
    for name in ("difference", "milliseconds"):
        if name in charts:
            for domain, values in charts[name].values.items():
                entries[f"{name}/{domain}"] = wandb.Histogram(values)
    if "class_iou" in charts:
        entries |= show_classes(data, charts["class_iou"].values)
    if "reliability" in charts:
        entries["reliability"] = tabulate_bins(charts["reliability"].values)
    if "loss_per_step" in charts:
        entries["loss_per_step"] = plot_losses(charts["loss_per_step"].values)
    return entries | collect_search(data.search) | collect_pictures(data)


def show_classes(data: RunData, classes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Returns the IoU by domain, method and class as a table and as a bar chart; absent classes have no number."""
    labels = [BASELINE, data.label] if data.method else [data.label]
    rows: list[list[Any]] = []
    bars: list[list[Any]] = []
    for domain, methods in classes.items():
        for name in methods[data.label]:
            values = [blank_nan(methods.get(label, {}).get(name)) for label in labels]
            rows.append([domain, name, *values])
            named = zip(labels, values, strict=True)
            bars += [[f"{domain}: {name} ({label})", value] for label, value in named if value is not None]
    table = wandb.Table(columns=["class", "IoU (%)"], data=bars)
    return {
        "class_iou": wandb.Table(columns=["domain", "class", *labels], data=rows),
        "class_iou_bars": wandb.plot.bar(table, "class", "IoU (%)", title=f"IoU per class, {data.label}"),
    }


def tabulate_bins(summaries: Mapping[str, Mapping[str, Any]]) -> wandb.Table:
    """Makes a table with a line per domain and bin of confidence, in percent."""
    rows = []
    for domain, summary in summaries.items():
        bins = summary["reliability"]
        for number, pixels in enumerate(bins["pixels"]):
            upper = 100 * (number + 1) / len(bins["pixels"])
            means = [blank_nan(bins[key][number], 100) for key in ("confidence", "accuracy")]
            rows.append([domain, upper, pixels, *means])
    columns: list[str | int] = ["domain", "confidence up to (%)", "pixels", "mean confidence (%)", "accuracy (%)"]
    return wandb.Table(columns=columns, data=rows)


def plot_losses(losses: Mapping[str, Sequence[Sequence[float]]]) -> Any:
    """Makes a line chart of the mean loss before each step, a line per domain."""
    means = [summarize_losses(images)[0] for images in losses.values()]
    return wandb.plot.line_series(
        xs=[list(range(1, len(mean) + 1)) for mean in means],
        ys=means,
        keys=list(losses),
        title="Loss before each step, mean over images",
        xname="step",
    )


def collect_search(search: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns table and chart of the search on the development set, if the run made one."""
    if search is None:
        return {}
    parameters, rows = search["parameters"], []
    for point in search["points"]:
        values = [point["values"][name] for name in parameters]
        plain = [value if isinstance(value, int | float) else format_value(value) for value in values]
        rows.append([*plain, point["miou"]])
    table = wandb.Table(columns=[*parameters, "mean IoU (%)"], data=rows, allow_mixed_types=True)
    if len(parameters) > 1:
        return {"search": table}
    line = wandb.plot.line(table, parameters[0], "mean IoU (%)", title=f"Search of {parameters[0]}")
    return {"search": table, "search_line": line}


def collect_pictures(data: RunData) -> dict[str, Any]:
    """Returns the images in the gallery with masks, by domain, and as tables: all of them, the best, and the worst."""
    entries: dict[str, Any] = {}
    tables: dict[str, list[ImageRow]] = {"images": [], "best": [], "worst": []}
    for name, domain in data.domains.items():
        shown = [row for row in domain.rows if data.pictures(row)]
        if shown:
            entries[f"pictures/{name}"] = [mask_picture(data, row, name_layers(data)) for row in shown]
        for rows, chosen in zip(tables.values(), (shown, *domain.rank()), strict=True):
            rows += filter(data.pictures, chosen)
    return entries | {name: tabulate_pictures(data, rows) for name, rows in tables.items() if rows}


def name_layers(data: RunData) -> dict[str, str]:
    """Returns the label maps of an image, and how they are called."""
    baseline = {"baseline": BASELINE} if data.method else {}
    return {"truth": "truth", **baseline, "prediction": data.label}


def mask_picture(data: RunData, row: ImageRow, layers: Mapping[str, str]) -> wandb.Image:
    """Returns the photograph of an image with the masks of those of these layers that there are."""
    paths = data.pictures(row)
    labels = {**dict(enumerate(data.class_names)), IGNORED: UNLABELLED}
    masks = {
        title: {"mask_data": read_labels(paths[layer]), "class_labels": labels}
        for layer, title in layers.items()
        if layer in paths
    }
    return wandb.Image(str(paths["image"]), masks=masks or None, caption=row.name)


def tabulate_pictures(data: RunData, rows: Iterable[ImageRow]) -> wandb.Table:
    """Makes a table of image | truth | t-BN | method, with masks over the photograph, and the scores of each image."""
    layers = name_layers(data)
    scores = ["baseline_miou", "miou", "gain"] if data.method else ["miou"]
    titles = {"baseline_miou": f"mIoU {BASELINE}", "miou": f"mIoU {data.label}", "gain": "delta"}
    table = wandb.Table(columns=["domain", "name", "image", *layers.values(), *(titles[key] for key in scores)])
    for row in rows:
        masked = [
            mask_picture(data, row, {layer: title}) if layer in data.pictures(row) else None
            for layer, title in layers.items()
        ]
        values = [blank_nan(getattr(row, key)) for key in scores]
        table.add_data(row.domain, row.name, mask_picture(data, row, {}), *masked, *values)
    return table


def blank_nan(value: float | None, factor: float = 1.0) -> float | None:
    """Returns a number times a factor, or None for NaN and None: tables leave the cell empty then."""
    return None if value is None or math.isnan(value) else factor * value


def read_labels(path: Path) -> np.ndarray:
    """Reads a label map: (H, W) uint8 train ids."""
    with Image.open(path) as picture:
        return np.asarray(picture)
