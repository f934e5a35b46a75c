"""What training for generalisation gives, and what adaptation to each test image adds on top.

Trains a network by each method of configs/training, by the same recipe on generated scenes; chooses alpha for each on
the development set; tests t-BN, IaBN and Seg-TTT on the targets. What is done already is not done again: started again
in the same folder, it goes on where it stopped.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.command_line import add_quick, make_parser, parse, to_path
from experiments.demo import CONFIG, QUICK, SCALES
from experiments.pages import describe_machine, format_markdown, insert_report, write_json
from experiments.study import QUIET, ROOT, Study, describe_method, read_json, train

PLAIN = "plain"
METHODS = ("t-BN", "IaBN", "Seg-TTT")
# What is cut down for few epochs on a CPU, and what a method needs of the network.
ARGUMENTS = {
    "isw": (
        "--model.network.init_args.norm=isw", "--training.from_epoch=1", "--training.images=32", "--training.trials=3",
    ),
    "asg": ("--training.weight=0.75",),  # 75 at the paper's rate of 1e-4: as large steps at 0.01
    "csg": ("--training.weight=0.75", "--training.queue=4096"),
    "fsdr": ("--training.learn_from=1", "--training.images=16"),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Where the networks are trained and tested.

    Attributes:
        config: The experiment.
        trainings: Names of files in configs/training; `PLAIN` has none.
        seg_ttt: Settings of Seg-TTT besides alpha, as chosen before on the development set.
        quick: Arguments of a tiny budget.
        seeds: The arguments of main.py that a training seed sets.
    """

    config: Path
    trainings: Sequence[str]
    seg_ttt: Mapping[str, Any]
    quick: Sequence[str]
    seeds: Sequence[str] = ("seed_everything",)

    def list_arguments(self, seed: int) -> list[str]:
        """Lists the arguments of every command of one training seed."""
        return [*(f"--{name}={seed}" for name in self.seeds), *QUIET]

    def open_study(self, folder: Path, arguments: Sequence[str]) -> Study:
        """Trains with the arguments of main.py given, unless that is done; returns the study of the network."""
        checkpoint = train(folder, self.config, arguments)
        more = ["--trainer.logger=false", "--results.panels=0"]
        return Study.of_training(folder, self.config, arguments, checkpoint, more)


WORLDS = {
    "street_scenes": World(
        CONFIG,
        (PLAIN, "photometric", "mixstyle", "isw", "drpc", "fsdr"),
        {"scales": SCALES, "lr": 0.1},
        QUICK,
        ("seed_everything", "data.seed"),
    ),
    "photographs": World(  # ASG and CSG need ImageNet weights, which the small network of the other world has not
        ROOT / "configs" / "experiment" / "photographs.yaml",
        (PLAIN, "photometric", "mixstyle", "isw", "asg", "csg", "drpc", "fsdr"),
        {"scales": [0.75, 1.0, 1.25], "psi": 0.5, "lr": 0.01, "trainable": ["neck", "head"]},
        ("--trainer.max_epochs=2", "--data.source.init_args.num_train=16", "--trainer.limit_test_batches=2"),
    ),
}


def list_training(name: str) -> list[str]:
    """Lists the arguments of main.py that train by a method."""
    chosen = [] if name == PLAIN else [f"--training={ROOT / 'configs' / 'training' / name}.yaml"]
    return [*chosen, *ARGUMENTS.get(name, ())]


