"""A sweep's definition, read from a YAML file in Weights & Biases' format: parameters, command and metric."""

import json
import math
from argparse import ArgumentError
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import optuna
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from wandb.sdk.launch.sweeps.utils import DEFAULT_SWEEP_COMMAND

from callbacks.run.parser import shorten_message

WHOLE = ("config", "ckpt_path", "method", "model", "data")  # arguments that contain, or load, other arguments
RANGES = ("uniform", "int_uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values")
OF_RANGES = ("distribution", "q")  # keys that a range may have too
FORMS = (
    "{value: V}, {values: [V, ...]}, or {min: LOW, max: HIGH}, which may have one of the distributions "
    f"{', '.join(RANGES)} (int: whole numbers; log: above 0; q: multiples of the key q)"
)


@dataclass(frozen=True)
class Parameter:
    """A parameter that the sweep chooses.

    Attributes:
        name: Name of the main.py argument, such as ``method.alpha``.
        distribution: What Optuna draws: a value as JSON, a number, or the factor of a multiple of `step`.
        step: Distance between values; None for a range without steps.
    """

    name: str
    distribution: CategoricalDistribution | IntDistribution | FloatDistribution
    step: int | float | None = None

    def list_draws(self) -> list[Any] | None:
        """Lists all that Optuna can draw; None for a continuous range."""
        own = self.distribution
        if isinstance(own, CategoricalDistribution):
            return list(own.choices)
        return list(range(own.low, own.high + 1)) if isinstance(own, IntDistribution) else None

    @property
    def first(self) -> Any:
        """The first listed value, or the lowest of a range."""
        own = self.distribution
        return self.to_value(own.choices[0] if isinstance(own, CategoricalDistribution) else own.low)

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draws this parameter's value for a trial."""
        own = self.distribution
        if isinstance(own, CategoricalDistribution):
            return self.to_value(trial.suggest_categorical(self.name, own.choices))
        suggest: Any = trial.suggest_int if isinstance(own, IntDistribution) else trial.suggest_float
        return self.to_value(suggest(self.name, own.low, own.high, log=own.log))

    def to_value(self, drawn: Any) -> Any:
        """Converts what Optuna has drawn to the argument for main.py; multiples are rounded to 12 decimals."""
        if isinstance(self.distribution, CategoricalDistribution):
            return json.loads(drawn)
        return drawn if self.step is None else round(drawn * self.step, 12)


@dataclass
class SweepMetric:
    """The score that a sweep optimizes; `target` is not used."""

    name: str
    goal: Literal["maximize", "minimize"] = "minimize"
    target: float | None = None


