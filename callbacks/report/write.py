"""The report of a run: one HTML page with scores, figures and pictures, which needs no network and no other file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.report.figures import (
    draw_classes,
    draw_differences,
    draw_domains,
    draw_losses,
    draw_search,
    draw_times,
    format_milliseconds,
    format_value,
)
from callbacks.report.page import Page, embed, format_number, format_signed, list_files
from callbacks.report.picture_cards import add_pictures
from callbacks.report.reliability import draw_reliability
from callbacks.report.run_data import BASELINE, SCORES, DomainData, RunData, name_method, read_run
from callbacks.report.training import TRAINING_REPORT, write_training_report
from callbacks.run.folder import REPORT
from callbacks.run.settings import flatten

__all__ = ["REPORT", "TRAINING_REPORT", "write_report", "write_training_report"]

SHOWN_NOTES = 5  # of each domain
EXTRA = ("baseline", "gain", "worse")  # scores beside the unadapted network


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
    page = Page(
        title=f"{data.label} on {', '.join(data.domains) or 'no image yet'}",
        subtitle=join_known(
            [
                data.summary.get("stage") or data.settings.get("stage"),
                f"{data.images} images",
                str(data.summary.get("date", ""))[:10],
                data.summary.get("device"),
            ]
        ),
        tiles=make_tiles(data),
        notes=[*describe_progress(data), *data.missing, *describe_notes(data.domains.values())],
        scores=tabulate_scores(data),
        figures=[group for group in draw_groups(data) if group["figures"]],
        facts=list_facts(data),
        files=list_files(folder, ["config.yaml"]),
        layer_names={"image": "photo", "truth": "truth", "baseline": BASELINE, "prediction": data.label},
        legend=[{"name": name, "colour": colour} for name, colour in data.colours.items()],
    )
    add_pictures(page, data)
    return page.write(folder / REPORT)


def make_tiles(data: RunData) -> list[dict[str, str]]:
    """Returns the numbers at the top: means over domains."""
    miou = data.average({name: domain.scores["miou"] for name, domain in data.domains.items()})
    gain = data.average({name: domain.gain for name, domain in data.domains.items()})
    worse = data.average({name: domain.worse for name, domain in data.domains.items()})
    time = data.average({name: domain.scores["ms_per_image"] for name, domain in data.domains.items()})
    tiles = [
        {"value": f"{format_number(miou, 2)} %", "label": "mean IoU, mean over domains"},
        {"value": f"{format_signed(gain)} points", "label": f"gain over {BASELINE}"},
        {"value": f"{format_number(worse, 1)} %", "label": f"of images worse than {BASELINE}"},
        {"value": f"{format_milliseconds(time or 0)} ms", "label": "per image"},
    ]
    known = (miou, gain, worse, time)
    return [tile for tile, value in zip(tiles, known, strict=True) if value is not None]


def describe_progress(data: RunData) -> list[str]:
    """Says how far a run came, if it did not end."""
    if data.complete:
        return []
    total = f" of {data.expected}" if data.expected is not None else ""
    return [f"Incomplete: {data.images}{total} images. The same command again goes on from here"]


def describe_notes(domains: Iterable[DomainData]) -> list[str]:
    """Says which notes the images of each domain have."""
    described = []
    for domain in domains:
        notes = domain.scores.get("notes", [])
        if notes:
            more = f"; and {len(notes) - SHOWN_NOTES} more" if len(notes) > SHOWN_NOTES else ""
            count = domain.scores.get("images_with_notes", 0)
            described.append(f"{domain.name}: {count} images have a note: {'; '.join(notes[:SHOWN_NOTES])}{more}")
    return described


def tabulate_scores(data: RunData) -> dict[str, Any]:
    """Makes the table of scores: a line per domain, and their mean if it is known."""
    columns = ["domain", "mean IoU (%)", f"{BASELINE} (%)", "gain", "accuracy (%)", "ECE (%)", "class-wise ECE (%)"]
    columns += ["Brier", "NLL", "ms / image", "images", "fallbacks", "images worse (%)"]
    values = {}
    for name, domain in data.domains.items():
        scores = domain.scores
        known: dict[str, float | None] = {key: scores.get(key) for key in SCORES}
        known["baseline"] = domain.baseline["miou"] if domain.baseline else None
        known |= {"gain": domain.gain, "worse": domain.worse}
        values[name] = known
    lines = []
    for name, domain in data.domains.items():
        counts = [count_images(domain), str(domain.scores.get("fallbacks", 0))]
        lines.append({"mean": False, "cells": [name, *format_scores(values[name], counts)]})
    mean = {key: data.average({name: known[key] for name, known in values.items()}) for key in [*SCORES, *EXTRA]}
    if len(values) > 1 and mean["miou"] is not None:
        fallbacks = sum(domain.scores.get("fallbacks", 0) for domain in data.domains.values())
        lines.append({"mean": True, "cells": ["mean", *format_scores(mean, [str(data.images), str(fallbacks)])]})
    caption = (
        f"Gain in points over {BASELINE}, the network as it was trained; images worse: those whose mean IoU fell. ECE: "
        "15 bins over all pixels; class-wise ECE: the paper's, 10 bins per image and class. Brier score in [0, 2] and "
        "negative log-likelihood in nats, means over pixels. Time: median per image"
    )
    return {"columns": columns, "lines": lines, "caption": caption}


def count_images(domain: DomainData) -> str:
    """Writes how many images are scored, and of how many if some are left."""
    images = domain.scores["images"]
    return f"{images}" if domain.expected in (None, images) else f"{images} of {domain.expected}"


def format_scores(values: Mapping[str, float | None], counts: Sequence[str]) -> list[str]:
    """Writes the scores of a line of the table, with the two counts at their places."""
    percentages = [format_number(values[key], 2) for key in ("miou", "baseline")]
    percentages += [format_signed(values["gain"])]
    percentages += [format_number(values[key], 2) for key in ("accuracy", "ece", "classwise_ece")]
    plain = [format_number(values["brier"], 4), format_number(values["nll"], 4)]
    return [
        *percentages,
        *plain,
        format_number(values["ms_per_image"], 1),
        *counts,
        format_number(values["worse"], 1),
    ]


def draw_groups(data: RunData) -> list[dict[str, Any]]:
    """Draws all figures of a run, a panel per domain each on its own, so that they fit on narrow screens."""
    gains, domains = [], data.domains.values()
    if data.domains:
        gains.append(embed(draw_domains(data.compare_domains()), "Mean IoU per domain"))
    for domain in domains:
        if domain.differences:
            figure = draw_differences({domain.name: domain.differences})
            gains.append(embed(figure, f"Mean IoU gained per image over {BASELINE} (as Fig. 10 of the paper)"))
    classes = [embed(draw_classes({d.name: data.compare_classes(d)}, data.colours)) for d in domains]
    calibration = [
        embed(draw_reliability({domain.name: domain.scores}))
        for domain in domains
        if sum(domain.scores.get("reliability", {}).get("pixels", []))
    ]
    steps = [
        embed(draw_losses({domain.name: [row.losses for row in domain.rows]}))
        for domain in domains
        if any(row.losses for row in domain.rows)
    ]
    search = [] if data.search is None else [embed(draw_search(data.search), wide=len(data.search["parameters"]) > 2)]
    times = [embed(draw_times({d.name: [row.milliseconds for row in d.rows]})) for d in domains if d.rows]
    return [
        {"title": "Gains", "text": "", "figures": gains},
        {"title": "Search", "text": describe_search(data.search), "figures": search},
        {"title": "Classes", "text": "Classes that are absent from a domain are left out", "figures": classes},
        {"title": "Calibration", "text": "How often predictions are right at each confidence", "figures": calibration},
        {"title": "Steps", "text": "The loss on the pseudo labels while adapting", "figures": steps},
        {"title": "Time", "text": "To adapt to an image and predict it", "figures": times},
    ]


def describe_search(search: Mapping[str, Any] | None) -> str:
    """Says what was searched, and what came out best."""
    best = (search or {}).get("best") or {}
    values = ", ".join(f"{name} = {format_value(value)}" for name, value in best.get("values", {}).items())
    count = len((search or {}).get("points", []))
    name = name_method({"name": (search or {}).get("method") or "method"})
    return f"{name}: {count} points; best: {values}, mean IoU {format_number(best.get('miou'), 2)} %" if values else ""


def list_facts(data: RunData) -> list[dict[str, Any]]:
    """Lists everything that is known about how the results came about, in tables of names and values."""
    plain = {key: value for key, value in data.summary.items() if key not in ("domains", "mean", "method", "data")}
    known = {key: value for key, value in data.settings.items() if key not in ("method", "data", "class_names")}
    commands = [{f"command {number + 1}": run} for number, run in enumerate(data.runs)]
    groups = {
        "Run": {**plain, "complete": data.complete},
        "Method": data.method or {"name": f"none: the network as it was trained ({BASELINE})"},
        "Data": data.settings.get("data") or data.summary.get("data") or {},
        "Fingerprints": known,
        "Commands": {key: value for command in commands for key, value in command.items()},
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


def join_known(parts: Iterable[str | None]) -> str:
    """Joins the parts of a line that there are."""
    return " · ".join(part for part in parts if part)
