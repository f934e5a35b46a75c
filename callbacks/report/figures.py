"""The figures of a run, from plain values: for the report, the dashboard and the tables. Nothing here knows pyplot."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

METHOD, BASELINE = (matplotlib.colormaps["viridis"](place) for place in (0.62, 0.25))
COLOURS = (BASELINE, METHOD)  # of one or two series, the method last
WIDTH, HEIGHT = 3.6, 2.7  # inches per panel
LEFT, RIGHT, ABOVE, BELOW, FOOT = 0.62, 0.15, 0.48, 0.52, 0.28  # margins of a panel; for a legend
SMALL = 8  # points
styled = matplotlib.rc_context(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
    }
)
LOSS_NAME, RATE_NAME, MIOU_NAME = "train/loss", "train/lr", "val/miou"
LABELS = {LOSS_NAME: "training loss (nats)", RATE_NAME: "learning rate", MIOU_NAME: "mean IoU,\ndevelopment (%)"}

Values = Mapping[str, Sequence[float]]


@styled
def draw_differences(differences: Values) -> Figure:
    """Draws how many images gained and lost how much over the unadapted network, for each domain.

    Args:
        differences: By domain the mean IoU gained of each image, in points, finite.

    Source: paper, Fig. 10.
    """
    figure, panels = make_panels(list(differences))
    largest = max((abs(value) for values in differences.values() for value in values), default=1.0)
    width = choose_width(largest, 12)
    edges = (width * np.arange(-math.ceil(largest / width), math.ceil(largest / width) + 1)).tolist()
    for axes, (domain, values) in zip(panels, differences.items(), strict=True):
        worse, better = [value for value in values if value < 0], [value for value in values if value >= 0]
        for part, colour in ((worse, BASELINE), (better, METHOD)):
            axes.hist(part, bins=edges, color=colour, edgecolor="white", linewidth=0.5)
        axes.axvline(0, color="black", linewidth=1)
        share = f"{100 * len(worse) / len(values):.0f} % of {len(values)} images worse" if values else "no image"
        axes.set_title(f"{shorten(domain)}\n{share}")
        axes.set_xlabel("mean IoU gained per image (points)")
    label_counts(panels)
    return figure


@styled
def draw_domains(series: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws the mean IoU per domain as bars, one method beside the other.

    Args:
        series: By method, one or two, the unadapted network first: the mean IoU in percent by domain.
    """
    domains = list(dict.fromkeys(domain for values in series.values() for domain in values))
    figure, (axes,) = make_panels([""], width=max(WIDTH, 0.9 + 0.8 * len(domains)), foot=FOOT)
    for number, (label, values) in enumerate(series.items()):
        places, size = place_bars(number, len(series), domains)
        heights = [values.get(domain, math.nan) for domain in domains]
        bars = axes.bar(places, heights, 0.94 * size, color=COLOURS[number - len(series)], label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=1)
    axes.set_xticks(range(len(domains)), [shorten(domain, 12) for domain in domains])
    axes.set_ylabel("mean IoU (%)")
    axes.margins(y=0.12)
    if len(series) > 1:
        add_legend(figure, axes)
    return figure


@styled
def draw_classes(
    classes: Mapping[str, Mapping[str, Mapping[str, float]]], colours: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Draws the IoU per class as horizontal bars, one method beside the other, for each domain.

    Args:
        classes: By domain, by method (one or two, the unadapted network first), by class: IoU in percent, NaN where
            absent; a class that is absent from a domain with every method is left out there.
        colours: By class (R, G, B) in 0 to 255, drawn beside its name.
    """
    shown = {domain: list_present(series) for domain, series in classes.items()}
    most = max((len(series) for series in classes.values()), default=1)
    longest = max((len(names) for names in shown.values()), default=1)
    letters = max((len(shorten(name, 18)) for names in shown.values() for name in names), default=1)
    figure, panels = make_panels(
        list(classes),
        height=ABOVE + BELOW + max(1, longest) * (0.09 + 0.13 * most),
        columns=3,
        left=0.35 + 0.066 * letters,
        foot=FOOT if most > 1 else 0.0,
    )
    for axes, (domain, series) in zip(panels, classes.items(), strict=True):
        names = shown[domain]
        for number, (label, values) in enumerate(series.items()):
            places, size = place_bars(number, len(series), names)
            lengths = [values[name] for name in names]
            axes.barh(places, lengths, 0.92 * size, color=COLOURS[number - len(series)], label=label)
        axes.set_yticks(range(len(names)), [shorten(name, 18) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first class on top
        axes.set(xlim=(0, 100), xlabel="IoU (%)", title=shorten(domain))
        if colours:
            axes.tick_params(axis="y", length=0, pad=14)
            for index, name in enumerate(names):
                draw_swatch(axes, index, colours.get(name, (128, 128, 128)))
    if most > 1:
        add_legend(figure, max(panels, key=lambda axes: len(axes.containers)))
    return figure


@styled
def draw_times(milliseconds: Values) -> Figure:
    """Draws how long images took, for each domain, with a line at the median.

    Args:
        milliseconds: By domain the time of each image.
    """
    figure, panels = make_panels(list(milliseconds))
    for axes, (domain, values) in zip(panels, milliseconds.items(), strict=True):
        median = float(np.median(values))
        axes.hist(values, bins=min(30, max(5, len(values) // 3)), color=METHOD, edgecolor="white", linewidth=0.5)
        axes.axvline(median, color="black", linewidth=1, linestyle="--")
        axes.set_title(f"{shorten(domain)}\nmedian {format_milliseconds(median)} ms")
        axes.set_xlabel("time per image (ms)")
    label_counts(panels)
    return figure


@styled
def draw_losses(losses: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draws the mean loss before each step, and the band of the middle half of the images, for each domain.

    Args:
        losses: By domain, for each image the losses of its steps; images may have stopped at different steps.
    """
    figure, panels = make_panels(list(losses))
    for axes, (domain, images) in zip(panels, losses.items(), strict=True):
        mean, low, high = summarize_losses(images)
        steps = range(1, len(mean) + 1)
        axes.fill_between(steps, low, high, color=METHOD, alpha=0.3, linewidth=0, label="middle half of the images")
        axes.plot(steps, mean, color=METHOD, marker="o", markersize=3.5, label="mean")
        axes.set_title(f"{shorten(domain)}\n{sum(len(image) > 0 for image in images)} images")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss before the step (nats)", fontsize=9)
    panels[0].legend()
    return figure


def summarize_losses(images: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float]]:
    """Returns mean, lower and upper quartile of the loss before each step, over the images that took the step."""
    longest = max((len(image) for image in images), default=0)
    steps = [[image[step] for image in images if len(image) > step] for step in range(longest)]
    mean = [float(np.mean(losses)) for losses in steps]
    low, high = ([float(np.quantile(losses, share)) for losses in steps] for share in (0.25, 0.75))
    return mean, low, high


