"""A grid over a method's arguments as one run of `main.py validate`, which scores every point of it on each image."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from tqdm import tqdm

from callbacks.run.folder import RECORDS, SEARCH
from experiments.command_line import drop_options
from experiments.sweep.child import POLL, run_child
from experiments.sweep.command import QUIET, build_command
from experiments.sweep.definition import Definition
from experiments.sweep.samplers import FINISHED, VALUES, list_claims, list_points
from experiments.sweep.search import GRACE, describe_owner, is_gone
from experiments.sweep.trial import MIOU

CLAIM = "one_pass"
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
    if definition.metric != MIOU:
        return f"the metric is {definition.metric}, not {MIOU}"
    if total < len(list_points(definition.parameters)):
        return "only part of the grid is wanted"
    return None


class OnePass:
    """Runs a whole grid at once; its points become finished trials of the study.

    Of several machines one does it, the others wait for it; they take over if it dies.

    Args:
        definition: Of the sweep, all of whose parameters are arguments of the method.
        study: That the points are told to.
        folder: Of the sweep.
        config: What the command of a trial comes down to.
        more: Further arguments of main.py.
        show: Whether to show a progress bar.
    """

    def __init__(
        self,
        definition: Definition,
        study: optuna.Study,
        folder: Path,
        config: Mapping[str, Any],
        more: Sequence[str] = (),
        show: bool = True,
    ) -> None:
        self.definition = definition
        self.study = study
        self.place = folder / "one_pass"
        self.method = config["method"]
        self.more = list(more)
        self.show = show
        self.new = 0
        self._claimed = 0.0

    def list_missing(self) -> list[dict[str, Any]]:
        """Lists the points that no trial has finished."""
        known = [trial.user_attrs[VALUES] for trial in list_claims(self.study) if trial.state in FINISHED]
        return [values for _, values in list_points(self.definition.parameters) if values not in known]

    def run(self) -> None:
        """Runs the grid, if points of it are missing and no other machine is at it.

        Raises:
            ChildError: If main.py ends with an error; what is scored by then is kept.
            KeyboardInterrupt: On Ctrl-C, after main.py has been ended.
        """
        with tqdm(unit="image", disable=not self.show, desc=self._describe()) as bar:
            while self.list_missing() and not self._claim():
                if claim := self.study.user_attrs.get(CLAIM):  # it may have been given up since
                    owner = claim["owner"]
                    bar.set_description(f"{owner['host']} (process {owner['pid']}) runs the grid, waiting for it")
                time.sleep(10 * POLL)
            if not self.list_missing():
                return
            bar.set_description(self._describe())
            try:
                run_child(self.build(), self.place / "log.txt", lambda: self._watch(bar))
                self._tell(json.loads((self.place / SEARCH).read_text(encoding="utf-8")))
            finally:
                self.study.set_user_attr(CLAIM, None)

    def build(self) -> list[str]:
        """Builds the command line: that of a trial, with a search in place of the method."""
        parameters = self.definition.parameters
        first = list_points(parameters)[0][1]
        grid = {parameter.name.removeprefix(PREFIX): parameter.values for parameter in parameters}
        search = {
            "class_path": "callbacks.method_search.MethodSearch",
            "init_args": {"method": self.method, "grid": grid},
        }
        command = drop_options(build_command(self.definition, first, self.more), "method")
        place = f"--results.folder={self.place}"
        return [*command, "--method=null", f"--trainer.callbacks+={json.dumps(search)}", place, *QUIET]

    def _describe(self) -> str:
        return f"{len(list_points(self.definition.parameters))} points in one pass"

    def _claim(self) -> bool:
        """Returns whether this process may run the grid: nobody else does, or it has given no sign of life."""
        own, claim = describe_owner(), self.study.user_attrs.get(CLAIM)
        if claim and claim["owner"] != own and not is_gone(claim["owner"]) and time.time() - claim["time"] < GRACE:
            return False
        self._renew()
        time.sleep(POLL)  # of two that came at the same moment, the later one has it
        claim = self.study.user_attrs.get(CLAIM)
        return claim is not None and claim["owner"] == own

    def _renew(self) -> None:
        self._claimed = time.time()
        self.study.set_user_attr(CLAIM, {"owner": describe_owner(), "time": self._claimed})

    def _watch(self, bar: Any) -> None:
        """Gives a sign of life, and counts the images."""
        if time.time() - self._claimed > GRACE / 6:
            self._renew()
        records = self.place / RECORDS
        images = records.read_bytes().count(b"\n") if records.exists() else 0
        if images != bar.n:
            bar.n = images
            bar.refresh()

    def _tell(self, search: Mapping[str, Any]) -> None:
        """Adds the points to the study."""
        missing = self.list_missing()
        scores = [({PREFIX + name: value for name, value in p["values"].items()}, p["miou"]) for p in search["points"]]
        for drawn, values in list_points(self.definition.parameters):
            if values not in missing:
                continue
            miou = next(score for point, score in scores if point == values)
            if miou is None:
                raise ValueError(f"{self.place / SEARCH} has no score: expected labels in the development set")
            trial = create_trial(
                state=TrialState.COMPLETE,
                value=miou,
                params=drawn,
                distributions={parameter.name: parameter.distribution for parameter in self.definition.parameters},
                user_attrs={VALUES: values, CLAIM: True},
            )
            self.study.add_trial(trial)
            self.new += 1
