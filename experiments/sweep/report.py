"""What came out of a sweep: a table, `sweep.json`, `sweep.md`, a chart, `best.yaml`, and a run for dashboards."""

import io
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import optuna

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import wandb
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from callbacks.run.records import find_commit, to_plain, write_file
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition
from experiments.sweep.parameters import Parameter
from experiments.sweep.samplers import FINISHED, VALUES
from experiments.sweep.search import IMAGES, find_best
from experiments.sweep.trial import format_value, name_point

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.RUNNING: "running"}


def list_rows(definition: Definition, study: optuna.Study) -> list[dict[str, Any]]:
    """Lists what was tried, the best first: finished points once each, then those that were stopped, then the rest."""
    rows: list[dict[str, Any]] = []
    trials = [trial for trial in study.get_trials(deepcopy=False) if VALUES in trial.user_attrs]
    order = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL]
    for trial in sorted(trials, key=lambda trial: (order.index(trial.state), trial.number)):
        values = trial.user_attrs[VALUES]
        if any(row["values"] == values for row in rows):
            continue
        rows.append(describe_trial(trial, values))
    sign = -1 if definition.maximize else 1
    rank = {"finished": 0, "stopped": 1}
    return sorted(rows, key=lambda row: (rank.get(row["state"], 2), sign * (row["score"] or 0.0), row["number"]))


