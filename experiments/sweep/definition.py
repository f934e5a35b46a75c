"""A sweep as its YAML file defines it, in Weights & Biases' format: what is tried, by which command, what is best."""

import json
import math
import re
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from wandb.sdk.launch.sweeps.utils import DEFAULT_SWEEP_COMMAND

from callbacks.run.parser import shorten_message

SAMPLERS = {"grid": "grid", "random": "random", "bayes": "tpe"}
WHOLE = ("config", "ckpt_path", "method", "model", "data")  # what other arguments are part of, or read from
FORMS = {  # the keys of each form of a parameter, besides `distribution`; `q` may be left out
    "constant": ("value",),
    "categorical": ("values",),
    "uniform": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
}
SUPPORTED = f"value; values; min and max; or distribution: {', '.join(FORMS)}"


class Loader(yaml.SafeLoader):
    """Reads YAML; ``1e-3`` is a number, as in the files of main.py."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


@dataclass(frozen=True)
class Parameter:
    """What is chosen.

    Attributes:
        name: Of the argument of main.py, such as ``method.alpha``.
        distribution: What Optuna draws from: values, their JSON if there are lists among them, or numbers of quanta.
        quantum: What numbers of quanta are multiplied by.
        nested: Whether Optuna draws JSON.
    """

    name: str
    distribution: CategoricalDistribution | IntDistribution | FloatDistribution
    quantum: int | float | None = None
    nested: bool = False

    @property
    def grid(self) -> list[Any] | None:
        """What Optuna would draw for each value of a grid; None if there is no end of values."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        if isinstance(self.distribution, IntDistribution):
            return list(range(self.distribution.low, self.distribution.high + 1))
        return None

    @property
    def first(self) -> Any:
        """The first value, or the lowest."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.to_value(self.distribution.choices[0])
        return self.to_value(self.distribution.low)

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draws the value of a trial."""
        own = self.distribution
        if isinstance(own, CategoricalDistribution):
            return self.to_value(trial.suggest_categorical(self.name, own.choices))
        if isinstance(own, IntDistribution):
            return self.to_value(trial.suggest_int(self.name, own.low, own.high, log=own.log))
        return trial.suggest_float(self.name, own.low, own.high, log=own.log)

    def to_value(self, drawn: Any) -> Any:
        """Returns what main.py is given for what Optuna drew; a multiple has no digits that rounding made."""
        if self.nested:
            return json.loads(drawn)
        if self.quantum is None:
            return drawn
        return drawn * self.quantum if isinstance(self.quantum, int) else round(drawn * self.quantum, 12)


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
        constants: The arguments with one value.
        parameters: What is chosen, in the order of the file.
        command: Of a trial, with macros.
        run_cap: How many trials there are at most, if that is limited.
        halving: After how many images trials are compared first, and one in how many goes on, if the file says so.
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
        """Lists what Optuna would draw for the points of the grid, the first parameter slowest.

        Raises:
            ValueError: If a parameter has no end of values.
        """
        grids = {parameter.name: parameter.grid for parameter in self.parameters}
        endless = [name for name, grid in grids.items() if grid is None]
        if endless:
            raise ValueError(
                f"{self.path}: {', '.join(endless)} has no end of values: expected `values` for a grid, or method "
                "random or bayes"
            )
        return [dict(zip(grids, point, strict=True)) for point in product(*(grid or [] for grid in grids.values()))]

    def to_values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a point for what Optuna drew."""
        return {parameter.name: parameter.to_value(drawn[parameter.name]) for parameter in self.parameters}


def make_schema() -> ArgumentParser:
    """Makes what checks the keys of a sweep's file and the types of what they hold."""
    schema = ArgumentParser(exit_on_error=False)
    schema.add_argument("--program", type=str, required=True)
    schema.add_argument("--method", type=Literal["grid", "random", "bayes"], required=True)
    schema.add_argument("--metric.name", type=str, required=True)
    schema.add_argument("--metric.goal", type=Literal["maximize", "minimize"], default="minimize")
    schema.add_argument("--metric.target", type=float | None, help="of no use here")
    schema.add_argument("--parameters", type=dict[str, Any], required=True)
    schema.add_argument("--command", type=list[str], default=DEFAULT_SWEEP_COMMAND)
    schema.add_argument("--run_cap", type=PositiveInt | None)
    schema.add_argument("--early_terminate.type", type=Literal["hyperband"] | None)
    schema.add_argument("--early_terminate.eta", type=PositiveInt, default=3)
    for count in ("min_iter", "max_iter", "s"):
        schema.add_argument(f"--early_terminate.{count}", type=PositiveInt | None)
    schema.add_argument("--early_terminate.strict", type=bool | None, help="of no use here")
    for text in ("name", "description", "project", "entity"):
        schema.add_argument(f"--{text}", type=str | None)
    return schema


