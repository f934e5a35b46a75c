"""Mean IoU against time per image: the figure that says what a method's time buys.

Source: paper, Fig. 2 and 5.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from callbacks.run.records import to_plain
from experiments.benchmark.cases import METHODS, list_cases
from experiments.command_line import quieten
from experiments.pages import write_json
from experiments.study import QUIET, Study, describe_method

MARKERS = {"t-BN": "o", "IaBN": "s", "TTA": "D", "Seg-TTT": ".-"}


def measure_accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tests the methods, draws the figure and writes its points after each; what is tested already is not again.

    Args:
        options: Of `experiments.benchmark`.

    Returns:
        Points: ``method``, ``steps``, ``trainable``, ``miou`` in percent and its value per target, ``ms`` per image.
    """
    quieten()
    common = [f"--config={options.config}", f"--ckpt_path={options.accuracy}", "--verbose=false", "--results.panels=0"]
    common += [f"--trainer.accelerator={'gpu' if options.device == 'cuda' else 'cpu'}", "--trainer.logger=false"]
    study = Study(options.folder / "accuracy", [*common, *QUIET, *options.options])
    points: list[dict[str, Any]] = []
    for case in list_cases(options.methods, options.steps, options.trainable):
        settings = case.list_settings(options.alpha, options.lr, options.scales, options.psi)
        method = METHODS[case.method]
        name = "_".join(str(part).replace(",", "_") for part in (case.method, case.trainable, case.steps) if part)
        summary = study.test(name, [] if method is None else describe_method(method.__name__, settings))
        miou, ms = summary["mean"]["miou"], summary["mean"]["ms_per_image"]
        domains = {domain: scores["miou"] for domain, scores in summary["domains"].items()}
        points.append({**asdict(case), "miou": miou, "ms": ms, "domains": domains})
        print(f"{name:<32}{miou:6.1f} %{ms:10.1f} ms per image", flush=True)
        write_json(options.folder / "accuracy.json", to_plain(points))
        draw_points(points, options.folder)
    print(f"\nPoints and figure: {options.folder}", flush=True)
    return points


def draw_points(points: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draws mean IoU against milliseconds per image: `accuracy.png` and `accuracy.svg`."""
    lines: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for point in points:
        lines.setdefault((point["method"], point["trainable"]), []).append(point)
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for (method, trainable), line in lines.items():
        label = method if trainable in (None, "default") else f"{method}, {trainable.replace(',', ' + ')} only"
        times, scores = [point["ms"] for point in line], [point["miou"] for point in line]
        axes.plot(times, scores, MARKERS[method], markersize=8 if trainable is None else None, label=label)
        for point in line:
            text, place = str(point["steps"] or ""), (point["ms"], point["miou"])
            axes.annotate(text, place, xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center")
    axes.set(xscale="log", xlabel="ms per image", ylabel="mean IoU over targets (%)")
    axes.set_title("What time buys; numbers are steps of Seg-TTT", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"accuracy.{suffix}", dpi=150)
    plt.close(figure)
