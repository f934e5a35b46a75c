"""The figures of a run, from plain values: for the report, the dashboard and the tables. Nothing here knows pyplot."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

METHOD, BASELINE = (matplotlib.colormaps["viridis"](place) for place in (0.62, 0.25))
OTHERS = [matplotlib.colormaps["viridis"](place) for place in (0.85, 0.45, 0.05)]  # of a third series and more
WIDTH, HEIGHT = 3.6, 2.7  # inches per panel
LEFT, RIGHT, ABOVE, BELOW, FOOT = 0.62, 0.15, 0.48, 0.52, 0.28  # margins of a panel; for a legend
SMALL = 8  # points
LOSS_NAME, RATE_NAME, MIOU_NAME = "train/loss", "train/lr", "val/miou"
LABELS = {LOSS_NAME: "training loss (nats)", RATE_NAME: "learning rate", MIOU_NAME: "mean IoU,\ndevelopment (%)"}

Values = Mapping[str, Sequence[float]]


def draw_differences(differences: Values) -> Figure:
    """Draws how many images gained and lost how much over the unadapted network, for each domain.

    Args:
        differences: By domain the mean IoU gained of each image, in points, finite.

    Source: paper, Fig. 10.
    """
    figure, panels = make_panels(list(differences))
    largest = max((abs(value) for values in differences.values() for value in values), default=1.0)
    width = choose_width(largest, 12)
    edges = width * np.arange(-math.ceil(largest / width), math.ceil(largest / width) + 1)
    for axes, (domain, values) in zip(panels, differences.items(), strict=True):
        worse = sum(value < 0 for value in values)
        for part, colour, label in (
            ([value for value in values if value < 0], BASELINE, "worse"),
            ([value for value in values if value >= 0], METHOD, "as good or better"),
        ):
            axes.hist(part, bins=edges.tolist(), color=colour, label=label, edgecolor="white", linewidth=0.5)
        axes.axvline(0, color="black", linewidth=1)
        share = f"{100 * worse / len(values):.0f} % of {len(values)} images worse" if values else "no image"
        axes.set_title(f"{shorten(domain, 40)}\n{share}", fontsize=10)
        axes.set_xlabel("mean IoU gained per image (points)")
    label_counts(panels)
    return figure


def draw_domains(series: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws the mean IoU per domain as bars, one method beside the other.

    Args:
        series: By method (the unadapted network first, if it is there) the mean IoU in percent by domain.
    """
    domains = list(dict.fromkeys(domain for values in series.values() for domain in values))
    figure, (axes,) = make_panels([""], width=max(WIDTH, 0.9 + 0.8 * len(domains)), foot=FOOT)
    width = 0.8 / len(series)
    for number, (label, values) in enumerate(series.items()):
        places = [index - 0.4 + (number + 0.5) * width for index in range(len(domains))]
        heights = [values.get(domain, math.nan) for domain in domains]
        bars = axes.bar(places, heights, 0.94 * width, color=choose_colour(number, len(series)), label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=1)
    axes.set_xticks(range(len(domains)), [shorten(domain, 12) for domain in domains])
    axes.set_ylabel("mean IoU (%)")
    axes.margins(y=0.12)
    if len(series) > 1:
        add_legend(figure, axes, len(series))
    return figure


