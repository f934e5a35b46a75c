"""Draws the figures of a run from plain values, for the report, the dashboard and the tables; without pyplot."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

viridis = matplotlib.colormaps["viridis"]
BASELINE, METHOD = COLOURS = (viridis(0.25), viridis(0.62))
ACCURACY, GAP, SHARE = viridis(0.3), viridis(0.9), viridis(0.5)
WIDTH, HEIGHT = 3.6, 2.7  # inches per panel
COLUMNS = 4  # maximum number of panels in a row
SMALL = 8  # font size in points
styled = matplotlib.rc_context(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
    }
)
BARS: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5}  # of histograms
LOSS_NAME, MIOU_NAME = "train/loss", "val/miou"
CURVES = {LOSS_NAME: "training loss (nats)", "train/lr": "learning rate", MIOU_NAME: "mean IoU,\ndevelopment (%)"}

Values = Mapping[str, Sequence[float]]


@styled
def draw_differences(differences: Values) -> Figure:
    """Draws histograms of the mean IoU that images gained or lost over the unadapted network, one per domain.

    Args:
        differences: By domain, the mean IoU that each image gained, in points; finite, at least one.

    Source: paper, Fig. 10.
    """
    figure, panels = make_panels(len(differences))
    largest = max(abs(value) for values in differences.values() for value in values)
    edges = MaxNLocator(24, steps=[1, 2, 5, 10]).tick_values(-largest, largest)
    for axes, (domain, values) in zip(panels, differences.items(), strict=True):
        worse, better = [value for value in values if value < 0], [value for value in values if value >= 0]
        axes.hist([worse, better], bins=edges, color=COLOURS, stacked=True, **BARS)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_title(f"{shorten(domain)}\n{100 * len(worse) / len(values):.0f} % of {len(values)} images worse")
        label_counts(axes, "mean IoU gained per image (points)")
    return figure


@styled
def draw_times(milliseconds: Values) -> Figure:
    """Draws histograms of the time per image in milliseconds with a line at the median, one per domain."""
    figure, panels = make_panels(len(milliseconds))
    for axes, (domain, values) in zip(panels, milliseconds.items(), strict=True):
        median = float(np.median(values))
        axes.hist(values, bins=min(30, max(5, len(values) // 3)), color=METHOD, **BARS)
        axes.axvline(median, color="black", linewidth=1, linestyle="--")
        axes.set_title(f"{shorten(domain)}\nmedian {format_milliseconds(median)} ms")
        label_counts(axes, "time per image (ms)")
    return figure


@styled
def draw_domains(series: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws the mean IoU in percent by method (one or two, the unadapted network first), then domain, as bars."""
    domains = list(next(iter(series.values())))
    figure, (axes,) = make_panels(1, width=max(WIDTH, 0.9 + 0.8 * len(domains)))
    size = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        places = np.arange(len(domains)) + (number - (len(series) - 1) / 2) * size
        bars = axes.bar(places, list(values.values()), 0.94 * size, color=COLOURS[number - len(series)], label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=1)
    axes.set_xticks(range(len(domains)), [shorten(domain, 12) for domain in domains])
    axes.set_ylabel("mean IoU (%)")
    axes.margins(y=0.12)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def draw_classes(
    classes: Mapping[str, Mapping[str, Mapping[str, float]]], colours: Mapping[str, Sequence[int]]
) -> Figure:
    """Draws the IoU per class as horizontal bars, with the methods side by side, in one panel per domain.

    Args:
        classes: IoU in percent by domain, then method (one or two, the unadapted network first), then class; NaN if
            absent. A class that is NaN for every method of a domain is left out there.
        colours: (R, G, B) in 0 to 255 by class, drawn next to the class name.
    """
    shown = {
        domain: [name for name in colours if not all(math.isnan(values[name]) for values in series.values())]
        for domain, series in classes.items()
    }
    methods = max(len(series) for series in classes.values())
    height = 1 + max(1, *map(len, shown.values())) * (0.09 + 0.13 * methods)
    figure, panels = make_panels(len(classes), columns=3, height=height)
    for axes, (domain, series) in zip(panels, classes.items(), strict=True):
        names, size = shown[domain], 0.8 / len(series)
        for number, (label, values) in enumerate(series.items()):
            places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * size
            lengths = [values[name] for name in names]
            axes.barh(places, lengths, 0.92 * size, color=COLOURS[number - len(series)], label=label)
        axes.set_yticks(range(len(names)), [shorten(name, 18) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first class on top
        axes.set(xlim=(0, 100), xlabel="IoU (%)", title=shorten(domain))
        axes.tick_params(axis="y", length=0, pad=14)
        faces = [[max(1, channel) / 255 for channel in colours[name]] for name in names]  # the page recolours 0, 0, 0
        swatches = axes.scatter([-0.04] * len(names), range(len(names)), 60, faces, marker="s", edgecolors="gray")
        swatches.set(linewidth=0.5, offset_transform=axes.get_yaxis_transform(), clip_on=False)
    if methods > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def draw_losses(losses: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draws the mean loss before each step with the interquartile range over images, in one panel per domain.

    Args:
        losses: By domain, the losses of each image before its steps, in nats; the number of steps may vary.
    """
    figure, panels = make_panels(len(losses))
    for axes, (domain, images) in zip(panels, losses.items(), strict=True):
        steps = list_steps(images)
        numbers = range(1, len(steps) + 1)
        low, high = ([np.quantile(values, share) for values in steps] for share in (0.25, 0.75))
        axes.fill_between(numbers, low, high, color=METHOD, alpha=0.3, linewidth=0, label="interquartile range")
        means = [float(np.mean(values)) for values in steps]
        axes.plot(numbers, means, "o-", color=METHOD, markersize=3.5, label="mean")
        axes.set_title(f"{shorten(domain)}\n{sum(len(image) > 0 for image in images)} images")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss before the step (nats)", fontsize=9)
    panels[0].legend()
    return figure


def list_steps(images: Sequence[Sequence[float]]) -> list[list[float]]:
    """Returns, for each step, the losses before it of all images that took it."""
    return [[loss for loss in losses if loss is not None] for losses in zip_longest(*images)]


def is_scored(summary: Mapping[str, Any]) -> bool:
    """Returns whether a domain has labelled pixels."""
    return any(summary["reliability"]["pixels"])


@styled
def draw_reliability(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws accuracy over confidence, and the share of pixels per bin, for each domain.

    Args:
        summaries: By domain, ``ece`` in percent and ``reliability`` (see `Scores.summarize`), as in results.json.
            Domains without labelled pixels are left out; at least one must have some.

    Returns:
        The figure, with two axes per domain: accuracy, then shares.

    Source: Guo et al. (2017), Sec. 2 and Fig. 1; paper, Sec. 5 (ECE).
    """
    scored = {domain: summary for domain, summary in summaries.items() if is_scored(summary)}
    columns, lines = min(len(scored), COLUMNS), math.ceil(len(scored) / COLUMNS)
    figure = Figure((2.9 * columns + 0.4, 3.6 * lines + 0.8), layout="constrained")
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[3, 1] * lines)
    for number, (domain, summary) in enumerate(scored.items()):
        line, column = divmod(number, COLUMNS)
        accuracy = figure.add_subplot(grid[2 * line, column])
        share = figure.add_subplot(grid[2 * line + 1, column], sharex=accuracy)
        draw_bins(accuracy, share, summary["reliability"])
        accuracy.set_title(f"{shorten(domain)}\nECE {summary['ece']:.1f} %")
        if column == 0:
            accuracy.set_ylabel("accuracy (%)")
            share.set_ylabel("pixels (%)")
    marks = figure.axes[0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=1 if columns == 1 else 3)  # 3 are wider than one domain
    return figure


def draw_bins(accuracy: Axes, share: Axes, reliability: Mapping[str, list[Any]]) -> None:
    """Draws the reliability of one domain, in percent: accuracy and its gap to the confidence, and shares of pixels."""
    pixels = np.array(reliability["pixels"])
    filled = np.flatnonzero(pixels)
    right, confident = (100 * np.array(reliability[key], dtype=float)[filled] for key in ("accuracy", "confidence"))
    width = 100 / len(pixels)
    places = (filled + 0.5) * width
    accuracy.bar(places, right, 0.92 * width, color=ACCURACY, label="accuracy")
    gap = accuracy.bar(places, confident - right, 0.92 * width, bottom=right, label="gap to the mean confidence")
    for bar in gap:
        bar.set(facecolor=(*GAP[:3], 0.35), edgecolor=GAP, hatch="////")
    accuracy.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="perfect calibration")
    accuracy.set(xlim=(0, 100), ylim=(0, 100))
    accuracy.tick_params(labelbottom=False)
    share.bar(places, 100 * pixels[filled] / pixels.sum(), 0.92 * width, color=SHARE)
    share.set_xlabel("confidence (%)")


@styled
def draw_training(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draws curves of a training run, points (step, value) by a name of `CURVES`, and marks the best mIoU."""
    figure, panels = make_panels(len(curves), columns=1, width=2 * WIDTH, height=1.8)
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        axes.sharex(panels[0])
        marker = "o" if len(points) < 40 else None
        axes.plot(*zip(*points, strict=True), color=METHOD, linewidth=1.5, marker=marker, markersize=3.5)
        axes.set_ylabel(CURVES[name], fontsize=9)
        if name == MIOU_NAME:
            step, best = max(points, key=lambda point: point[1])
            axes.plot([step], [best], "*", color="black", markersize=11)
            axes.annotate(
                f"{best:.1f} %", (step, best), (0, -16), textcoords="offset points", ha="center", fontsize=SMALL
            )
    panels[-1].set_xlabel("step")
    return figure


def make_panels(
    count: int, columns: int = COLUMNS, width: float = WIDTH, height: float = HEIGHT
) -> tuple[Figure, list[Axes]]:
    """Makes a figure of panels, `width` times `height` inches each, at most `columns` in a row."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    figure = Figure((width * columns, height * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, number) for number in range(1, count + 1)]


def label_counts(axes: Axes, label: str) -> None:
    """Labels the axes of a histogram of images."""
    axes.set(xlabel=label, ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def shorten(text: str, letters: int = 40) -> str:
    """Truncates a long name to fit next to the axes, and escapes dollar signs, which would begin a formula."""
    cut = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return cut.replace("$", r"\$")


def format_milliseconds(value: float) -> str:
    """Formats a time in milliseconds, with one decimal below 100."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def encode_figure(figure: Figure, kind: str = "png", dpi: int = 120, **options: Any) -> bytes:
    """Encodes a figure as PNG or SVG, with options of `Figure.savefig`."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, **options)
    return file.getvalue()
