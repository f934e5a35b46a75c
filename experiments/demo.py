"""The paper's claim on your own machine: train on generated scenes, adapt to each image of three unseen domains.

Trains once per seed on StreetScenes' source, chooses alpha and the learning rate of Seg-TTT on the development domain,
then tests t-BN, p-BN, IaBN, TTA, Seg-TTT and `best` (beyond the paper) on haze, dusk and dust. Everything goes through
the project's command line.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.results import SUMMARY
from callbacks.run.records import number_files, write_file, write_json
from experiments.command_line import make_parser, parse
from experiments.scores import COST, flatten_summary, format_scores, group_rows, list_columns
from experiments.study import CHECKPOINT, ROOT, Study, list_paper_methods

CONFIG = ROOT / "configs" / "experiment" / "street_scenes.yaml"
PUBLISHED_SEED = 2026  # of the target images, on which nothing was ever chosen
LEARNING_RATES = (0.02, 0.05, 0.1)
SCALES = [0.5, 0.75, 1.0]  # for these small images; chosen on the development domain
METHODS = ("t-BN", "p-BN", "IaBN", "TTA", "Seg-TTT", "best")
BEST = ROOT / "configs" / "method" / "best.yaml"  # beyond the paper
QUICK = ("--trainer.max_epochs=2", "--data.num_train=64", "--data.num_val=4", "--data.num_test=4")


def list_options(seed: int, target_seed: int = PUBLISHED_SEED, more: Sequence[str] = ()) -> list[str]:
    """Lists the arguments of main.py for one training and its tests."""
    seeds = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--data.target_seed={target_seed}"]
    return [*seeds, "--trainer.enable_model_summary=false", *more]


def run_seed(seed: int, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Trains, chooses settings and tests with one training seed.

    Returns:
        ``seed``, ``alpha``, ``lr``, ``development`` (mean IoU in percent of each value tried), ``methods`` (the summary
        of each method's test run), ``seconds`` of training (None if it was resumed) and ``checkpoint``.
    """
    print(f"\n[seed {seed}] Training on source ...", flush=True)
    study = Study(folder, CONFIG, options, ["--trainer.logger=false"])
    checkpoint = study.train()
    took = "" if study.seconds is None else f" in {study.seconds:.0f} s"  # None: resumed
    print(f"[seed {seed}] Trained{took}. Best checkpoint on development: {checkpoint}", flush=True)

    print(f"[seed {seed}] Choosing alpha and the learning rate of Seg-TTT on development ...", flush=True)
    alphas = study.choose_alpha()
    alpha = alphas["best"]["values"]["alpha"]
    views = {"alpha": alpha, "scales": SCALES}
    rates = study.choose("lr", "SegTTT", views, {"lr": LEARNING_RATES})
    lr = rates["best"]["values"]["lr"]
    print(f"[seed {seed}] Chosen: alpha {alpha:g}, learning rate {lr:g}", flush=True)

    best = [f"--method={BEST}", f"--method.alpha={alpha}", f"--method.lr={lr}"]
    arguments = list_paper_methods(views | {"lr": lr}) | {"best": best}
    methods = {}
    for name in METHODS:
        print(f"[seed {seed}] Testing {name} on the targets ...", flush=True)
        methods[name] = study.test(name, arguments[name])
    development = {
        "iabn_alpha": {point["values"]["alpha"]: point["miou"] for point in alphas["points"]},
        "seg_ttt_lr": {point["values"]["lr"]: point["miou"] for point in rates["points"]},
    }
    return {
        "seed": seed, "alpha": alpha, "lr": lr, "development": development, "methods": methods,
        "seconds": study.seconds, "checkpoint": str((folder / CHECKPOINT).resolve()),
    }  # fmt: skip


