"""One trial of a sweep: `main.py validate` with some values, in a folder of its own, watched as it scores images."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.results import RECORDS, SUMMARY
from experiments.sweep.child import run_child
from experiments.sweep.command import QUIET, build_command, find_key
from experiments.sweep.definition import Definition
from lightning_modules.metrics import Scores

MIOU = "val/miou"
LONGEST = 120  # of a folder's name
Report = Callable[[int, float | None], None]


def name_point(values: Mapping[str, Any]) -> str:
    """Names values shortly, for people: ``alpha=0.3, psi=0.7``."""
    short = [name.rsplit(".", 1)[-1] for name in values]
    keys = short if len(set(short)) == len(short) else list(values)
    return ", ".join(f"{key}={format_value(value)}" for key, value in zip(keys, values.values(), strict=True))


def format_value(value: Any) -> str:
    """Writes a value; a float with as many digits as tell it from others of a sweep."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def name_folder(values: Mapping[str, Any]) -> str:
    """Names the folder of values: the same values have the same folder, so that what is there goes on."""
    text = ",".join(f"{name}={value!r}" for name, value in values.items())
    kept = "".join(mark if mark.isalnum() or mark in "=,.-_[]" else "_" for mark in text)
    if len(kept) <= LONGEST and kept == text:
        return kept
    return f"{kept[: LONGEST - 17]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class TrialRunner:
    """Runs trials as processes.

    Args:
        definition: Of the sweep.
        folder: Of the sweep; each trial has its own in there.
        more: Further arguments of main.py.
    """

    def __init__(self, definition: Definition, folder: Path, more: Sequence[str] = ()) -> None:
        self.definition = definition
        self.folder = folder
        self.more = list(more)

    def __call__(self, values: Mapping[str, Any], report: Report) -> float:
        """Scores values on the development set.

        Args:
            values: Of the parameters that are chosen.
            report: Told, as images are scored, their number and the mean IoU in percent over them (None if that is not
                what the sweep goes by); may raise, which ends the trial.

        Returns:
            The value of the sweep's metric.

        Raises:
            ChildError: If main.py ends with an error.
            ValueError: If there is no such score, or it was chosen on a target.
        """
        place = self.folder / "trials" / name_folder(values)
        more = [*self.more, f"--results.folder={place}", *QUIET]
        scores = RunningScores(place / RECORDS)

        def watch() -> None:
            for images, miou in scores.read_new():
                report(images, miou if self.definition.metric == MIOU else None)

        run_child(build_command(self.definition, values, more), place / "log.txt", watch)
        return read_metric(place, self.definition.metric)


class RunningScores:
    """The mean IoU over the first images of a run, while it goes on.

    Under several processes these are the images of the first one: the same in every run of as many processes.

    Args:
        path: Of the records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._start = 0
        self._images = 0
        self._sums: dict[str, Scores] = {}

    def read_new(self) -> Iterator[tuple[int, float]]:
        """Yields, for each image that was scored since the last call, its number and the mean IoU in percent so far."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._start:  # a run that goes on has left records out
                    self._begin()
                file.seek(self._start)
                lines = file.readlines()
        except FileNotFoundError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                return
            self._start += len(line)
            try:
                record = json.loads(line)
                scores, domain = Scores.from_record(record), record["domain"]
            except (ValueError, KeyError, TypeError):  # cut off by a kill, and left out when the run goes on
                continue
            self._sums[domain] = self._sums[domain] + scores if domain in self._sums else scores
            self._images += 1
            miou = [sums.summarize()["miou"] for sums in self._sums.values()]
            yield self._images, 100 * sum(miou) / len(miou)


def read_metric(place: Path, metric: str) -> float:
    """Reads a score of a finished run.

    Args:
        place: Folder of the run.
        metric: Such as ``val/miou`` (the mean over the domains) or ``val/development/ece``.

    Raises:
        ValueError: If there is no such score, or the run chose on a target.
    """
    path = place / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): expected the results of a finished run") from error
    where = find_key(summary.get("data"), "choose_on_target", "data")
    if where:
        raise ValueError(f"{path}: {where} is true: a sweep never chooses on a target")
    scores = {f"val/{name}": score for name, score in summary["mean"].items()}
    for domain, own in summary["domains"].items():
        scores |= {f"val/{domain}/{name}": score for name, score in own.items() if isinstance(score, int | float)}
    score = scores.get(metric)
    if summary["complete"] is not True or score is None:
        problem = "is of a run that did not end" if summary["complete"] is not True else f"has no {metric}"
        raise ValueError(f"{path} {problem}: expected one of {', '.join(scores)}")
    return float(score)
