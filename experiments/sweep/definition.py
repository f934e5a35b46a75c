"""A sweep's definition, read from a YAML file in Weights & Biases' format: parameters, command and metric."""

import json
import math
import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from wandb.sdk.launch.sweeps.utils import DEFAULT_SWEEP_COMMAND

from callbacks.run.parser import shorten_message

SAMPLERS = {"grid": "grid", "random": "random", "bayes": "tpe"}
WHOLE = ("config", "ckpt_path", "method", "model", "data")  # arguments that contain, or load, other arguments
RANGE, MULTIPLES = ("min", "max"), ("min", "max", "q")
FORMS = {  # the keys of each form of a parameter, besides `distribution`; `q` may be left out
    "constant": ("value",),
    "categorical": ("values",),
    "uniform": RANGE,
    "int_uniform": RANGE,
    "q_uniform": MULTIPLES,
    "log_uniform_values": RANGE,
    "q_log_uniform_values": MULTIPLES,
}
SUPPORTED = f"value; values; min and max; or distribution: {', '.join(FORMS)}"


class SweepLoader(yaml.SafeLoader):
    """YAML loader that reads ``1e-3`` as a number, as main.py does."""


SweepLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


@dataclass(frozen=True)
class Parameter:
    """A parameter that the sweep chooses.

    Attributes:
        name: Name of the main.py argument, such as ``method.alpha``.
        distribution: Optuna's search space: values, their JSON if any is a list or mapping, or multiples of `quantum`.
        quantum: Step size by which a drawn integer is multiplied; None to use the drawn value as it is.
        nested: Whether Optuna draws JSON strings.
    """

    name: str
    distribution: CategoricalDistribution | IntDistribution | FloatDistribution
    quantum: int | float | None = None
    nested: bool = False

    @property
    def grid(self) -> Sequence[Any] | None:
        """All values that Optuna can draw; None for a continuous range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        if isinstance(self.distribution, IntDistribution):
            return range(self.distribution.low, self.distribution.high + 1)
        return None

    @property
    def first(self) -> Any:
        """The first listed value, or the lowest of a range."""
        return self.to_value(self.distribution.low if self.grid is None else self.grid[0])  # type: ignore[union-attr]

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draws this parameter's value for a trial."""
        own = self.distribution
        if isinstance(own, CategoricalDistribution):
            return self.to_value(trial.suggest_categorical(self.name, own.choices))
        if isinstance(own, IntDistribution):
            return self.to_value(trial.suggest_int(self.name, own.low, own.high, log=own.log))
        return trial.suggest_float(self.name, own.low, own.high, log=own.log)

    def to_value(self, drawn: Any) -> Any:
        """Converts a value drawn by Optuna to the argument for main.py; multiples are rounded to 12 decimals."""
        if self.nested:
            return json.loads(drawn)
        if self.quantum is None:
            return drawn
        return drawn * self.quantum if isinstance(self.quantum, int) else round(drawn * self.quantum, 12)


@dataclass(frozen=True)
class Definition:
    """The definition of a sweep.

    Attributes:
        path: Path of the YAML file.
        name: Name of the sweep.
        program: Program that the command starts.
        sampler: ``grid``, ``random`` or ``tpe``.
        metric: Metric to optimize, such as ``val/miou``.
        maximize: Whether higher is better.
        constants: Arguments with a single value.
        parameters: Parameters to choose, in the order of the file.
        command: Command of a trial, with macros.
        run_cap: Maximum number of trials; None for no limit.
        halving: Successive halving as (images before the first comparison, reduction factor); None if not set.
    """

    path: Path
    name: str
    program: str
    sampler: str
    metric: str
    maximize: bool
    constants: dict[str, Any]
    parameters: list[Parameter]
    command: list[str]
    run_cap: int | None
    halving: tuple[int, int] | None

    def list_grid(self) -> list[dict[str, Any]]:
        """Lists the grid points as values that Optuna would draw; the last parameter changes fastest.

        Raises:
            ValueError: If a parameter is a continuous range.
        """
        grids = {parameter.name: parameter.grid for parameter in self.parameters}
        if endless := [name for name, grid in grids.items() if grid is None]:
            raise ValueError(
                f"{self.path}: {', '.join(endless)} has infinitely many values: expected `values` for a grid, or "
                "method random or bayes"
            )
        return [dict(zip(grids, point, strict=True)) for point in product(*(grid or () for grid in grids.values()))]


