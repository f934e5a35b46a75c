"""The paper's figures as PNG and SVG, drawn from the same results as the tables."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from callbacks.report.figures import draw_differences, encode_figure
from callbacks.report.gallery import find_pictures
from callbacks.run.records import write_file
from experiments.pages import format_markdown
from experiments.tables.paper import DEVELOPMENT, MEAN, Part, TableRow
from experiments.tables.results import BuiltTable, list_gains, name_column
from experiments.tables.runs import Run

MARKERS = {
    "Baseline": "o", "IaBN": "s", "TTA": "D", "Ensemble (Baseline)": "v", "Ensemble (IaBN)": "^", "Ensemble (TTA)": "P",
}  # fmt: skip
WIDTH, HEIGHT = 5.0, 3.6  # inches per panel
PICTURES = {"image": "image", "truth": "truth", "t-BN": "baseline", "Seg-TTT": "prediction"}
SPOILT = (OSError, ValueError, KeyError, TypeError, IndexError)  # raised by truncated or outdated records
DEMONSTRATION = "StreetScenes, a constructed demonstration"
LOSSES = {  # share of images with a gain below this bound, in points, and the key of the paper's statement on it
    "images with a lower mean IoU (%)": (0, "lower"),
    "lower by more than 5 points (%)": (-5, "lower_by_5"),
    "lower by more than 10 points (%)": (-10, "lower_by_10"),
}


def draw_figure(built: BuiltTable) -> None:
    """Draws a table that is a figure; adds the picture names and further Markdown to it."""
    kinds = {"runtime_accuracy": draw_runtime, "alpha": draw_alpha, "gains": draw_gains, "qualitative": draw_pictures}
    if built.table.kind in kinds:
        kinds[built.table.kind](built)


def save(built: BuiltTable, name: str, figure: Figure, dpi: int = 150) -> None:
    """Writes a figure as PNG and SVG and adds its name to the pictures."""
    if built.plan.world.targets:
        figure.text(0.5, 1.0, DEMONSTRATION, fontsize=8, color="dimgray", ha="center", va="bottom")  # above all titles
    for suffix in ("png", "svg"):
        data = encode_figure(figure, suffix, dpi, bbox_inches="tight")
        write_file(built.plan.folder / f"{name}.{suffix}", data)
    built.pictures.append(name)


def make_titled_panels(titles: Sequence[str], label: str, more: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a panel of mean IoU per title, `more` inches higher than usual."""
    figure = Figure(figsize=(WIDTH * len(titles), HEIGHT + more), layout="constrained")
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.set_ylabel("mean IoU (%)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def list_measured(rows: Sequence[TableRow], metric: str, column: str) -> list[float]:
    """Returns a metric's measured values for a list of rows, NaN where missing."""
    found = [row.ours[metric, column] for row in rows]
    return [math.nan if value is None else value for value in found]


def draw_runtime(built: BuiltTable) -> None:
    """Plots mean IoU against runtime, one panel per target.

    Source: paper, Fig. 2 and 5.
    """
    (part,) = built.parts
    columns = list(part.columns) if built.table.name == "fig2" else part.domains
    if built.plan.world.targets and built.table.name == "fig2":
        columns = [MEAN]  # the paper's Fig. 2 has a single panel
    titles = [name_column(built.plan, column) if column != MEAN else "mean over targets" for column in columns]
    figure, panels = make_titled_panels(titles, "runtime per image (s)", more=1.1)
    for axes, column in zip(panels, columns, strict=True):
        for name in dict.fromkeys(row.name for row in part.rows):
            rows = [row for row in part.rows if row.name == name]
            seconds = [value / 1000 for value in list_measured(rows, "ms_per_image", column)]
            miou = list_measured(rows, "miou", column)
            axes.plot(seconds, miou, MARKERS.get(name, ".-"), label=name, markersize=6)
            for row, x, y in zip(rows, seconds, miou, strict=True):
                if row.point is not None and math.isfinite(x + y):
                    axes.annotate(
                        str(row.point), (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7
                    )
    marks = panels[0].get_legend_handles_labels()
    figure.legend(*marks, fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    save(built, built.table.name, figure)


def draw_alpha(built: BuiltTable) -> None:
    """Plots mean IoU against alpha, one panel per source and one curve per data set; marks the best development alpha.

    Source: paper, Fig. 4.
    """
    (part,) = built.parts
    sources = list(dict.fromkeys(row.source for row in part.rows))
    figure, panels = make_titled_panels([f"Source: {source}" for source in sources], "alpha")
    for axes, source in zip(panels, sources, strict=True):
        rows = [row for row in part.rows if row.source == source]
        alphas = [row.point for row in rows]
        for column in part.domains:
            values, name = list_measured(rows, "miou", column), name_column(built.plan, column)
            chosen = column == DEVELOPMENT
            axes.plot(alphas, values, "o-" if chosen else ".--", label=name)
            if chosen and not all(map(math.isnan, values)):
                best = alphas[int(np.nanargmax(values))]
                axes.axvline(best, color="gray", linewidth=1)
                built.extra.append(f"{source}: the best alpha on {name} is {best:g}.")
        axes.legend(fontsize=8, frameon=False)
    save(built, built.table.name, figure)


def find_gains(built: BuiltTable, part: Part) -> Iterator[tuple[str, Run, list[tuple[str, float]]]]:
    """Yields (domain, Seg-TTT run, gains per image) of a part; skips domains with unusable records and notes them."""
    row = next(row for row in part.rows if row.method is not None)
    for domain in part.domains:
        if row.ours["miou", domain] is None:
            continue
        run = built.plan.find_run(row, domain)
        try:
            gains = list_gains(built.plan, run, domain)
        except SPOILT as error:
            built.notes.append(f"{part.title}: {domain} is skipped: {type(error).__name__}: {error}")
            continue
        if gains:
            yield domain, run, gains


def draw_gains(built: BuiltTable) -> None:
    """Draws a histogram of the gain per image, and summarizes it next to the paper's statements.

    Source: paper, Fig. 10 and Appendix H.
    """
    found = {
        name_column(built.plan, domain): [gain for _, gain in gains]
        for domain, _, gains in find_gains(built, built.parts[0])
    }
    if not found:
        return
    said, rows = built.table.statements, []
    for title, (bound, key) in LOSSES.items():
        shares = [100 * sum(gain < bound for gain in gains) / len(gains) for gains in found.values()]
        rows.append([title, *format_with_mean(shares), said[key]])
    largest = [max(gains) for gains in found.values()]
    rows.append(["largest gain (points)", *format_with_mean(largest), said["best"]])
    heads = ["", *found, "mean", "paper's text"]
    built.extra.append(format_markdown(heads, rows, numbers=range(1, len(heads) - 1)))
    save(built, built.table.name, draw_differences(found))


def format_with_mean(numbers: Sequence[float]) -> list[str]:
    """Formats numbers, followed by their mean, with one decimal."""
    return [f"{number:.1f}" for number in (*numbers, statistics.mean(numbers))]


def draw_pictures(built: BuiltTable) -> None:
    """Draws, for each part, one image per target with its ground truth and the predictions of t-BN and Seg-TTT.

    Source: paper, Fig. 3, 6 to 9.
    """
    for part in built.parts:
        shown: list[tuple[str, str, Mapping[str, Path]]] = []
        for domain, run, gains in find_gains(built, part):
            name, gain = min(gains, key=lambda item: item[1]) if part.show == "worst" else gains[0]
            place = built.plan.find_results(run)
            if pictures := find_pictures(place, domain, name):
                shown.append((name_column(built.plan, domain), f"{name}\nmean IoU {gain:+.1f} points", pictures))
            else:
                built.notes.append(
                    f"{part.title}: {place} has no picture of {name}: test again with "
                    "--results.report=true --results.panels=1 --results.overwrite=true"
                )
        if shown:
            save(built, f"{built.table.name}_{part.name}", draw_gallery(shown), dpi=100)


def draw_gallery(shown: Sequence[tuple[str, str, Mapping[str, Path]]]) -> Figure:
    """Draws one column per item of `shown` (title, text below, pictures) and one row per kind of picture."""
    figure = Figure(figsize=(3.4 * len(shown), 1.8 * len(PICTURES)), layout="constrained")
    panels = figure.subplots(len(PICTURES), len(shown), squeeze=False)
    for column, (title, text, pictures) in zip(panels.T, shown, strict=True):
        for layer, axes in zip(PICTURES.values(), column, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if layer in pictures:
                axes.imshow(np.asarray(Image.open(pictures[layer]).convert("RGB")), interpolation="nearest")
        column[0].set_title(title, fontsize=10)
        column[-1].set_xlabel(text, fontsize=7)
    for kind, axes in zip(PICTURES, panels[:, 0], strict=True):
        axes.set_ylabel(kind, fontsize=9)
    return figure
