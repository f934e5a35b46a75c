"""The runs behind the tables: their data sets, settings and folders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import yaml

from experiments.study import describe_method
from experiments.tables.paper import CONFIGS, DEVELOPMENT, FOLDER, MEAN, Part, Table, TableRow

Policy = Literal["paper", "selected"]
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
# Settings selected on the development set, by method class. Tent is not among them: it keeps its own learning rate.
SELECTED = {
    "IaBN": ("alpha",),
    "TTA": ("alpha", "scales"),
    "MCDropout": ("alpha",),
    "Ensemble": ("alpha", "scales"),
    "SegTTT": ("alpha", "scales", "psi", "num_steps", "lr"),
}
SEED = re.compile(r"_seed(\d+)$")  # at the end of an experiment's name
PAPER_SCALES = [0.25, 0.5, 0.75]


@dataclass(frozen=True)
class TableWorld:
    """The data that tables are built on: the paper's data sets, or generated scenes."""

    name: str  # on the command line
    experiments: Path  # folder of the training configs
    targets: tuple[str, ...]  # domains that replace the paper's columns; empty to keep the paper's
    development: str  # domain of the development set
    members: int  # networks in an ensemble
    steps: tuple[int, ...]  # of the curves over steps
    policy: Policy  # default of the settings, see `Plan`
    grids: Mapping[str, Any] = field(default_factory=dict, hash=False)  # see `Protocol`

    def find_domain(self, column: str) -> str:
        """Returns the name of a column's domain in the results."""
        return self.development if column == DEVELOPMENT else column

    def find_config(self, experiment: str) -> Path:
        """Returns the config that trains a network; the members of an ensemble share one."""
        return self.experiments / f"{SEED.sub('', experiment)}.yaml"

    def list_arguments(self, experiment: str) -> list[str]:
        """Returns the training arguments beyond the config: the seed, for a member of an ensemble."""
        return [f"--seed_everything={match[1]}"] if (match := SEED.search(experiment)) else []

    def list_members(self, experiment: str) -> list[str]:
        """Returns the experiments whose networks form an ensemble."""
        return [experiment, *(f"{experiment}_seed{seed}" for seed in range(1, self.members))]


# Small, as settings are selected for many networks on a CPU; the scales are those of the demo.
SMALL_GRIDS = {
    "scales": ((0.5, 0.75, 1.0),),
    "psi": (0.6, 0.7, 0.8),
    "num_steps": (1, 2, 3, 5, 10),
    "lr": (0.05, 0.1),
}
EXPERIMENTS = CONFIGS / "experiment"
TARGETS = ("haze", "dusk", "dust")
LICENSED = TableWorld("licensed", EXPERIMENTS, (), "wilddash", 10, tuple(range(1, 11)), "paper")
STREET_SCENES = TableWorld(
    "street_scenes", EXPERIMENTS / "street_scenes", TARGETS, "development", 3, (1, 3, 10), "selected", SMALL_GRIDS
)
WORLDS = {world.name: world for world in (LICENSED, STREET_SCENES)}


@dataclass(frozen=True)
class Run:
    """A run of `main.py test`, or of `validate` for the curves on the development set."""

    experiment: str  # that trains the network
    method: str | None = None  # file in configs/method; None is the network as trained
    arguments: tuple[tuple[str, Any], ...] = ()  # settings of the method that a selection does not override
    options: tuple[str, ...] = ()  # more command-line arguments
    stage: str = "test"

    @property
    def name(self) -> str:
        """Name of its folder: the method's file (``t_bn`` without one), followed by its arguments and options."""
        more = [f"{key}_{value}" for key, value in self.arguments]
        more += [option.removeprefix("--trainer.").replace("=", "_") for option in self.options]
        return "_".join([self.method or "t_bn", *more])

    @property
    def is_ensemble(self) -> bool:
        """Whether it uses the networks of several experiments."""
        return self.method is not None and read_method(self.method)[0] == "Ensemble"


@cache
def read_method(name: str) -> tuple[str, dict[str, Any]]:
    """Reads a file of configs/method; returns the class name and its arguments."""
    path = CONFIGS / "method" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a file of configs/method")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data["class_path"].rsplit(".", 1)[-1], dict(data.get("init_args") or {})


