"""Logs a results folder to a Weights & Biases run: scores, charts and class masks; also works offline."""

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import wandb
from PIL import Image

from callbacks.report.charts import list_charts
from callbacks.report.figures import encode_figure, list_steps
from callbacks.report.run_data import BASELINE, ImageRow, RunData
from callbacks.report.search_figure import format_value
from lightning_modules.metrics import IGNORED

ROOT = "results"  # prefix of all keys
ORIGIN = ("commit", "selection", "method", "checkpoint", "complete", "device", "precision", "temperature")


def log_dashboard(run: Any, data: RunData) -> None:
    """Logs the scores, figures and pictures of a results folder to a run.

    Scores become summary values such as ``results/DOMAIN/miou``, with means over domains such as
    ``results/mean/miou``; the commit, the selection and the like go to the config under ``provenance``; tables and
    charts show classes, reliability bins, losses, times and the search; pictures have masks of truth, t-BN and method.

    Args:
        run: A Weights & Biases run, online or offline.
        data: The content of a results folder, see `read_run`; missing parts are left out.
    """
    origin = {key: data.summary.get(key) for key in ORIGIN} | {"images": data.images}
    run.config.update({"provenance": origin}, allow_val_change=True)
    for key, value in list_scores(data).items():
        run.summary[f"{ROOT}/{key}"] = value
    run.log({f"{ROOT}/{key}": value for key, value in (collect_charts(data) | collect_pictures(data)).items()})


def list_scores(data: RunData) -> dict[str, float]:
    """Returns the scores of each domain and their mean over domains, by ``DOMAIN/NAME``; unknown ones are left out."""
    scores: dict[str, Any] = {f"mean/{key}": value for key, value in data.mean.items()}
    for name, domain in data.domains.items():
        scores |= {f"{name}/{key}": value for key, value in domain.numbers.items()}
        scores |= {f"{name}/iou/{label}": value for label, value in domain.scores["iou"].items()}
    return {key: value for key, value in scores.items() if isinstance(value, int | float) and not math.isnan(value)}


def collect_charts(data: RunData) -> dict[str, Any]:
    """Returns all figures as pictures, and the data of most as histograms, tables or charts, by key."""
    entries: dict[str, Any] = {}
    for name, chart in list_charts(data).items():
        entries[f"{name}_figure"] = wandb.Image(Image.open(io.BytesIO(encode_figure(chart.draw(chart.values)))))
        if name in ("difference", "milliseconds"):
            entries |= {f"{name}/{domain}": wandb.Histogram(values) for domain, values in chart.values.items()}
        elif name in SHOW:
            entries |= SHOW[name](chart.values)
    return entries


def show_classes(classes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Returns the IoU per domain, class and method as a table and a bar chart; absent classes have no value."""
    rows, bars = [], []
    for domain, methods in classes.items():
        for name in next(iter(methods.values())):
            values = {label: blank_nan(iou[name]) for label, iou in methods.items()}
            rows.append([domain, name, *values.values()])
            bars += [[f"{domain}: {name} ({label})", value] for label, value in values.items() if value is not None]
    table = wandb.Table(columns=["class", "IoU (%)"], data=bars)
    return {
        "class_iou": wandb.Table(columns=["domain", "class", *methods], data=rows),
        "class_iou_bars": wandb.plot.bar(table, "class", "IoU (%)", title=f"IoU per class, {list(methods)[-1]}"),
    }


def show_bins(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a table with one row per domain and confidence bin, in percent."""
    rows = []
    for domain, summary in summaries.items():
        lines = list(zip(*(summary["reliability"][key] for key in ("pixels", "confidence", "accuracy")), strict=True))
        for number, (pixels, *shares) in enumerate(lines, start=1):
            rows.append([domain, 100 * number / len(lines), pixels, *(blank_nan(100 * share) for share in shares)])
    columns: list[str | int] = ["domain", "confidence up to (%)", "pixels", "mean confidence (%)", "accuracy (%)"]
    return {"reliability": wandb.Table(columns=columns, data=rows)}


def show_losses(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line chart of the mean loss before each step, with one line per domain."""
    means = [[float(np.mean(values)) for values in list_steps(images)] for images in losses.values()]
    title = "Loss before each step, mean over images"
    steps = [list(range(1, len(mean) + 1)) for mean in means]
    return {"loss_per_step": wandb.plot.line_series(steps, means, keys=list(losses), title=title, xname="step")}


def show_search(search: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the search on the development set as a table and, if it has only one parameter, a line chart."""
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


SHOW = {"class_iou": show_classes, "reliability": show_bins, "loss_per_step": show_losses, "search": show_search}


def collect_pictures(data: RunData) -> dict[str, Any]:
    """Returns the gallery's images with masks, by domain, and tables of all, the best and the worst of them."""
    layers = {"truth": "truth", "baseline": BASELINE, "prediction": data.label}
    if not data.has_baseline:
        del layers["baseline"]
    entries: dict[str, Any] = {}
    tables: dict[str, list[ImageRow]] = {"images": [], "best": [], "worst": []}
    for name, domain in data.domains.items():
        for rows, chosen in zip(tables.values(), (domain.rows, *domain.rank()), strict=True):
            rows += filter(data.pictures, chosen)
        entries[f"pictures/{name}"] = [mask_picture(data, row, layers) for row in domain.rows if data.pictures(row)]
    entries |= {name: tabulate_pictures(data, rows, layers) for name, rows in tables.items()}
    return entries if tables["images"] else {}


def mask_picture(data: RunData, row: ImageRow, layers: Mapping[str, str]) -> wandb.Image:
    """Returns the photograph of an image with label maps as masks, whose titles `layers` gives."""
    paths = data.pictures(row)
    labels = {**dict(enumerate(data.settings["class_names"])), IGNORED: "ignored"}
    masks = {
        title: {"mask_data": np.asarray(Image.open(paths[layer])), "class_labels": labels}
        for layer, title in layers.items()
    }
    return wandb.Image(str(paths["image"]), masks=masks or None, caption=row.name)


def tabulate_pictures(data: RunData, rows: Iterable[ImageRow], layers: Mapping[str, str]) -> wandb.Table:
    """Makes a table of image | truth | t-BN | method, as masks over the photograph, with the scores of each image."""
    scores = {"baseline_miou": f"mIoU {BASELINE}", "miou": f"mIoU {data.label}", "gain": "delta"}
    if not data.has_baseline:
        scores = {"miou": scores["miou"]}
    table = wandb.Table(columns=["domain", "name", "image", *layers.values(), *scores.values()])
    for row in rows:
        masked = [mask_picture(data, row, {layer: title}) for layer, title in layers.items()]
        values = [blank_nan(getattr(row, key)) for key in scores]
        table.add_data(row.domain, row.name, mask_picture(data, row, {}), *masked, *values)
    return table


def blank_nan(value: float) -> float | None:
    """Returns a number, or None, an empty cell of a table, for NaN."""
    return None if math.isnan(value) else value
