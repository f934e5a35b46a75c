"""The command line of sweeps without an account.

Reads a sweep in Weights & Biases' format and runs it with Optuna: each trial is the same command that W&B's agent would
run, `main.py validate`, in a folder of its own. A grid over a method's arguments runs in one pass over the images. The
same command again goes on with what is left; several machines share a study by `--storage`.
"""

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import optuna

from callbacks.run.records import to_plain
from experiments.command_line import drop_options, split_arguments, to_path
from experiments.sweep.child import ChildError
from experiments.sweep.command import CHECKPOINT, EXPERIMENT, build_command, check_command, check_config, resolve
from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.one_pass import OnePass, explain_several
from experiments.sweep.report import count_open, is_finished, list_rows, log_offline, write_report
from experiments.sweep.samplers import list_points, make_pruner, make_sampler
from experiments.sweep.search import Search, hide_password, open_storage, open_study
from experiments.sweep.trial import TrialRunner

SEED = 0


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


def run_command(args: Sequence[str] | None = None) -> int:
    """Runs a sweep from its command line; returns the exit code: 130 after Ctrl-C."""
    own, more = split_arguments(args)
    options = make_parser().parse_args(own)
    options.more = more
    again = "Nothing is lost: the same command goes on with what is left"
    try:
        with ending_on_sigterm():
            print(run_sweep(options), flush=True)
    except KeyboardInterrupt as interrupt:
        print(f"\nStopped. {again}.", file=sys.stderr, flush=True)
        return 143 if isinstance(interrupt, TerminatedError) else 130
    except ChildError as error:
        print(f"error: main.py says: {error}\n{again}, once this is mended.", file=sys.stderr, flush=True)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=(__doc__ or "").split("\n\n")[1],
        epilog="arguments behind -- are handed on to main.py, behind those of the sweep's command",
    )
    parser.add_argument(
        "sweep", type=to_path, help="a sweep in Weights & Biases' format, e.g. configs/sweep/alpha.yaml"
    )
    parser.add_argument("--experiment", help=f"config of the experiment, in place of ${EXPERIMENT}")
    parser.add_argument("--checkpoint", help=f"trained network to adapt, in place of ${CHECKPOINT}")
    parser.add_argument("--name", help="of the study (that of the sweep, or of its file)")
    parser.add_argument("--folder", type=to_path, help="where to write (outputs/sweeps/NAME)")
    parser.add_argument("--storage", help="database of the study, for several machines (a SQLite file in the folder)")
    parser.add_argument("--trials", type=count, help="how many trials at most (run_cap of the sweep; a whole grid)")
    parser.add_argument("--sampler", choices=("grid", "random", "tpe"), help="what chooses (the sweep's method)")
    parser.add_argument("--no-pruning", action="store_true", help="run hopeless trials to their end")
    parser.add_argument("--separate", action="store_true", help="one run per trial, also where one pass would do")
    return parser


