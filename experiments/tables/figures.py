"""The paper's figures, drawn from the same results as the tables: PNG and SVG."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from callbacks.report.figures import draw_differences
from callbacks.run.records import write_file
from experiments.pages import format_markdown
from experiments.tables.build import BuiltLine, BuiltPart, BuiltTable, name_column
from experiments.tables.paper import DEVELOPMENT, MEAN
from experiments.tables.results import find_picture, measure_gains
from experiments.tables.runs import Run

MARKERS = {
    "Baseline": "o", "IaBN": "s", "TTA": "D", "Ensemble (Baseline)": "v", "Ensemble (IaBN)": "^", "Ensemble (TTA)": "P",
}  # fmt: skip
WIDTH, HEIGHT = 5.0, 3.6  # inches per panel
PICTURES = ("image.jpg", "truth.png", "baseline.png", "prediction.png")
TITLES = ("image", "truth", "t-BN", "Seg-TTT")
SPOILT = (OSError, ValueError, KeyError, TypeError, IndexError)  # what records of another version, or cut off, raise
DEMONSTRATION = "StreetScenes, a constructed demonstration"


def draw_figure(built: BuiltTable) -> None:
    """Draws what a table is drawn as, if it is a figure; adds the names of the pictures, and what they show."""
    kinds = {"runtime_accuracy": draw_runtime, "alpha": draw_alpha, "gains": draw_gains, "qualitative": draw_pictures}
    if built.table.kind in kinds:
        kinds[built.table.kind](built)


def save(built: BuiltTable, name: str, figure: Figure, dpi: int = 150) -> None:
    """Writes a figure as PNG and SVG and adds it to the pictures."""
    if built.plan.world.targets:
        figure.text(0.5, 1.0, DEMONSTRATION, fontsize=8, color="dimgray", ha="center", va="bottom")  # above all titles
    for suffix in ("png", "svg"):
        data = io.BytesIO()
        figure.savefig(data, format=suffix, dpi=dpi, bbox_inches="tight")
        write_file(built.plan.folder / f"{name}.{suffix}", data.getvalue())
    built.pictures.append(name)


def list_values(lines: Sequence[BuiltLine], key: str, column: str) -> list[float]:
    """Returns the measured numbers of lines, NaN where missing."""
    found = [
        next(cell.ours for cell in line.cells if cell.metric.key == key and cell.column == column) for line in lines
    ]
    return [math.nan if value is None else value for value in found]


def draw_runtime(built: BuiltTable) -> None:
    """Draws mean IoU over runtime, a panel per target.

    Source: paper, Fig. 2 and 5.
    """
    (part,) = built.parts
    columns = [column for column in part.part.columns if column != MEAN or built.table.name == "fig2"]
    if built.plan.world.targets and built.table.name == "fig2":
        columns = [MEAN]  # the paper's Fig. 2 is one target
    figure = Figure(figsize=(WIDTH * len(columns), HEIGHT + 1.1), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        draw_runtime_panel(axes, part, column)
        axes.set_title(name_column(built.plan, column) if column != MEAN else "mean over targets", fontsize=10)
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3
    )
    save(built, built.table.name, figure)


def draw_runtime_panel(axes: Axes, part: BuiltPart, column: str) -> None:
    """Draws the points and curves of one target."""
    for name in dict.fromkeys(line.row.name for line in part.lines):
        lines = [line for line in part.lines if line.row.name == name]
        seconds = [value / 1000 for value in list_values(lines, "ms_per_image", column)]
        miou = list_values(lines, "miou", column)
        axes.plot(seconds, miou, MARKERS.get(name, ".-"), label=name, markersize=6)
        for line, place in zip(lines, zip(seconds, miou, strict=True), strict=True):
            if line.point is not None and all(map(math.isfinite, place)):
                offset = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
                axes.annotate(str(line.point), place, fontsize=7, **offset)  # type: ignore[arg-type]
    finish(axes, "runtime per image (s)")


def draw_alpha(built: BuiltTable) -> None:
    """Draws mean IoU over alpha, a panel per source, a curve per data set; marks the choice on the development set.

    Source: paper, Fig. 4.
    """
    (part,) = built.parts
    sources = list(dict.fromkeys(line.row.source for line in part.lines))
    figure = Figure(figsize=(WIDTH * len(sources), HEIGHT), layout="constrained")
    for axes, source in zip(figure.subplots(1, len(sources), squeeze=False)[0], sources, strict=True):
        lines = [line for line in part.lines if line.row.source == source]
        alphas = [line.point for line in lines]
        for column in part.part.domains:
            values = list_values(lines, "miou", column)
            chosen = column == DEVELOPMENT
            axes.plot(alphas, values, "o-" if chosen else ".--", label=name_column(built.plan, column))
            if chosen and not all(map(math.isnan, values)):
                best = alphas[int(np.nanargmax(values))]
                axes.axvline(best, color="gray", linewidth=1)
                built.extra.append(f"{source}: the best alpha on {name_column(built.plan, column)} is {best:g}.")
        axes.set_title(f"Source: {source}", fontsize=10)
        finish(axes, "alpha")
        axes.legend(fontsize=8, frameon=False)
    save(built, built.table.name, figure)


def finish(axes: Axes, label: str) -> None:
    """Names the axes and lightens them."""
    axes.set_xlabel(label)
    axes.set_ylabel("mean IoU (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def list_gains(built: BuiltTable, part: BuiltPart) -> Iterator[tuple[str, Run, list[tuple[str, float]]]]:
    """Yields by domain the Seg-TTT run of a part and what each of its images gains; notes what is spoilt."""
    line = next(line for line in part.lines if line.row.method is not None)
    for cell in line.cells:
        run = None if cell.ours is None else built.plan.find_run(line.row, cell.column)
        if run is None:
            continue
        try:
            gains = [(name, gain) for name, gain in measure_gains(built.plan, run, cell.column) if math.isfinite(gain)]
        except SPOILT as error:
            reason = error if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
            built.notes.append(f"{part.part.title}: {cell.column} is left out: {reason}")
            continue
        if gains:
            yield cell.column, run, gains


def draw_gains(built: BuiltTable) -> None:
    """Draws the histogram of what single images gain, and sums it up beside what the paper's text says.

    Source: paper, Fig. 10 and Appendix H.
    """
    (part,) = built.parts
    found = {
        name_column(built.plan, domain): [gain for _, gain in gains] for domain, _, gains in list_gains(built, part)
    }
    if not found:
        return
    sums: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
        "lower": ("images with a lower mean IoU (%)", lambda values: share_below(values, 0)),
        "lower_by_5": ("lower by more than 5 points (%)", lambda values: share_below(values, -5)),
        "lower_by_10": ("lower by more than 10 points (%)", lambda values: share_below(values, -10)),
        "best": ("largest gain (points)", max),
    }
    rows = []
    for key, (title, measure) in sums.items():
        numbers = [float(measure(values)) for values in found.values()]
        numbers.append(sum(numbers) / len(numbers))
        rows.append([title, *(f"{number:.1f}" for number in numbers), built.table.statements[key]])
    heads = ["", *found, "mean", "paper's text"]
    built.extra.append(format_markdown(heads, rows, numbers=range(1, len(heads) - 1)))
    save(built, built.table.name, draw_differences(found))


def share_below(values: Sequence[float], bound: float) -> float:
    """Returns the share of values below a bound in percent."""
    return 100 * sum(value < bound for value in values) / len(values)


def draw_pictures(built: BuiltTable) -> None:
    """Draws image, truth, t-BN and Seg-TTT of one image per target, for each part.

    Source: paper, Fig. 3, 6 to 9.
    """
    for part in built.parts:
        shown: list[tuple[str, str, float, Path]] = []
        for domain, run, gains in list_gains(built, part):
            name, gain = min(gains, key=lambda item: item[1]) if part.part.show == "worst" else gains[0]
            picture = find_picture(built.plan, run, domain, name)
            if picture is not None:
                shown.append((domain, name, gain, picture))
                continue
            built.notes.append(
                f"{part.part.title}: {built.plan.find_results(run)} keeps no picture of {name}: test again with "
                "--results.report=true --results.panels=1 --results.overwrite=true"
            )
        if shown:
            draw_gallery(built, part, shown)


def draw_gallery(built: BuiltTable, part: BuiltPart, shown: Sequence[tuple[str, str, float, Path]]) -> None:
    """Draws a column per target, a row per kind of picture."""
    figure = Figure(figsize=(3.4 * len(shown), 1.8 * len(PICTURES)), layout="constrained")
    panels = figure.subplots(len(PICTURES), len(shown), squeeze=False)
    for number, (domain, name, gain, picture) in enumerate(shown):
        for kind, title, axes in zip(PICTURES, TITLES, panels[:, number], strict=True):
            path = picture.with_name(f"{picture.name}.{kind}")
            axes.set_xticks([])
            axes.set_yticks([])
            if number == 0:
                axes.set_ylabel(title, fontsize=9)
            if path.exists():
                axes.imshow(np.asarray(Image.open(path).convert("RGB")), interpolation="nearest")
        panels[0, number].set_title(name_column(built.plan, domain), fontsize=10)
        panels[-1, number].set_xlabel(f"{name}\nmean IoU {gain:+.1f} points", fontsize=7)
    save(built, f"{built.table.name}_{part.part.name}", figure, dpi=100)
