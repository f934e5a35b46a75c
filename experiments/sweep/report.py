"""Reports of a sweep: a table, `sweep.json`, `sweep.md`, a chart, `best.yaml`, and an offline Weights & Biases run."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import optuna
import wandb
import yaml
from optuna.trial import TrialState

from callbacks.report.figures import encode_figure
from callbacks.report.search_figure import draw_curves, format_value
from callbacks.run.records import find_commit, read_mapping, to_plain, write_file, write_json
from experiments.command_line import drop_options
from experiments.pages import format_markdown
from experiments.sweep.definition import Definition
from experiments.sweep.search import VALUES, find_attempts
from experiments.sweep.trial import name_point

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.RUNNING: "running"}
RANKS = {"finished": 0, "stopped": 1}
Rows = Sequence[Mapping[str, Any]]


def list_points(study: optuna.Study) -> list[dict[str, Any]]:
    """Lists the points of a study that have values; of stopped ones, the score is on the images until then."""
    rows = []
    for point, trial in find_attempts(study).items():
        if VALUES not in trial.user_attrs:
            continue
        images = trial.last_step if trial.state == TrialState.PRUNED else None
        score = trial.value if images is None else trial.intermediate_values[images]
        seconds = round(trial.duration.total_seconds(), 1) if trial.duration else None
        row = {"number": point, "values": trial.user_attrs[VALUES], "score": score}
        row["state"] = STATES.get(trial.state, "failed")
        rows.append({**row, "stopped_after": images, "seconds": seconds})
    return rows


def write_sweep_report(
    definition: Definition, points: Rows, folder: Path, args: Sequence[str], config: Mapping[str, Any], **details: Any
) -> str:
    """Writes a sweep's report files into its folder.

    Args:
        definition: The sweep.
        points: The sweep's points, see `list_points`.
        folder: The folder.
        args: Arguments of main.py for a trial.
        config: The full configuration of a trial.
        **details: Additional entries of `sweep.json`.

    Returns:
        Text to print.
    """
    rows, metric = rank_points(points, definition.maximize), definition.metric.name
    best = rows[0] if rows and rows[0]["state"] == "finished" else None
    report = {
        "name": definition.name,
        "sweep": str(definition.path),
        "metric": metric,
        "goal": definition.metric.goal,
        "parameters": [parameter.name for parameter in definition.chosen],
        "trials": rows,
        "best": best and {key: best[key] for key in ("values", "score")},
        "command": ["python", "main.py", *args],
        "commit": find_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **details,
    }
    earlier = read_mapping(folder / "sweep.json").get("trials")
    write_json(folder / "sweep.json", report)
    text, picture = f"{format_trials(rows, metric)}\n\n", ""
    if best is None:
        text += "No trial has finished yet."
    else:
        found = f"{name_point(best['values'])}, {metric} {best['score']:.2f}"
        method, path = choose_method(config.get("method"), best["values"]), None
        if method is not None:
            path = folder / "best.yaml"
            reason = f"# Chosen by the sweep {definition.name}: {found} on the development set."
            write_file(path, f"{reason}\n{yaml.safe_dump(to_plain(method), sort_keys=False)}".encode())
        text += f"Best: {found}. Test it once:\n\n    {make_test_command(args, best['values'], path)}"
        picture = "\n\n![chart](sweep.png)"
        draw_trials(definition, rows, folder)
        if earlier != to_plain(rows):
            log_offline(definition, rows, folder)
    write_file(folder / "sweep.md", f"# Sweep {definition.name}\n\n{text}{picture}\n".encode())
    return f"{text}\n\nWritten to {folder}"


def rank_points(points: Rows, maximize: bool) -> Rows:
    """Sorts points, the best first: finished ones, then those stopped early, then the rest; each setting once."""
    sign = -1 if maximize else 1
    rows = sorted(points, key=lambda row: (RANKS.get(row["state"], 2), sign * (row["score"] or 0.0), row["number"]))
    tried = [row["values"] for row in rows]
    return [row for place, row in enumerate(rows) if row["values"] not in tried[:place]]


def format_trials(rows: Rows, metric: str) -> str:
    """Formats rows as a Markdown table."""
    names = [name.removeprefix("method.") for name in (rows[0]["values"] if rows else ())]
    notes = {"finished": "", "stopped": "stopped after {stopped_after} images"}
    cells = [
        [
            *map(format_value, row["values"].values()),
            "" if row["score"] is None else f"{row['score']:.2f}",
            notes.get(row["state"], str(row["state"])).format(**row),
        ]
        for row in rows
    ]
    return format_markdown([*names, metric, ""], cells, numbers=range(len(names), len(names) + 1))


def make_test_command(args: Sequence[str], values: Mapping[str, Any], method: Path | None) -> str:
    """Returns the command that tests the best values, of which those of the method are in a file."""
    left = reduce(drop_options, ("method", "trainer.logger", *values), list(args[1:]))  # after `validate`
    left = [argument for argument in left if not argument.startswith("--config=") or "wandb.yaml" not in argument]
    own = [f"--{name}={value}" for name, value in values.items() if not name.startswith("method.")]
    chosen = [f"--method={method}"] if method else []
    return shlex.join(["python", "main.py", "test", *left, *own, *chosen])


def choose_method(method: Mapping[str, Any] | None, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a method with the best values, as content of a file for `--method`; None without a method."""
    if not method:
        return None
    own = {name.removeprefix("method."): value for name, value in values.items() if name.startswith("method.")}
    own = {name.removeprefix("init_args."): value for name, value in own.items()}
    return {"class_path": method["class_path"], "init_args": {**(method.get("init_args") or {}), **own}}


def draw_trials(definition: Definition, rows: Rows, folder: Path) -> None:
    """Draws the scores of the finished trials against each parameter, as `sweep.png` and `sweep.svg`."""
    points = [
        {"values": {name.removeprefix("method."): value for name, value in row["values"].items()}, "miou": row["score"]}
        for row in sorted(rows, key=lambda row: row["number"])
        if row["state"] == "finished"
    ]
    metric = definition.metric.name
    label = f"{metric} (%)" if metric.endswith("miou") else metric
    figure = draw_curves(list(points[0]["values"]), points, label, definition.maximize)
    for kind in ("png", "svg"):
        write_file(folder / f"sweep.{kind}", encode_figure(figure, kind))


def log_offline(definition: Definition, rows: Rows, folder: Path) -> None:
    """Logs table and chart to an offline Weights & Biases run, for `wandb sync`; skipped if W&B is disabled."""
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED"):
        return
    metric, best = definition.metric.name, rows[0]
    cells = [[to_cell(value) for value in row["values"].values()] for row in rows]
    table = [[*values, row["score"], row["state"]] for values, row in zip(cells, rows, strict=True)]
    try:
        with wandb.init(
            project="segadapt",
            name=f"sweep {definition.name}",
            job_type="sweep",
            mode="offline",
            dir=folder,
            settings=wandb.Settings(silent=True, console="off"),
        ) as run:
            trials = wandb.Table(columns=[*best["values"], metric, "state"], data=table, allow_mixed_types=True)
            run.log({"sweep/trials": trials, "sweep/chart": wandb.Image(str(folder / "sweep.png"))})
            run.summary.update({f"sweep/best_{name}": value for name, value in best["values"].items()})
            run.summary[f"sweep/best_{metric}"] = best["score"]
    except Exception as error:  # logging is optional
        print(f"The offline run for Weights & Biases could not be written: {error}", flush=True)


def to_cell(value: Any) -> Any:
    """Converts a value to what a cell of a W&B table can hold: lists and mappings become JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
