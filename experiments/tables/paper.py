"""The paper's tables as data: what configs/paper holds, read and checked.

Source: paper, Tables 1 to 9, Fig. 2 to 10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Metric:
    """A number of results.json.

    Attributes:
        key: Its name there.
        title: For headings.
        unit: ``%`` or ``ms``.
        decimals: How many the paper prints.
    """

    key: str
    title: str
    unit: str
    decimals: int


METRICS = {
    metric.key: metric
    for metric in (
        Metric("miou", "mean IoU", "%", 2),
        Metric("classwise_ece", "class-wise ECE", "%", 2),
        Metric("ms_per_image", "runtime", "ms", 0),
    )
}


@dataclass(frozen=True)
class Row:
    """A row of a table, or a point or a curve of a figure.

    Attributes:
        source: Data set that the network is trained on; ``target`` for in-domain training.
        network: For the reader.
        name: Of the method, for the reader.
        experiment: File in configs/experiment that trains the network; None if the row is in-domain.
        in_domain: What follows the name of the target in the experiment that trains on that target.
        method: File in configs/method; None is the network as trained (t-BN).
        arguments: Settings of the method that make the row what it is; no selection replaces them.
        options: More arguments of the command line.
        paper: Printed numbers in the order of metrics and columns, None where the paper has none.
        gain: Printed differences to the row before, where the paper has them.
        doubtful: Reason by column, for numbers that cannot be read for certain.
        decimals: How many the paper prints, if not as usual.
        sweep: ``num_steps`` or ``alpha``: the row stands for a curve over these.
    """

    source: str
    network: str
    name: str
    experiment: str | None = None
    in_domain: str | None = None
    method: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    paper: tuple[float | None, ...] = ()
    gain: tuple[float | None, ...] = ()
    doubtful: Mapping[str, str] = field(default_factory=dict)
    decimals: int | None = None
    sweep: str | None = None

    def find_experiment(self, domain: str) -> str | None:
        """Returns the experiment whose network is tested on a domain."""
        return f"{domain}_{self.in_domain}" if self.in_domain else self.experiment


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

    def list_cells(self) -> list[tuple[str, str]]:
        """Lists (metric, column) in the order of the rows' numbers."""
        return [(metric, column) for metric in self.metrics for column in self.columns]


@dataclass(frozen=True)
class Table:
    """A table or a figure of the paper.

    Attributes:
        name: Of its file.
        title: For the reader.
        label: What the paper calls it.
        page: Of the paper.
        section: Of the paper.
        kind: ``table``, ``runtime_accuracy``, ``alpha``, ``gains`` or ``qualitative``.
        parts: One or more.
        statements: What the paper's text says in words where a figure prints no numbers.
    """

    name: str
    title: str
    label: str
    page: int
    section: str
    kind: str
    parts: tuple[Part, ...]
    statements: Mapping[str, str]


def read_table(name: str, folder: Path = FOLDER) -> Table:
    """Reads a table of the paper.

    Args:
        name: One of `NAMES`.
        folder: Of the files.

    Raises:
        ValueError: If there is no such table, or its file does not hold together; names the row.
    """
    path = folder / f"{name}.yaml"
    if name not in NAMES and not path.is_file():
        raise ValueError(f"unknown table {name!r}: expected some of {', '.join(NAMES)}, or all")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    source = data["source"]
    parts = tuple(read_part(path, part) for part in data["parts"])
    statements = data.get("statements", {})
    kind = data.get("kind", "table")
    return Table(name, data["title"], source["label"], source["page"], str(source["section"]), kind, parts, statements)


def read_part(path: Path, data: Mapping[str, Any]) -> Part:
    """Makes a part of what a file says; raises ValueError where it does not hold together."""
    numbers = len(data["metrics"]) * len(data["columns"])
    rows = []
    for values in data["rows"]:
        where = f"{path}, row {values['source']}, {values['network']}, {values['name']}"
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        row = Row(**fields)
        for printed in (row.paper, row.gain):
            if printed and len(printed) != numbers:
                raise ValueError(f"{where}: {len(printed)} numbers, expected {numbers} (metrics times columns)")
        unknown = set(row.doubtful) - set(data["columns"])
        if unknown:
            raise ValueError(f"{where}: doubtful names {sorted(unknown)}, expected some of {data['columns']}")
        if (row.experiment is None) == (row.in_domain is None):
            raise ValueError(f"{where}: expected one of experiment and in_domain")
        rows.append(row)
    more = {key: data[key] for key in ("name", "show") if key in data}
    worlds = tuple(data.get("worlds", ()))
    return Part(data["title"], tuple(data["metrics"]), tuple(data["columns"]), tuple(rows), worlds=worlds, **more)


def average(values: Sequence[float | None]) -> float | None:
    """Returns the simple mean; None if a value is missing, for the mean of some of the columns would mislead."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None


def find_printed_mean(part: Part, row: Row, metric: str) -> float | None:
    """Returns the paper's mean over the columns of a row: as printed, or of the printed columns where there is none."""
    printed = {
        column: value for (key, column), value in zip(part.list_cells(), row.paper, strict=False) if key == metric
    }
    if MEAN in printed:
        return printed[MEAN]
    return average([printed.get(column) for column in part.domains])
