"""What came out of a sweep: a table, `sweep.json`, `sweep.md`, a chart, `best.yaml`, and a run for dashboards."""

import io
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import wandb
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from callbacks.run.records import find_commit, to_plain, write_file
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition, Parameter
from experiments.sweep.search import IMAGES, POINT, VALUES, Sweep, find_attempts
from experiments.sweep.trial import format_value, name_point

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.RUNNING: "running"}


def list_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Lists what was tried, the best first: finished points, then those that were stopped, then the rest."""
    rows: list[dict[str, Any]] = []
    for trial in find_attempts(sweep.study).values():
        values, images = trial.user_attrs.get(VALUES), trial.user_attrs.get(IMAGES, 0)
        if values is None:  # not drawn yet
            continue
        stopped = trial.state == TrialState.PRUNED  # its score is over the images that it had seen
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
    tried = [row["values"] for row in rows]  # the better one first, where a point was drawn twice
    return [row for place, row in enumerate(rows) if row["values"] not in tried[:place]]


def format_table(definition: Definition, rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows as a Markdown table."""
    names = [parameter.name.removeprefix("method.") for parameter in definition.parameters]
    lines = [f"| {' | '.join([*names, definition.metric])} | |", "|" + "---|" * len(names) + "---:|---|"]
    for row in rows:
        cells = [format_value(value) for value in row["values"].values()]
        score = "" if row["score"] is None else f"{row['score']:.2f}"
        note = f"stopped after {row['stopped_after']} images" if row["state"] == "stopped" else row["state"]
        lines.append(f"| {' | '.join([*cells, score])} | {'' if note == 'finished' else note} |")
    return "\n".join(lines)


def make_test_command(args: Sequence[str], values: Mapping[str, Any], method: Path | None) -> str:
    """Returns the command that tests the best values, with the file of the method if there is one, by a trial's."""
    left = reduce(drop_options, ("method", "trainer.logger", *values), list(args[1:]))  # behind `validate`
    left = [argument for argument in left if not argument.startswith("--config=") or "wandb.yaml" not in argument]
    own = [f"--{name}={value}" for name, value in values.items() if not name.startswith("method.")]
    chosen = [f"--method={method}"] if method else []
    return shlex.join(["python", "main.py", "test", *left, *own, *chosen])


def choose_method(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the method with the best values, as a file for `--method` holds it; None without a method."""
    method = config.get("method")
    if not method:
        return None
    chosen = [name for name in values if name.startswith("method.")]
    own = {name.removeprefix("method.").removeprefix("init_args."): values[name] for name in chosen}
    return {"class_path": method["class_path"], "init_args": {**(method.get("init_args") or {}), **own}}


def write_report(sweep: Sweep, args: Sequence[str], details: Mapping[str, Any]) -> str:
    """Writes all that a sweep has come to into its folder.

    Args:
        sweep: To report on.
        args: Of main.py, for a trial.
        details: Further entries of `sweep.json`.

    Returns:
        What to print.
    """
    definition, folder, rows = sweep.definition, sweep.folder, list_rows(sweep)
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
    write_file(folder / "sweep.json", (json.dumps(to_plain(report), indent=1) + "\n").encode())
    text, picture = f"{format_table(definition, rows)}\n\n", ""
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
        text += f"Best: {name_point(best['values'])}, {score}. Test it, once:\n\n    {test}"
        picture = "\n\n![chart](sweep.png)"
        draw_charts(definition, rows, folder)
    write_file(folder / "sweep.md", f"# Sweep {definition.name}\n\n{text}{picture}\n".encode())
    return text


def draw_charts(definition: Definition, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draws the score against each parameter: a line for one, for several a panel of points each."""
    count = len(definition.parameters)
    figure = Figure(figsize=(max(5.0, 3.2 * count), 3.6), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    kinds = {"finished": "o-" if count == 1 else "o", "stopped": "x"}
    for axes, parameter in zip(panels, definition.parameters, strict=True):
        place = arrange(parameter, rows, axes)
        for state, marks in kinds.items():
            points = sorted((place(row), row["score"]) for row in rows if row["state"] == state)
            if points:
                axes.plot(*zip(*points, strict=True), marks, ms=4, lw=1, label=state)
        axes.plot(place(rows[0]), rows[0]["score"], "r*", ms=12, label="best")
        axes.set_xlabel(parameter.name.removeprefix("method."))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{definition.metric} (%)" if definition.metric.endswith("miou") else definition.metric)
    panels[-1].legend(frameon=False, fontsize=8)
    for kind in ("png", "svg"):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=130)
        write_file(folder / f"sweep.{kind}", file.getvalue())


def arrange(parameter: Parameter, rows: Sequence[Mapping[str, Any]], axes: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Prepares an axis for the values of a parameter; returns where the value of a row is on it."""
    values = [row["values"][parameter.name] for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if min(values) > 0 and max(values) >= 50 * min(values):
            axes.set_xscale("log")
        elif all(isinstance(value, int) for value in values):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return lambda row: row["values"][parameter.name]
    choices = [parameter.to_value(drawn) for drawn in parameter.grid or []]
    axes.set_xticks(range(len(choices)), [format_value(value) for value in choices], rotation=20)
    return lambda row: choices.index(row["values"][parameter.name])


def log_offline(sweep: Sweep) -> None:
    """Writes table and chart as an offline run of Weights & Biases, for `wandb sync`; not where that is disabled."""
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED"):
        return
    definition, rows = sweep.definition, list_rows(sweep)
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
    """Returns what a column of a table may hold."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
