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
from optuna.trial import TrialState
from wandb.sdk.launch.sweeps.utils import SWEEP_COMMAND_ENV_VAR_REGEX

import main
from callbacks.run.records import to_plain
from callbacks.run.settings import describe_limit
from experiments.command_line import drop_options, split_arguments, to_path
from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.one_pass import explain_several, run_one_pass
from experiments.sweep.report import log_offline, write_sweep_report
from experiments.sweep.search import Sweep, find_attempts, hide_password, make_pruner, open_storage, open_sweep
from experiments.sweep.trial import (
    ReportProgress,
    TrialError,
    build_arguments,
    name_trial_folder,
    read_metric,
    refuse_targets,
    resolve_config,
    run_trial,
)

EXPERIMENT, CHECKPOINT = "SEGADAPT_EXPERIMENT", "SEGADAPT_CHECKPOINT"
OF_AN_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
USUAL = "[${env}, ${interpreter}, ${program}, validate, ..., ${args}]"
FORMAT = 2  # version of the trials' user attributes
AGAIN = "Finished trials are kept: run the same command again to resume"
REFUSED = {
    "test": "it scores targets, and nothing is chosen on targets: they are tested once, with the chosen settings",
    "fit": "it trains a network per trial, while a sweep chooses how to adapt one trained network, --checkpoint",
}


def run_command(args: Sequence[str] | None = None) -> int:
    """Runs a sweep from the command line; returns the exit code: 130 after Ctrl-C or SIGTERM, 1 if a trial failed."""
    own, more = split_arguments(args)
    options = make_sweep_parser().parse_args(own)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        errors = run_sweep(options, more)
    except KeyboardInterrupt:
        print(f"\nStopped. {AGAIN}.", file=sys.stderr, flush=True)
        return 130
    except TrialError as error:
        errors = [str(error)]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    for message in errors:
        print(f"error: {message}", file=sys.stderr)
    if errors:
        print(f"{AGAIN} once this is fixed.", file=sys.stderr, flush=True)
    return 1 if errors else 0


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


