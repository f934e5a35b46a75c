"""From results to cells: what this project measured, what the paper prints, and the difference."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.tables.paper import (
    DEVELOPMENT,
    MEAN,
    METRICS,
    ROOT,
    TITLES,
    Metric,
    Part,
    Row,
    Table,
    average,
    find_printed_mean,
)
from experiments.tables.results import Found, read_results, read_selection
from experiments.tables.runs import Plan, Run


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        metric: What it is.
        column: Domain or ``mean``.
        ours: As measured here; None if missing.
        paper: As printed; None if the paper has none, or has it on other images alone.
        doubtful: Why the printed number is not certain; empty if it is.
    """

    metric: Metric
    column: str
    ours: float | None = None
    paper: float | None = None
    doubtful: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, between the numbers as they are shown."""
        if self.ours is None or self.paper is None:
            return None
        decimals = self.metric.decimals
        return round(round(self.ours, decimals) - round(self.paper, decimals), decimals)


@dataclass(frozen=True)
class BuiltLine:
    """A row of a table with its numbers.

    Attributes:
        row: As the paper has it.
        cells: In the order of metrics and columns.
        real: The paper's mean over its own columns by metric, in worlds with other images.
        point: Value on the curve that the line is a point of.
    """

    row: Row
    cells: list[Cell]
    real: Mapping[str, float | None] = field(default_factory=dict)
    point: Any = None


@dataclass(frozen=True)
class BuiltPart:
    """A part of a table with its numbers.

    Attributes:
        part: As the paper has it, with the columns of the world.
        lines: One per row, more for curves.
    """

    part: Part
    lines: list[BuiltLine]


@dataclass
class BuiltTable:
    """A table with its numbers, and what is missing.

    Attributes:
        table: As the paper has it.
        plan: Of the runs.
        parts: With their numbers.
        missing: Why a run has no results that can be used, and the command that makes them, by run.
        notes: What a reader of the numbers should know.
        measured: On which devices the runs were made, with which torch, and when.
        images: Number of test images per domain.
        extra: More lines of Markdown, of figures.
        pictures: Names of image files without their endings.
    """

    table: Table
    plan: Plan
    parts: list[BuiltPart]
    missing: dict[Run, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: str = ""
    images: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def build_table(plan: Plan, table: Table) -> BuiltTable:
    """Builds a table from the results there are."""
    needed = plan.list_runs(table)
    found = {run: read_results(plan, run) for run in needed}
    originals = {(part.name, part.title): part for part in table.parts}
    parts = [
        BuiltPart(part, [line for row in part.rows for line in build_lines(plan, original, part, row, found)])
        for part in plan.list_parts(table)
        for original in (originals[part.name, part.title],)
    ]
    missing = {run: (result.problem, write_command(plan, run)) for run, result in found.items() if not result.summary}
    for run, domains in needed.items():
        if (summary := found[run].summary) is not None and (lacking := set(domains) - summary["domains"].keys()):
            problem = f"{plan.find_results(run)} has no {', '.join(sorted(lacking))}"
            missing[run] = (problem, f"{write_command(plan, run)} --results.overwrite=true")
    notes = list(dict.fromkeys(note for result in found.values() for note in result.notes))
    summaries = [result.summary for result in found.values() if result.summary is not None]
    images = {domain: scores["images"] for summary in summaries for domain, scores in summary["domains"].items()}
    return BuiltTable(table, plan, parts, missing, notes, describe_measurement(summaries), images)


def describe_measurement(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Says on which devices runs were made, with which torch, and when; empty without runs."""
    devices = sorted({str(summary.get("device")) for summary in summaries})
    versions = sorted({f"torch {summary['versions']['torch']}" for summary in summaries if summary.get("versions")})
    days = sorted({str(summary["date"])[:10] for summary in summaries if summary.get("date")})
    when = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    more = f" ({', '.join([*versions, *when])})" if versions or when else ""
    return f"{'; '.join(devices)}{more}" if devices else ""


def build_lines(plan: Plan, original: Part, part: Part, row: Row, found: Mapping[Run, Found]) -> list[BuiltLine]:
    """Builds a row, or the points of a curve.

    Args:
        plan: Of the runs.
        original: The part as the paper has it.
        part: The same with the columns of the world.
        row: Of both.
        found: Results by run.
    """
    lines = []
    for point, single in plan.unfold(row):
        cells: list[Cell] = []
        for key in part.metrics:
            values = {column: find_value(plan, single, key, column, found) for column in part.domains}
            targets = [value for column, value in values.items() if column != DEVELOPMENT]
            values[MEAN] = average(targets)
            for column in part.columns:
                cells.append(make_cell(plan, original, single, key, column, values[column]))
        other = original.columns != part.columns
        real = {key: find_printed_mean(original, row, key) for key in part.metrics} if other else {}
        lines.append(BuiltLine(single, cells, real, point))
    return lines


def find_value(plan: Plan, row: Row, key: str, column: str, found: Mapping[Run, Found]) -> float | None:
    """Returns a measured number of a row; None if there is none."""
    run = plan.find_run(row, column)
    if run is None or (summary := found[run].summary) is None:
        return None
    value = summary["domains"].get(plan.world.find_domain(column), {}).get(key)
    return None if value is None else float(value)


def make_cell(plan: Plan, original: Part, row: Row, key: str, column: str, ours: float | None) -> Cell:
    """Puts a measured number beside the printed one, if that is of the same images."""
    metric = METRICS[key]
    if row.decimals is not None:
        metric = replace(metric, decimals=row.decimals)
    printed = dict(zip(original.list_cells(), row.paper, strict=False)) if not plan.world.targets else {}
    paper = printed.get((key, column))
    return Cell(metric, column, ours, paper, row.doubtful.get(column, "") if paper is not None else "")


def write_command(plan: Plan, run: Run) -> str:
    """Writes the command that makes the results of a run."""
    config = plan.world.find_config(run.experiment)
    chosen = read_selection(plan, run.experiment) if plan.needs_selection(run) else None
    members = [f"{experiment}.ckpt" for experiment in plan.world.list_members(run.experiment)]
    stage = "test" if run.stage == "test" else "validate"
    words = ["python", "main.py", stage, "--config", shorten_path(str(config)), "--ckpt_path", f"{run.experiment}.ckpt"]
    words += [shorten_path(word) for word in plan.list_arguments(run, chosen, members if run.is_ensemble else ())]
    words += ["--results.folder", str(plan.find_results(run))]
    return shlex.join(words)


def shorten_path(text: str) -> str:
    """Writes paths below the checkout relative to it."""
    return text.replace(f"{ROOT}/", "")


def name_column(plan: Plan, column: str) -> str:
    """Names a column for the reader."""
    column = plan.world.find_domain(column)
    return TITLES.get(column, column)
