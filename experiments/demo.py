"""The paper's claim on your own machine: train on generated scenes, adapt to each image of three unseen domains.

Trains once per seed on StreetScenes' source, chooses alpha and the learning rate of Seg-TTT on the development domain,
then tests t-BN, p-BN, IaBN, TTA and Seg-TTT on haze, dusk and dust. Everything goes through the project's command line.
"""

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from callbacks.alpha_search import AlphaSearch
from callbacks.report.panels import draw_panel, make_palette
from callbacks.results import SUMMARY, find_method, set_aside, to_plain
from experiments.command_line import to_path
from lightning_modules.predictor import predict_plainly
from main import SegmentationCLI, main

CONFIG = Path(__file__).parent.parent / "configs" / "experiment" / "street_scenes.yaml"
PUBLISHED_SEED = 2026  # of the target images; never looked at while the world or the recipe was designed
LEARNING_RATES = (0.02, 0.05, 0.1)
SCALES = "[0.5,0.75,1.0]"  # at these small sizes; chosen on the development domain
METHODS = ("t-BN", "p-BN", "IaBN", "TTA", "Seg-TTT")
QUICK = ("--trainer.max_epochs=2", "--data.num_train=64", "--data.num_val=4", "--data.num_test=4")


def run_seed(seed: int, folder: Path, options: Sequence[str], target_seed: int) -> dict[str, Any]:
    """Trains, chooses and tests with one training seed.

    Args:
        seed: Of the initial weights, the order and the augmentation.
        folder: Where to write.
        options: More arguments for every command.
        target_seed: Seed of the target images.

    Returns:
        ``alpha``, ``lr``, ``development`` (mean IoU in percent of everything tried), ``methods`` (the summary of each
        method's test run) and ``seconds`` of training.
    """
    common = [f"--config={CONFIG}", f"--seed_everything={seed}", f"--data.seed={seed}", *options]
    common += [f"--data.target_seed={target_seed}", "--trainer.enable_model_summary=false"]

    print(f"\n[seed {seed}] Training on source ...", flush=True)
    start = time.perf_counter()
    fitted = main(["fit", *common, f"--trainer.default_root_dir={folder}"])
    seconds = time.perf_counter() - start
    checkpoint = fitted.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    print(f"[seed {seed}] Trained in {seconds:.0f} s. Best checkpoint on development: {checkpoint}", flush=True)
    common += [f"--ckpt_path={checkpoint}", "--verbose=false", "--results.overwrite=true"]

    print(f"[seed {seed}] Choosing alpha and the learning rate of Seg-TTT on development ...", flush=True)
    place = folder / "development" / "alpha"
    search_alpha = "--trainer.callbacks+=callbacks.alpha_search.AlphaSearch"
    searched = main(["validate", *common, f"--results.folder={place}", search_alpha])
    search = next(callback for callback in searched.trainer.callbacks if isinstance(callback, AlphaSearch))  # type: ignore[attr-defined]
    alpha = search.best_alpha
    miou_by_lr = {}
    for lr in LEARNING_RATES:
        place = folder / "development" / f"lr_{lr:g}"
        main(["validate", *common, f"--results.folder={place}", *seg_ttt(alpha, lr)])
        miou_by_lr[lr] = read_summary(place)["mean"]["miou"]
    lr = max(LEARNING_RATES, key=lambda lr: miou_by_lr[lr])
    print(f"[seed {seed}] Chosen: alpha {alpha:g}, learning rate {lr:g}", flush=True)

    arguments = {
        "t-BN": [],
        "p-BN": ["--method=IaBN", "--method.alpha=1"],
        "IaBN": ["--method=IaBN", f"--method.alpha={alpha}"],
        "TTA": ["--method=TTA", f"--method.alpha={alpha}", f"--method.scales={SCALES}"],
        "Seg-TTT": seg_ttt(alpha, lr),
    }
    methods = {}
    for name in METHODS:
        print(f"[seed {seed}] Testing {name} on the targets ...", flush=True)
        tested = main(["test", *common, f"--results.folder={folder / 'test' / name}", *arguments[name]])
        methods[name] = read_summary(folder / "test" / name)
    draw_targets(tested, folder)
    development = {"iabn_alpha": search.miou_by_alpha, "seg_ttt_lr": miou_by_lr}
    return {
        "seed": seed, "alpha": alpha, "lr": lr, "development": development, "methods": methods, "seconds": seconds,
        "checkpoint": checkpoint,
    }  # fmt: skip


