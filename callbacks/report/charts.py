"""The list of a run's figures, shared by the page (one domain per figure) and the dashboard (all domains in one)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from callbacks.report import figures
from callbacks.report.run_data import BASELINE, RunData
from callbacks.report.search_figure import draw_search

WHOLE = ("miou", "search")
FIGURE_10 = f"Mean IoU gained per image over {BASELINE} (as in Fig. 10 of the paper)"


class Chart(NamedTuple):
    """A figure of a run: the section of the page it is in, what draws it, its data, and a caption.

    The data are by domain, so that the page can draw one figure per domain, which fits narrow screens; those of the
    charts in `WHOLE` are not.
    """

    title: str
    draw: Callable[[Any], Figure]
    values: Mapping[str, Any]
    caption: str = ""


def list_charts(data: RunData) -> dict[str, Chart]:
    """Returns a run's figures by their key in the dashboard, in the order of the page, without those that lack data."""
    domains = data.domains.items()
    mious = {data.label: {name: domain.scores["miou"] for name, domain in domains}}
    classes = {
        name: drop_empty({BASELINE: domain.baseline_iou, data.label: domain.scores["iou"]}) for name, domain in domains
    }
    if data.has_baseline:
        mious = {BASELINE: {name: domain.scores["baseline_miou"] for name, domain in domains}} | mious
    gains = {name: domain.gains for name, domain in domains}
    calibrations = {name: domain.scores for name, domain in domains if figures.is_scored(domain.scores)}
    losses = {
        name: [steps for row in domain.rows if (steps := row.adaptation.get("losses"))] for name, domain in domains
    }
    times = {name: [row.milliseconds for row in domain.rows] for name, domain in domains}
    charts = {
        "miou": Chart("Gains", figures.draw_domains, mious if domains else {}, "Mean IoU per domain"),
        "difference": Chart("Gains", figures.draw_differences, drop_empty(gains), FIGURE_10),
        "search": Chart("Search", draw_search, data.search),
        "class_iou": Chart("Classes", partial(figures.draw_classes, colours=data.colours), classes),
        "reliability": Chart("Calibration", figures.draw_reliability, calibrations),
        "loss_per_step": Chart("Steps", figures.draw_losses, drop_empty(losses)),
        "milliseconds": Chart("Time", figures.draw_times, drop_empty(times)),
    }
    return {name: chart for name, chart in charts.items() if chart.values}


def drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the names with empty values."""
    return {name: value for name, value in values.items() if value}