@styled
def draw_training(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draws what a training logged over its steps, one panel below the other.

    Args:
        curves: Points (step, value) by the name that Lightning logs: ``train/loss``, ``train/lr``, ``val/miou`` (the
            best of which is marked).
    """
    figure = Figure(figsize=(2 * WIDTH, 1.7 * len(curves) + 0.4), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=METHOD, linewidth=1.5, marker="o" if len(points) < 40 else None, markersize=3.5)
        axes.set_ylabel(LABELS[name], fontsize=9)
        axes.tick_params(labelsize=SMALL)
        if name == MIOU_NAME:
            step, best = place_best(points)
            axes.plot([step], [best], "*", color="black", markersize=11)
            place = {"xytext": (0, -16), "textcoords": "offset points", "ha": "center", "va": "center"}
            axes.annotate(f"{best:.1f} %", (step, best), fontsize=SMALL, **place)
    panels[-1].set_xlabel("step")
    return figure


def place_best(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the point (step, value) of the largest value, the first if several have it."""
    return max(points, key=lambda point: (point[1], -point[0]))


def place_bars(number: int, count: int, names: Sequence[str]) -> tuple[list[float], float]:
    """Returns the places and the width of the bars of a series, beside those of the others for the same names."""
    size = 0.8 / count
    return [index - 0.4 + (number + 0.5) * size for index in range(len(names))], size


def list_present(series: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the classes that have an IoU with one method or more, in order."""
    names = next(iter(series.values()))
    return [name for name in names if any(not math.isnan(values[name]) for values in series.values())]


def choose_width(largest: float, bins: int) -> float:
    """Returns a round width (1, 2 or 5 times a power of ten) of which about `bins` reach a value."""
    raw = max(largest, 1e-6) / bins
    power = 10 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def draw_swatch(axes: Axes, index: int, colour: Sequence[int]) -> None:
    """Draws the colour of a class between its name and the bars."""
    face = tuple(max(1, channel) / 255 for channel in colour)  # not quite black, which is the colour of ink
    swatch = Rectangle((-0.06, index - 0.3), 0.045, 0.6, facecolor=face, edgecolor="gray", linewidth=0.5)
    swatch.set(transform=axes.get_yaxis_transform(), clip_on=False)
    axes.add_patch(swatch)


def make_panels(
    names: Sequence[str],
    width: float = WIDTH,
    height: float = HEIGHT,
    columns: int = 4,
    left: float = LEFT,
    foot: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a panel for each name, side by side, at most `columns` in a line.

    Sizes are in inches. Margins are given: to find them out by drawing takes as long as all the rest. That at the
    `left` of each panel holds numbers or names and the label of the axis, that at the `foot` of all a legend.
    """
    columns = min(columns, len(names))
    wide, high = width * columns, height * math.ceil(len(names) / columns) + foot
    figure = Figure(figsize=(wide, high))
    panels = []
    for number in range(len(names)):
        line, column = divmod(number, columns)
        x, y = width * column + left, high - height * (line + 1) + BELOW
        size = (width - left - RIGHT, height - ABOVE - BELOW)
        axes = figure.add_axes((x / wide, y / high, size[0] / wide, size[1] / high))
        axes.tick_params(labelsize=SMALL)
        panels.append(axes)
    return figure, panels


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend of what is in these axes in the margin at the foot of a figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), borderaxespad=0.2)


def label_counts(panels: Sequence[Axes]) -> None:
    """Labels panels of which each counts images."""
    panels[0].set_ylabel("images")
    for axes in panels:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def shorten(text: str, letters: int = 40) -> str:
    """Cuts a long name, so that it fits beside or below the axes; a dollar is none that begins a formula."""
    cut = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return cut.replace("$", r"\$")


def format_milliseconds(value: float) -> str:
    """Writes a time in milliseconds: with a decimal where it counts."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
