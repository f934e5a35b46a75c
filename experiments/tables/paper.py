"""The paper's tables as data, read from configs/paper and checked.

Source: paper, Tables 1 to 9, Fig. 2 to 10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "configs"
FOLDER = CONFIGS / "paper"
NAMES = (
    *(f"table{number}" for number in range(1, 10)), "fig2", "fig4", "fig5", "fig10", "qualitative",
)  # fmt: skip
MEAN, DEVELOPMENT = "mean", "development"
TITLES = {
    "cityscapes": "Cityscapes", "bdd": "BDD", "idd": "IDD", "mapillary": "Mapillary", "wilddash": "WildDash",
    MEAN: "mean",
}  # fmt: skip
Numbers = Mapping[tuple[str, str], float | None]  # keyed by (metric, column)


class Metric(NamedTuple):
    """How a number from results.json is displayed: title, unit, and the paper's usual number of decimals."""

    title: str
    unit: str
    decimals: int


METRICS = {
    "miou": Metric("mean IoU", "%", 2),
    "classwise_ece": Metric("class-wise ECE", "%", 2),
    "ms_per_image": Metric("runtime", "ms", 0),
}


@dataclass(frozen=True)
class TableRow:
    """A row of a table, or a point or curve of a figure.

    Attributes:
        source: Data set that the network is trained on; ``target`` for in-domain training.
        network: Display name of the network.
        name: Display name of the method.
        experiment: File in configs/experiment that trains the network; empty for in-domain training.
        in_domain: Suffix of the in-domain experiments' names, which are TARGET_SUFFIX; otherwise empty.
        method: File in configs/method; None is the network as trained (t-BN).
        arguments: Method settings that define the row; a selection does not override them.
        options: Additional command-line arguments.
        paper: Printed numbers, None where the paper has none.
        gain: Printed gains over the previous row, where the paper has them.
        doubtful: Reasons, by column, why a printed number cannot be read with certainty.
        decimals: Number of decimals that the paper prints; None for the metric's usual number.
        sweep: ``num_steps`` or ``alpha`` if the row stands for a curve over this argument.
        point: Position on the curve, if the row is a point of one.
        ours: Measured numbers, None where they are missing.
    """

    source: str
    network: str
    name: str
    experiment: str = ""
    in_domain: str = ""
    method: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    paper: Numbers = field(default_factory=dict)
    gain: Numbers = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    decimals: int | None = None
    sweep: str = ""
    point: Any = None
    ours: Numbers = field(default_factory=dict)

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
    """A whole table, or one part of a table such as (a) or (b).

    Attributes:
        title: Display title.
        metrics: Keys of `METRICS`.
        columns: Names of domains, ``development``, ``mean``.
        rows: Rows from top to bottom.
        name: Letter of the part; empty if there is only one.
        worlds: Names of the worlds in which it is shown; empty for all.
        show: Image to show for each target: the ``first``, or the ``worst``, which has the lowest gain.
    """

    title: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    name: str = ""
    worlds: tuple[str, ...] = ()
    show: str = "first"

    @property
    def domains(self) -> list[str]:
        """The columns without the mean."""
        return [column for column in self.columns if column != MEAN]


@dataclass(frozen=True)
class Table:
    """A table or a figure of the paper.

    Attributes:
        name: Name of its file in configs/paper.
        title: Display title.
        label: Label in the paper, such as ``Table 1``.
        page: Page of the paper.
        section: Section of the paper.
        parts: One or more parts.
        kind: ``table``, ``runtime_accuracy``, ``alpha``, ``gains`` or ``qualitative``.
        statements: Statements of the paper's text, for a figure that prints no numbers.
    """

    name: str
    title: str
    label: str
    page: int
    section: str
    parts: tuple[Part, ...]
    kind: str = "table"
    statements: Mapping[str, str] = field(default_factory=dict)


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
        unknown = set(row.doubtful) - set(data["columns"])
        if unknown:
            raise ValueError(f"{where}: doubtful names {sorted(unknown)}, expected some of {data['columns']}")
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
