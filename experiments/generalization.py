"""What training for generalisation gives, and what adaptation to each test image adds on top.

Trains a network by each method of configs/training, by the same recipe on generated scenes; chooses alpha for each on
the development set; tests t-BN, IaBN and Seg-TTT on the targets. What is done already is not done again: started again
in the same folder, it goes on where it stopped.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from experiments.command_line import add_quick, make_parser, parse, run_program, to_path
from experiments.demo import CONFIG, QUICK, SCALES
from experiments.pages import describe_machine, insert_report, write_json
from experiments.scores import Column, find_row, format_scores, list_columns
from experiments.study import QUIET, ROOT, TRAINING, describe_method, open_study, read_json

PLAIN = "plain"
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


WORLDS = {
    "street_scenes": World(
        CONFIG,
        (PLAIN, "photometric", "mixstyle", "isw", "drpc", "fsdr"),
        {"scales": SCALES, "lr": 0.1},
        QUICK,
        ("seed_everything", "data.seed"),
    ),
    "photographs": World(  # three need ImageNet weights, which the small network of the other world lacks
        ROOT / "configs" / "experiment" / "photographs.yaml",
        (PLAIN, "photometric", "mixstyle", "isw", "frozen_norms", "asg", "csg", "drpc", "fsdr"),
        {"scales": [0.75, 1.0, 1.25], "psi": 0.5, "lr": 0.01, "trainable": ["neck", "head"]},
        ("--trainer.max_epochs=2", "--data.source.init_args.num_train=16", "--trainer.limit_test_batches=2"),
    ),
}


def list_training(name: str) -> list[str]:
    """Lists the arguments of main.py that train by a method."""
    chosen = [] if name == PLAIN else [f"--training={ROOT / 'configs' / 'training' / name}.yaml"]
    return [*chosen, *ARGUMENTS.get(name, ())]


def run_training(world: World, name: str, seed: int, folder: Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """Trains by one method with one seed, chooses alpha, and tests; returns a row per test-time method.

    Args:
        world: Of the data.
        name: One of its trainings.
        seed: Of the training.
        folder: Where to write.
        options: More arguments of every command.
    """
    print(f"[{name}, seed {seed}] Training ...", flush=True)
    study = open_study(folder, world.config, [*world.list_arguments(seed), *list_training(name), *options])
    found = study.choose_alpha()["best"]
    alpha = found["values"]["alpha"]
    methods = {
        "t-BN": [],
        "IaBN": describe_method("IaBN", {"alpha": alpha}),
        "Seg-TTT": describe_method("SegTTT", {"alpha": alpha, **world.seg_ttt}),
    }
    rows = [
        {"training": name, "method": method, "seed": seed, **study.score(method, arguments)}
        for method, arguments in methods.items()
    ]
    seconds = read_json(folder / TRAINING)["seconds"]
    rows[1] |= {"alpha": alpha, "development": found["miou"], "seconds": seconds}
    scores = ", ".join(f"{row['method']} {row['miou.mean']:.1f}" for row in rows)
    print(f"[{name}, seed {seed}] alpha {alpha:g}, mean IoU: {scores}", flush=True)
    return rows


def compare_with_plain(rows: Sequence[dict[str, Any]]) -> None:
    """Adds to rows what they are ``over`` plain training with the same seed, and the ``time`` relative to it."""
    for row in rows:
        plain = find_row(rows, training=PLAIN, method=row["method"], seed=row["seed"])
        if plain is not None:
            row["over"] = row["miou.mean"] - plain["miou.mean"]
            if "seconds" in row:
                row["time"] = row["seconds"] / plain["seconds"]


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table: means over seeds, in percent."""
    columns = [
        *list_columns(rows[0]),
        Column("over plain", "over", "{:+.1f}"),
        Column("alpha", "alpha", "{:.2f}"),
        Column("development", "development", spread=True),
        Column("time of plain's", "time"),
    ]
    return format_scores(rows, ["training", "method"], columns)


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
    rows: list[dict[str, Any]] = []
    for name, seed in product(names, arguments.seeds):
        rows += run_training(world, name, seed, folder / f"{name}_{seed}", options)
    compare_with_plain(rows)
    write_world_report(arguments, "generalization", folder, rows, format_rows(rows))
    return rows


def write_world_report(
    arguments: argparse.Namespace, name: str, folder: Path, rows: Sequence[Mapping[str, Any]], table: str
) -> None:
    """Writes the rows of a program as JSON, shows its table, and puts that into a page if one is named."""
    report = {"rows": rows, "world": arguments.world, "options": arguments.options, **describe_machine()}
    write_json(folder / "report.json", report)
    print(f"\n{table}\n\nWritten to {folder}", flush=True)
    if arguments.page:
        insert_report(arguments.page, table + "\n", f"{name} {arguments.world}")


if __name__ == "__main__":
    run_program(run_generalization)
