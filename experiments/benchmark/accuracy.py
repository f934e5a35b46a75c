"""Mean IoU against time per image: the figure that says what a method's time buys.

Source: paper, Fig. 2 and 5.
"""

import argparse
import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from callbacks.run.records import to_plain, write_file
from experiments.benchmark.cases import METHODS, list_cases
from experiments.study import Study, describe_method

MARKERS = {"t-BN": "o", "IaBN": "s", "TTA": "D", "Seg-TTT": ".-"}


def measure_accuracy(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tests the methods, draws the figure and writes its points after each; what is tested already is not again.

    Args:
        options: Of `experiments.benchmark`.

    Returns:
        Points: ``method``, ``steps``, ``trainable``, ``miou`` in percent and its value per target, ``ms`` per image.
    """
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    common = [f"--config={options.config}", f"--ckpt_path={options.accuracy}", "--verbose=false", "--results.panels=0"]
    common += [f"--trainer.accelerator={'gpu' if options.device == 'cuda' else 'cpu'}", "--trainer.logger=false"]
    common += ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", *options.options]
    study = Study(options.folder / "accuracy", common)
    points: list[dict[str, Any]] = []
    for case in list_cases(options.methods, options.steps, options.trainable):
        settings = case.list_settings(options.alpha, options.scales, options.psi, options.lr)
        method = METHODS[case.method]
        name = "_".join(str(part).replace(",", "_") for part in (case.method, case.trainable, case.steps) if part)
        summary = study.test(name, [] if method is None else describe_method(method.__name__, settings))
        domains = {domain: scores["miou"] for domain, scores in summary["domains"].items()}
        point: dict[str, Any] = asdict(case)
        point |= {"miou": summary["mean"]["miou"], "ms": summary["mean"]["ms_per_image"], "domains": domains}
        points.append(point)
        print(f"{name:<32}{point['miou']:6.1f} %{point['ms']:10.1f} ms per image", flush=True)
        write_file(options.folder / "accuracy.json", json.dumps(to_plain(points), indent=1).encode())
        draw_points(points, options.folder)
    print(f"\nPoints and figure: {options.folder}", flush=True)
    return points


def draw_points(points: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draws mean IoU against milliseconds per image: `accuracy.png` and `accuracy.svg`."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for method, trainable in dict.fromkeys((point["method"], point["trainable"]) for point in points):
        line = [point for point in points if (point["method"], point["trainable"]) == (method, trainable)]
        label = method if trainable in (None, "default") else f"{method}, {trainable.replace(',', ' + ')} only"
        places = [(point["ms"], point["miou"]) for point in line]
        axes.plot(*zip(*places, strict=True), MARKERS[method], markersize=8 if trainable is None else None, label=label)
        for point, place in zip(line, places, strict=True):
            text = f"{point['steps'] or ''}"
            axes.annotate(text, place, xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xscale("log")
    axes.set_xlabel("ms per image")
    axes.set_ylabel("mean IoU over targets (%)")
    axes.set_title("What time buys; numbers are steps of Seg-TTT", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"accuracy.{suffix}", dpi=150)
    plt.close(figure)
