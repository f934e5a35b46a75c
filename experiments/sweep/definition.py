"""A sweep as its YAML file defines it, in Weights & Biases' format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.sweep.parameters import Constant, Parameter, read_parameter

SAMPLERS = {"grid": "grid", "random": "random", "bayes": "tpe"}
USED = ("program", "method", "metric", "parameters", "command", "run_cap", "early_terminate", "name")
LEFT = ("description", "project", "entity")  # what only Weights & Biases has a use for
WHOLE = ("config", "ckpt_path", "method", "model", "data")  # what other arguments are part of, or read from
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


@dataclass(frozen=True)
class Definition:
    """What a sweep tries and what it goes by.

    Attributes:
        path: Of the YAML file.
        name: Of the sweep.
        program: That the command starts.
        sampler: ``grid``, ``random`` or ``tpe``.
        metric: What is best, such as ``val/miou``.
        maximize: Whether more of it is better.
        arguments: All parameters in the order of the file; those with one value as a `Constant`.
        command: Of a trial, with macros.
        run_cap: How many trials there are at most, if that is limited.
        early_terminate: When hopeless trials are stopped, if the file says so.
    """

    path: Path
    name: str
    program: str
    sampler: str
    metric: str
    maximize: bool
    arguments: dict[str, Parameter | Constant]
    command: tuple[str, ...]
    run_cap: int | None
    early_terminate: dict[str, Any] | None

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters that are chosen."""
        return [argument for argument in self.arguments.values() if isinstance(argument, Parameter)]

    def count_points(self) -> int | None:
        """Returns how many points the grid has; None if there is no end of values."""
        grids = [parameter.grid for parameter in self.parameters]
        return None if None in grids else math.prod(len(grid) for grid in grids if grid is not None)

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of all parameters, those with one value included, in the order of the file."""
        return {
            name: argument.value if isinstance(argument, Constant) else values[name]
            for name, argument in self.arguments.items()
        }


def read_definition(path: Path) -> Definition:
    """Reads a sweep.

    Raises:
        ValueError: If the file cannot be read or is no sweep that chooses by a score on the development set.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): expected a sweep such as configs/sweep/alpha.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds {type(content).__name__}, no sweep: expected a mapping with {', '.join(USED[:5])}"
        )
    try:
        return make_definition(path, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def make_definition(path: Path, content: Mapping[str, Any]) -> Definition:
    """Checks the content of a sweep's file; raises ValueError that says what is wrong."""
    unknown = sorted(map(str, content.keys() - {*USED, *LEFT}))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}: expected {', '.join((*USED, *LEFT))}")
    for key in ("program", "method", "metric", "parameters"):
        if not content.get(key):
            raise ValueError(f"{key} is missing: expected it as in configs/sweep/alpha.yaml")
    if not isinstance(content["method"], str) or content["method"] not in SAMPLERS:
        raise ValueError(f"method is {content['method']!r}: expected one of {', '.join(SAMPLERS)}")
    if not isinstance(content["parameters"], Mapping):
        raise ValueError("parameters is no mapping: expected names of arguments of main.py, such as method.alpha")
    arguments = {str(name): read_parameter(str(name), form) for name, form in content["parameters"].items()}
    if not any(isinstance(argument, Parameter) for argument in arguments.values()):
        raise ValueError("parameters has nothing to choose: expected one parameter or more with several values")
    whole = [name for name, own in arguments.items() if name in WHOLE and isinstance(own, Parameter)]
    if whole:
        raise ValueError(
            f"{whole[0]} cannot be chosen by a sweep: expected single arguments, such as method.alpha, and one "
            f"{whole[0]} for all trials"
        )
    refused = [name for name in arguments if "choose_on_target" in name or name == "results.folder"]
    if refused:
        raise ValueError(
            f"{refused[0]} cannot be a parameter of a sweep: settings are chosen on the development set alone"
        )
    command = content.get("command") or DEFAULT_COMMAND
    if not isinstance(command, list | tuple):
        raise ValueError(
            f"command is {command!r}: expected a list such as [${{env}}, ${{interpreter}}, ${{program}}, ...]"
        )
    metric, maximize = read_metric(content["metric"])
    return Definition(
        path=path,
        name=str(content.get("name") or path.stem),
        program=str(content["program"]),
        sampler=SAMPLERS[content["method"]],
        metric=metric,
        maximize=maximize,
        arguments=arguments,
        command=tuple(map(str, command)),
        run_cap=read_run_cap(content.get("run_cap")),
        early_terminate=read_early_terminate(content.get("early_terminate")),
    )


def read_metric(metric: Any) -> tuple[str, bool]:
    """Returns the name of the metric, and whether more is better."""
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        raise ValueError(f"metric is {metric!r}: expected {{name: val/miou, goal: maximize}}")
    name, goal = metric["name"], metric.get("goal", "minimize")
    if not name.startswith("val/"):
        raise ValueError(
            f"metric.name is {name!r}: expected a score on the development set, which begins with val/, such as "
            "val/miou. Nothing is chosen by scores on targets: they are tested once, with what was chosen"
        )
    if goal not in ("maximize", "minimize"):
        raise ValueError(f"metric.goal is {goal!r}: expected maximize or minimize")
    if name == "val/miou" and goal == "minimize":
        raise ValueError("metric.goal is minimize for val/miou (also if it is left out): expected goal: maximize")
    return name, goal == "maximize"


def read_run_cap(cap: Any) -> int | None:
    """Returns the most trials there are."""
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"run_cap is {cap!r}: expected a whole number above 0")
    return cap


def read_early_terminate(rule: Any) -> dict[str, Any] | None:
    """Returns after how many images trials are compared first (``first``), and the share that goes on (1 / ``eta``)."""
    if rule is None:
        return None
    expected = (
        "expected {type: hyperband, min_iter: 10} or {type: hyperband, max_iter: 270, s: 3}, both with eta: 3 or so"
    )
    if not isinstance(rule, Mapping) or rule.get("type") != "hyperband":
        raise ValueError(f"early_terminate is {rule!r}: {expected}; an iteration is an image")
    numbers = {key: check_count(key, rule[key]) for key in ("min_iter", "max_iter", "s", "eta") if key in rule}
    eta = numbers.get("eta", 3)
    if "min_iter" in numbers:
        first = numbers["min_iter"]
    elif {"max_iter", "s"} <= numbers.keys():
        first = max(1, numbers["max_iter"] // eta ** numbers["s"])
    else:
        raise ValueError(f"early_terminate is {dict(rule)}: {expected}; an iteration is an image")
    if eta < 2:
        raise ValueError(f"early_terminate.eta is {eta}: expected 2 or more")
    return {"first": first, "eta": eta}


def check_count(key: str, value: Any) -> int:
    """Returns a whole number above 0; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"early_terminate.{key} is {value!r}: expected a whole number above 0")
    return value
