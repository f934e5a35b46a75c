"""Command line for running sweeps without a Weights & Biases account.

Reads a sweep in Weights & Biases' format and runs it with Optuna: each trial is the run that W&B's agent would start,
`main.py validate`, in its own folder. A grid over a method's arguments runs in one pass over the images. The same
command resumes an interrupted sweep; with `--storage`, several machines share one study.
"""

import argparse
import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from jsonargparse.typing import PositiveInt
from optuna.pruners import NopPruner
from wandb.sdk.launch.sweeps.utils import SWEEP_COMMAND_ENV_VAR_REGEX

import main
from callbacks.run.records import to_plain
from callbacks.run.settings import describe_limit
from experiments.command_line import parse, run_program, to_path
from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.report import list_points, write_sweep_report
from experiments.sweep.search import Search, make_pruner, open_study
from experiments.sweep.trial import (
    ReportProgress,
    build_arguments,
    explain_several,
    name_trial_folder,
    read_metric,
    refuse_targets,
    resolve_config,
    run_one_pass,
    run_trial,
)

EXPERIMENT, CHECKPOINT = "SEGADAPT_EXPERIMENT", "SEGADAPT_CHECKPOINT"
OF_AN_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
USUAL = "[${env}, ${interpreter}, ${program}, validate, ..., ${args}]"
AGAIN = "Finished trials are kept: run the same command again to resume once this is fixed"


def run_command(args: Sequence[str] | None = None) -> None:
    """Runs the remaining trials of a sweep, writes its report and prints it.

    Raises:
        ValueError: If the sweep cannot be run, or a trial failed.
        TrialError: If main.py rejects the sweep's command, or a pass over the grid failed.
        KeyboardInterrupt: On Ctrl-C.
    """
    options = parse(make_sweep_parser(), args)
    more = options.options
    set_environment(options)
    definition = read_definition(options.sweep)
    check_command(definition)
    check_options(definition, more)
    sampler = options.sampler or {"bayes": "tpe"}.get(definition.method, definition.method)
    total = find_total(definition, sampler, options.trials)
    folder: Path = options.folder or Path("outputs/sweeps") / (options.name or definition.name)
    trial = build_arguments(definition, {parameter.name: parameter.first for parameter in definition.chosen}, more)
    config = resolve_config(trial)
    refuse_targets(config.get("data"))
    weights = find_weights(config)

    folder.mkdir(parents=True, exist_ok=True)
    given = [option for option in ("--separate", "--storage") if getattr(options, option[2:])]
    several = given[0] if given else explain_several(definition, sampler, total, config)
    details = {"sampler": sampler, "one_pass": several is None}
    if several is None:
        points = run_one_pass(definition, trial, config, folder / "one_pass")
        print(write_sweep_report(definition, points, folder, trial, config, **details), flush=True)
        return
    print(f"One run per trial: {several}.", file=sys.stderr, flush=True)
    url = options.storage or f"sqlite:///{folder / 'study.db'}"
    settings = describe_settings(definition, config, weights)
    study = open_study(definition, folder, url, options.name or definition.name, settings)
    study.pruner = NopPruner() if options.no_pruning else make_pruner(definition)

    def score(values: Mapping[str, Any], report: ReportProgress) -> float:
        own = build_arguments(definition, values, more)
        summary = run_trial(own, folder / "trials" / name_trial_folder(values), report)
        return read_metric(summary, definition.metric.name)

    search = Search(definition, study, folder, sampler, total, score)
    try:
        search.run()
    finally:
        points = list_points(study)
        print(write_sweep_report(definition, points, folder, trial, config, **details), flush=True)
    if running := sum(point["state"] == "running" for point in points):
        print(f"\n{running} trials are still running elsewhere: run the same command later to see all results.")
    if search.errors:
        raise ValueError("; ".join(dict.fromkeys(search.errors.values())) + f". {AGAIN}")


