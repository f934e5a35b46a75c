"""The report of a run: one HTML page with scores, figures and pictures, which needs no network and no other file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.report.cards import list_cards
from callbacks.report.charts import list_charts
from callbacks.report.figures import format_milliseconds
from callbacks.report.page import embed, format_number, write_page
from callbacks.report.run_data import BASELINE, RunData, name_method, read_run
from callbacks.report.search_figure import format_value
from callbacks.report.training import write_training_report
from callbacks.run.folder import REPORT
from callbacks.run.settings import flatten

__all__ = ["write_report", "write_training_report"]

SHOWN_NOTES = 5  # of each domain
COLUMNS = {  # of the table of scores: key, digits and sign
    "mean IoU (%)": ("miou", 2, ""),
    f"{BASELINE} (%)": ("baseline_miou", 2, ""),
    "gain": ("gain", 2, "+"),
    "accuracy (%)": ("accuracy", 2, ""),
    "ECE (%)": ("ece", 2, ""),
    "class-wise ECE (%)": ("classwise_ece", 2, ""),
    "Brier": ("brier", 4, ""),
    "NLL": ("nll", 4, ""),
    "ms / image": ("ms_per_image", 1, ""),
    "images": ("images", 0, ""),
    "fallbacks": ("fallbacks", 0, ""),
    "images worse (%)": ("worse_than_baseline", 1, ""),
}
TEXTS = {  # below the titles of figures
    "Classes": "Classes that are absent from a domain are left out",
    "Calibration": "How often predictions are right at each confidence",
    "Steps": "The loss on the pseudo labels while adapting",
    "Time": "To adapt to an image and predict it",
}
CAPTION = (
    f"Gain in points over {BASELINE}, the network as it was trained; images worse: those whose mean IoU fell. ECE: "
    "15 bins over all pixels; class-wise ECE: the paper's, 10 bins per image and class. Brier score in [0, 2] and "
    "negative log-likelihood in nats, means over pixels. Time: median per image"
)


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a results folder, also of a run that was interrupted.

    Args:
        folder: Of a test or validate run; everything in there but the scores may be missing, and is named then.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: If there are no scores.
        OSError: If the report cannot be written.
    """
    data = read_run(folder)
    summary = data.summary
    known = [
        summary.get("stage") or data.settings.get("stage"),
        f"{data.images} images",
        str(summary.get("date", ""))[:10],
        summary.get("device"),
    ]
    content = {
        "title": f"{data.label} on {', '.join(data.domains) or 'no image yet'}",
        "subtitle": " · ".join(part for part in known if part),
        "tiles": make_tiles(data),
        "notes": list_notes(data),
        "scores": {"columns": ["domain", *COLUMNS], "lines": tabulate_scores(data), "caption": CAPTION},
        "figures": draw_figures(data),
        **list_cards(data),
        "layer_names": {"image": "photo", "truth": "truth", "baseline": BASELINE, "prediction": data.label},
        "legend": [{"name": name, "colour": colour} for name, colour in data.colours.items()],
        "facts": list_facts(data),
    }
    return write_page(folder / REPORT, content)


def make_tiles(data: RunData) -> list[dict[str, str]]:
    """Returns the numbers at the top: means over domains, where they are known."""
    mean = data.mean
    tiles = {
        "miou": (f"{format_number(mean['miou'])} %", "mean IoU, mean over domains"),
        "gain": (f"{format_number(mean['gain'], sign='+')} points", f"gain over {BASELINE}"),
        "worse_than_baseline": (
            f"{format_number(mean['worse_than_baseline'], 1)} %",
            f"of images worse than {BASELINE}",
        ),
        "ms_per_image": (f"{format_milliseconds(mean['ms_per_image'] or 0)} ms", "per image"),
    }
    return [{"value": value, "label": label} for key, (value, label) in tiles.items() if mean[key] is not None]


