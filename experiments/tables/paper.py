"""The paper's tables as data: what configs/paper holds, read and checked.

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
Numbers = Mapping[tuple[str, str], float | None]  # by metric and column, in this order


class Metric(NamedTuple):
    """How a number of results.json is shown, with as many decimals as the paper usually prints."""

    title: str
    unit: str
    decimals: int


METRICS = {
    "miou": Metric("mean IoU", "%", 2),
    "classwise_ece": Metric("class-wise ECE", "%", 2),
    "ms_per_image": Metric("runtime", "ms", 0),
}


@dataclass(frozen=True)
class Row:
    """A row of a table, or a point or a curve of a figure.

    Attributes:
        source: Data set that the network is trained on; ``target`` for in-domain training.
        network: For the reader.
        name: Of the method, for the reader.
        experiment: File in configs/experiment that trains the network; empty if the row is in-domain.
        in_domain: What follows the name of the target in the experiment that trains on that target.
        method: File in configs/method; None is the network as trained (t-BN).
        arguments: Settings of the method that make the row what it is; no selection replaces them.
        options: More arguments of the command line.
        paper: Printed numbers, None where the paper has none.
        gain: Printed differences to the row before, where the paper has them.
        doubtful: Reason by column, for numbers that cannot be read for certain.
        decimals: How many the paper prints, if not as usual.
        sweep: ``num_steps`` or ``alpha``: the row stands for a curve over these.
        point: Value on the curve, of a row that is a point of one.
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
        """Returns how many decimals the paper prints."""
        return METRICS[metric].decimals if self.decimals is None else self.decimals

    def find_printed_mean(self, metric: str) -> float | None:
        """Returns the paper's mean: as printed, or of the printed columns where there is none."""
        columns = {column: value for (key, column), value in self.paper.items() if key == metric}
        return columns[MEAN] if MEAN in columns else average(list(columns.values()))


@dataclass(frozen=True)
class Part:
    """A table, or one of several under the same number.

    Attributes:
        title: For the reader.
        metrics: Keys of `METRICS`.
        columns: Names of domains, ``development``, ``mean``.
        rows: From top to bottom.
        name: Letter of the part; empty if there is only one.
        worlds: Where it makes sense; empty is everywhere.
        show: Of pictures: ``first`` or ``worst``.
    """

    title: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
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
        name: Of its file.
        title: For the reader.
        label: What the paper calls it.
        page: Of the paper.
        section: Of the paper.
        parts: One or more.
        kind: ``table``, ``runtime_accuracy``, ``alpha``, ``gains`` or ``qualitative``.
        statements: What the paper's text says in words where a figure prints no numbers.
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
        ValueError: If there is no such table, or its file does not hold together; names the row.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in NAMES:
        raise ValueError(f"unknown table {name!r}: expected some of {', '.join(NAMES)}, or all")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts = tuple(read_part(path, part) for part in data.pop("parts"))
    return Table(name, parts=parts, **data.pop("source"), **data)


def read_part(path: Path, data: Mapping[str, Any]) -> Part:
    """Makes a part of what a file says; raises ValueError where it does not hold together."""
    cells = list(product(data["metrics"], data["columns"]))
    rows = []
    for values in data["rows"]:
        where = f"{path}, row {values['source']}, {values['network']}, {values['name']}"
        printed = {key: values[key] for key in ("paper", "gain") if values.get(key)}
        for numbers in printed.values():
            if len(numbers) != len(cells):
                raise ValueError(f"{where}: {len(numbers)} numbers, expected {len(cells)} (metrics times columns)")
        row = Row(**to_fields(values) | {key: dict(zip(cells, printed[key], strict=True)) for key in printed})
        unknown = set(row.doubtful) - set(data["columns"])
        if unknown:
            raise ValueError(f"{where}: doubtful names {sorted(unknown)}, expected some of {data['columns']}")
        if bool(row.experiment) == bool(row.in_domain):
            raise ValueError(f"{where}: expected one of experiment and in_domain")
        rows.append(row)
    return Part(**to_fields(data) | {"rows": tuple(rows)})


def to_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Turns lists into tuples, which cannot be changed."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def average(values: Sequence[float | None]) -> float | None:
    """Returns the simple mean; None if a value is missing, for the mean of some of the columns would mislead."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None
