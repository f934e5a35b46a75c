"""Measures cheaper variants of Seg-TTT, as mean IoU against time on StreetScenes, and the preset `seg_ttt_fast`.

Every setting is tried on the development domain: fewer steps, larger rates, time budgets, fewer layers, fewer views.
The preset is the most accurate of a grid that keeps 90 % of Seg-TTT's gain over IaBN in at most a third of its time; it
is then tested once on the targets, beside IaBN, TTA and Seg-TTT. If interrupted, run the same command again: finished
steps are skipped.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from callbacks import SegTTT
from experiments.benchmark.cost import time_by_turns
from experiments.command_line import make_parser, parse, run_program
from experiments.comparison import BASE, QUICK, SCALES, choose_shared, list_shared, open_contender
from experiments.pages import describe_machine, write_findings
from experiments.scores import COST, Column, find_row, format_scores, list_columns
from experiments.study import Study, describe_method
from lightning_modules.networks import DeepLabV1

KEPT = 0.9  # least share of Seg-TTT's gain over IaBN that the preset keeps
TIMES = 3  # least number of times that the preset is as fast as Seg-TTT
CURVES: dict[str, list[dict[str, Any]]] = {
    "fewer steps": [{"num_steps": steps} for steps in (1, 2, 3, 5, 10)],
    "fewer steps, lr doubled": [{"num_steps": steps, "lr": 2.0} for steps in (1, 2, 3, 5)],
    "fewer steps, lr fourfold": [{"num_steps": steps, "lr": 4.0} for steps in (1, 2, 3)],
    "time_budget_ms": [{"time_budget_ms": share} for share in (0.25, 0.5, 0.75)],
    "trainable": [{"trainable": names} for names in (["head"], ["layer4", "head"])],
    "fewer views": [{"scales": scales} for scales in ([0.5], [0.75], [0.5, 1.0], [0.5, 0.75])],
}
# Grid for the preset, all with Seg-TTT's views; lr is a factor on Seg-TTT's learning rate.
GRID: list[dict[str, Any]] = [
    {"scales": SCALES, "flip": True, "grayscale": True, "num_steps": steps, "lr": factor}
    for steps, factor in product((1, 2, 3, 4), (1.0, 1.5, 2.0, 3.0))
]
WAYS = [
    Column("mean IoU", "miou"),
    Column("gain kept", "kept", "{:.0f} %"),
    Column("ms/image", "ms", "{:.0f}"),
    Column("time / Seg-TTT", "time", "{:.2f}"),
]
LARGE = (256, 512)  # (H, W) of the image on which the preset is timed, with the paper's network


def resolve_factors(settings: Mapping[str, Any], usual: Mapping[str, Any], milliseconds: float) -> dict[str, Any]:
    """Returns all settings of a variant, whose learning rate and time budget are given as factors on Seg-TTT's."""
    resolved = {**usual, **settings}
    if "lr" in settings:
        resolved["lr"] = settings["lr"] * usual["lr"]
    if "time_budget_ms" in settings:
        resolved["time_budget_ms"] = round(settings["time_budget_ms"] * milliseconds, 1)
    return resolved


def name_settings(settings: Mapping[str, Any]) -> str:
    """Names settings for tables and folders."""
    return ", ".join(
        f"{key} {'+'.join(map(str, value)) if isinstance(value, list) else value}" for key, value in settings.items()
    )


def validate(study: Study, name: str, arguments: Sequence[str]) -> dict[str, float]:
    """Scores a method on the development domain: mean IoU in percent, milliseconds per image."""
    mean = study.validate(name, arguments)["mean"]
    return {"miou": mean["miou"], "ms": mean["ms_per_image"]}


def choose_preset(
    rows: Sequence[Mapping[str, Any]], iabn: float, full: float, shares: Mapping[int, float]
) -> Mapping[str, Any] | None:
    """Returns the most accurate row that keeps `KEPT` of the gain in at most 1 / `TIMES` of the time, or None.

    Args:
        rows: Rows of the grid, with ``miou`` and ``settings``.
        iabn: Mean IoU of IaBN.
        full: Mean IoU of Seg-TTT.
        shares: Share of Seg-TTT's time, by number of steps.
    """
    good = [row for row in rows if row["miou"] >= iabn + KEPT * (full - iabn)]
    fast = [row for row in good if shares[row["settings"]["num_steps"]] <= 1 / TIMES]
    return max(fast, key=lambda row: row["miou"], default=None)


def measure_shares(steps: Sequence[int], size: Sequence[int] = LARGE, backbone: str = "resnet50") -> dict[int, float]:
    """Measures the time of each number of steps as a share of that of 10 steps, on the paper's network.

    Its weights are random. It is large enough that arithmetic takes most of the time, not overhead.
    """
    network, image, counts = DeepLabV1(backbone, 19).eval(), torch.randn(1, 3, *size), [*steps, 10]
    calls = [partial(SegTTT(num_steps=count).predict, network, image) for count in counts]
    times = [seconds.median for seconds in time_by_turns(calls, 3)]
    return {count: seconds / times[-1] for count, seconds in zip(steps, times, strict=False)}


