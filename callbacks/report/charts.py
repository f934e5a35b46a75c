"""The list of a run's figures, shared by the page (one domain per figure) and the dashboard (all domains in one)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from callbacks.report import figures
from callbacks.report.run_data import BASELINE, RunData
from callbacks.report.search_figure import draw_search

FIGURE_10 = f"Mean IoU gained per image over {BASELINE} (as in Fig. 10 of the paper)"


class Chart(NamedTuple):
    """A figure of a run.

    Attributes:
        name: Key in the dashboard.
        title: Title of its section of the page.
        draw: Function that draws `values`, or those of one domain.
        values: Data to draw, by domain unless `is_whole`; empty if there are none.
        caption: Text below the figure.
        is_whole: Whether the page, too, shows all domains in one figure; single domains fit narrow screens.
    """

    name: str
    title: str
    draw: Callable[[Any], Figure]
    values: Mapping[str, Any]
    caption: str = ""
    is_whole: bool = False

    def draw_parts(self) -> list[Figure]:
        """Draws the figures for the page: one per domain, or one in all if `is_whole`."""
        parts = [self.values] if self.is_whole else [{name: value} for name, value in self.values.items()]
        return [self.draw(part) for part in parts]


def list_charts(data: RunData) -> dict[str, Chart]:
    """Returns a run's figures by name, in the order of the page; figures without data are left out."""
    domains = data.domains.values()
    mious = {
        BASELINE: {d.name: d.scores["baseline_miou"] for d in domains if d.has_baseline},
        data.label: {d.name: d.scores["miou"] for d in domains},
    }
    gains = {d.name: d.gains for d in domains}
    classes = {d.name: drop_empty({BASELINE: d.baseline_iou, data.label: d.scores["iou"]}) for d in domains}
    calibrations = {d.name: d.scores for d in domains if figures.is_scored(d.scores)}
    losses = {d.name: [steps for row in d.rows if (steps := row.adaptation.get("losses"))] for d in domains}
    times = {d.name: [row.milliseconds for row in d.rows] for d in domains}
    charts = [
        Chart("miou", "Gains", figures.draw_domains, drop_empty(mious), "Mean IoU per domain", is_whole=True),
        Chart("difference", "Gains", figures.draw_differences, drop_empty(gains), FIGURE_10),
        Chart("search", "Search", draw_search, data.search or {}, is_whole=True),
        Chart("class_iou", "Classes", partial(figures.draw_classes, colours=data.colours), classes),
        Chart("reliability", "Calibration", figures.draw_reliability, calibrations),
        Chart("loss_per_step", "Steps", figures.draw_losses, drop_empty(losses)),
        Chart("milliseconds", "Time", figures.draw_times, drop_empty(times)),
    ]
    return {chart.name: chart for chart in charts if chart.values}


def drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the names with empty values."""
    return {name: value for name, value in values.items() if value}
