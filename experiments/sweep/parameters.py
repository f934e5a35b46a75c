"""The parameters of a sweep: from the forms of Weights & Biases to the distributions of Optuna."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

SUPPORTED = (
    "value; values; min and max; or distribution: uniform, int_uniform, q_uniform, log_uniform_values, "
    "q_log_uniform_values, categorical or constant"
)
# Which keys a form has, besides `distribution`; those in brackets may be left out.
FORMS = {
    "constant": ("value",),
    "categorical": ("values",),
    "uniform": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max", "[q]"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "[q]"),
}
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Parameter:
    """What is chosen.

    Attributes:
        name: Of the argument of main.py, such as ``method.alpha``.
        distribution: What Optuna draws from.
        grid: What Optuna would draw for each value of a grid; None if there is no end of values.
        quantum: Values are rounded to multiples of it, between the ends of the range; None leaves them.
        nested: Whether Optuna draws the JSON of the values, because they are lists or mappings.
        logarithmic: Whether charts have a logarithmic axis.
    """

    name: str
    distribution: BaseDistribution
    grid: tuple[Scalar, ...] | None = None
    quantum: int | float | None = None
    nested: bool = False
    logarithmic: bool = False

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draws the value of a trial."""
        drawn: Scalar
        if isinstance(self.distribution, CategoricalDistribution):
            drawn = trial.suggest_categorical(self.name, self.distribution.choices)
        elif isinstance(self.distribution, IntDistribution):
            drawn = trial.suggest_int(self.name, self.distribution.low, self.distribution.high)
        else:
            assert isinstance(self.distribution, FloatDistribution)
            low, high = self.distribution.low, self.distribution.high
            drawn = trial.suggest_float(self.name, low, high, log=self.distribution.log)
        return self.to_value(drawn)

    def to_value(self, drawn: Any) -> Any:
        """Returns what main.py is given for what Optuna drew."""
        if self.nested:
            return json.loads(drawn)
        if self.quantum is None:
            return drawn
        assert isinstance(self.distribution, FloatDistribution)
        first, last = find_multiples(self.distribution.low, self.distribution.high, self.quantum)
        return multiply(min(max(round(drawn / self.quantum), first), last), self.quantum)

    @property
    def values(self) -> list[Any] | None:
        """The values of a grid; None if there is no end of them."""
        return None if self.grid is None else [self.to_value(drawn) for drawn in self.grid]


def read_parameter(name: str, form: Any) -> Parameter | Any:
    """Reads a parameter of a sweep.

    Args:
        name: Of the argument of main.py.
        form: As Weights & Biases has it.

    Returns:
        What is chosen; or, of a form with one ``value``, that value in a `Constant`.

    Raises:
        ValueError: If the form is none that is supported.
    """
    where = f"parameters.{name}"
    if not isinstance(form, Mapping):
        raise ValueError(f"{where} is {form!r}: expected a mapping such as {{values: [0.1, 0.2]}}")
    kind = form.get("distribution") or find_kind(form)
    if not isinstance(kind, str) or kind not in FORMS or "parameters" in form:
        what = "nested parameters" if "parameters" in form else f"distribution {kind!r}" if kind else str(dict(form))
        raise ValueError(f"{where}: {what} is not supported here: expected {SUPPORTED}")
    expected = FORMS[kind]
    allowed = {"distribution", *(key.strip("[]") for key in expected)}
    missing = [key for key in expected if key not in form and not key.startswith("[")]
    unknown = sorted(map(str, form.keys() - allowed))
    if missing or unknown:
        problem = f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} not supported"
        raise ValueError(f"{where} ({kind}): {problem}: expected {', '.join(expected)}; supported are {SUPPORTED}")
    if kind == "constant":
        return Constant(check_text(where, form["value"]))
    if kind == "categorical":
        return read_values(name, where, form["values"])
    return read_range(name, where, kind, form)


@dataclass(frozen=True)
class Constant:
    """A parameter with one value."""

    value: Any


def find_kind(form: Mapping[str, Any]) -> str | None:
    """Returns the distribution that is meant where none is named."""
    if "value" in form:
        return "constant"
    if "values" in form:
        return "categorical"
    if "min" in form or "max" in form:
        whole = all(isinstance(form.get(key), int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    return None


def read_values(name: str, where: str, values: Any) -> Parameter:
    """Reads a list of values."""
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: values is {values!r}: expected a list of one value or more")
    for value in values:
        check_text(where, value)
    nested = any(isinstance(value, list | dict) for value in values)
    drawn: tuple[Scalar, ...] = tuple(json.dumps(value) for value in values) if nested else tuple(values)
    if len(set(map(repr, drawn))) < len(drawn):
        raise ValueError(f"{where}: values holds a value twice: {values}")
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    spread = len(numbers) == len(values) and min(numbers) > 0 and max(numbers) / min(numbers) >= 50
    return Parameter(name, CategoricalDistribution(drawn), drawn, nested=nested, logarithmic=spread)


def read_range(name: str, where: str, kind: str, form: Mapping[str, Any]) -> Parameter:
    """Reads a range with its two ends."""
    low, high = (check_number(where, key, form[key]) for key in ("min", "max"))
    if not low < high:
        raise ValueError(f"{where}: min is {low}, max is {high}: expected min below max")
    if kind == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError(f"{where}: min is {low}, max is {high}: expected whole numbers for int_uniform")
        return Parameter(name, IntDistribution(low, high), tuple(range(low, high + 1)))
    logarithmic = "log" in kind
    if logarithmic and low <= 0:
        raise ValueError(f"{where}: min is {low}: expected a number above 0 for {kind}")
    distribution = FloatDistribution(float(low), float(high), log=logarithmic)
    if not kind.startswith("q_"):
        return Parameter(name, distribution, logarithmic=logarithmic)
    quantum = check_number(where, "q", form.get("q", 1))
    if quantum <= 0:
        raise ValueError(f"{where}: q is {quantum}: expected a number above 0")
    first, last = find_multiples(low, high, quantum)
    if first > last:
        raise ValueError(f"{where}: no multiple of q = {quantum} lies between {low} and {high}: expected a smaller q")
    if logarithmic:
        return Parameter(name, distribution, quantum=quantum, logarithmic=True)
    inside = (float(multiply(number, quantum)) for number in range(first, last + 1))
    return Parameter(name, distribution, tuple(min(max(value, low), high) for value in inside), quantum)


def find_multiples(low: float, high: float, quantum: float) -> tuple[int, int]:
    """Returns the first and the last multiple of a quantum in a range, as numbers of quanta; 0.3 is three times 0.1."""
    return math.ceil(low / quantum - 1e-9), math.floor(high / quantum + 1e-9)


def multiply(number: int, quantum: int | float) -> int | float:
    """Returns a multiple: a whole number if the quantum is one, else without digits that rounding made."""
    return number * quantum if isinstance(quantum, int) else round(number * quantum, 12)


def check_number(where: str, key: str, value: Any) -> int | float:
    """Returns a finite number; raises ValueError for anything else."""
    check_text(where, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: {key} is {value!r}: expected a finite number")
    return value


def check_text(where: str, value: Any) -> Any:
    """Returns a value; raises ValueError for a number that YAML takes for text, such as ``1e-3``."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        raise ValueError(
            f"{where} holds the text {value!r}, which YAML does not take for a number: write {number!r} (or 1.0e-3, "
            "with a point, for 1e-3)"
        )
    return value
