"""Fills the tables with measured numbers; finds results that are missing or cannot be used."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from callbacks.report.summary import score_record
from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.records import shorten_name, to_plain
from experiments.tables.paper import DEVELOPMENT, MEAN, ROOT, TITLES, Numbers, Part, Table, TableRow, average
from experiments.tables.runs import Plan, Run, read_defaults

# Number of images in the split that the protocol tests on. Source: paper, Appendix F.
OFFICIAL = {"cityscapes": 500, "bdd": 1000, "idd": 981, "mapillary": 2000}
# Method arguments that follow from others or from the network, are checked separately, or do not affect the results.
WITHOUT_EFFECT = ("resampling", "normalization", "checkpoints", "on_out_of_memory")


@dataclass
class BuiltTable:
    """A table with its measured numbers and a list of missing results.

    Attributes:
        table: The paper's table.
        plan: The plan of the runs.
        parts: The table's parts, with measured numbers in their rows.
        missing: (Reason, command that produces the results) for each run without usable results.
        notes: Notes for the reader on the numbers.
        measured: Devices, torch versions and dates of the runs.
        images: Number of test images per domain.
        extra: Additional Markdown for figures.
        pictures: Names of the image files, without suffix.
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
    """Builds a table from the available results."""
    built = BuiltTable(table, plan)
    found: dict[Run, dict[str, Any]] = {}
    for run, domains in plan.list_runs(table).items():
        try:
            summary = found[run] = read_results(plan, run)
        except ValueError as error:
            built.missing[run] = (str(error), write_command(plan, run))
            continue
        path = plan.find_results(run)
        if missing := domains - summary["domains"].keys():
            command = f"{write_command(plan, run)} --results.overwrite=true"
            built.missing[run] = (f"{path} has no {', '.join(sorted(missing))}", command)
        built.images |= summary["images"]
        for domain, official in OFFICIAL.items():
            images = summary["images"].get(domain, official)
            if images != official:
                built.notes.append(f"{path / SUMMARY}: {images} images of {domain}, the protocol has {official}")
    built.measured = describe_measurement(list(found.values()))
    for part in plan.list_parts(table):
        rows = tuple(replace(row, ours=find_numbers(plan, part, row, found)) for row in part.rows)
        built.parts.append(replace(part, rows=rows))
    return built


