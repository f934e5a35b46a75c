"""Reports of a sweep: a table, `sweep.json`, `sweep.md`, a chart, `best.yaml`, and an offline Weights & Biases run."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import wandb
import yaml
from matplotlib.figure import Figure
from optuna.trial import TrialState

from callbacks.report.figures import encode_figure
from callbacks.report.search_figure import draw_curves, format_value
from callbacks.run.records import find_commit, to_plain, write_file, write_json
from experiments.command_line import drop_options
from experiments.pages import format_markdown
from experiments.sweep.definition import Definition
from experiments.sweep.search import IMAGES, POINT, VALUES, Sweep, find_attempts
from experiments.sweep.trial import name_point

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.RUNNING: "running"}


def list_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Lists the sweep's points, best first: finished ones, then those stopped early, then the rest."""
    rows: list[dict[str, Any]] = []
    for trial in find_attempts(sweep.study).values():
        values, images = trial.user_attrs.get(VALUES), trial.user_attrs.get(IMAGES, 0)
        if values is None:  # not drawn yet
            continue
        stopped = trial.state == TrialState.PRUNED  # its score covers only the images seen so far
        rows.append(
            {
                "number": trial.user_attrs[POINT],
                "values": values,
                "score": trial.intermediate_values.get(images) if stopped else trial.value,
                "state": STATES.get(trial.state, "failed"),
                "stopped_after": images if stopped else None,
                "seconds": trial.user_attrs.get("seconds"),
            }
        )
    sign, rank = -1 if sweep.definition.maximize else 1, {"finished": 0, "stopped": 1}
    rows.sort(key=lambda row: (rank.get(row["state"], 2), sign * (row["score"] or 0.0), row["number"]))
    tried = [row["values"] for row in rows]  # of duplicates, keep the better one
    return [row for place, row in enumerate(rows) if row["values"] not in tried[:place]]


def format_trials(definition: Definition, rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows as a Markdown table."""
    names = [parameter.name.removeprefix("method.") for parameter in definition.parameters]
    notes = {"finished": "", "stopped": "stopped after {stopped_after} images"}
    cells = [
        [
            *map(format_value, row["values"].values()),
            "" if row["score"] is None else f"{row['score']:.2f}",
            notes.get(row["state"], row["state"]).format(**row),
        ]
        for row in rows
    ]
    return format_markdown([*names, definition.metric, ""], cells, numbers=range(len(names), len(names) + 1))


def make_test_command(args: Sequence[str], values: Mapping[str, Any], method: Path | None) -> str:
    """Returns the command that tests the best values.

    Args:
        args: Arguments of main.py for a trial.
        values: The best values.
        method: File for ``--method``, if there is one.
    """
    left = reduce(drop_options, ("method", "trainer.logger", *values), list(args[1:]))  # after `validate`
    left = [argument for argument in left if not argument.startswith("--config=") or "wandb.yaml" not in argument]
    own = [f"--{name}={value}" for name, value in values.items() if not name.startswith("method.")]
    chosen = [f"--method={method}"] if method else []
    return shlex.join(["python", "main.py", "test", *left, *own, *chosen])


def choose_method(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the method with the best values, as content of a file for `--method`; None without a method."""
    method = config.get("method")
    if not method:
        return None
    chosen = [name for name in values if name.startswith("method.")]
    own = {name.removeprefix("method.").removeprefix("init_args."): values[name] for name in chosen}
    return {"class_path": method["class_path"], "init_args": {**(method.get("init_args") or {}), **own}}


def write_sweep_report(sweep: Sweep, args: Sequence[str], details: Mapping[str, Any]) -> str:
    """Writes a sweep's report files into its folder.

    Args:
        sweep: The sweep to report on.
        args: Arguments of main.py for a trial.
        details: Additional entries for `sweep.json`.

    Returns:
        Text to print.
    """
    definition, folder, rows = sweep.definition, sweep.folder, list_points(sweep)
    best = next((row for row in rows if row["state"] == "finished"), None)
    report = {
        "name": definition.name,
        "sweep": str(definition.path),
        "metric": definition.metric,
        "goal": "maximize" if definition.maximize else "minimize",
        "parameters": [parameter.name for parameter in definition.parameters],
        "trials": rows,
        "best": best and {key: best[key] for key in ("values", "score")},
        "command": ["python", "main.py", *args],
        "commit": find_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **details,
    }
    write_json(folder / "sweep.json", report)
    text, picture = f"{format_trials(definition, rows)}\n\n", ""
    if best is None:
        text += "No trial has finished yet."
    else:
        score = f"{definition.metric} {best['score']:.2f}"
        method, path = choose_method(sweep.config, best["values"]), folder / "best.yaml"
        if method is not None:
            reason = f"# Chosen by the sweep {definition.name}: {name_point(best['values'])}, {score}"
            content = f"{reason} on the development set.\n{yaml.safe_dump(to_plain(method), sort_keys=False)}"
            write_file(path, content.encode())
        test = make_test_command(args, best["values"], path if method else None)
        text += f"Best: {name_point(best['values'])}, {score}. Test it once:\n\n    {test}"
        picture = "\n\n![chart](sweep.png)"
        figure = draw_trials(definition, rows)
        for kind in ("png", "svg"):
            write_file(folder / f"sweep.{kind}", encode_figure(figure, kind))
    write_file(folder / "sweep.md", f"# Sweep {definition.name}\n\n{text}{picture}\n".encode())
    return text


def draw_trials(definition: Definition, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots the scores of the finished trials against each parameter."""
    names = [parameter.name for parameter in definition.parameters]
    short = [name.removeprefix("method.") for name in names]
    points = [
        {"values": dict(zip(short, map(row["values"].get, names), strict=True)), "miou": row["score"]}
        for row in sorted(rows, key=lambda row: row["number"])
        if row["state"] == "finished"
    ]
    label = f"{definition.metric} (%)" if definition.metric.endswith("miou") else definition.metric
    return draw_curves(short, points, label, definition.maximize)


def log_offline(sweep: Sweep) -> None:
    """Logs table and chart to an offline Weights & Biases run, for `wandb sync`; skipped if W&B is disabled."""
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED"):
        return
    definition, rows = sweep.definition, list_points(sweep)
    names = [parameter.name for parameter in definition.parameters]
    table = [[*map(plain_cell, row["values"].values()), row["score"], row["state"]] for row in rows]
    with wandb.init(
        project="segadapt",
        name=f"sweep {definition.name}",
        job_type="sweep",
        mode="offline",
        dir=sweep.folder,
        settings=wandb.Settings(silent=True, console="off"),
    ) as run:
        trials = wandb.Table(columns=[*names, definition.metric, "state"], data=table, allow_mixed_types=True)
        run.log({"sweep/trials": trials, "sweep/chart": wandb.Image(str(sweep.folder / "sweep.png"))})
        run.summary.update({f"sweep/best_{name}": value for name, value in rows[0]["values"].items()})
        run.summary[f"sweep/best_{definition.metric}"] = rows[0]["score"]


def plain_cell(value: Any) -> Any:
    """Converts a value to what a cell of a W&B table can hold: lists and mappings become JSON."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