def run_training(world: World, name: str, seed: int, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Trains by one method with one seed, and tests; returns a row of the report.

    Args:
        world: Of the data.
        name: One of its trainings.
        seed: Of the training.
        folder: Where to write.
        options: More arguments of every command.
    """
    print(f"[{name}, seed {seed}] Training ...", flush=True)
    arguments = [*world.list_arguments(seed), *list_training(name), *options]
    study = world.open_study(folder, arguments)
    found = study.choose_alpha()["best"]
    alpha = found["values"]["alpha"]
    given = {
        "t-BN": [],
        "IaBN": describe_method("IaBN", {"alpha": alpha}),
        "Seg-TTT": describe_method("SegTTT", {"alpha": alpha, **world.seg_ttt}),
    }
    row: dict[str, Any] = {"training": name, "seed": seed, "alpha": alpha, "development": found["miou"]}
    row["seconds"] = read_json(folder / "training.json")["seconds"]
    for method in METHODS:
        summary = study.test(method, given[method])
        row[method] = {domain: scores["miou"] for domain, scores in summary["domains"].items()}
    scores = ", ".join(f"{method} {statistics.mean(row[method].values()):.1f}" for method in METHODS)
    print(f"[{name}, seed {seed}] alpha {alpha:g}, mean IoU: {scores}", flush=True)
    return row


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table: mean over seeds, with several also the deviation, in percent."""
    domains = list(rows[0][METHODS[0]])
    heads = ["training", "method", *domains, "mean", "over plain", "alpha", "development", "time of plain's"]
    plain = {row["seed"]: row for row in rows if row["training"] == PLAIN}
    lines = []
    for name in dict.fromkeys(row["training"] for row in rows):
        own = [row for row in rows if row["training"] == name]
        for method in METHODS:
            columns = [[row[method][domain] for row in own] for domain in domains]
            columns.append([statistics.mean(row[method].values()) for row in own])
            compared = [row for row in own if row["seed"] in plain]
            gains = [average(row, method) - average(plain[row["seed"]], method) for row in compared]
            cells = [name, method, *map(format_spread, columns), f"{statistics.mean(gains):+.1f}" if gains else ""]
            times = [row["seconds"] / plain[row["seed"]]["seconds"] for row in compared]
            alphas = ", ".join(dict.fromkeys(f"{row['alpha']:g}" for row in own))
            development = format_spread([row["development"] for row in own])
            relative = f"{statistics.mean(times):.1f}" if times else ""
            lines.append([*cells, *((alphas, development, relative) if method == "IaBN" else ("", "", ""))])
    return format_markdown(heads, lines, numbers=range(2, len(heads)))


def average(row: Mapping[str, Any], method: str) -> float:
    """Returns the mean over targets of a row."""
    return statistics.mean(row[method].values())


def format_spread(values: Sequence[float]) -> str:
    """Formats a mean, and the standard deviation of several values."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def make_world_parser(name: str, summary: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a program over one of the worlds, see `make_parser`."""
    parser = make_parser(name, summary)
    parser.add_argument("world", choices=list(WORLDS), help="generated scenes, or photographs (--data.root after --)")
    parser.add_argument("--folder", type=to_path, help=f"where to write (outputs/{name}/WORLD)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training (%(default)s)")
    parser.add_argument("--page", type=to_path, help="also write the table between the marks of this page")
    add_quick(parser)
    return parser


def run_generalization(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the rows, which are also written as JSON.

    Raises:
        ValueError: If a training is named that there is not.
    """
    parser = make_world_parser("generalization", __doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainings: files of configs/training, or plain")
    arguments = parse(parser, args)
    world = WORLDS[arguments.world]
    names = arguments.only or world.trainings
    if unknown := sorted(set(names) - set(world.trainings)):
        raise ValueError(f"unknown trainings {unknown}: expected some of {list(world.trainings)}")
    folder = arguments.folder or Path("outputs/generalization") / arguments.world
    options = [*(world.quick if arguments.quick else ()), *arguments.options]
    rows = []
    for seed in arguments.seeds:
        for name in names:
            rows.append(run_training(world, name, seed, folder / f"{name}_{seed}", options))
    report = {"rows": rows, "world": arguments.world, "options": arguments.options, **describe_machine()}
    write_json(folder / "report.json", report)
    print(f"\n{format_rows(rows)}\n\nWritten to {folder}", flush=True)
    if arguments.page:
        insert_report(arguments.page, format_rows(rows) + "\n", f"generalization {arguments.world}")
    return rows


if __name__ == "__main__":
    try:
        run_generalization()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