def describe_measurement(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Formats the devices, torch versions and dates of runs; empty without runs."""
    devices = sorted({str(summary.get("device")) for summary in summaries})
    details = sorted({f"torch {summary['versions']['torch']}" for summary in summaries if summary.get("versions")})
    if days := sorted({str(summary["date"])[:10] for summary in summaries if summary.get("date")}):
        details.append(" to ".join(dict.fromkeys((days[0], days[-1]))))
    return "; ".join(devices) + (f" ({', '.join(details)})" if details else "")


def find_numbers(plan: Plan, part: Part, row: TableRow, found: Mapping[Run, Mapping[str, Any]]) -> Numbers:
    """Returns a row's numbers from the available results, None where missing."""
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
    """Returns the command that produces a run's results; paths inside the checkout are relative to it."""
    config = plan.world.find_config(run.experiment)
    members = [f"{experiment}.ckpt" for experiment in plan.world.list_members(run.experiment)]
    words = ["python", "main.py", run.stage, "--config", str(config), "--ckpt_path", f"{run.experiment}.ckpt"]
    words += plan.list_arguments(run, members)
    words = [word.replace(f"{ROOT}/", "") for word in words]
    return shlex.join([*words, "--results.folder", str(plan.find_results(run))])


def name_column(plan: Plan, column: str) -> str:
    """Returns the display name of a column."""
    column = plan.world.find_domain(column)
    return TITLES.get(column, column)


def read_results(plan: Plan, run: Run) -> dict[str, Any]:
    """Reads the results of a run and checks that they belong to it.

    Returns:
        Its results.json, plus ``images``, the number of images per domain.

    Raises:
        ValueError: If they are missing or cannot be used; the message says why.
    """
    path = plan.find_results(run) / SUMMARY
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        summary["images"] = {domain: scores["images"] for domain, scores in summary["domains"].items()}
        wrong = check_summary(plan, run, summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as results ({type(error).__name__}: {error})") from error
    if wrong:
        raise ValueError(f"{path} is not used: {wrong}")
    return summary


def is_done(plan: Plan, run: Run) -> bool:
    """Returns whether a run has usable results."""
    try:
        read_results(plan, run)
    except ValueError:
        return False
    return True


def refuse_constant(text: str) -> float:
    """Rejects NaN and infinity in JSON by raising ValueError; results store null for missing values."""
    raise ValueError(f"{text} is not a finite number")


def check_summary(plan: Plan, run: Run, summary: Mapping[str, Any]) -> str:
    """Returns why results do not belong to a run, or cannot be used; empty if they can."""
    if not summary["complete"]:
        return "the run was interrupted (complete: false); run the same command again to resume"
    if summary["stage"] != run.stage:
        return f"they are from a {summary['stage']} run, expected {run.stage}"
    if plan.needs_selection(run) and plan.read_selection(run.experiment) is None:
        return f"{plan.find_selection(run.experiment)}, the settings chosen on the development set, does not exist"
    if wrong := check_method(plan.describe(run), summary["method"]):
        return wrong
    if run.is_ensemble and len(summary["method"]["checkpoints"]) != plan.world.members:
        return f"the ensemble has {len(summary['method']['checkpoints'])} networks, expected {plan.world.members}"
    if summary.get("temperature", 1.0) != 1.0:
        return f"they use temperature {summary['temperature']}, expected 1.0"
    given = dict(option.split("=", 1) for option in (*plan.options, *run.options) if "=" in option)
    precision = given.get("--trainer.precision", "32-true")
    if summary.get("precision", "32-true") != precision:
        return f"precision is {summary.get('precision')}, expected {precision}"
    return check_data(run, summary.get("data"))


def check_method(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> str:
    """Compares the recorded method with the expected one; returns the differences, empty if there are none."""
    if expected is None and found is None:
        return ""
    if expected is None or found is None or found["name"] != expected["name"]:
        name = "no method (t-BN)" if expected is None else expected["name"]
        return f"the method is {found['name'] if found else 'none (t-BN)'}, expected {name}"
    usual = to_plain(read_defaults(expected["name"]))
    wanted = {key: value for key, value in usual.items() if key not in WITHOUT_EFFECT} | to_plain(expected)
    own = {key: found.get(key, usual.get(key)) for key in wanted}
    return "; ".join(f"{key} is {own[key]}, expected {value}" for key, value in wanted.items() if own[key] != value)


def check_data(run: Run, data: Any) -> str:
    """Compares the recorded data settings with what the experiment requires; returns the differences, or empty."""
    targets = data.get("targets", ()) if isinstance(data, Mapping) else ()
    classes = 16 if run.experiment.startswith("synthia") else 19
    wrong = [f"{item['domain']} has {item['classes']} classes" for item in targets if item["classes"] != classes]
    if wrong:
        return f"{', '.join(wrong)}, expected {classes}"
    if any(item.get("choose_on_target") for item in targets):
        return "choose_on_target is set for a target: expected targets that are only tested"
    return ""


def measure_gains(plan: Plan, run: Run, domain: str) -> list[tuple[str, float]]:
    """Returns (name, gain in mean IoU over t-BN in points) for each image of a domain, in the order of the records.

    Takes t-BN from the baseline in the run's own records if all have one, else from the network's t-BN run.

    Raises:
        ValueError: If there are no records, or the t-BN run's records cover different images.
    """
    path = plan.find_results(run) / RECORDS
    records = read_domain(path, domain)
    if not records:
        raise ValueError(f"{path} has no image of {domain}")
    plain = {name: record["baseline"] for name, record in records.items() if record.get("baseline")}
    if len(plain) < len(records):
        other = plan.find_results(Run(run.experiment)) / RECORDS
        plain = read_domain(other, domain)
        if plain.keys() != records.keys():
            raise ValueError(f"{other} has different images of {domain} than {path}: expected the same")
    return [(name, score_record(record) - score_record(plain[name])) for name, record in records.items()]


def read_domain(path: Path, domain: str) -> dict[str, dict[str, Any]]:
    """Reads a domain's records, keyed by image name."""
    return {record["name"]: record for record in read_records(path) if record["domain"] == domain}


def find_picture(plan: Plan, run: Run, domain: str, name: str) -> Path | None:
    """Returns the path of an image's saved pictures, without suffix; None if they were not saved."""
    stem = plan.find_results(run) / "gallery" / domain / shorten_name(name)
    return stem if stem.with_name(f"{stem.name}.image.jpg").exists() else None