def format_tradeoffs(report: Mapping[str, Any]) -> str:
    """Formats the report for docs/tradeoffs.md: all variants on development, the preset, and its test."""
    iabn, full = report["development"]["IaBN"], report["development"]["Seg-TTT"]
    tried = [{"way": name, "settings": "", **row} for name, row in report["development"].items()]
    tried += [{"way": way, **row, "settings": row["name"]} for way, rows in report["curves"].items() for row in rows]
    for row in tried:
        row["kept"] = 100 * (row["miou"] - iabn["miou"]) / (full["miou"] - iabn["miou"])
        row["time"] = row["ms"] / full["ms"]
    targets, chosen = report["targets"], report["preset"]
    tested = format_scores(targets, ["method"], [*list_columns(targets[0]), *COST])
    return f"""`python -m experiments.tradeoffs --page docs/tradeoffs.md` ({report["machine"]}, torch {report["torch"]},
{report["date"]}). {report["images"]} images of `development`. Seg-TTT uses {report["usual"]}.

{format_scores(tried, ["way", "settings"], WAYS)}

![mean IoU against time](tradeoffs.png)

Of {len(report["grid"])} combinations of steps and rates, {chosen["name"] if chosen else "none"} was chosen. On the
paper's ResNet-50 at 256x512 {format_shares(report["shares"])} of the time of 10. On the targets, tested once:

{tested}
{judge(targets)}
"""


def format_shares(shares: Mapping[int, float]) -> str:
    """Formats shares of time by number of steps."""
    return ", ".join(
        f"{count} step{'s take' if count > 1 else ' takes'} {share:.2f}" for count, share in shares.items()
    )


def judge(targets: Sequence[Mapping[str, Any]]) -> str:
    """States the share of the gain that the preset keeps on the targets, and its share of Seg-TTT's time."""
    fast, iabn, full = (find_row(targets, method=name) for name in ("seg_ttt_fast", "IaBN", "Seg-TTT"))
    if fast is None or iabn is None or full is None:
        return ""
    kept = (fast["miou.mean"] - iabn["miou.mean"]) / (full["miou.mean"] - iabn["miou.mean"])
    share = fast["ms_per_image"] / full["ms_per_image"]
    return f"\nOn the targets it keeps {100 * kept:.0f} % of the gain in {share:.2f} of this network's time."


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws mean IoU against time on the development domain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve, rows in report["curves"].items():
        ordered = sorted(rows, key=lambda row: row["ms"])
        axes.plot([row["ms"] for row in ordered], [row["miou"] for row in ordered], "o-", ms=4, lw=1, label=curve)
    for name, row in report["development"].items():
        axes.plot(row["ms"], row["miou"], "k*", ms=9)
        axes.annotate(name, (row["ms"], row["miou"]), xytext=(6, -10), textcoords="offset points", fontsize=9)
    if report["preset"]:
        axes.plot(report["preset"]["ms"], report["preset"]["miou"], "r*", ms=13, label="seg_ttt_fast")
    axes.set(xscale="log", xlabel="ms per image", ylabel="mean IoU (%) on development")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def run_tradeoffs(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the study; returns its report, which is also written as JSON, page and figure."""
    given = parse(make_parser("tradeoffs", __doc__, folder="outputs/tradeoffs", page=True), args)
    study = open_contender(BASE, given.folder, [*(QUICK if given.quick else ()), *given.options])
    chosen = choose_shared(study)
    usual = {"alpha": chosen["alpha"], "lr": chosen["lr"], "scales": SCALES}
    known = list_shared(BASE, chosen)
    development = {name: validate(study, f"known_{name}", method) for name, method in known.items()}
    full = development["Seg-TTT"]

    def try_all(curve: str, ways: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        print(f"Trying {curve} on development ...", flush=True)
        rows = []
        for way in ways:
            method = describe_method("SegTTT", resolve_factors(way, usual, full["ms"]))
            scores = validate(study, f"{curve}_{name_settings(way)}".replace(" ", "_"), method)
            rows.append({"settings": way, "name": name_settings(way), **scores})
        return rows

    curves = {curve: try_all(curve, ways) for curve, ways in CURVES.items()}
    grid = try_all("grid", GRID)
    print("Timing the preset's steps on ResNet-50 ...", flush=True)
    counts = sorted({way["num_steps"] for way in GRID})
    shares = measure_shares(counts, *(((64, 64), "resnet10") if given.quick else ()))
    preset = choose_preset(grid, development["IaBN"]["miou"], full["miou"], shares)
    if preset is not None:
        known["seg_ttt_fast"] = describe_method("SegTTT", resolve_factors(preset["settings"], usual, full["ms"]))
    report = {
        **describe_machine(),
        "images": study.validate("known_IaBN", known["IaBN"])["domains"]["development"]["images"],
        "usual": name_settings(usual),
        "development": development,
        "curves": curves,
        "grid": grid,
        "shares": shares,
        "preset": preset,
        "targets": study.score_all(known),
    }
    text = format_tradeoffs(report)
    write_findings(given.folder, report, text, given.page)
    for place in [given.folder, *([given.page.parent] if given.page else [])]:
        draw(report, place / "tradeoffs.png")
    print(f"\n{text}\nWritten to {given.folder}", flush=True)
    return report


if __name__ == "__main__":
    run_program(run_tradeoffs)
