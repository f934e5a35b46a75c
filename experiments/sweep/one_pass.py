"""A grid over a method's arguments as one run of `main.py validate`, which scores every point of it on each image."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState, create_trial

from callbacks.run.folder import SEARCH
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition
from experiments.sweep.search import FINISHED, POINT, VALUES, Sweep, find_attempts
from experiments.sweep.trial import Report, TrialError, build_arguments, run_trial

PREFIX = "method."


def explain_several(definition: Definition, sampler: str, total: int, config: Mapping[str, Any]) -> str | None:
    """Says why a sweep cannot be one pass; None if it can."""
    if sampler != "grid":
        return f"{sampler} chooses each point by those before"
    names = [parameter.name for parameter in definition.parameters]
    if others := [name for name in names if not name.startswith(PREFIX) or name.count(".") > 1]:
        return f"{', '.join(others)} is no argument of the method"
    if not config.get("method"):
        return "the command has no --method"
    if definition.metric != "val/miou":
        return f"the metric is {definition.metric}, not val/miou"
    return "only part of the grid is wanted" if total < len(definition.list_grid()) else None


def run_one_pass(sweep: Sweep, values: Mapping[str, Any], report: Report) -> float:
    """Runs a whole grid at once, as the trial of one of its points; the others become finished trials of the study.

    Args:
        sweep: All of whose parameters are arguments of the method.
        values: Of the point whose trial this is.
        report: Told how many images are scored.

    Returns:
        The score of these values.

    Raises:
        TrialError: If main.py ends with an error, or there are no labels; what is scored by then is kept.
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
    for point, drawn in enumerate(definition.list_grid()):  # in the same order, the last parameter fastest
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