def describe_trial(trial: FrozenTrial, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a report says of a trial; the score of one that was stopped is over the images it had seen."""
    images = trial.user_attrs.get(IMAGES)
    score = trial.value if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.PRUNED and images in trial.intermediate_values:
        score = trial.intermediate_values[images]
    return {
        "number": trial.number,
        "values": dict(values),
        "score": score,
        "state": STATES.get(trial.state, "failed"),
        "stopped_after": images,
        "seconds": trial.user_attrs.get("seconds"),
    }


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


def make_test_command(command: Sequence[str], values: Mapping[str, Any], method: Path | None) -> list[str]:
    """Returns the command line that tests what was chosen.

    Args:
        command: Of a trial.
        values: The best ones.
        method: The file of the method, if there is a method.
    """
    place = command.index("validate")
    left = command[place + 1 :]
    for name in ("method", "trainer.logger", *values):
        left = drop_options(left, name)
    left = [argument for argument in left if not argument.startswith("--config=") or "wandb.yaml" not in argument]
    own = [f"--{name}={value}" for name, value in values.items() if not name.startswith("method.")]
    chosen = [f"--method={method}"] if method else []
    return ["python", command[place - 1], "test", *left, *own, *chosen]


def choose_method(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the method with the best values, as a file for `--method` holds it; None without a method."""
    method = config.get("method")
    if not method:
        return None
    own = {name.removeprefix("method."): value for name, value in values.items() if name.startswith("method.")}
    own = {name.removeprefix("init_args."): value for name, value in own.items()}
    return {"class_path": method["class_path"], "init_args": {**(method.get("init_args") or {}), **own}}


def write_report(
    definition: Definition,
    study: optuna.Study,
    folder: Path,
    command: Sequence[str],
    config: Mapping[str, Any],
    details: Mapping[str, Any],
) -> str:
    """Writes all that a sweep has come to into its folder.

    Args:
        definition: Of the sweep.
        study: With its trials.
        folder: To write into.
        command: Of a trial.
        config: What the command comes down to.
        details: Further entries of `sweep.json`.

    Returns:
        What to print.
    """
    rows, best = list_rows(definition, study), find_best(study)
    report = {
        "name": definition.name,
        "sweep": str(definition.path),
        "metric": definition.metric,
        "goal": "maximize" if definition.maximize else "minimize",
        "parameters": [parameter.name for parameter in definition.parameters],
        "trials": rows,
        "best": None if best is None else {"values": best.user_attrs[VALUES], "score": best.value},
        "command": list(command),
        "commit": find_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **details,
    }
    write_file(folder / "sweep.json", (json.dumps(to_plain(report), indent=1) + "\n").encode())
    lines = [format_table(definition, rows), ""]
    if best is not None:
        values = best.user_attrs[VALUES]
        method = choose_method(config, values)
        path = folder / "best.yaml"
        if method is not None:
            score = f"{definition.metric} {best.value:.2f} on the development set"
            head = f"# Chosen by the sweep {definition.name}: {name_point(values)}, {score}.\n"
            write_file(path, (head + yaml.safe_dump(to_plain(method), sort_keys=False)).encode())
        test = shlex.join(make_test_command(command, values, path if method else None))
        lines += [
            f"Best: {name_point(values)}, {definition.metric} {best.value:.2f}. Test it, once:",
            "",
            f"    {test}",
        ]
        write_charts(definition, rows, folder)
    else:
        lines.append("No trial has finished yet.")
    text = "\n".join(lines)
    picture = "\n\n![chart](sweep.png)" if best is not None else ""
    write_file(folder / "sweep.md", f"# Sweep {definition.name}\n\n{text}{picture}\n".encode())
    return text


def write_charts(definition: Definition, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draws the score against each parameter."""
    figure = draw_charts(definition, rows)
    for kind in ("png", "svg"):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=130)
        write_file(folder / f"sweep.{kind}", file.getvalue())
    plt.close(figure)


def draw_charts(definition: Definition, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws a line for one parameter, for several a panel of points each, with the best marked."""
    parameters = definition.parameters
    figure, panels = plt.subplots(
        1,
        len(parameters),
        figsize=(max(5.0, 3.2 * len(parameters)), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    done = [row for row in rows if row["state"] == "finished"]
    stopped = [row for row in rows if row["state"] == "stopped" and row["score"] is not None]
    for axes, parameter in zip(panels[0], parameters, strict=True):
        place = arrange(parameter, [*done, *stopped], axes)
        points = sorted((place(row), row["score"]) for row in done)
        line = "o-" if len(parameters) == 1 else "o"
        axes.plot(*zip(*points, strict=True), line, ms=4, lw=1, label="finished")
        if stopped:
            axes.plot(
                *zip(*((place(row), row["score"]) for row in stopped), strict=True), "x", c="gray", label="stopped"
            )
        axes.plot(place(done[0]), done[0]["score"], "r*", ms=12, label="best")
        axes.set_xlabel(parameter.name.removeprefix("method."))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel(f"{definition.metric} (%)" if definition.metric.endswith("miou") else definition.metric)
    panels[0][-1].legend(frameon=False, fontsize=8)
    return figure


def arrange(parameter: Parameter, rows: Sequence[Mapping[str, Any]], axes: Any) -> Any:
    """Prepares an axis for the values of a parameter; returns where the value of a row is on it."""
    values = [row["values"][parameter.name] for row in rows]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if parameter.logarithmic:
            axes.set_xscale("log")
        elif all(isinstance(value, int) for value in values):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return lambda row: row["values"][parameter.name]
    ordered = [value for value in parameter.values or values if value in values]
    axes.set_xticks(range(len(ordered)), [format_value(value) for value in ordered], rotation=20)
    return lambda row: ordered.index(row["values"][parameter.name])


def log_offline(definition: Definition, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes table and chart as an offline run of Weights & Biases, for `wandb sync`; not where that is disabled."""
    if os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED"):
        return
    names = [parameter.name for parameter in definition.parameters]
    table = [[*map(plain_cell, row["values"].values()), row["score"], row["state"]] for row in rows]
    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(
        project="segadapt",
        name=f"sweep {definition.name}",
        job_type="sweep",
        mode="offline",
        dir=folder,
        settings=settings,
    ) as run:
        run.log(
            {
                "sweep/trials": wandb.Table(
                    columns=[*names, definition.metric, "state"], data=table, allow_mixed_types=True
                ),
                "sweep/chart": wandb.Image(str(folder / "sweep.png")),
            }
        )
        run.summary.update({f"sweep/best_{name}": value for name, value in rows[0]["values"].items()})
        run.summary[f"sweep/best_{definition.metric}"] = rows[0]["score"]


def plain_cell(value: Any) -> Any:
    """Returns what a column of a table may hold."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def count_open(study: optuna.Study) -> int:
    """Returns how many trials run elsewhere."""
    return sum(trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False))


def is_finished(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is of a trial that is over."""
    return row["state"] in {STATES[state] for state in FINISHED}