def make_schema() -> ArgumentParser:
    """Builds the parser that checks the keys and value types of a sweep file."""
    schema = ArgumentParser(exit_on_error=False)
    schema.add_argument("--program", type=str, required=True)
    schema.add_argument("--method", type=Literal["grid", "random", "bayes"], required=True)
    schema.add_argument("--metric.name", type=str, required=True)
    schema.add_argument("--metric.goal", type=Literal["maximize", "minimize"], default="minimize")
    schema.add_argument("--parameters", type=dict[str, Any], required=True)
    schema.add_argument("--command", type=list[str], default=DEFAULT_SWEEP_COMMAND)
    schema.add_argument("--early_terminate.type", type=Literal["hyperband"] | None)
    schema.add_argument("--early_terminate.eta", type=PositiveInt, default=3)
    for count in ("run_cap", "early_terminate.min_iter", "early_terminate.max_iter", "early_terminate.s"):
        schema.add_argument(f"--{count}", type=PositiveInt | None)
    for text in ("name", "description", "project", "entity"):
        schema.add_argument(f"--{text}", type=str | None)
    schema.add_argument("--metric.target", type=float | None, help="not used here")
    schema.add_argument("--early_terminate.strict", type=bool | None, help="not used here")
    return schema


def read_definition(path: Path) -> Definition:
    """Reads a sweep file.

    Raises:
        ValueError: If the file cannot be read, or does not define a sweep over a score on the development set.
    """
    try:
        keys = read_keys(path)
        own = make_schema().parse_object(keys)
        check_metric(own.metric.name, own.metric.goal)
        arguments = {str(name): read_parameter(str(name), form) for name, form in keys["parameters"].items()}
        check_parameters(arguments)
        return Definition(
            path=path,
            name=own.name or path.stem,
            program=own.program,
            sampler=SAMPLERS[own.method],
            metric=own.metric.name,
            maximize=own.metric.goal == "maximize",
            constants={name: value for name, value in arguments.items() if not isinstance(value, Parameter)},
            parameters=[argument for argument in arguments.values() if isinstance(argument, Parameter)],
            command=own.command,
            run_cap=own.run_cap,
            halving=read_halving(own.early_terminate),
        )
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): expected a sweep such as alpha.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ArgumentError as error:
        message = f"{path}: {shorten_message(str(error))}. Expected a sweep as in configs/sweep/alpha.yaml"
        raise ValueError(message) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_keys(path: Path) -> dict[str, Any]:
    """Reads the keys of a sweep file whose value is not null; numbers in `name` and `command` become strings."""
    content = yaml.load(path.read_text(encoding="utf-8"), SweepLoader)
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected a mapping as in configs/sweep/alpha.yaml")
    content = {key: value for key, value in content.items() if value is not None}
    if isinstance(content.get("name"), int | float):
        content["name"] = str(content["name"])
    if isinstance(content.get("command"), list):
        content["command"] = [str(word) for word in content["command"]]
    return content


def check_metric(name: str, goal: str) -> None:
    """Raises ValueError if the metric is not a score on the development set, or if mean IoU would be minimized."""
    if not name.startswith("val/"):
        raise ValueError(
            f"metric.name is {name!r}: expected a score on the development set, which starts with val/, such as "
            "val/miou. Nothing is chosen by scores on targets: they are tested once, with the chosen settings"
        )
    if name == "val/miou" and goal == "minimize":
        raise ValueError("metric.goal is minimize for val/miou (also the default): expected goal: maximize")


