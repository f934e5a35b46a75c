"""A grid over a method's arguments as one run of `main.py validate`, which scores every point of it on each image."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from callbacks.run.folder import SEARCH
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition
from experiments.sweep.search import FINISHED, POINT, VALUES, find_attempts
from experiments.sweep.trial import Report, TrialError, build_arguments, run_trial

PREFIX = "method."


def explain_several(definition: Definition, sampler: str, total: int, config: Mapping[str, Any]) -> str | None:
    """Says why a sweep cannot be one pass; None if it can.

    Args:
        definition: Of the sweep.
        sampler: That chooses the points.
        total: How many are wanted.
        config: What the command of a trial comes down to.
    """
    if sampler != "grid":
        return f"{sampler} chooses each point by those before"
    others = [p.name for p in definition.parameters if not p.name.startswith(PREFIX) or p.name.count(".") > 1]
    if others:
        return f"{', '.join(others)} is no argument of the method"
    if not config.get("method"):
        return "the command has no --method"
    if definition.metric != "val/miou":
        return f"the metric is {definition.metric}, not val/miou"
    if total < len(definition.list_grid()):
        return "only part of the grid is wanted"
    return None


def run_one_pass(
    definition: Definition,
    study: optuna.Study,
    folder: Path,
    method: Mapping[str, Any],
    more: Sequence[str],
    values: Mapping[str, Any],
    report: Report,
) -> float:
    """Runs a whole grid at once, as the trial of one of its points; the others become finished trials of the study.

    Args:
        definition: Of the sweep, all of whose parameters are arguments of the method.
        study: That the points are told to.
        folder: Of the sweep.
        method: What all points have in common.
        more: Further arguments of main.py.
        values: Of the point whose trial this is.
        report: Told how many images are scored.

    Returns:
        The score of these values.

    Raises:
        TrialError: If main.py ends with an error, or there are no labels; what is scored by then is kept.
    """
    place, points = folder / "one_pass", definition.list_grid()
    grid = {p.name.removeprefix(PREFIX): [p.to_value(drawn) for drawn in p.grid or []] for p in definition.parameters}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": {"method": method, "grid": grid}}
    args = drop_options(build_arguments(definition, values, more), "method")
    run_trial([*args, "--method=null", f"--trainer.callbacks+={json.dumps(search)}"], place, report)
    scores = json.loads((place / SEARCH).read_text(encoding="utf-8"))["points"]
    if scores[0]["miou"] is None:
        raise TrialError(f"{place / SEARCH} has no score: expected labels in the development set")

    finished = {point for point, trial in find_attempts(study).items() if trial.state in FINISHED}
    for point, (drawn, score) in enumerate(zip(points, scores, strict=True)):  # in the same order, the last one fastest
        own = definition.to_values(drawn)
        if point not in finished and own != values:
            trial = create_trial(
                state=TrialState.COMPLETE,
                value=score["miou"],
                params=drawn,
                distributions={parameter.name: parameter.distribution for parameter in definition.parameters},
                user_attrs={POINT: point, VALUES: own},
            )
            study.add_trial(trial)
    return next(
        score["miou"] for drawn, score in zip(points, scores, strict=True) if definition.to_values(drawn) == values
    )
