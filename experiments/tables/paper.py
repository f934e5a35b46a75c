"""The paper's tables as data, read from configs/paper and checked.

Source: paper, Tables 1 to 9, Fig. 2 to 10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.study import ROOT

CONFIGS = ROOT / "configs"
FOLDER = CONFIGS / "paper"
NAMES = (*(f"table{number}" for number in range(1, 10)), "fig2", "fig4", "fig5", "fig10", "qualitative")
MEAN, DEVELOPMENT = "mean", "development"
Numbers = Mapping[tuple[str, str], float | None]  # keyed by (metric, column)


class Metric(NamedTuple):
    """How a number from results.json is displayed."""

    title: str
    unit: str
    decimals: int  # that the paper usually prints


METRICS = {
    "miou": Metric("mean IoU", "%", 2),
    "classwise_ece": Metric("class-wise ECE", "%", 2),
    "ms_per_image": Metric("runtime", "ms", 0),
}


@dataclass(frozen=True)
class TableRow:
    """A row of a table, or a point or curve of a figure."""

    source: str  # data set that the network is trained on; `target` for in-domain training
    network: str  # for display
    name: str  # of the method, for display
    experiment: str = ""  # file in configs/experiment that trains the network; empty for in-domain training
    in_domain: str = ""  # suffix of the in-domain experiments' names, which are TARGET_SUFFIX
    method: str | None = None  # file in configs/method; None is the network as trained (t-BN)
    arguments: Mapping[str, Any] = field(default_factory=dict)  # that define the row, so a selection leaves them
    options: tuple[str, ...] = ()  # more command-line arguments
    paper: Numbers = field(default_factory=dict)  # as printed, None where the paper has none
    gain: Numbers = field(default_factory=dict)  # printed gains over the previous row
    doubtful: Mapping[str, str] = field(default_factory=dict)  # by column, why a printed number is uncertain
    decimals: int | None = None  # printed in this row; None for the metric's usual number
    sweep: str = ""  # num_steps or alpha, if the row stands for a curve over this argument
    point: Any = None  # position on the curve, if the row is a point of one
    ours: Numbers = field(default_factory=dict)  # as measured, None where missing

    def find_experiment(self, domain: str) -> str:
        """Returns the experiment whose network is tested on a domain."""
        return f"{domain}_{self.in_domain}" if self.in_domain else self.experiment

    def find_decimals(self, metric: str) -> int:
        """Returns the number of decimals that the paper prints for a metric."""
        return METRICS[metric].decimals if self.decimals is None else self.decimals

    def find_printed_mean(self, metric: str) -> float | None:
        """Returns the paper's mean: as printed, or else the mean of the printed columns."""
        columns = {column: value for (key, column), value in self.paper.items() if key == metric}
        return columns[MEAN] if MEAN in columns else average(list(columns.values()))


@dataclass(frozen=True)
class Part:
    """A whole table, or one part of a table such as (a) or (b)."""

    title: str
    metrics: tuple[str, ...]  # keys of METRICS
    columns: tuple[str, ...]  # domains, development, mean
    rows: tuple[TableRow, ...]
    name: str = ""  # its letter; empty if there is only one part
    worlds: tuple[str, ...] = ()  # in which it is shown; empty for all
    show: str = "first"  # image to show for each target: first, or worst, which has the lowest gain

    @property
    def domains(self) -> list[str]:
        """The columns without the mean."""
        return [column for column in self.columns if column != MEAN]


@dataclass(frozen=True)
class Table:
    """A table or a figure of the paper."""

    name: str  # of its file in configs/paper
    title: str
    label: str  # such as `Table 1`
    page: int
    section: str
    parts: tuple[Part, ...]
    kind: str = "table"  # table, runtime_accuracy, alpha, gains, qualitative
    statements: Mapping[str, str] = field(default_factory=dict)  # of the text, for a figure that prints no numbers


def read_table(name: str) -> Table:
    """Reads a table of the paper, one of `NAMES`.

    Raises:
        ValueError: If there is no such table, or its file is inconsistent; the message names the row.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in NAMES:
        raise ValueError(f"unknown table {name!r}: expected some of {', '.join(NAMES)}, or all")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts = tuple(read_part(path, part) for part in data.pop("parts"))
    return Table(name, parts=parts, **data.pop("source"), **data)


def read_part(path: Path, data: Mapping[str, Any]) -> Part:
    """Builds a part from a file's entry; raises ValueError if a row is inconsistent."""
    cells = list(product(data["metrics"], data["columns"]))
    rows = []
    for values in data["rows"]:
        where = f"{path}, row {values['source']}, {values['network']}, {values['name']}"
        printed = {key: values[key] for key in ("paper", "gain") if values.get(key)}
        for numbers in printed.values():
            if len(numbers) != len(cells):
                raise ValueError(f"{where}: {len(numbers)} numbers, expected {len(cells)} (metrics times columns)")
        row = TableRow(**to_fields(values) | {key: dict(zip(cells, printed[key], strict=True)) for key in printed})
        if bool(row.experiment) == bool(row.in_domain):
            raise ValueError(f"{where}: expected exactly one of experiment and in_domain")
        rows.append(row)
    return Part(**to_fields(data) | {"rows": tuple(rows)})


def to_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Converts lists to immutable tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def average(values: Sequence[float | None]) -> float | None:
    """Returns the unweighted mean; None if a value is missing, as a mean over fewer columns would mislead."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None
