"""Reads the results that the tables are made of, and refuses those that are not what a cell asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.records import shorten_name, to_plain
from experiments.tables.runs import Plan, Run, read_defaults
from lightning_modules.metrics import Scores

# Arguments of methods that follow from others or from the network, are checked by themselves, or change no result.
WITHOUT_EFFECT = ("resampling", "normalization", "checkpoints", "on_out_of_memory")


@dataclass(frozen=True)
class Found:
    """What lies in the folder of a run.

    Attributes:
        summary: results.json; None where it cannot be used.
        problem: Why it cannot be used.
        notes: What a reader of the numbers should know.
    """

    summary: Mapping[str, Any] | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)


def read_selection(plan: Plan, experiment: str) -> dict[str, Any] | None:
    """Returns what was chosen for a network on the development set; None if that is not done."""
    path = plan.find_selection(experiment)
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["values"])
    except (OSError, TypeError, KeyError, yaml.YAMLError):
        return None


def read_results(plan: Plan, run: Run) -> Found:
    """Reads the results of a run and checks that they are of this run."""
    path = plan.find_results(run) / SUMMARY
    if not path.exists():
        return Found(problem=f"{path} is not there")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        domains = summary["domains"]
        wrong = check_summary(plan, run, summary)
        images = {domain: scores["images"] for domain, scores in domains.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Found(problem=f"{path} cannot be read as results ({type(error).__name__}: {error})")
    if wrong:
        return Found(problem=f"{path} is not used: {wrong}")
    notes = []
    for domain, official in OFFICIAL.items():
        if domain in images and images[domain] != official:
            notes.append(f"{path}: {images[domain]} images of {domain}, the protocol has {official}")
    return Found(summary, notes=notes)


def refuse_constant(text: str) -> float:
    """Raises ValueError at NaN and infinity, which results never hold: what has no value is null."""
    raise ValueError(f"{text} is no number")


# Images of the split that the protocol tests on. Source: paper, Appendix F.
OFFICIAL = {"cityscapes": 500, "bdd": 1000, "idd": 981, "mapillary": 2000}


def check_summary(plan: Plan, run: Run, summary: Mapping[str, Any]) -> str:
    """Returns what is wrong with results as those of a run; empty if nothing is."""
    if not summary["complete"]:
        return "the run was interrupted (complete: false); the same command again goes on"
    if summary["stage"] != run.stage:
        return f"they are of a {summary['stage']} run, expected {run.stage}"
    chosen = read_selection(plan, run.experiment) if plan.needs_selection(run) else None
    if plan.needs_selection(run) and chosen is None:
        return f"{plan.find_selection(run.experiment)}, what was chosen on the development set, is not there"
    wrong = check_method(plan.describe(run, chosen), summary["method"])
    if wrong:
        return wrong
    if run.is_ensemble and len(summary["method"]["checkpoints"]) != plan.world.members:
        return f"the ensemble has {len(summary['method']['checkpoints'])} networks, expected {plan.world.members}"
    if summary.get("temperature", 1.0) != 1.0:
        return f"they have temperature {summary['temperature']}, expected 1.0"
    usual = {"precision": "32-true"}
    own = [option for option in plan.options if option.startswith("--trainer.precision=")]
    given = [option.removeprefix("--trainer.").partition("=") for option in (*own, *run.options)]
    for key, value in (usual | {key: value for key, _, value in given}).items():
        if summary.get(key, usual.get(key)) != value:
            return f"{key} is {summary.get(key)}, expected {value}"
    return check_data(run, summary.get("data"))


def check_method(expected: tuple[str, Mapping[str, Any]] | None, found: Mapping[str, Any] | None) -> str:
    """Compares the method of a run with what it should be; returns what differs, empty if nothing does."""
    if expected is None or found is None:
        if expected is None and found is None:
            return ""
        name = "no method (t-BN)" if expected is None else expected[0]
        return f"the method is {found['name'] if found else 'none (t-BN)'}, expected {name}"
    name, settings = expected
    if found["name"] != name:
        return f"the method is {found['name']}, expected {name}"
    usual = {key: value for key, value in to_plain(read_defaults(name)).items() if key not in WITHOUT_EFFECT}
    wrong = []
    for key, value in (usual | to_plain(settings)).items():
        own = found.get(key, usual.get(key))
        if own != value:
            wrong.append(f"{key} is {own}, expected {value}")
    return "; ".join(wrong)


def check_data(run: Run, data: Any) -> str:
    """Compares the data of a run with what its experiment should have; returns what differs."""
    if not isinstance(data, Mapping) or "targets" not in data:
        return ""
    classes = 16 if run.experiment.startswith("synthia") else 19
    wrong = [
        f"{item['domain']} has {item['classes']} classes" for item in data["targets"] if item["classes"] != classes
    ]
    if wrong:
        return f"{', '.join(wrong)}, expected {classes}"
    if any(item.get("choose_on_target") for item in data["targets"]):
        return "choose_on_target is set for a target: expected targets that are only tested"
    return ""


def measure_gains(plan: Plan, run: Run, domain: str) -> list[tuple[str, float]]:
    """Returns (name, points of mean IoU gained over t-BN) of each image of a domain, in the order of the records.

    From the baseline in the run's own records if it is there, else from the records of the network's t-BN run.

    Raises:
        ValueError: If there are no records, or those of t-BN are of other images.
    """
    path = plan.find_results(run) / RECORDS
    records = list_records(path, domain)
    if not records:
        raise ValueError(f"{path} has no image of {domain}")
    adapted = score_images(records)
    if all(record.get("baseline") for record in records):
        plain = score_images([record["baseline"] | {"name": record["name"]} for record in records])
    else:
        other = plan.find_results(Run(run.experiment)) / RECORDS
        plain = score_images(list_records(other, domain))
        if plain.keys() != adapted.keys():
            raise ValueError(f"{other} has other images of {domain} than {path}: expected the same")
    return [(name, 100 * (miou - plain[name])) for name, miou in adapted.items()]


def list_records(path: Path, domain: str) -> list[dict[str, Any]]:
    """Reads the records of a domain."""
    return [record for record in read_records(path) if record["domain"] == domain]


def score_images(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean IoU of each image, in [0, 1], by its name."""
    return {record["name"]: Scores.from_record(record).summarize()["miou"] for record in records}


def find_picture(plan: Plan, run: Run, domain: str, name: str) -> Path | None:
    """Returns the path of an image's pictures without their endings; None if they were not kept."""
    stem = plan.find_results(run) / "gallery" / domain / shorten_name(name)
    return stem if stem.with_name(f"{stem.name}.image.jpg").exists() else None
