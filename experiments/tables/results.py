"""Fills the tables with measured numbers; finds results that are missing or cannot be used."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from callbacks.report.summary import gain_of_image
from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.records import to_plain
from experiments.study import ROOT
from experiments.tables.paper import DEVELOPMENT, MEAN, Numbers, Part, Table, TableRow, average
from experiments.tables.runs import Plan, Run, read_defaults

# Number of images in the split that the protocol tests on. Source: paper, Appendix F.
OFFICIAL = {"cityscapes": 500, "bdd": 1000, "idd": 981, "mapillary": 2000}
TITLES = {
    "cityscapes": "Cityscapes", "bdd": "BDD", "idd": "IDD", "mapillary": "Mapillary", "wilddash": "WildDash",
}  # fmt: skip
# Method arguments that follow from others or from the network, are checked separately, or do not affect the results.
WITHOUT_EFFECT = ("resampling", "normalization", "checkpoints", "on_out_of_memory")


@dataclass
class BuiltTable:
    """A table with its measured numbers and a list of missing results."""

    table: Table
    plan: Plan
    parts: list[Part] = field(default_factory=list)  # with measured numbers in their rows
    missing: dict[Run, tuple[str, str]] = field(default_factory=dict)  # reason, and command that produces the results
    notes: list[str] = field(default_factory=list)  # for the reader
    measured: str = ""  # devices, torch versions and dates of the runs
    images: dict[str, int] = field(default_factory=dict)  # number of test images per domain
    extra: list[str] = field(default_factory=list)  # more Markdown, for figures
    pictures: list[str] = field(default_factory=list)  # names of the image files, without suffix


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
        images = summary["images"]
        built.images |= images
        for domain in OFFICIAL:
            if images.get(domain, OFFICIAL[domain]) != OFFICIAL[domain]:
                note = f"{images[domain]} images of {domain}, the protocol has {OFFICIAL[domain]}"
                built.notes.append(f"{path / SUMMARY}: {note}")
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
    words = ["python", "main.py", run.stage, "--config", str(config), "--ckpt_path", f"{run.experiment}.ckpt"]
    words += plan.list_arguments(run, [f"{network}.ckpt" for network in plan.list_networks(run)])
    words = [word.replace(f"{ROOT}/", "") for word in words]
    return shlex.join([*words, "--results.folder", str(plan.find_results(run))])


def name_column(plan: Plan, column: str) -> str:
    """Returns the display name of a column."""
    column = plan.world.find_domain(column)
    return TITLES.get(column, column)


def read_results(plan: Plan, run: Run) -> dict[str, Any]:
    """Reads the results.json of a run, checks that it belongs to it, and adds ``images``, their number by domain.

    Raises:
        ValueError: If it is missing or cannot be used; the message says why.
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
    if plan.needs_selection(run) and plan.read_selection(run.experiment) is None:
        return f"{plan.find_selection(run.experiment)}, the settings chosen on the development set, does not exist"
    options = dict(option.split("=", 1) for option in (*plan.options, *run.options) if "=" in option)
    method, wanted = summary["method"] or {"name": "none (t-BN)"}, plan.describe(run) or {"name": "none (t-BN)"}
    expected = {"stage": run.stage, "temperature": 1.0, "precision": options.get("--trainer.precision", "32-true")}
    found = {key: summary.get(key, usual) for key, usual in {**expected, "precision": "32-true"}.items()}
    expected["method"], found["method"] = wanted["name"], method["name"]
    if run.method is not None and method["name"] == wanted["name"]:
        usual = to_plain(read_defaults(wanted["name"]))
        settings = {key: value for key, value in usual.items() if key not in WITHOUT_EFFECT} | to_plain(wanted)
        expected |= settings
        found |= {key: method.get(key, usual.get(key)) for key in settings}
    if run.is_ensemble:
        expected["networks"], found["networks"] = plan.world.members, len(method.get("checkpoints", ()))
    data = summary.get("data")
    for target in data.get("targets", ()) if isinstance(data, Mapping) else ():
        classes, chosen = f"classes of {target['domain']}", f"choose_on_target of {target['domain']}"
        expected |= {classes: 16 if run.experiment.startswith("synthia") else 19, chosen: False}
        found |= {classes: target["classes"], chosen: bool(target.get("choose_on_target"))}
    wrong = [f"{key} is {found[key]}, expected {value}" for key, value in expected.items() if found[key] != value]
    return "; ".join(wrong)


def list_gains(plan: Plan, run: Run, domain: str) -> list[tuple[str, float]]:
    """Returns (name, gain in mean IoU over t-BN in points) for each labelled image of a domain, in recorded order.

    Raises:
        ValueError: If there are no records, or t-BN was not scored with them.
    """
    path = plan.find_results(run) / RECORDS
    records = [record for record in read_records(path) if record["domain"] == domain]
    if not records or not all(record.get("baseline") for record in records):
        raise ValueError(
            f"{path} has no image of {domain} with the score of t-BN: test again with "
            "--results.baseline=true --results.overwrite=true"
        )
    gains = [(record["name"], gain_of_image(record)) for record in records]
    return [(name, gain) for name, gain in gains if math.isfinite(gain)]
