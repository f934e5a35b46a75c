"""Measures what training for domain generalisation gains, and what adaptation to each test image adds to it.

Trains a network plainly and by each method of configs/training that suits it, by the same recipe on generated scenes
(ASG, CSG and frozen norms need ImageNet weights, so they run only with photographs as targets); chooses alpha for each
on the development set; tests t-BN, IaBN and Seg-TTT on the targets, which are generated scenes or photographs. If
interrupted, run the same command again: finished steps are skipped.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from experiments.command_line import run_program
from experiments.scores import Column, find_row, format_scores, list_columns
from experiments.study import Study, list_paper_methods
from experiments.worlds import PLAIN, WORLDS, World, list_training, make_world_parser, parse_world, write_world_report


def run_one_training(world: World, name: str, seed: int, folder: Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """Trains by one of the world's trainings, chooses alpha, and tests; returns a row per test-time method."""
    print(f"[{name}, seed {seed}] Training ...", flush=True)
    study = Study(folder, world.config, [*world.list_arguments(seed), *list_training(name), *options])
    found = study.choose_alpha()["best"]
    alpha = found["values"]["alpha"]
    methods = list_paper_methods({"alpha": alpha, **world.seg_ttt})
    tested = {method: methods[method] for method in ("t-BN", "IaBN", "Seg-TTT")}
    rows = [{"training": name, "seed": seed, **row} for row in study.score_all(tested)]
    rows[1] |= {"alpha": alpha, "development": found["miou"], "seconds": study.seconds}
    scores = ", ".join(f"{row['method']} {row['miou.mean']:.1f}" for row in rows)
    print(f"[{name}, seed {seed}] alpha {alpha:g}, mean IoU: {scores}", flush=True)
    return rows


def compare_with_plain(rows: Sequence[dict[str, Any]]) -> None:
    """Adds to each row its gain ``over`` plain training with the same seed, and its relative training ``time``."""
    for row in rows:
        plain = find_row(rows, training=PLAIN, method=row["method"], seed=row["seed"])
        if plain is not None:
            row["over"] = row["miou.mean"] - plain["miou.mean"]
            if row.get("seconds") and plain.get("seconds"):  # neither training was resumed
                row["time"] = row["seconds"] / plain["seconds"]


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table: means over seeds, in percent."""
    columns = [
        *list_columns(rows[0]),
        Column("over plain", "over", "{:+.1f}"),
        Column("alpha", "alpha", "{:.2f}"),
        Column("development", "development", spread=True),
        Column("training time / plain", "time"),
    ]
    return format_scores(rows, ["training", "method"], columns)


def run_generalization(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the rows, which are also written as JSON.

    Raises:
        ValueError: If an unknown training is named.
    """
    parser = make_world_parser("generalization", __doc__)
    only = "run only these trainings: names of files in configs/training, or plain"
    parser.add_argument("--only", nargs="+", metavar="NAME", help=only)
    given = parse_world(parser, "generalization", args)
    world = WORLDS[given.world]
    names = given.only or world.trainings
    if unknown := sorted(set(names) - set(world.trainings)):
        raise ValueError(f"unknown trainings {unknown}: expected some of {list(world.trainings)}")
    rows: list[dict[str, Any]] = []
    for name, seed in product(names, given.seeds):
        rows += run_one_training(world, name, seed, given.folder / f"{name}_{seed}", given.options)
    compare_with_plain(rows)
    write_world_report(given, "generalization", rows, format_rows(rows))
    return rows


if __name__ == "__main__":
    run_program(run_generalization)
