"""Data on which trainings and methods are compared: generated scenes, and photographs with 11 or 19 classes."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.command_line import make_parser, parse, to_path
from experiments.demo import CONFIG, QUICK, SCALES
from experiments.pages import describe_machine, write_findings
from experiments.study import QUIET, ROOT

PLAIN = "plain"
# Arguments that scale a training method down to few epochs on a CPU, or prepare the network for it.
ARGUMENTS = {
    "isw": (
        "--model.network.init_args.norm=isw", "--training.from_epoch=1", "--training.images=32", "--training.trials=3",
    ),
    "asg": ("--training.weight=0.75",),  # 75 at the paper's rate of 1e-4: steps of the same size at 0.01
    "csg": ("--training.weight=0.75", "--training.queue=4096"),
    "fsdr": ("--training.learn_from=1", "--training.images=16"),
}  # fmt: skip


def list_training(name: str) -> list[str]:
    """Lists the arguments of main.py for a training method: a file of configs/training, or `PLAIN`."""
    chosen = [] if name == PLAIN else [f"--training={ROOT / 'configs' / 'training' / name}.yaml"]
    return [*chosen, *ARGUMENTS.get(name, ())]


class World(NamedTuple):
    """Data to train and test networks on, with the settings that suit it."""

    config: Path  # of the experiment
    trainings: Sequence[str]  # training methods: names of files in configs/training, or PLAIN
    seg_ttt: Mapping[str, Any]  # settings of Seg-TTT besides alpha, chosen earlier on the development set
    quick: Sequence[str]  # arguments for a tiny budget
    beyond: Sequence[str]  # extra arguments for experiments.beyond: its training and images
    most_hurt: float  # share of images in (0, 1) that a trusted method may hurt; fits the number of development images
    seeds: Sequence[str] = ("seed_everything",)  # arguments of main.py that are set to the training seed

    def list_arguments(self, seed: int) -> list[str]:
        """Lists the arguments of every command for one training seed."""
        return [*(f"--{name}={seed}" for name in self.seeds), *QUIET]


PHOTOGRAPHS = World(
    config=ROOT / "configs" / "experiment" / "photographs.yaml",
    # Three need ImageNet weights, which the small network of StreetScenes lacks.
    trainings=(PLAIN, "photometric", "mixstyle", "isw", "frozen_norms", "asg", "csg", "drpc", "fsdr"),
    seg_ttt={"scales": [0.75, 1.0, 1.25], "psi": 0.5, "lr": 0.01, "trainable": ["neck", "head"]},
    quick=("--trainer.max_epochs=2", "--data.source.init_args.num_train=16", "--trainer.limit_test_batches=2"),
    beyond=list_training("frozen_norms"),  # for every set, the best on average over the others
    most_hurt=0.05,
)
WORLDS = {
    "street_scenes": World(
        config=CONFIG,
        trainings=(PLAIN, "photometric", "mixstyle", "isw", "drpc", "fsdr"),
        seg_ttt={"scales": SCALES, "lr": 0.1},
        quick=QUICK,
        beyond=("--data.num_val=99", "--data.target_seed=31337", "--data.num_test=33"),
        most_hurt=0.03,
        seeds=("seed_everything", "data.seed"),
    ),
    "photographs": PHOTOGRAPHS,
    "photographs_19": PHOTOGRAPHS._replace(config=PHOTOGRAPHS.config.with_name("photographs_19.yaml")),
}


def make_world_parser(name: str, summary: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a program that runs on one of the worlds; see `make_parser`."""
    parser = make_parser(name, summary, page=True)
    world = "street_scenes: generated scenes; photographs, photographs_19: four real data sets in 11 or 19 classes, "
    world += "pass their folder as -- --data.root=FOLDER"
    parser.add_argument("world", choices=list(WORLDS), help=world)
    parser.add_argument("--folder", type=to_path, help=f"where to write (default: outputs/{name}/WORLD)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds (default: 0)")
    return parser


def parse_world(parser: argparse.ArgumentParser, name: str, args: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; fills in the default folder, and adds the arguments of ``--quick`` to ``options``."""
    given = parse(parser, args)
    given.folder = given.folder or Path("outputs") / name / given.world
    given.options = [*(WORLDS[given.world].quick if given.quick else ()), *given.options]
    return given


def write_world_report(given: argparse.Namespace, name: str, rows: Sequence[Mapping[str, Any]], table: str) -> None:
    """Writes and prints a program's rows and their table."""
    report = {"rows": rows, "world": given.world, "options": given.options, **describe_machine()}
    write_findings(given.folder, report, table + "\n", given.page, f"{name} {given.world}")
    print(f"\n{table}\n\nWritten to {given.folder}", flush=True)