def list_notes(data: RunData) -> list[str]:
    """Says how far a run came if it did not end, what is missing, and which notes the images of each domain have."""
    notes = list(data.missing)
    if not data.complete:
        total = f" of {data.expected}" if data.expected is not None else ""
        notes.insert(0, f"Incomplete: {data.images}{total} images. The same command again goes on from here")
    for name, domain in data.domains.items():
        found = domain.scores.get("notes", [])
        if found:
            more = f"; and {len(found) - SHOWN_NOTES} more" if len(found) > SHOWN_NOTES else ""
            count = domain.scores["images_with_notes"]
            notes.append(f"{name}: {count} images have a note: {'; '.join(found[:SHOWN_NOTES])}{more}")
        if "held_back" in domain.scores:
            relabelled, held_back = domain.scores["relabelled"], domain.scores["held_back"]
            notes.append(
                f"{name}: adaptation gave {relabelled:.1f} % of the pixels another class; {held_back:.1f} % more it "
                "would have, had it been trusted fully"
            )
    return notes


def tabulate_scores(data: RunData) -> list[dict[str, Any]]:
    """Returns the lines of the table of scores: one per domain, and their mean if it is known."""
    lines = []
    for name, domain in data.domains.items():
        cells = format_scores({"fallbacks": 0, **domain.scores, **domain.numbers})
        if domain.expected not in (None, domain.scores["images"]):
            cells["images"] += f" of {domain.expected}"
        lines.append({"mean": False, "cells": [name, *cells.values()]})
    if len(lines) > 1 and data.mean["miou"] is not None:
        fallbacks = sum(domain.scores.get("fallbacks", 0) for domain in data.domains.values())
        cells = format_scores({**data.mean, "images": data.images, "fallbacks": fallbacks})
        lines.append({"mean": True, "cells": ["mean", *cells.values()]})
    return lines


def format_scores(numbers: Mapping[str, float | None]) -> dict[str, str]:
    """Writes the cells of a line of the table of scores."""
    return {key: format_number(numbers.get(key), digits, sign) for key, digits, sign in COLUMNS.values()}


def draw_figures(data: RunData) -> list[dict[str, Any]]:
    """Draws all figures of a run, by their titles."""
    texts = {**TEXTS, "Search": describe_search(data.search or {})}
    groups: dict[str, dict[str, Any]] = {}
    for chart in list_charts(data):
        group = groups.setdefault(chart.title, {"title": chart.title, "text": texts.get(chart.title), "figures": []})
        group["figures"] += [embed(figure, chart.caption) for figure in chart.draw_parts()]
    return list(groups.values())


def describe_search(search: Mapping[str, Any]) -> str:
    """Says what was searched, and what came out best."""
    best = search.get("best") or {}
    values = ", ".join(f"{name} = {format_value(value)}" for name, value in best.get("values", {}).items())
    name = name_method({"name": search.get("method") or "method"})
    return f"{name}: {len(search['points'])} points; best: {values}, mean IoU {best['miou']:.2f} %" if values else ""


def list_facts(data: RunData) -> list[dict[str, Any]]:
    """Lists everything that is known about how the results came about, in tables of names and values."""
    groups = {
        "Run": {
            **{key: value for key, value in data.summary.items() if key not in ("domains", "mean", "method", "data")},
            "complete": data.complete,
        },
        "Method": data.method or {"name": f"none: the network as it was trained ({BASELINE})"},
        "Data": data.settings.get("data") or data.summary.get("data") or {},
        "Fingerprints": {
            key: value for key, value in data.settings.items() if key not in ("method", "data", "class_names")
        },
        "Commands": {f"command {number + 1}": run for number, run in enumerate(data.runs)},
    }
    return [
        {"title": title, "rows": [(key, describe_value(value)) for key, value in flatten(values).items()]}
        for title, values in groups.items()
        if values
    ]


def describe_value(value: Any) -> str:
    """Writes a setting for readers."""
    if value is None:
        return "none"
    return ", ".join(describe_value(item) for item in value) if isinstance(value, list | tuple) else str(value)
