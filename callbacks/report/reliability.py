"""The reliability diagram: how often predictions are right, over how confident they are.

Source: Guo et al. (2017), Sec. 2 and Fig. 1; paper, Sec. 5 (ECE).
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4
WIDTH, HEIGHT = 2.9, 3.6  # inches per domain
ACCURACY, GAP, SHARE = (matplotlib.colormaps["viridis"](place) for place in (0.3, 0.9, 0.5))


def is_scored(summary: Mapping[str, Any]) -> bool:
    """Returns whether a domain has a labelled pixel; results of earlier versions do not say."""
    return any(summary.get("reliability", {}).get("pixels", []))


def draw_reliability(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws accuracy over confidence and the share of pixels per bin, for each domain.

    Args:
        summaries: By domain ``ece`` in percent and ``reliability``, see `Scores.summarize`, as results.json holds them;
            a domain without a labelled pixel is left out.

    Returns:
        The figure; for each domain its axes of accuracy, then its axes of shares.

    Raises:
        ValueError: If no domain has a labelled pixel.
    """
    scored = {domain: summary for domain, summary in summaries.items() if is_scored(summary)}
    if not scored:
        raise ValueError(f"no pixel was scored in {list(summaries)}: expected one domain or more with labelled pixels")
    columns, lines = min(len(scored), COLUMNS), math.ceil(len(scored) / COLUMNS)
    legend_columns = 1 if columns == 1 else 3  # three are wider than one domain
    figure = Figure(figsize=(WIDTH * columns + 0.4, HEIGHT * lines + 0.6 / legend_columns + 0.2), layout="constrained")
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[3, 1] * lines)
    for number, (domain, summary) in enumerate(scored.items()):
        line, column = divmod(number, COLUMNS)
        accuracy = figure.add_subplot(grid[2 * line, column])
        share = figure.add_subplot(grid[2 * line + 1, column], sharex=accuracy)
        draw_domain(accuracy, share, summary["reliability"])
        name = domain.replace("$", r"\$")  # no formula begins there
        accuracy.set_title(f"{name}\nECE {summary['ece']:.1f} %", fontsize=10)
        if column == 0:
            accuracy.set_ylabel("accuracy (%)")
            share.set_ylabel("pixels (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, fontsize=8, frameon=False)
    return figure


def draw_domain(accuracy: Axes, share: Axes, reliability: Mapping[str, list[Any]]) -> None:
    """Draws one domain, in percent; empty bins stay empty.

    Args:
        accuracy: Gets a bar of accuracy per bin and a bar of the gap from there to the mean confidence.
        share: Gets a bar of the share of all pixels per bin.
        reliability: Lists of ``pixels``, ``confidence`` and ``accuracy`` per bin.
    """
    pixels = np.array(reliability["pixels"])
    filled = np.flatnonzero(pixels)
    right, confident = (100 * np.array(reliability[key], dtype=float)[filled] for key in ("accuracy", "confidence"))
    width = 100 / len(pixels)
    places = (filled + 0.5) * width
    accuracy.bar(places, right, 0.92 * width, color=ACCURACY, label="accuracy")
    bars = accuracy.bar(places, confident - right, 0.92 * width, bottom=right, label="gap to the mean confidence")
    for bar in bars:
        bar.set(facecolor=(*GAP[:3], 0.35), edgecolor=GAP, hatch="////")
    accuracy.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="perfect calibration")
    share.bar(places, 100 * pixels[filled] / pixels.sum(), 0.92 * width, color=SHARE)
    accuracy.set(xlim=(0, 100), ylim=(0, 100))
    accuracy.tick_params(labelbottom=False)
    share.set_xlabel("confidence (%)")
    for axes in (accuracy, share):
        axes.spines[["top", "right"]].set_visible(False)


def encode_figure(figure: Figure) -> bytes:
    """Encodes a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