def flatten_runs(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lists the scores as flat rows, one per run and method."""
    return [{"method": name, **flatten_summary(run["methods"][name])} for run in runs for name in METHODS]


def average_runs(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Averages the runs over seeds.

    Returns:
        A row per method: ``miou`` per target and their mean, ``ece``, all in percent, and ``ms_per_image``; with
        several seeds also ``miou_spread``, the standard deviation of each over seeds.
    """
    rows = []
    for (method,), scores in group_rows(flatten_runs(runs), ["method"]):
        miou = {column.title: [row[column.key] for row in scores] for column in list_columns(scores[0])}
        row: dict[str, Any] = {"method": method, "miou": {name: statistics.mean(miou[name]) for name in miou}}
        row |= {key: statistics.mean(row[key] for row in scores) for key in ("ece", "ms_per_image")}
        if len(runs) > 1:
            row["miou_spread"] = {name: statistics.stdev(miou[name]) for name in miou}
        rows.append(row)
    return rows


def format_runs(runs: Sequence[dict[str, Any]]) -> str:
    """Formats a Markdown table: mean IoU in percent (higher is better), ECE in percent (lower is better)."""
    rows = flatten_runs(runs)
    return format_scores(rows, ["method"], [*list_columns(rows[0]), *COST])


def draw_bars(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws mean IoU per target and method as bars."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    targets = list(rows[0]["miou"])
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [position + (number - (len(rows) - 1) / 2) * width for position in range(len(targets))]
        spread = list(row["miou_spread"].values()) if "miou_spread" in row else None
        colour = colormaps["viridis"](0.1 + 0.8 * number / (len(rows) - 1))
        values = list(row["miou"].values())
        bars = axes.bar(places, values, width * 0.95, yerr=spread, label=row["method"], color=colour)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axes.set_xticks(range(len(targets)), targets)
    axes.set_ylabel("mean IoU (%)")
    axes.set_title("StreetScenes: trained on source, adapted to each image of unseen targets", fontsize=10)
    axes.legend(ncols=len(rows), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes.margins(y=0.12)
    figure.savefig(path, dpi=150)


def copy_pictures(folder: Path, seed: int) -> None:
    """Copies the panels (image | truth | t-BN | Seg-TTT) of each target's first image to `TARGET.png`."""
    for panels in (folder / f"seed_{seed}" / "test" / "Seg-TTT" / "panels").glob("*"):
        write_file(folder / f"{panels.name}.png", min(panels.glob("*.png")).read_bytes())


def run_demo(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the demo from scratch, renaming earlier results; returns the rows of its table."""
    parser = make_parser("demo", __doc__, folder="outputs/demo")
    seeds = "training seeds; several give mean and spread (default: 0)"
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help=seeds)
    target = "seed of the target images (default: %(default)s)"
    parser.add_argument("--target-seed", type=int, default=PUBLISHED_SEED, help=target)
    arguments = parse(parser, args)
    start = time.perf_counter()
    folder: Path = arguments.folder
    number_files([path for path in [*folder.glob(SUMMARY), *folder.glob("seed_*")] if path.suffix in ("", ".json")])
    more = [*(QUICK if arguments.quick else ()), *arguments.options]
    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        runs.append(run_seed(seed, folder / f"seed_{seed}", list_options(seed, arguments.target_seed, more)))
        rows = average_runs(runs)  # after every seed, in case the next one is interrupted
        seconds = time.perf_counter() - start
        report = {"rows": rows, "seeds": arguments.seeds[: len(runs)], "quick": arguments.quick, "seconds": seconds}
        write_json(folder / SUMMARY, report | {"target_seed": arguments.target_seed, "runs": runs})
        write_file(folder / "table.md", (format_runs(runs) + "\n").encode())
        draw_bars(rows, folder / "miou.png")
    copy_pictures(folder, arguments.seeds[0])
    print(f"\nMean IoU in percent per target, ECE in percent; {time.perf_counter() - start:.0f} s\n")
    print(format_runs(runs))
    if arguments.quick:
        print("\n--quick: the budget is far too small for these numbers to mean anything.")
    print(f"\nTable, chart and pictures: {folder}")
    return rows


if __name__ == "__main__":
    run_demo()