def run_sweep(options: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Runs the remaining trials of a sweep, writes its report and prints it.

    Args:
        options: Command-line options.
        more: Extra arguments for main.py.

    Returns:
        Error messages of the failed trials, without duplicates.

    Raises:
        ValueError: If the sweep cannot be run.
        TrialError: If main.py rejects the sweep's command.
        KeyboardInterrupt: On Ctrl-C.
    """
    set_environment(options)
    definition = read_definition(options.sweep)
    check_command(definition)
    check_options(definition, more)
    sampler = options.sampler or definition.sampler
    total = find_total(definition, sampler, options.trials)
    name = options.name or definition.name
    folder: Path = options.folder or Path("outputs/sweeps") / name
    args = build_arguments(definition, {parameter.name: parameter.first for parameter in definition.parameters}, more)
    config = resolve_config(args)
    settings = describe_settings(definition, config, find_weights(config))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about the heartbeat
    folder.mkdir(parents=True, exist_ok=True)
    url = options.storage or f"sqlite:///{folder / 'study.db'}"
    study = open_sweep(definition, open_storage(url), name, settings)
    study.pruner = NopPruner() if options.no_pruning else make_pruner(definition.halving)
    several = "--separate" if options.separate else explain_several(definition, sampler, total, config)
    if several is not None:
        print(f"One run per trial: {several}.", file=sys.stderr, flush=True)
    way = run_one_pass if several is None else run_separately
    sweep = Sweep(definition, study, folder, sampler, total, way, more, config, alone=several is None)
    try:
        sweep.run()
    finally:
        details = {"sampler": sampler, "storage": hide_password(url), "one_pass": several is None}
        text = write_sweep_report(sweep, args, details)
    attempts = [trial.state for trial in find_attempts(study).values()]
    if sweep.new and TrialState.COMPLETE in attempts:
        try:
            log_offline(sweep)
        except Exception as error:  # logging is optional, and the report is already written
            print(f"The offline run for Weights & Biases could not be written: {error}", file=sys.stderr, flush=True)
    running = attempts.count(TrialState.RUNNING)
    note = f"\n\n{running} trials are still running elsewhere: run the same command later to see all results."
    print(f"{text}\n\nWritten to {folder}{note if running else ''}", flush=True)
    return list(dict.fromkeys(sweep.errors.values()))


def run_separately(sweep: Sweep, values: Mapping[str, Any], report: ReportProgress) -> float:
    """Scores one set of values on the development set in a separate run, see `run_trial`."""
    args = build_arguments(sweep.definition, values, sweep.more)
    summary = run_trial(args, sweep.folder / "trials" / name_trial_folder(values), report)
    return read_metric(summary, sweep.definition.metric)


def set_environment(options: argparse.Namespace) -> None:
    """Sets the environment variables used as ``${envvar:...}`` in the command; keeps Weights & Biases offline."""
    for variable, value in ((EXPERIMENT, options.experiment), (CHECKPOINT, options.checkpoint)):
        if value:
            os.environ[variable] = value
    for variable in OF_AN_AGENT:
        os.environ.pop(variable, None)
    if os.environ.get("WANDB_MODE") not in ("offline", "dryrun", "disabled"):
        os.environ["WANDB_MODE"] = "offline"
    os.environ["WANDB_SILENT"] = "true"


def check_command(definition: Definition) -> None:
    """Raises ValueError unless a sweep's command runs `main.py validate` with the trial's arguments."""
    command, where = definition.command, f"{definition.path}: command"
    for variable in SWEEP_COMMAND_ENV_VAR_REGEX.findall(" ".join(command)):
        if not os.environ.get(variable):
            option = {EXPERIMENT: "--experiment EXPERIMENT.yaml, or ", CHECKPOINT: "--checkpoint best.ckpt, or "}
            raise ValueError(
                f"{where} needs ${{envvar:{variable}}}, which is not set: expected {option.get(variable, '')}export "
                f"{variable}"
            )
    if "${program}" not in command or not {"${args}", "${args_no_boolean_flags}"} & set(command):
        missing = "${args}, without which all trials are the same" if "${program}" in command else "${program}"
        raise ValueError(f"{where} has no {missing}: expected {USUAL}")
    start = command.index("${program}")
    if set(command[:start]) - {"${env}", "${interpreter}"}:
        raise ValueError(f"{where} begins with {' '.join(command[:start])}: expected {USUAL}; export variables instead")
    found = command[start + 1]
    if found != "validate":
        reason = REFUSED.get(found, "it does not score the development set")
        raise ValueError(f"{where} has {found} after ${{program}}: {reason}. Expected {USUAL}")
    if Path(definition.program).resolve() != Path(str(main.__file__)).resolve():
        raise ValueError(
            f"{definition.path}: program is {definition.program} in {Path.cwd()}: expected main.py; run this command "
            "in the folder of main.py"
        )


def check_options(definition: Definition, more: Sequence[str]) -> None:
    """Raises ValueError if an extra argument for main.py would override a parameter of the sweep."""
    chosen = [parameter.name for parameter in definition.parameters]
    whole = {name.partition(".")[0] for name in chosen if "." in name} & {"method", "model", "data"}
    for argument in more:
        name = argument.split("=")[0].removeprefix("--")
        if name in whole or any(not drop_options([argument], own) for own in chosen):
            raise ValueError(
                f"--{name} after -- would override what {definition.path} chooses: expected it in the file, as a "
                "parameter with one `value`, or in its command before ${args}"
            )


def find_weights(config: Mapping[str, Any]) -> Path:
    """Returns the path of the trained network's weights.

    Raises:
        ValueError: If there is no such file.
        TrialError: If the data settings allow choosing on a target.
    """
    refuse_targets(config.get("data"))
    path = config.get("ckpt_path") or config["model"].get("released")
    if not path or not Path(path).expanduser().is_file():
        raise ValueError(
            f"the checkpoint {path} does not exist: expected a trained network to adapt, --checkpoint FILE, as written "
            "by `main.py fit`"
        )
    return Path(path).expanduser()


def find_total(definition: Definition, sampler: str, trials: int | None) -> int:
    """Returns the number of trials to run; raises ValueError if neither the options nor the sweep set it."""
    wanted = trials or definition.run_cap
    if sampler == "grid":
        points = len(definition.list_grid())
        return points if wanted is None else min(points, wanted)
    if wanted is None:
        raise ValueError(
            f"{definition.path}: the number of {sampler} trials is not set: expected --trials, or run_cap in the sweep"
        )
    return wanted


def describe_settings(definition: Definition, config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Returns all settings that a study's scores depend on; without file locations, which differ between machines."""
    spaces = {parameter.name: f"{parameter.distribution} {parameter.quantum}" for parameter in definition.parameters}
    settings = {
        "format": FORMAT,
        "metric": definition.metric,
        "parameters": {**definition.constants, **spaces},
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "trainer": {
            "precision": config["trainer"].get("precision"),
            "limit_val_batches": describe_limit(config["trainer"].get("limit_val_batches")),
        },
        **{key: config.get(key) for key in ("model", "data", "method", "seed_everything")},
    }
    return to_plain(drop_places(settings))


def drop_places(value: Any) -> Any:
    """Removes data folders, weight files and numbers of workers from nested settings."""
    if isinstance(value, Mapping):
        return {key: drop_places(item) for key, item in value.items() if key not in ("root", "released", "num_workers")}
    return [drop_places(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(run_command())