def read_definition(path: Path) -> Definition:
    """Reads a sweep.

    Raises:
        ValueError: If the file cannot be read or is no sweep that chooses by a score on the development set.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}, expected a mapping as in configs/sweep/alpha.yaml")
        content = {key: value for key, value in content.items() if value is not None}
        for key in ("name", "command"):  # words that YAML takes for numbers
            value = content.get(key)
            if isinstance(value, list):
                content[key] = [str(word) for word in value]
            elif isinstance(value, int | float):
                content[key] = str(value)
        own = make_schema().parse_object(content)
        check_metric(own.metric.name, own.metric.goal)
        arguments = {str(name): read_parameter(str(name), form) for name, form in content["parameters"].items()}
        check_names(arguments)
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
            halving=read_halving(**vars(own.early_terminate)),
        )
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): expected a sweep such as alpha.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ArgumentError as error:
        raise ValueError(
            f"{path}: {shorten_message(str(error))}. Expected a sweep as in configs/sweep/alpha.yaml"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_metric(name: str, goal: str) -> None:
    """Raises ValueError if a sweep goes by a score on targets, or for the worst."""
    if not name.startswith("val/"):
        raise ValueError(
            f"metric.name is {name!r}: expected a score on the development set, which begins with val/, such as "
            "val/miou. Nothing is chosen by scores on targets: they are tested once, with what was chosen"
        )
    if name == "val/miou" and goal == "minimize":
        raise ValueError("metric.goal is minimize for val/miou (also if it is left out): expected goal: maximize")


def check_names(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError if there is nothing to choose, or something that a sweep may not choose."""
    chosen = [name for name, argument in arguments.items() if isinstance(argument, Parameter)]
    if not chosen:
        raise ValueError("parameters has nothing to choose: expected one parameter or more with several values")
    for name in arguments:
        if "choose_on_target" in name or name == "results.folder":
            raise ValueError(f"{name} is among the parameters: settings are chosen on the development set alone")
        if name in WHOLE and name in chosen:
            raise ValueError(
                f"{name} cannot be chosen by a sweep: expected single arguments, such as method.alpha, and one {name} "
                "for all trials"
            )


def read_halving(
    type: str | None,
    eta: int,
    min_iter: int | None,
    max_iter: int | None,
    s: int | None,
    strict: bool | None = None,
) -> tuple[int, int] | None:
    """Returns after how many images trials are compared first, and one in how many goes on, by W&B's `early_terminate`.

    Raises:
        ValueError: If the numbers do not say so.
    """
    if type is None:
        return None
    first = max(1, max_iter // eta**s) if max_iter and s else min_iter
    if first is None or eta < 2:
        raise ValueError(
            "early_terminate: expected {type: hyperband, min_iter: 10} or {type: hyperband, max_iter: 270, s: 3}, both "
            "with eta: 3 or another number above 1; an iteration is an image"
        )
    return min_iter or first, eta


def read_parameter(name: str, form: Any) -> Any:
    """Reads a parameter of a sweep.

    Args:
        name: Of the argument of main.py.
        form: As Weights & Biases has it.

    Returns:
        What is chosen, a `Parameter`; of a form with one ``value``, that value.

    Raises:
        ValueError: If the form is none that is supported.
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
    """Returns the distribution that is meant where none is named."""
    if "value" in form:
        return "constant"
    if "values" in form:
        return "categorical"
    whole = all(isinstance(form.get(key), int) for key in ("min", "max"))
    return ("int_uniform" if whole else "uniform") if "min" in form or "max" in form else None


def read_values(name: str, values: Any) -> Parameter:
    """Reads a list of values."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"values is {values!r}: expected a list of one value or more")
    if len(set(map(repr, values))) < len(values):
        raise ValueError(f"values holds a value twice: {values}")
    nested = any(isinstance(value, list | dict) for value in values)
    choices = [json.dumps(value) for value in values] if nested else values
    return Parameter(name, CategoricalDistribution(choices), nested=nested)


def read_range(name: str, kind: str, form: Mapping[str, Any]) -> Parameter:
    """Reads a range with its two ends; of multiples, Optuna draws the number of quanta (0.3 is three times 0.1)."""
    low, high, quantum = (form.get(key, 1) for key in ("min", "max", "q"))
    for key, value in (("min", low), ("max", high), ("q", quantum)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}: expected a finite number")
    if not low < high:
        raise ValueError(f"min is {low}, max is {high}: expected min below max")
    if "log" in kind and low <= 0:
        raise ValueError(f"min is {low}: expected a number above 0 for {kind}")
    if kind == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError(f"min is {low}, max is {high}: expected whole numbers for {kind}")
        return Parameter(name, IntDistribution(low, high))
    if not kind.startswith("q_"):
        return Parameter(name, FloatDistribution(low, high, log="log" in kind))
    if quantum <= 0:
        raise ValueError(f"q is {quantum}: expected a number above 0")
    first, last = math.ceil(low / quantum - 1e-9), math.floor(high / quantum + 1e-9)
    if first > last:
        raise ValueError(f"no multiple of q = {quantum} lies between {low} and {high}: expected a smaller q")
    return Parameter(name, IntDistribution(first, last, log="log" in kind), quantum)