def seg_ttt(alpha: float | None, lr: float) -> list[str]:
    """Returns the arguments that pick Seg-TTT."""
    return ["--method=SegTTT", f"--method.alpha={alpha}", f"--method.lr={lr}", f"--method.scales={SCALES}"]


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads what a run has written."""
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def draw_targets(tested: SegmentationCLI, folder: Path) -> None:
    """Draws image | truth | t-BN | Seg-TTT of the first image of each target.

    Args:
        tested: The run that tested Seg-TTT.
        folder: Where to put `TARGET.png`.
    """
    method = find_method(tested.trainer)
    assert method is not None
    network = tested.model.network.eval().cpu()
    palette = make_palette(tested.model.num_classes, tested.datamodule.colours)
    for target in tested.datamodule.targets:
        sample = target.test_dataloader().dataset[0]
        image = sample["image"][None]
        predictions = [predict_plainly(network, image)[0], method.predict(network, image)[0]]
        panel = draw_panel(sample["image"], sample["mask"], predictions, palette)
        panel.save(folder / f"{target.domain}.png")


def tabulate(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Averages the runs over seeds.

    Returns:
        A row per method: ``miou`` per target and their mean, ``ece``, all in percent, and ``ms_per_image``; with
        several seeds also ``miou_spread``, the standard deviation of each over seeds.
    """
    rows = []
    for method in METHODS:
        summaries = [run["methods"][method] for run in runs]
        keyed = {name: [s["domains"][name]["miou"] for s in summaries] for name in summaries[0]["domains"]}
        keyed["mean"] = [s["mean"]["miou"] for s in summaries]
        row: dict[str, Any] = {"method": method, "miou": {key: statistics.mean(v) for key, v in keyed.items()}}
        for key in ("ece", "ms_per_image"):
            row[key] = statistics.mean(s["mean"][key] for s in summaries)
        if len(runs) > 1:
            row["miou_spread"] = {key: statistics.stdev(values) for key, values in keyed.items()}
        rows.append(row)
    return rows


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows as a Markdown table: mean IoU in percent (higher is better), ECE in percent (lower is better)."""
    columns = list(rows[0]["miou"])
    lines = [f"| method | {' | '.join(columns)} | ECE | ms/image |", "|---" * (len(columns) + 3) + "|"]
    for row in rows:
        spread = row.get("miou_spread", {})
        cells = [f"{row['miou'][key]:.1f}" + (f" ± {spread[key]:.1f}" if spread else "") for key in columns]
        lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['ece']:.1f} | {row['ms_per_image']:.0f} |")
    return "\n".join(lines)


def draw_chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws mean IoU per target and method as bars."""
    targets = list(rows[0]["miou"])
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(rows)
    colours = plt.get_cmap("viridis")(torch.linspace(0.1, 0.9, len(rows)).tolist())
    for number, row in enumerate(rows):
        places = [position + (number - (len(rows) - 1) / 2) * width for position in range(len(targets))]
        spread = list(row["miou_spread"].values()) if "miou_spread" in row else None
        values = list(row["miou"].values())
        bars = axes.bar(places, values, width * 0.95, yerr=spread, label=row["method"], color=colours[number])
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axes.set_xticks(range(len(targets)), targets)
    axes.set_ylabel("mean IoU (%)")
    axes.set_title("StreetScenes: trained on source, adapted to each image of unseen targets", fontsize=10)
    axes.legend(ncols=len(rows), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=to_path, default=Path("outputs/demo"), help="where to write (%(default)s)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="training seeds; several give mean and spread"
    )
    parser.add_argument(
        "--target-seed", type=int, default=PUBLISHED_SEED, help="which images the targets draw (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny budget: shows that all works, not how well")
    parser.add_argument(
        "options", nargs="*", help="more arguments for main.py, after --, e.g. -- --trainer.max_epochs=4"
    )
    return parser.parse_args(args)


def run_demo(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the demo; returns the rows of its table."""
    arguments = parse_arguments(args)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    start = time.perf_counter()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    set_aside(folder)
    options = [*(QUICK if arguments.quick else ()), *arguments.options]
    runs = []
    for seed in arguments.seeds:
        runs.append(run_seed(seed, folder / f"seed_{seed}", options, arguments.target_seed))
        rows = tabulate(runs)  # after every seed: nothing is lost if the next one is interrupted
        seconds = time.perf_counter() - start
        report = {"rows": rows, "seeds": arguments.seeds[: len(runs)], "quick": arguments.quick, "seconds": seconds}
        report |= {"target_seed": arguments.target_seed, "runs": runs}
        (folder / SUMMARY).write_text(json.dumps(to_plain(report), indent=1) + "\n", encoding="utf-8")
        (folder / "table.md").write_text(format_table(rows) + "\n", encoding="utf-8")
        draw_chart(rows, folder / "miou.png")
    for target in (folder / f"seed_{arguments.seeds[0]}").glob("*.png"):
        (folder / target.name).write_bytes(target.read_bytes())
    print(f"\nMean IoU in percent per target, ECE in percent; {time.perf_counter() - start:.0f} s\n")
    print(format_table(rows))
    if arguments.quick:
        print("\n--quick: the budget is far too small for these numbers to mean anything.")
    print(f"\nTable, chart and pictures: {folder}")
    return rows


if __name__ == "__main__":
    run_demo()