def count(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return number


def run_sweep(options: argparse.Namespace) -> str:
    """Runs what is left of a sweep and writes its report.

    Args:
        options: Of the command line, with the arguments for main.py in ``more``.

    Returns:
        What to print at the end.

    Raises:
        ValueError: If the sweep cannot be run.
        ChildError: If main.py ends with an error.
        KeyboardInterrupt: On Ctrl-C.
    """
    definition = read_definition(options.sweep)
    for variable, value in ((EXPERIMENT, options.experiment), (CHECKPOINT, options.checkpoint)):
        if value:
            os.environ[variable] = value
    check_command(definition)
    check_options(definition, options.more)
    sampler = options.sampler or definition.sampler
    total = find_total(definition, sampler, options.trials)
    name = options.name or definition.name
    folder: Path = options.folder or Path("outputs/sweeps") / name
    first = {parameter.name: find_first(parameter) for parameter in definition.parameters}
    command = build_command(definition, first, options.more)
    config = resolve(command)
    check_config(config)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    url = options.storage or f"sqlite:///{folder / 'study.db'}"
    study = open_study(definition, open_storage(url), name, describe_settings(definition, config))
    study.sampler = make_sampler(sampler, definition, SEED)
    study.pruner = make_pruner(definition, not options.no_pruning)
    several = "--separate" if options.separate else explain_several(definition, sampler, total, config)
    work: Search | OnePass
    if several is None:
        work = OnePass(definition, study, folder, config, options.more)
    else:
        print(f"One run per trial: {several}.", file=sys.stderr, flush=True)
        work = Search(definition, study, TrialRunner(definition, folder, options.more), total)
    details = {"sampler": sampler, "storage": hide_password(url), "one_pass": several is None}
    try:
        work.run()
    finally:
        text = write_report(definition, study, folder, command, config, details)
    rows = list_rows(definition, study)
    if work.new and any(map(is_finished, rows)) and rows[0]["state"] == "finished":
        try:
            log_offline(definition, rows, folder)
        except Exception as error:  # of a service beside: all that counts is written
            print(f"The offline run for Weights & Biases could not be written: {error}", file=sys.stderr, flush=True)
    left = count_open(study)
    note = f"\n\n{left} trials are still running elsewhere: the same command shows the rest later." if left else ""
    return f"{text}\n\nWritten to {folder}{note}"


def check_options(definition: Definition, more: Sequence[str]) -> None:
    """Raises ValueError if an argument for main.py would overrule what the sweep chooses."""
    for name in definition.arguments:
        if drop_options(more, name) != list(more):
            raise ValueError(f"--{name} behind -- would overrule the sweep's own: expected it in {definition.path}")
    swept = {name.partition(".")[0] for name in definition.arguments if "." in name}
    for argument in more:
        name = argument.split("=")[0].removeprefix("--")
        if name in swept & {"method", "model", "data"}:
            raise ValueError(
                f"--{name} behind -- would overrule arguments that {definition.path} chooses: expected it in its "
                "command, before ${args}"
            )


def find_total(definition: Definition, sampler: str, trials: int | None) -> int:
    """Returns how many trials there are to be.

    Raises:
        ValueError: If nothing says so.
    """
    wanted = trials or definition.run_cap
    if sampler == "grid":
        make_sampler(sampler, definition, SEED)  # refuses parameters without end
        points = len(list_points(definition.parameters))
        return points if wanted is None else min(points, wanted)
    if wanted is None:
        raise ValueError(
            f"{definition.path}: nothing says how many trials {sampler} has: expected --trials, or run_cap in the sweep"
        )
    return wanted


def find_first(parameter: Any) -> Any:
    """Returns one value of a parameter."""
    if parameter.values:
        return parameter.values[0]
    return parameter.to_value(parameter.distribution.low)


def describe_settings(definition: Definition, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that the values of a study depend on: two machines agree on it wherever their files lie."""
    weights = Path(str(config.get("ckpt_path") or config["model"]["released"])).expanduser()
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    trainer = {key: config["trainer"].get(key) for key in ("precision", "limit_val_batches")}
    evaluated = {key: config.get(key) for key in ("model", "data", "method", "seed_everything")}
    spaces = {
        argument: repr(getattr(own, "distribution", None) or getattr(own, "value", None))
        for argument, own in definition.arguments.items()
    }
    settings = {"metric": definition.metric, "parameters": spaces, "weights": digest, "trainer": trainer}
    return to_plain(settings | drop_places(evaluated))


def drop_places(value: Any) -> Any:
    """Leaves the folders of data and files of weights out of nested settings."""
    if isinstance(value, Mapping):
        return {key: drop_places(item) for key, item in value.items() if key not in ("root", "released", "num_workers")}
    return [drop_places(item) for item in value] if isinstance(value, list) else value


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Takes SIGTERM for a Ctrl-C within a ``with`` block."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
