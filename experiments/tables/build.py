"""From results to numbers: what this project measured for the rows of a table, and what is missing."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from callbacks.results import SUMMARY
from experiments.tables.paper import DEVELOPMENT, MEAN, ROOT, TITLES, Numbers, Part, Row, Table, average
from experiments.tables.results import read_results
from experiments.tables.runs import Plan, Run

# Images of the split that the protocol tests on. Source: paper, Appendix F.
OFFICIAL = {"cityscapes": 500, "bdd": 1000, "idd": 981, "mapillary": 2000}


@dataclass
class BuiltTable:
    """A table with its numbers, and what is missing.

    Attributes:
        table: As the paper has it.
        plan: Of the runs.
        parts: With the measured numbers in their rows.
        missing: Why a run has no results that can be used, and the command that makes them, by run.
        notes: What a reader of the numbers should know.
        measured: On which devices the runs were made, with which torch, and when.
        images: Number of test images per domain.
        extra: More lines of Markdown, of figures.
        pictures: Names of image files without their endings.
    """

    table: Table
    plan: Plan
    parts: list[Part] = field(default_factory=list)
    missing: dict[Run, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: str = ""
    images: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def build_table(plan: Plan, table: Table) -> BuiltTable:
    """Builds a table from the results there are."""
    built = BuiltTable(table, plan)
    found: dict[Run, dict[str, Any]] = {}
    lacking: dict[Run, tuple[str, str]] = {}
    for run, domains in plan.list_runs(table).items():
        try:
            summary = found[run] = read_results(plan, run)
        except ValueError as error:
            built.missing[run] = (str(error), write_command(plan, run))
            continue
        path = plan.find_results(run)
        if missing := domains - summary["domains"].keys():
            command = f"{write_command(plan, run)} --results.overwrite=true"
            lacking[run] = (f"{path} has no {', '.join(sorted(missing))}", command)
        built.images |= summary["images"]
        for domain, official in OFFICIAL.items():
            images = summary["images"].get(domain, official)
            if images != official:
                built.notes.append(f"{path / SUMMARY}: {images} images of {domain}, the protocol has {official}")
    built.missing |= lacking
    built.measured = describe_measurement(list(found.values()))
    for part in plan.list_parts(table):
        rows = tuple(replace(row, ours=find_numbers(plan, part, row, found)) for row in part.rows)
        built.parts.append(replace(part, rows=rows))
    return built


def describe_measurement(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Says on which devices runs were made, with which torch, and when; empty without runs."""
    devices = sorted({str(summary.get("device")) for summary in summaries})
    details = sorted({f"torch {summary['versions']['torch']}" for summary in summaries if summary.get("versions")})
    if days := sorted({str(summary["date"])[:10] for summary in summaries if summary.get("date")}):
        details.append(" to ".join(dict.fromkeys((days[0], days[-1]))))
    return "; ".join(devices) + (f" ({', '.join(details)})" if details else "")


def find_numbers(plan: Plan, part: Part, row: Row, found: Mapping[Run, Mapping[str, Any]]) -> Numbers:
    """Returns the numbers of a row that the results which were found have."""
    scores = {}
    for column in part.domains:
        summary = found.get(plan.find_run(row, column), {"domains": {}})
        scores[column] = summary["domains"].get(plan.world.find_domain(column), {})
    numbers: dict[tuple[str, str], float | None] = {}
    for metric in part.metrics:
        own = {column: scores[column].get(metric) for column in part.domains}
        own[MEAN] = average([value for column, value in own.items() if column != DEVELOPMENT])
        numbers |= {(metric, column): own[column] for column in part.columns}
    return numbers


def write_command(plan: Plan, run: Run) -> str:
    """Writes the command that makes the results of a run, with paths below the checkout relative to it."""
    config = plan.world.find_config(run.experiment)
    members = [f"{experiment}.ckpt" for experiment in plan.world.list_members(run.experiment)]
    words = ["python", "main.py", run.stage, "--config", str(config), "--ckpt_path", f"{run.experiment}.ckpt"]
    words += plan.list_arguments(run, members)
    words = [word.replace(f"{ROOT}/", "") for word in words]
    return shlex.join([*words, "--results.folder", str(plan.find_results(run))])


def name_column(plan: Plan, column: str) -> str:
    """Names a column for the reader."""
    column = plan.world.find_domain(column)
    return TITLES.get(column, column)
