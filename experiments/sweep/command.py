"""The command line of a trial, put together as Weights & Biases' agent does it, and what it comes down to."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from wandb.sdk.launch.sweeps.utils import SWEEP_COMMAND_ENV_VAR_REGEX, create_sweep_command, create_sweep_command_args

from experiments.sweep.child import ChildError, make_environment, read_error
from experiments.sweep.definition import Definition

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
EXPERIMENT, CHECKPOINT = "SEGADAPT_EXPERIMENT", "SEGADAPT_CHECKPOINT"
REFUSED = {
    "test": "it scores targets, and nothing is chosen on targets: they are tested once, with what was chosen",
    "predict": "it scores nothing",
    "fit": "it trains a network per trial, while a sweep chooses how to adapt one trained network, --checkpoint",
}


def build_command(definition: Definition, values: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Builds the command line of a trial.

    The macros are replaced by Weights & Biases' own functions, as by its agent; only ``${interpreter}`` is the Python
    that runs this.

    Args:
        definition: Of the sweep.
        values: Of the parameters that are chosen.
        more: Further arguments of main.py.
    """
    arguments = {"args": {name: {"value": value} for name, value in definition.complete(values).items()}}
    macros: dict[str, Any] = create_sweep_command_args(arguments)
    macros |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [definition.program]}
    command: list[str] = []
    for chunk in map(str, create_sweep_command(list(definition.command))):
        is_macro = chunk.startswith("${") and chunk.endswith("}")
        command += macros.get(chunk[2:-1], []) if is_macro else [chunk]
    return [*command, *more]


def check_command(definition: Definition) -> None:
    """Raises ValueError if the command of a sweep is none that chooses on the development set."""
    command = list(definition.command)
    where = f"{definition.path}: command"
    for name in (match for chunk in command for match in SWEEP_COMMAND_ENV_VAR_REGEX.findall(chunk)):
        if not os.environ.get(name):
            option = {EXPERIMENT: "--experiment EXPERIMENT.yaml", CHECKPOINT: "--checkpoint best.ckpt"}.get(name)
            way = f"{option}, or export {name}" if option else f"export {name}"
            raise ValueError(f"{where} needs ${{envvar:{name}}}, which is not set: expected {way}")
    known = ("env", "interpreter", "program", "args", "args_no_boolean_flags")
    for chunk in command:
        if chunk.startswith("${") and not chunk.startswith("${envvar:") and chunk[2:-1] not in known:
            raise ValueError(f"{where} holds {chunk}, which main.py cannot read: expected ${{{'}, ${'.join(known)}}}")
    if not any(chunk.startswith("${args") for chunk in command):
        raise ValueError(f"{where} has no ${{args}}: expected it, for no trial would differ from another without")
    if "${program}" not in command:
        raise ValueError(
            f"{where} has no ${{program}}: expected [${{env}}, ${{interpreter}}, ${{program}}, validate, ...]"
        )
    sub_command = command[command.index("${program}") + 1 :][:1]
    if sub_command != ["validate"]:
        found = sub_command[0] if sub_command else "nothing"
        reason = f": {REFUSED[found]}" if found in REFUSED else ""
        raise ValueError(
            f"{where} has {found} after ${{program}}{reason}. Expected validate there, before ${{args}}: it scores the "
            "development set"
        )
    if not Path(definition.program).is_file():
        raise ValueError(
            f"{definition.path}: program {definition.program} is not in {Path.cwd()}: start this in the folder of "
            "main.py"
        )


def resolve(command: Sequence[str]) -> dict[str, Any]:
    """Returns what a command line of main.py comes down to: its whole configuration, with defaults and files read.

    Raises:
        ChildError: If main.py refuses it; has its message.
    """
    done = subprocess.run(
        [*command, "--print_config"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=make_environment(),
    )
    if done.returncode != 0:
        raise ChildError(read_error(done.stderr or done.stdout))
    return yaml.safe_load(done.stdout)


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError if a configuration would choose on a target, or has no trained network."""
    where = find_key(config.get("data"), "choose_on_target", "data")
    if where:
        raise ValueError(
            f"{where} is true: a sweep never chooses on a target. Use the development set (WildDash in the paper's "
            "protocol), and test once with what was chosen"
        )
    checkpoint, released = config.get("ckpt_path"), (config.get("model") or {}).get("released")
    if not checkpoint and not released:
        raise ValueError("there is no trained network to adapt: expected --checkpoint best.ckpt")
    path = Path(str(checkpoint or released)).expanduser()
    if not path.is_file():
        raise ValueError(f"the checkpoint {path} is not there: expected --checkpoint FILE, as `main.py fit` writes it")


def find_key(value: Any, key: str, place: str) -> str | None:
    """Returns the dotted place at which a key of nested settings is true; None if there is none."""
    if isinstance(value, Mapping):
        if value.get(key):
            return f"{place}.{key}"
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return None
    found = (find_key(item, key, f"{place}.{name}") for name, item in items)
    return next((where for where in found if where), None)
