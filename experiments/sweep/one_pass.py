"""Runs a grid over a method's arguments as one `main.py validate`, which scores every grid point on each image."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from callbacks.run.folder import SEARCH
from experiments.command_line import drop_options
from experiments.sweep.definition import Definition
from experiments.sweep.trial import TrialError, run_trial

PREFIX = "method."


def explain_several(definition: Definition, sampler: str, total: int, config: Mapping[str, Any]) -> str | None:
    """Explains why a sweep needs several runs; None if one pass suffices."""
    if sampler != "grid":
        return f"the sampler is {sampler}, not grid"
    if total < len(definition.list_grid()):
        return "only part of the grid is requested"
    names = [parameter.name for parameter in definition.chosen]
    if others := [name for name in names if not name.startswith(PREFIX) or name.count(".") > 1]:
        return f"{', '.join(others)} is not an argument of the method"
    if not config.get("method"):
        return "the command has no --method"
    return None if definition.metric.name == "val/miou" else f"the metric is {definition.metric.name}, not val/miou"


def run_one_pass(
    definition: Definition, args: Sequence[str], config: Mapping[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Scores a whole grid in one run, which resumes from the images already scored.

    Args:
        definition: A sweep whose parameters are all arguments of the method.
        args: Arguments of main.py for a trial.
        config: The full configuration of a trial.
        folder: Folder of the run.

    Returns:
        A row for each grid point, for the report.

    Raises:
        TrialError: If main.py ends with an error, or there are no labels.
    """
    grid = {own.name.removeprefix(PREFIX): list(map(own.to_value, own.list_draws() or ())) for own in definition.chosen}
    init_args = {"method": config["method"], "grid": grid}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": init_args}
    own = [*drop_options(args, "method"), "--method=null", f"--trainer.callbacks+={json.dumps(search)}"]
    with tqdm(unit="image", desc="all points in one pass") as bar:
        run_trial(own, folder, lambda images, miou: bar.update(images - bar.n))
    points = json.loads((folder / SEARCH).read_text(encoding="utf-8"))["points"]
    if points[0]["miou"] is None:
        raise TrialError(f"{folder / SEARCH} has no score: expected labels in the development set")
    return [
        {
            "number": number,
            "values": {f"{PREFIX}{name}": value for name, value in point["values"].items()},
            "score": point["miou"],
            "state": "finished",
            "stopped_after": None,
            "seconds": None,
        }
        for number, point in enumerate(points)
    ]