def draw_classes(
    classes: Mapping[str, Mapping[str, Mapping[str, float]]], colours: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Draws the IoU per class as horizontal bars, one method beside the other, for each domain.

    Args:
        classes: By domain, by method (the unadapted network first), by class: IoU in percent, NaN where absent; a class
            that is absent from a domain with every method is left out there.
        colours: By class (R, G, B) in 0 to 255, drawn beside its name.
    """
    shown = {domain: list_present(series) for domain, series in classes.items()}
    longest = max((len(names) for names in shown.values()), default=1)
    most = max((len(series) for series in classes.values()), default=1)
    height = ABOVE + BELOW + max(1, longest) * (0.09 + 0.13 * most)
    letters = max((len(shorten(name, 18)) for names in shown.values() for name in names), default=1)
    foot = FOOT if most > 1 else 0.0
    figure, panels = make_panels(list(classes), height=height, columns=3, left=0.35 + 0.066 * letters, foot=foot)
    for axes, (domain, series) in zip(panels, classes.items(), strict=True):
        names, size = shown[domain], 0.8 / len(series)
        for number, (label, values) in enumerate(series.items()):
            places = [index - 0.4 + (number + 0.5) * size for index in range(len(names))]
            lengths = [values.get(name, math.nan) for name in names]
            axes.barh(places, lengths, 0.92 * size, color=choose_colour(number, len(series)), label=label)
        axes.set_yticks(range(len(names)), [shorten(name, 18) for name in names], fontsize=SMALL)
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first class on top
        axes.set(xlim=(0, 100), xlabel="IoU (%)")
        axes.set_title(shorten(domain, 40), fontsize=10)
        if colours:
            axes.tick_params(axis="y", length=0, pad=14)
            for index, name in enumerate(names):
                draw_swatch(axes, index, colours.get(name, (128, 128, 128)))
    if most > 1:
        add_legend(figure, max(panels, key=lambda axes: len(axes.containers)), most)
    return figure


def draw_times(milliseconds: Values) -> Figure:
    """Draws how long images took, for each domain, with a line at the median.

    Args:
        milliseconds: By domain the time of each image.
    """
    figure, panels = make_panels(list(milliseconds))
    for axes, (domain, values) in zip(panels, milliseconds.items(), strict=True):
        median = float(np.median(values)) if len(values) else math.nan
        axes.hist(values, bins=min(30, max(5, len(values) // 3)), color=METHOD, edgecolor="white", linewidth=0.5)
        axes.axvline(median, color="black", linewidth=1, linestyle="--")
        axes.set_title(f"{shorten(domain, 40)}\nmedian {format_milliseconds(median)} ms", fontsize=10)
        axes.set_xlabel("time per image (ms)")
    label_counts(panels)
    return figure


def draw_losses(losses: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draws the mean loss before each step, and the band of the middle half of the images, for each domain.

    Args:
        losses: By domain, for each image the losses of its steps; images may have stopped at different steps.
    """
    figure, panels = make_panels(list(losses))
    for axes, (domain, images) in zip(panels, losses.items(), strict=True):
        mean, low, high, steps = summarize_losses(images)
        axes.fill_between(steps, low, high, color=METHOD, alpha=0.3, linewidth=0, label="middle half of the images")
        axes.plot(steps, mean, color=METHOD, marker="o", markersize=3.5, label="mean")
        axes.set_title(f"{shorten(domain, 40)}\n{sum(len(image) > 0 for image in images)} images", fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss before the step (nats)", fontsize=9)
    panels[0].legend(fontsize=SMALL, frameon=False)
    return figure


def summarize_losses(images: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float], list[int]]:
    """Returns mean, lower and upper quartile of the loss over the images that took a step, and the steps from 1."""
    longest = max((len(image) for image in images), default=0)
    columns = [[image[step] for image in images if len(image) > step] for step in range(longest)]
    mean = [float(np.mean(column)) for column in columns]
    low, high = ([float(np.quantile(column, share)) for column in columns] for share in (0.25, 0.75))
    return mean, low, high, list(range(1, longest + 1))


def draw_training(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draws what a training logged over its steps, one panel below the other.

    Args:
        curves: Points (step, value) by the name that Lightning logs: ``train/loss``, ``train/lr``, ``val/miou`` (the
            best of which is marked), or any other.
    """
    figure = Figure(figsize=(2 * WIDTH, 1.7 * max(1, len(curves)) + 0.4), layout="constrained")
    panels = figure.subplots(max(1, len(curves)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, curves.items(), strict=False):
        steps, values = [step for step, _ in points], [value for _, value in points]
        tidy(axes)
        axes.plot(steps, values, color=METHOD, linewidth=1.5, marker="o" if len(points) < 40 else None, markersize=3.5)
        axes.set_ylabel(LABELS.get(name, name), fontsize=9)
        if name == MIOU_NAME and values:
            step, best = max(points, key=lambda point: (point[1], -point[0]))
            axes.plot([step], [best], "*", color="black", markersize=11)
            place = {"xytext": (0, -16), "textcoords": "offset points", "ha": "center", "va": "center"}
            axes.annotate(f"{best:.1f} %", (step, best), fontsize=SMALL, **place)
    panels[-1].set_xlabel("step")
    return figure


def draw_search(search: Mapping[str, Any]) -> Figure:
    """Draws the mean IoU on the development set over the parameters of a search; the best point is marked.

    One parameter makes a curve, two a map; of more, each gets a panel with all points, and the best for each value.

    Args:
        search: As in search.json: ``parameters``, ``points`` with ``values`` by parameter and ``miou`` in percent.

    Raises:
        ValueError: If there is no parameter, or no point with a mean IoU.
    """
    parameters = list(search.get("parameters", []))
    points = [point for point in search.get("points", []) if is_number(point.get("miou"))]
    if not parameters or not points:
        raise ValueError(
            f"the search has {len(parameters)} parameters and {len(points)} points with a mean IoU: expected one or "
            "more of each"
        )
    if len(parameters) == 2:
        return draw_map(parameters, points)
    figure, panels = make_panels(parameters)
    for axes, parameter in zip(panels, parameters, strict=True):
        draw_curve(axes, parameter, points, len(parameters) > 1)
    panels[0].set_ylabel("mean IoU, development (%)", fontsize=9)
    return figure


def draw_curve(axes: Axes, parameter: str, points: Sequence[Mapping[str, Any]], several: bool) -> None:
    """Draws the best mean IoU for each value of a parameter, and, if there are several parameters, all points."""
    values = list_values(parameter, points)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = [float(value) if numeric else float(number) for number, value in enumerate(values)]
    reached = {place: scores_at(points, {parameter: value}) for place, value in zip(places, values, strict=True)}
    if several:
        cloud = [(place, miou) for place, mious in reached.items() for miou in mious]
        axes.plot(*zip(*cloud, strict=True), "o", color=BASELINE, alpha=0.35, markersize=3.5, label="all points")
    best = [max(mious, default=math.nan) for mious in reached.values()]
    axes.plot(places, best, color=METHOD, marker="o", markersize=4, label="best for the value")
    top = int(np.nanargmax(best))
    axes.plot([places[top]], [best[top]], "*", color="black", markersize=11)
    axes.set_title(f"{parameter}\nbest: {format_value(values[top])} ({best[top]:.1f} %)", fontsize=10)
    axes.set_xlabel(parameter)
    if not numeric or len(places) <= 6:
        crowded = sum(len(format_value(value)) for value in values) > 30
        axes.set_xticks(places, [format_value(value) for value in values], rotation=30 if crowded else 0)
    if numeric and min(places) > 0 and max(places) / min(places) > 30:
        axes.set_xscale("log")
    if several:
        axes.legend(fontsize=SMALL, frameon=False)


def draw_map(parameters: Sequence[str], points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the mean IoU over two parameters as a map, with the numbers in it and a frame around the best."""
    columns, rows = (list_values(parameter, points) for parameter in parameters)
    grid = np.full((len(rows), len(columns)), math.nan)
    for row, column in np.ndindex(grid.shape):
        mious = scores_at(points, {parameters[0]: columns[column], parameters[1]: rows[row]})
        grid[row, column] = max(mious, default=math.nan)
    size = (1.8 + 0.55 * max(4, len(columns)), 1.1 + 0.32 * max(4, len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(grid, cmap="viridis", edgecolors="white", linewidth=0.5)
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for row, column in np.argwhere(~np.isnan(grid)).tolist():
        ink = "white" if grid[row, column] < middle else "#0b0b0b"
        place = (column + 0.5, row + 0.5)
        axes.text(*place, f"{grid[row, column]:.1f}", ha="center", va="center", fontsize=SMALL, color=ink)
    top_row, top_column = np.unravel_index(np.nanargmax(grid), grid.shape)
    frame = Rectangle((float(top_column), float(top_row)), 1, 1, fill=False, linewidth=2.5)
    axes.add_patch(frame)
    best = f"{format_value(columns[top_column])}, {format_value(rows[top_row])} ({np.nanmax(grid):.1f} %)"
    axes.set_title(f"best: {best}", fontsize=10)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [format_value(value) for value in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [format_value(value) for value in rows])
    axes.set(xlabel=parameters[0], ylabel=parameters[1])
    axes.tick_params(length=0)
    figure.colorbar(mesh, ax=axes, label="mean IoU, development (%)")
    return figure


def list_values(parameter: str, points: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Returns the different values of a parameter, numbers in order, others as they come."""
    values: list[Any] = []
    for point in points:
        if point["values"][parameter] not in values:
            values.append(point["values"][parameter])
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def scores_at(points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> list[float]:
    """Returns the mean IoU of the points that have these values."""
    return [point["miou"] for point in points if all(point["values"][name] == value for name, value in chosen.items())]


def is_number(value: Any) -> bool:
    """Returns whether a value of a JSON file is a number, and not NaN."""
    return isinstance(value, int | float) and not math.isnan(value)


def format_value(value: Any) -> str:
    """Writes a value of a parameter briefly."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(format_value(item) for item in value)
    return "none" if value is None else str(value)


def format_milliseconds(value: float) -> str:
    """Writes a time in milliseconds: with a decimal where it counts."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def list_present(series: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the classes that have an IoU with one method or more, in order."""
    names = dict.fromkeys(name for values in series.values() for name in values)
    return [name for name in names if any(not math.isnan(values.get(name, math.nan)) for values in series.values())]


def choose_colour(number: int, count: int) -> tuple[float, ...]:
    """Returns the colour of a series: the last of two or more is the method, the first what it is compared with."""
    if number == count - 1:
        return METHOD
    return BASELINE if number == 0 else OTHERS[(number - 1) % len(OTHERS)]


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

    Margins are given, in inches: to find them out by drawing takes as long as all the rest.

    Args:
        names: Of the panels.
        width: Of a panel.
        height: Of a panel.
        columns: At most in a line.
        left: Margin for numbers or names and the label of the axis, in each panel.
        foot: Margin below all panels, for a legend.

    Raises:
        ValueError: If there is no name.
    """
    if not names:
        raise ValueError("there is nothing to draw: expected one domain or more")
    columns = min(columns, len(names))
    lines = math.ceil(len(names) / columns)
    wide, high = width * columns, height * lines + foot
    figure = Figure(figsize=(wide, high))
    panels = []
    for number in range(len(names)):
        line, column = divmod(number, columns)
        corner = (width * column + left, high - height * (line + 1) + BELOW)
        size = (width - left - RIGHT, height - ABOVE - BELOW)
        axes = figure.add_axes((corner[0] / wide, corner[1] / high, size[0] / wide, size[1] / high))
        tidy(axes)
        panels.append(axes)
    return figure, panels


def add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Adds a legend in the margin at the foot of a figure.

    Args:
        figure: With a margin of `FOOT`.
        axes: Whose labels it explains.
        columns: In how many columns.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=SMALL, frameon=False, borderaxespad=0.2)


def label_counts(panels: Sequence[Axes]) -> None:
    """Labels panels of which each counts images."""
    panels[0].set_ylabel("images")
    for axes in panels:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def shorten(text: str, letters: int) -> str:
    """Cuts a long name, so that it fits beside or below the axes; a dollar is none that begins a formula."""
    cut = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return cut.replace("$", r"\$")


def tidy(axes: Axes) -> None:
    """Takes away the frame above and at the right, and makes the numbers small."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