def make_sweep_parser() -> argparse.ArgumentParser:
    """Builds the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=(__doc__ or "").split("\n\n")[1],
        epilog="Arguments after -- are passed to main.py, after those of the sweep's command",
    )
    add = parser.add_argument
    add("sweep", type=to_path, help="a sweep in Weights & Biases' format, e.g. configs/sweep/alpha.yaml")
    add("--experiment", help=f"config of the experiment, instead of ${EXPERIMENT}")
    add("--checkpoint", help=f"trained network to adapt, instead of ${CHECKPOINT}")
    add("--name", help="name of the study (default: the sweep's name, or that of its file)")
    add("--folder", type=to_path, help="where to write (default: outputs/sweeps/NAME)")
    add("--storage", help="database of the study, for several machines (default: a SQLite file in the folder)")
    add("--trials", type=PositiveInt, help="maximum number of trials (default: the sweep's run_cap, or the whole grid)")
    add("--sampler", choices=("grid", "random", "tpe"), help="how values are chosen (default: the sweep's method)")
    add("--no-pruning", action="store_true", help="do not stop trials early")
    add("--separate", action="store_true", help="one run per trial, even where one pass would suffice")
    return parser


def set_environment(options: argparse.Namespace) -> None:
    """Sets the environment variables used as ``${envvar:...}`` in the command; keeps Weights & Biases offline."""
    for variable, value in ((EXPERIMENT, options.experiment), (CHECKPOINT, options.checkpoint)):
        if value:
            os.environ[variable] = value
    for variable in OF_AN_AGENT:
        os.environ.pop(variable, None)
    if os.environ.get("WANDB_MODE") != "disabled":
        os.environ["WANDB_MODE"] = "offline"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about the heartbeat


def check_command(definition: Definition) -> None:
    """Raises ValueError unless a sweep's command runs `main.py validate` with the trial's arguments."""
    command, where = definition.command, f"{definition.path}: command"
    options = {EXPERIMENT: "--experiment EXPERIMENT.yaml, or ", CHECKPOINT: "--checkpoint best.ckpt, or "}
    for variable in SWEEP_COMMAND_ENV_VAR_REGEX.findall(" ".join(command)):
        if not os.environ.get(variable):
            option = options.get(variable, "")
            raise ValueError(f"{where} needs {variable}, which is not set: expected {option}export {variable}")
    words = [word for word in command if word not in ("${env}", "${interpreter}")]
    if words[:2] != ["${program}", "validate"] or not {"${args}", "${args_no_boolean_flags}"} & {*words}:
        raise ValueError(
            f"{where} is {' '.join(command)}: expected {USUAL}. A sweep scores each trial's values on the development "
            "set: it trains nothing, and nothing is chosen on targets"
        )
    if Path(definition.program).resolve() != Path(str(main.__file__)).resolve():
        raise ValueError(
            f"{definition.path}: program is {definition.program} in {Path.cwd()}: expected main.py; run this command "
            "in the folder of main.py"
        )


def check_options(definition: Definition, more: Sequence[str]) -> None:
    """Raises ValueError if an extra argument for main.py would override a parameter of the sweep."""
    chosen = {parameter.name for parameter in definition.chosen}
    for name in (argument.partition("=")[0].removeprefix("--") for argument in more):
        if name in chosen | {parameter.partition(".")[0] for parameter in chosen}:
            raise ValueError(
                f"--{name} after -- would override what {definition.path} chooses: expected it in the file, as a "
                "parameter with one `value`, or in its command before ${args}"
            )


def find_total(definition: Definition, sampler: str, trials: int | None) -> int:
    """Returns the number of trials to run; raises ValueError if neither the options nor the sweep set it."""
    wanted = trials or definition.run_cap
    if sampler == "grid":
        points = len(definition.list_grid())
        return min(points, wanted or points)
    if wanted is None:
        raise ValueError(
            f"{definition.path}: the number of {sampler} trials is not set: expected --trials, or run_cap in the sweep"
        )
    return wanted


def find_weights(config: Mapping[str, Any]) -> Path:
    """Returns the path of the trained network's weights; raises ValueError if there is no such file."""
    path = config.get("ckpt_path") or config["model"].get("released")
    if not path or not Path(path).expanduser().is_file():
        raise ValueError(
            f"the checkpoint {path} does not exist: expected a trained network to adapt, --checkpoint FILE, as written "
            "by `main.py fit`"
        )
    return Path(path).expanduser()


def describe_settings(definition: Definition, config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Returns all settings that a study's scores depend on; without file locations, which differ between machines."""
    settings = {
        "metric": definition.metric.name,
        "parameters": definition.parameters,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "precision": config["trainer"].get("precision"),
        "limit_val_batches": describe_limit(config["trainer"].get("limit_val_batches")),
        **{key: config.get(key) for key in ("model", "data", "method", "seed_everything")},
    }
    return to_plain(drop_places(settings))


def drop_places(value: Any) -> Any:
    """Removes data folders, weight files and numbers of workers from nested settings."""
    if isinstance(value, Mapping):
        return {key: drop_places(item) for key, item in value.items() if key not in ("root", "released", "num_workers")}
    return [drop_places(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    run_program(run_command)