def check_parameters(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError if no parameter has several values, or if a sweep may not choose one of them."""
    chosen = [name for name, argument in arguments.items() if isinstance(argument, Parameter)]
    if not chosen:
        raise ValueError("parameters has nothing to choose: expected at least one parameter with several values")
    for name in arguments:
        if "choose_on_target" in name or name == "results.folder":
            raise ValueError(f"{name} is among the parameters: settings are chosen on the development set alone")
        if name in WHOLE and name in chosen:
            raise ValueError(
                f"{name} cannot be chosen by a sweep: expected single arguments, such as method.alpha, and one {name} "
                "for all trials"
            )


def read_halving(rule: Namespace) -> tuple[int, int] | None:
    """Reads W&B's `early_terminate`; returns (images before the first comparison, reduction factor) or None.

    Raises:
        ValueError: If the two numbers cannot be derived from it.
    """
    if rule.type is None:
        return None
    first = rule.min_iter
    if first is None and rule.max_iter and rule.s:
        first = max(1, rule.max_iter // rule.eta**rule.s)
    if first is None or rule.eta < 2:
        raise ValueError(
            "early_terminate: expected {type: hyperband, min_iter: 10} or {type: hyperband, max_iter: 270, s: 3}, both "
            "with eta: 3 or another number above 1; an iteration is an image"
        )
    return first, rule.eta


def read_parameter(name: str, form: Any) -> Any:
    """Reads a parameter in Weights & Biases' format.

    Returns:
        A `Parameter`, or the value itself if the parameter has a single ``value``.

    Raises:
        ValueError: If the form is not supported.
    """
    where = f"parameters.{name}"
    if not isinstance(form, Mapping):
        raise ValueError(f"{where} is {form!r}: expected a mapping such as {{values: [0.1, 0.2]}}")
    kind = form.get("distribution") or find_kind(form)
    if not isinstance(kind, str) or kind not in FORMS:
        what = f"distribution {kind!r}" if kind else f"the form {dict(form)}"
        raise ValueError(f"{where}: {what} is not supported here: expected {SUPPORTED}")
    missing = [key for key in FORMS[kind] if key not in form and key != "q"]
    unknown = sorted(map(str, form.keys() - {"distribution", *FORMS[kind]}))
    if missing or unknown:
        problem = f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} not supported"
        raise ValueError(f"{where} ({kind}): {problem}: expected {', '.join(FORMS[kind])}; supported are {SUPPORTED}")
    if kind == "constant":
        return form["value"]
    try:
        return read_values(name, form["values"]) if kind == "categorical" else read_range(name, kind, form)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def find_kind(form: Mapping[str, Any]) -> str | None:
    """Infers the distribution of a parameter that does not name one."""
    if "value" in form:
        return "constant"
    if "values" in form:
        return "categorical"
    whole = all(isinstance(form.get(key), int) for key in RANGE)
    return ("int_uniform" if whole else "uniform") if "min" in form or "max" in form else None


def read_values(name: str, values: Any) -> Parameter:
    """Reads a parameter given as a list of values."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"values is {values!r}: expected a list of at least one value")
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"values contains a value twice: {values}")
    nested = any(isinstance(value, list | dict) for value in values)
    choices = [json.dumps(value) for value in values] if nested else values
    return Parameter(name, CategoricalDistribution(choices), nested=nested)


def read_range(name: str, kind: str, form: Mapping[str, Any]) -> Parameter:
    """Reads a range that includes both ends; with a step `q`, Optuna draws the integer factor (3 for 0.3 = 3 x 0.1)."""
    low, high, quantum = (form.get(key, 1) for key in MULTIPLES)
    for key, value in zip(MULTIPLES, (low, high, quantum), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}: expected a finite number")
    log = "log" in kind
    if not low < high:
        raise ValueError(f"min is {low}, max is {high}: expected min below max")
    if log and low <= 0:
        raise ValueError(f"min is {low}: expected a number above 0 for {kind}")
    if kind == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError(f"min is {low}, max is {high}: expected whole numbers for {kind}")
        return Parameter(name, IntDistribution(low, high))
    if not kind.startswith("q_"):
        return Parameter(name, FloatDistribution(low, high, log=log))
    if quantum <= 0:
        raise ValueError(f"q is {quantum}: expected a number above 0")
    first, last = math.ceil(low / quantum - 1e-9), math.floor(high / quantum + 1e-9)
    if first > last:
        raise ValueError(f"no multiple of q = {quantum} is between {low} and {high}: expected a smaller q")
    return Parameter(name, IntDistribution(first, last, log=log), quantum)
