"""Mean IoU against time per image: the figure that says what a method's time buys.

Source: paper, Fig. 2 and 5.
"""

import argparse
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from callbacks.run.records import to_plain, write_file
from experiments.study import Study, describe_method

MARKERS = {"t-BN": "o", "IaBN": "s", "TTA": "D"}


def list_points(options: argparse.Namespace) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Lists what is tested.

    Returns:
        By name: ``method``, ``steps`` and ``trainable`` of a point, and the arguments of its run.
    """
    views = {"alpha": options.alpha, "scales": options.scales}
    one = {"steps": None, "trainable": None}
    every = {
        "t-BN": ({"method": "t-BN", **one}, []),
        "IaBN": ({"method": "IaBN", **one}, describe_method("IaBN", {"alpha": options.alpha})),
        "TTA": ({"method": "TTA", **one}, describe_method("TTA", views)),
    }
    for choice in options.trainable:
        names = None if choice == "default" else choice.split(",")
        for steps in options.steps:
            settings = views | {"psi": options.psi, "lr": options.lr, "num_steps": steps, "trainable": names}
            point = {"method": "Seg-TTT", "steps": steps, "trainable": choice}
            every[f"Seg-TTT_{choice.replace(',', '_')}_{steps}"] = point, describe_method("SegTTT", settings)
    return {name: value for name, value in every.items() if value[0]["method"] in options.methods}


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
    for name, (point, arguments) in list_points(options).items():
        summary = study.test(name, arguments)
        domains = {domain: scores["miou"] for domain, scores in summary["domains"].items()}
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
    for point in points:
        if point["method"] in MARKERS:
            axes.plot(point["ms"], point["miou"], MARKERS[point["method"]], markersize=8, label=point["method"])
    for choice in dict.fromkeys(point["trainable"] for point in points if point["method"] == "Seg-TTT"):
        line = [point for point in points if point["trainable"] == choice]
        label = "Seg-TTT" if choice == "default" else f"Seg-TTT, {choice.replace(',', ' + ')} only"
        axes.plot([point["ms"] for point in line], [point["miou"] for point in line], ".-", label=label)
        for point in line:
            place = (point["ms"], point["miou"])
            axes.annotate(
                f"{point['steps']}", place, xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center"
            )
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