@cache
def read_defaults(method: str) -> dict[str, Any]:
    """Returns the default arguments of a class in `callbacks`."""
    import callbacks

    parameters = signature(getattr(callbacks, method)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


@cache
def read_published() -> dict[str, dict[str, Any]]:
    """Returns the published settings that differ from those in configs/method, by experiment."""
    return yaml.safe_load((FOLDER / "settings.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Plan:
    """How and where runs are made: results are in ``FOLDER/EXPERIMENT/test/METHOD/results.json``."""

    world: TableWorld
    policy: Policy  # paper: the published settings; selected: those chosen on the development set per network
    folder: Path
    options: tuple[str, ...] = ()  # of every command

    def find_results(self, run: Run) -> Path:
        """Returns the folder of a run's results."""
        stage = "test" if run.stage == "test" else "development"
        marked = self.policy != self.world.policy and self.needs_selection(run)
        return self.folder / run.experiment / stage / (f"{run.name}_selected" if marked else run.name)

    def find_selection(self, experiment: str) -> Path:
        """Returns the path of a network's selected settings."""
        return self.folder / experiment / "selection.yaml"

    def read_selection(self, experiment: str) -> dict[str, Any] | None:
        """Returns the settings selected for a network on the development set; None if there is no valid selection."""
        try:
            return dict(yaml.safe_load(self.find_selection(experiment).read_text(encoding="utf-8"))["values"])
        except (OSError, TypeError, KeyError, yaml.YAMLError):
            return None

    def needs_selection(self, run: Run) -> bool:
        """Returns whether a run uses settings selected on the development set."""
        return self.policy == "selected" and bool(self.list_selected(run))

    def list_networks(self, run: Run) -> list[str]:
        """Lists the experiments whose networks a run uses."""
        return self.world.list_members(run.experiment) if run.is_ensemble else [run.experiment]

    def list_selected(self, run: Run) -> list[str]:
        """Lists the names of a run's settings that depend on its network: selected, or published with it."""
        if run.method is None:
            return []
        method, settings = read_method(run.method)
        fixed = {key for key, _ in run.arguments}
        if settings.get("alpha") in (0.0, 1.0):  # t-BN or p-BN by definition
            fixed.add("alpha")
        without_views = method == "Ensemble" and not settings.get("tta", False)
        if without_views or list(settings.get("scales", PAPER_SCALES)) != PAPER_SCALES:  # one scale by definition
            fixed.add("scales")
        return [key for key in SELECTED.get(method, ()) if key not in fixed]

    def describe(self, run: Run) -> dict[str, Any] | None:
        """Returns the ``name`` and settings of a run's method as in results.json; None without a method."""
        if run.method is None:
            return None
        method, settings = read_method(run.method)
        described = {"name": method, **settings}
        described.pop("checkpoints", None)
        if method == "SegTTT":
            described["semantics"] = "released" if self.policy == "paper" else "paper"
        published = self.policy == "paper"
        values = (read_published().get(run.experiment) if published else self.read_selection(run.experiment)) or {}
        described |= {key: values[key] for key in self.list_selected(run) if key in values}
        return described | dict(run.arguments)

    def list_arguments(self, run: Run, members: Sequence[str] = ()) -> list[str]:
        """Returns the command-line arguments of a run: its method, settings, and checkpoints of an ensemble."""
        settings = self.describe(run)
        if settings is None:
            return list(run.options)
        settings |= {"checkpoints": list(members)} if run.is_ensemble else {}
        return [*describe_method(settings.pop("name"), settings), *run.options]

    def list_runs(self, table: Table) -> dict[Run, set[str]]:
        """Returns the runs of a table, each with the domains needed from it."""
        found: dict[Run, set[str]] = {}
        for part in self.list_parts(table):
            for row in part.rows:
                for column in part.domains:
                    found.setdefault(self.find_run(row, column), set()).add(self.world.find_domain(column))
        return found

    def list_parts(self, table: Table) -> list[Part]:
        """Lists the parts of a table shown in this world, with its columns, and curves expanded to a row per point."""
        parts = []
        for part in table.parts:
            if part.worlds and self.world.name not in part.worlds:
                continue
            columns = part.columns
            if self.world.targets:
                columns = (*(name for name in columns if name == DEVELOPMENT), *self.world.targets, MEAN)
            rows = tuple(point for row in part.rows for point in self.unfold(row))
            parts.append(replace(part, columns=columns, rows=rows))
        return parts

    def unfold(self, row: TableRow) -> list[TableRow]:
        """Expands a curve into a row per point; returns any other row unchanged, as a list."""
        if not row.sweep:
            return [row]
        values: Sequence[Any] = {"num_steps": self.world.steps, "alpha": ALPHAS}[row.sweep]
        return [replace(row, arguments={**row.arguments, row.sweep: value}, point=value) for value in values]

    def find_run(self, row: TableRow, domain: str) -> Run:
        """Returns the run that produces a cell; a curve point that equals a method's plain run shares that run."""
        stage = "validate" if domain == DEVELOPMENT else "test"
        arguments = tuple(sorted(row.arguments.items()))
        run = Run(row.find_experiment(domain), row.method, arguments, row.options, stage)
        alpha = row.arguments.get("alpha")
        if row.method == "iabn" and alpha in (0.0, 1.0):
            return replace(run, method=None if alpha == 0 else "p_bn", arguments=())
        plain = replace(run, arguments=())
        return plain if self.policy == "paper" and self.describe(plain) == self.describe(run) else run
