"""The figure of a hyperparameter search on the development set."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from callbacks.report.figures import BASELINE, METHOD, SMALL, make_panels, styled

Points = Sequence[Mapping[str, Any]]
LABEL = "mean IoU, development (%)"


def draw_search(search: Mapping[str, Any]) -> Figure:
    """Draws the mean IoU on the development set over the parameters of a search; the best point is marked.

    One parameter gives a curve, two give a map. With more, each gets a panel with all points and the best per value.

    Args:
        search: Content of search.json: ``parameters``; ``points`` with ``values`` by parameter and ``miou`` in percent.
    """
    parameters, points = search["parameters"], search["points"]
    return draw_map(parameters, points) if len(parameters) == 2 else draw_curves(parameters, points)


@styled
def draw_curves(parameters: Sequence[str], points: Points, label: str = LABEL, maximize: bool = True) -> Figure:
    """Draws one panel per parameter: the best score for each value and, with several parameters, all points.

    Args:
        parameters: Names of the parameters.
        points: One or more points, with ``values`` by parameter and the score as ``miou``.
        label: Axis label of the score.
        maximize: Whether a higher score is better.
    """
    figure, panels = make_panels(len(parameters))
    for axes, parameter in zip(panels, parameters, strict=True):
        values = list_values(parameter, points)
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        places = values if numeric else list(range(len(values)))
        scores = [[point["miou"] for point in points if point["values"][parameter] == value] for value in values]
        if len(parameters) > 1:
            cloud = [(place, score) for place, some in zip(places, scores, strict=True) for score in some]
            axes.plot(*zip(*cloud, strict=True), "o", color=BASELINE, alpha=0.35, markersize=3.5, label="all points")
        best = [max(some) if maximize else min(some) for some in scores]
        joined = len(parameters) == 1 or len(values) < len(points)  # else each point has its own value
        marks = "o-" if joined else "o"
        axes.plot(places, best, marks, color=METHOD, markersize=4, label="best at this value")
        top = int(np.argmax(best) if maximize else np.argmin(best))
        axes.plot([places[top]], [best[top]], "*", color="black", markersize=11)
        score = f"{best[top]:.1f} %" if label.endswith("(%)") else f"{best[top]:.2f}"
        axes.set_title(f"{parameter}\nbest: {format_value(values[top])} ({score})")
        axes.set_xlabel(parameter)
        if not numeric or len(places) <= 6:
            names = wrap_values(values)
            crowded = len("".join(names)) > 30 and "\n" not in "".join(names)
            axes.set_xticks(places, names, rotation=30 if crowded else 0)
        if not numeric:
            axes.margins(x=0.15)
        elif min(places) > 0 and max(places) / min(places) > 30:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # minor labels would overlap within two decades
        if len(parameters) > 1:
            axes.legend()
    panels[0].set_ylabel(label, fontsize=9)
    return figure


def draw_map(parameters: Sequence[str], points: Points) -> Figure:
    """Draws the mean IoU over two parameters as a map, with its values as text and a frame around the best."""
    columns, rows = (list_values(parameter, points) for parameter in parameters)
    figure, (axes,) = make_panels(1, width=1.8 + 0.7 * max(4, len(columns)), height=1.1 + 0.4 * max(4, len(rows)))
    grid = np.empty((len(rows), len(columns)))
    for point in points:
        x, y = (point["values"][parameter] for parameter in parameters)
        grid[rows.index(y), columns.index(x)] = point["miou"]
    mesh = axes.pcolormesh(range(len(columns)), range(len(rows)), grid, edgecolors="white", linewidth=0.5)
    for (row, column), miou in np.ndenumerate(grid):
        ink = "white" if miou < (grid.min() + grid.max()) / 2 else "#0b0b0b"
        axes.text(column, row, f"{miou:.1f}", ha="center", va="center", fontsize=SMALL, color=ink)
    top_row, top_column = divmod(int(grid.argmax()), len(columns))
    axes.add_patch(Rectangle((top_column - 0.5, top_row - 0.5), 1, 1, fill=False, linewidth=2.5))
    axes.set_xticks(range(len(columns)), wrap_values(columns))
    axes.set_yticks(range(len(rows)), wrap_values(rows))
    best = f"best: {format_value(columns[top_column])}, {format_value(rows[top_row])} ({grid.max():.1f} %)"
    axes.set_title(fill(best, 16 * max(4, len(columns))), fontsize=10)
    axes.set(xlabel=parameters[0], ylabel=parameters[1])
    axes.tick_params(length=0)
    figure.colorbar(mesh, ax=axes, label=LABEL)
    return figure


def list_values(parameter: str, points: Points) -> list[Any]:
    """Returns the distinct values of a parameter: numbers sorted, others in order of appearance."""
    values: list[Any] = []
    for point in points:
        if point["values"][parameter] not in values:
            values.append(point["values"][parameter])
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def wrap_values(values: Sequence[Any]) -> list[str]:
    """Formats the values of a parameter as tick labels, with long ones wrapped."""
    return [fill(format_value(value), 14, break_long_words=False, break_on_hyphens=False) for value in values]


def format_value(value: Any) -> str:
    """Formats a parameter's value briefly; a set of views as its scales and the switches that are on."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return (" + " if any(isinstance(item, Mapping) for item in value) else " ").join(map(format_value, value))
    if isinstance(value, Mapping) and "scales" in value:
        switches = [name for name, is_on in {"flip": True, **value}.items() if is_on is True]
        return " ".join([format_value(value["scales"]), *switches])
    return "none" if value is None else str(value)
