"""Runs a grid over a method's arguments as one `main.py validate`, which scores every grid point on each image."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState, create_trial

from callbacks.run.folder import SEARCH
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition
from experiments.sweep.search import FINISHED, POINT, VALUES, Sweep, find_attempts
from experiments.sweep.trial import ReportProgress, TrialError, build_arguments, run_trial

PREFIX = "method."


def explain_several(definition: Definition, sampler: str, total: int, config: Mapping[str, Any]) -> str | None:
    """Explains why a sweep needs several runs; None if one pass suffices."""
    if sampler != "grid":
        return f"the sampler is {sampler}, not grid"
    names = [parameter.name for parameter in definition.parameters]
    if others := [name for name in names if not name.startswith(PREFIX) or name.count(".") > 1]:
        return f"{', '.join(others)} is not an argument of the method"
    if not config.get("method"):
        return "the command has no --method"
    if definition.metric != "val/miou":
        return f"the metric is {definition.metric}, not val/miou"
    return "only part of the grid is requested" if total < len(definition.list_grid()) else None


def run_one_pass(sweep: Sweep, values: Mapping[str, Any], report: ReportProgress) -> float:
    """Runs a whole grid within the trial of one point; adds the other points to the study as finished trials.

    Args:
        sweep: A sweep whose parameters are all arguments of the method.
        values: Values of the point that this trial belongs to.
        report: Called every few images, see `run_trial`.

    Returns:
        The score of `values`.

    Raises:
        TrialError: If main.py ends with an error, or there are no labels; the next attempt resumes from the images
            already scored.
    """
    definition, parameters = sweep.definition, sweep.definition.parameters
    grid = {own.name.removeprefix(PREFIX): [own.to_value(drawn) for drawn in own.grid or ()] for own in parameters}
    init_args = {"method": sweep.config["method"], "grid": grid}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": init_args}
    args = drop_options(build_arguments(definition, values, sweep.more), "method")
    path = sweep.folder / "one_pass" / SEARCH
    run_trial([*args, "--method=null", f"--trainer.callbacks+={json.dumps(search)}"], path.parent, report)
    scores = [point["miou"] for point in json.loads(path.read_text(encoding="utf-8"))["points"]]
    if scores[0] is None:
        raise TrialError(f"{path} has no score: expected labels in the development set")

    finished = {point for point, trial in find_attempts(sweep.study).items() if trial.state in FINISHED}
    score = scores[0]
    for point, drawn in enumerate(definition.list_grid()):  # same order as `scores`: the last parameter changes fastest
        tried = {own.name: own.to_value(drawn[own.name]) for own in parameters}
        if tried == values:
            score = scores[point]
        elif point not in finished:
            sweep.study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=scores[point],
                    params=drawn,
                    distributions={own.name: own.distribution for own in parameters},
                    user_attrs={POINT: point, VALUES: tried},
                )
            )
    return score
