"""What a Weights & Biases run shows of a results folder: scores, charts, class masks; all of it works offline."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from matplotlib.figure import Figure
from PIL import Image

from callbacks.report.figures import (
    draw_classes,
    draw_differences,
    draw_domains,
    draw_losses,
    draw_search,
    draw_times,
    format_value,
    summarize_losses,
)
from callbacks.report.reliability import draw_reliability, encode_figure
from callbacks.report.run_data import BASELINE, SCORES, ImageRow, RunData, read_run
from lightning_modules.metrics import IGNORED

ROOT = "results"  # all keys begin with it
ORIGIN = "provenance"  # in the config, where ``results`` holds the arguments of the run
UNLABELLED = "ignored"
LAYERS = ("truth", "baseline", "prediction")


def log_dashboard(run: Any, folder: Path, class_names: Sequence[str] | None = None) -> None:
    """Logs the scores, figures and pictures of a results folder to a run.

    Scores are summary values ``results/DOMAIN/miou`` and so on, of all domains ``results/mean/miou``; commit and
    selection are in the config; tables hold classes, bins of reliability, losses and times; the pictures come with
    masks of truth, t-BN and method.

    Args:
        run: A run of Weights & Biases, offline or not.
        folder: Of a test or validate run; what is missing in there is left out.
        class_names: K names; those in the folder if None.

    Raises:
        FileNotFoundError: If there are no scores in the folder.
    """
    data = read_run(folder)
    if class_names is not None and len(class_names) == len(data.class_names):
        data.class_names = list(class_names)
    run.config.update(describe_origin(data), allow_val_change=True)
    for key, value in list_scores(data).items():
        run.summary[f"{ROOT}/{key}"] = value
    entries = {**collect_charts(data), **collect_pictures(data), **collect_search(data)}
    if entries:
        run.log({f"{ROOT}/{key}": value for key, value in entries.items()})


def describe_origin(data: RunData) -> dict[str, Any]:
    """Returns what the config of the run says about code, choice and method."""
    keys = ("commit", "selection", "method", "checkpoint", "complete", "device", "precision", "temperature")
    return {ORIGIN: {key: data.summary.get(key) for key in keys} | {"images": data.images}}


def list_scores(data: RunData) -> dict[str, float]:
    """Returns the scores of each domain and their mean over domains, by ``DOMAIN/NAME``; what is not known is absent.

    Percentages are in percent, gains in points, times in milliseconds.
    """
    scores: dict[str, float | None] = {}
    extra = {}
    for name, domain in data.domains.items():
        extra[name] = {
            "baseline_miou": domain.baseline["miou"] if domain.baseline else None,
            "gain": domain.gain,
            "worse_than_baseline": domain.worse,
        }
        values = {**{key: domain.scores.get(key) for key in SCORES}, **extra[name]}
        scores |= {f"{name}/{key}": value for key, value in values.items()}
        scores |= {f"{name}/iou/{label}": value for label, value in domain.scores["iou"].items()}
        scores |= {f"{name}/images": domain.scores["images"], f"{name}/fallbacks": domain.scores.get("fallbacks")}
    for key in SCORES:
        scores[f"mean/{key}"] = data.average({name: domain.scores.get(key) for name, domain in data.domains.items()})
    for key in ("baseline_miou", "gain", "worse_than_baseline"):
        scores[f"mean/{key}"] = data.average({name: values[key] for name, values in extra.items()})
    return {key: value for key, value in scores.items() if value is not None and value == value}  # NaN is not itself


def collect_charts(data: RunData) -> dict[str, Any]:
    """Returns tables, histograms and figures of the scores."""
    entries: dict[str, Any] = {}
    domains = data.domains
    series = {name: data.compare_classes(domain) for name, domain in domains.items()}
    if domains:
        entries["class_iou"] = tabulate_classes(data, series)
        entries["class_iou_bars"] = wandb.plot.bar(
            tabulate_bars(series), "class", "IoU (%)", title=f"IoU per class, {data.label}"
        )
        entries["class_iou_figure"] = show(draw_classes(series, data.colours))
        entries["miou_figure"] = show(draw_domains(data.compare_domains()))
    reliability = {
        name: domain.scores
        for name, domain in domains.items()
        if sum(domain.scores.get("reliability", {}).get("pixels", []))
    }
    if reliability:
        entries["reliability"] = tabulate_bins(reliability)
        entries["reliability_figure"] = show(draw_reliability(reliability))
    differences = {name: domain.differences for name, domain in domains.items() if domain.differences}
    for name, values in differences.items():
        entries[f"difference/{name}"] = wandb.Histogram(values)
    if differences:
        entries["difference_figure"] = show(draw_differences(differences))
    times = {name: [row.milliseconds for row in domain.rows] for name, domain in domains.items() if domain.rows}
    for name, values in times.items():
        entries[f"milliseconds/{name}"] = wandb.Histogram(values)
    if times:
        entries["milliseconds_figure"] = show(draw_times(times))
    losses = {name: [row.losses for row in domain.rows if row.losses] for name, domain in domains.items()}
    losses = {name: images for name, images in losses.items() if images}
    if losses:
        entries["loss_per_step"] = plot_losses(losses)
        entries["loss_per_step_figure"] = show(draw_losses(losses))
    return entries


def tabulate_classes(data: RunData, series: Mapping[str, Mapping[str, Mapping[str, float]]]) -> wandb.Table:
    """Makes a table with a line per domain and class; absent classes have no number."""
    rows = []
    for domain, methods in series.items():
        for name in methods[data.label]:
            values = [blank_nan(methods.get(label, {}).get(name)) for label in (BASELINE, data.label)]
            rows.append([domain, name, *(values if data.method else values[1:])])
    columns: list[str | int] = ["domain", "class", *([BASELINE, data.label] if data.method else [data.label])]
    return wandb.Table(columns=columns, data=rows)


def tabulate_bars(series: Mapping[str, Mapping[str, Mapping[str, float]]]) -> wandb.Table:
    """Makes the table of a bar chart: one bar per domain, class and method, without absent classes."""
    rows = [
        [f"{domain}: {name} ({label})", value]
        for domain, methods in series.items()
        for name in next(iter(methods.values()))
        for label, values in methods.items()
        if blank_nan(value := values.get(name)) is not None
    ]
    return wandb.Table(columns=["class", "IoU (%)"], data=rows)


def tabulate_bins(summaries: Mapping[str, Mapping[str, Any]]) -> wandb.Table:
    """Makes a table with a line per domain and bin of confidence, in percent."""
    rows = []
    for domain, summary in summaries.items():
        bins = summary["reliability"]
        count = len(bins["pixels"])
        for number, pixels in enumerate(bins["pixels"]):
            upper = 100 * (number + 1) / count
            values = [blank_nan(bins[key][number], 100) for key in ("confidence", "accuracy")]
            rows.append([domain, upper, pixels, *values])
    columns: list[str | int] = ["domain", "confidence up to (%)", "pixels", "mean confidence (%)", "accuracy (%)"]
    return wandb.Table(columns=columns, data=rows)


def plot_losses(losses: Mapping[str, Sequence[Sequence[float]]]) -> Any:
    """Makes a line chart of the mean loss before each step, a line per domain."""
    summaries = {name: summarize_losses(images) for name, images in losses.items()}
    return wandb.plot.line_series(
        xs=[steps for _, _, _, steps in summaries.values()],
        ys=[mean for mean, _, _, _ in summaries.values()],
        keys=list(summaries),
        title="Loss before each step, mean over images",
        xname="step",
    )


def collect_pictures(data: RunData) -> dict[str, Any]:
    """Returns the images in the gallery with masks, by domain, and as tables: all of them, the best, and the worst."""
    entries: dict[str, Any] = {}
    ranked = [domain.rank() for domain in data.domains.values()]
    every = [row for domain in data.domains.values() for row in domain.rows]
    for domain in data.domains.values():
        pictures = [mask_picture(data, row, LAYERS) for row in domain.rows if data.pictures(row)]
        if pictures:
            entries[f"pictures/{domain.name}"] = pictures
    sets = {
        "images": every,
        "best": [row for best, _ in ranked for row in best],
        "worst": [row for _, worst in ranked for row in worst],
    }
    for name, rows in sets.items():
        shown = [row for row in rows if data.pictures(row)]
        if shown:
            entries[name] = tabulate_pictures(data, shown)
    return entries


def mask_picture(data: RunData, row: ImageRow, layers: Sequence[str]) -> wandb.Image:
    """Returns the photograph of an image with the masks of those of these layers that there are."""
    paths, titles = data.pictures(row), {"truth": "truth", "baseline": BASELINE, "prediction": data.label}
    labels = {**dict(enumerate(data.class_names)), IGNORED: UNLABELLED}
    masks = {
        titles[layer]: {"mask_data": read_labels(paths[layer]), "class_labels": labels}
        for layer in layers
        if layer in paths
    }
    return wandb.Image(str(paths["image"]), masks=masks or None, caption=row.name)


def tabulate_pictures(data: RunData, rows: Iterable[ImageRow]) -> wandb.Table:
    """Makes a table of image | truth | t-BN | method, with masks over the photograph, and the scores of each image."""
    layers = LAYERS if data.method else ("truth", "prediction")
    titles = [BASELINE, data.label] if data.method else [data.label]
    scores = [f"mIoU {BASELINE}", f"mIoU {data.label}", "delta"] if data.method else [f"mIoU {data.label}"]
    table = wandb.Table(columns=["domain", "name", "image", "truth", *titles, *scores])
    for row in rows:
        paths = data.pictures(row)
        masked = [mask_picture(data, row, [layer]) if layer in paths else None for layer in layers]
        values = [blank_nan(value) for value in (row.baseline_miou, row.miou, row.difference)]
        values = values if data.method else values[1:2]
        table.add_data(row.domain, row.name, mask_picture(data, row, []), *masked, *values)
    return table


def collect_search(data: RunData) -> dict[str, Any]:
    """Returns table and chart of the search on the development set, if the run made one."""
    if data.search is None:
        return {}
    parameters, points = data.search["parameters"], data.search["points"]
    rows = [[*(point["values"][name] for name in parameters), blank_nan(point["miou"])] for point in points]
    plain = [[value if isinstance(value, int | float) else format_value(value) for value in row] for row in rows]
    table = wandb.Table(columns=[*parameters, "mean IoU (%)"], data=plain, allow_mixed_types=True)
    entries: dict[str, Any] = {"search": table, "search_figure": show(draw_search(data.search))}
    if len(parameters) == 1:
        entries["search_line"] = wandb.plot.line(
            table, parameters[0], "mean IoU (%)", title=f"Search of {parameters[0]}"
        )
    return entries


def show(figure: Figure) -> wandb.Image:
    """Turns a figure into a picture of a run."""
    return wandb.Image(Image.open(io.BytesIO(encode_figure(figure))))


def blank_nan(value: float | None, factor: float = 1.0) -> float | None:
    """Returns a number times a factor, or None for NaN and None: tables leave the cell empty then."""
    return None if value is None or np.isnan(value) else factor * value


def read_labels(path: Path) -> np.ndarray:
    """Reads a label map: (H, W) uint8 train ids."""
    with Image.open(path) as picture:
        return np.asarray(picture)