@dataclass
class EarlyTerminate:
    """When to stop a trial early; an iteration is an image. `strict` is not used."""

    type: Literal["hyperband"]
    min_iter: PositiveInt | None = None
    max_iter: PositiveInt | None = None
    s: PositiveInt | None = None
    eta: PositiveInt = 3
    strict: bool = False

    def __post_init__(self) -> None:
        if self.min_iter is None and self.max_iter and self.s:
            self.min_iter = max(1, self.max_iter // self.eta**self.s)
        if self.min_iter is None or self.eta < 2:
            raise ValueError("early_terminate: expected min_iter, or max_iter and s, in images; and eta above 1")


@dataclass
class Definition:
    """The keys of a sweep's file, and what follows from them.

    Attributes:
        constants: Arguments with a single value.
        chosen: Parameters to choose, in the order of the file.
    """

    path: Path
    program: str
    method: Literal["grid", "random", "bayes"]
    metric: SweepMetric
    parameters: dict[str, Any]
    command: list[Any] = field(default_factory=lambda: list(DEFAULT_SWEEP_COMMAND))
    early_terminate: EarlyTerminate | None = None
    run_cap: PositiveInt | None = None
    name: Any = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    def __post_init__(self) -> None:
        self.name = str(self.name or self.path.stem)
        self.command = list(map(str, self.command or DEFAULT_SWEEP_COMMAND))
        arguments = {str(name): read_parameter(name, form) for name, form in self.parameters.items()}
        self.constants = {name: value for name, value in arguments.items() if not isinstance(value, Parameter)}
        self.chosen = [argument for argument in arguments.values() if isinstance(argument, Parameter)]
        if not self.metric.name.startswith("val/"):
            raise ValueError(
                f"metric.name is {self.metric.name!r}: expected a score on the development set, such as val/miou. "
                "Nothing is chosen by scores on targets: they are tested once, with the chosen settings"
            )
        if self.metric.name == "val/miou" and not self.maximize:
            raise ValueError("metric.goal is minimize for val/miou (also the default): expected goal: maximize")
        if not self.chosen:
            raise ValueError("parameters has nothing to choose: expected at least one parameter with several values")
        for name in arguments:
            if "choose_on_target" in name or name == "results.folder" or (name in WHOLE and name not in self.constants):
                raise ValueError(
                    f"{name} cannot be chosen by a sweep: expected single arguments, such as method.alpha, which are "
                    "chosen on the development set alone"
                )

    @property
    def maximize(self) -> bool:
        """Whether a higher score is better."""
        return self.metric.goal == "maximize"

    def list_grid(self) -> list[dict[str, Any]]:
        """Lists the grid points as Optuna would draw them; the last parameter changes fastest."""
        draws = {parameter.name: parameter.list_draws() for parameter in self.chosen}
        if endless := [name for name, drawn in draws.items() if drawn is None]:
            raise ValueError(
                f"{self.path}: {', '.join(endless)} has infinitely many values: expected `values` for a grid, or "
                "method random or bayes"
            )
        return [dict(zip(draws, point, strict=True)) for point in product(*(drawn or () for drawn in draws.values()))]


def read_definition(path: Path) -> Definition:
    """Reads a sweep file; raises ValueError if it is no sweep over a score on the development set."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Definition, skip={"path"})
    try:
        return Definition(path, **vars(parser.instantiate(parser.parse_path(path))))
    except (ArgumentError, ValueError, TypeError, OSError) as error:
        message = shorten_message(str(error))
        raise ValueError(f"{path}: {message} (a sweep looks like configs/sweep/alpha.yaml)") from error


def read_parameter(name: str, form: Any) -> Any:
    """Reads a parameter: a `Parameter`, or the value itself if there is a single one; raises ValueError if invalid."""
    try:
        match form:
            case {"value": value, **more} if more in ({}, {"distribution": "constant"}):
                return value
            case {"values": list(values), **more} if more in ({}, {"distribution": "categorical"}):
                choices = list(map(json.dumps, values))
                if len({*choices}) < len(choices):
                    raise ValueError("a value occurs twice")
                return Parameter(name, CategoricalDistribution(choices))
            case {"min": int() | float() as low, "max": int() | float() as high, **more} if {*more} <= {*OF_RANGES}:
                return read_range(name, low, high, *map(more.get, OF_RANGES))
        raise ValueError("this form is not supported here")
    except ValueError as error:  # also of Optuna
        raise ValueError(f"parameters.{name} is {form!r}: {error}. Expected {FORMS}") from error


def read_range(name: str, low: float, high: float, kind: Any = None, step: Any = None) -> Parameter:
    """Reads a range that includes both ends; with a step, Optuna draws the integer factor (3 for 0.3 = 3 x 0.1)."""
    whole = isinstance(low, int) and isinstance(high, int)
    kind = kind or ("int_uniform" if whole else "uniform")
    if kind not in RANGES:
        raise ValueError(f"the distribution {kind!r} is not supported here")
    if not (low < high and math.isfinite(high - low)):
        raise ValueError("min is not below max, or not finite")
    if kind == "int_uniform" and not whole:
        raise ValueError("min and max are not whole numbers")
    if step is not None and not kind.startswith("q_"):
        raise ValueError(f"{kind} has no q")
    if kind in ("uniform", "log_uniform_values"):
        return Parameter(name, FloatDistribution(low, high, log="log" in kind))
    step = 1 if step is None else step
    if isinstance(step, bool) or not (isinstance(step, int | float) and 0 < step < math.inf):
        raise ValueError("q is not above 0")
    factors = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Parameter(name, IntDistribution(*factors, log="log" in kind), step)
