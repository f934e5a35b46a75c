"""Runs a sweep as an Optuna study, which can be resumed and shared between machines; every point runs once."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from callbacks.run.settings import find_differences
from experiments.sweep.definition import Definition
from experiments.sweep.trial import ReportProgress, TrialError, name_point

SEED = 0
HEARTBEAT, GRACE = 10, 60  # seconds between two heartbeats of a trial, and without one until it counts as dead
WAIT = 3.0  # seconds between two checks on another machine's trial
FIRST_IMAGES, FIRST_TRIALS, WORST = 10, 4, 0.25  # see `WorstQuarter`
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
STANDING = [*FINISHED, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL]  # the best state first
POINT, VALUES, OWNER, IMAGES = "point", "values", "owner", "images"  # attributes of trials

RunTrial = Callable[["Sweep", Mapping[str, Any], ReportProgress], float]


class TakenError(Exception):
    """Raised when another process already runs the same point."""


class WorstQuarter(BasePruner):
    """Prunes a trial that scores in the worst quarter of the trials on the same images.

    Prunes only after 10 images, and only if at least 4 other trials have a score at that number of images.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop a trial."""
        images = trial.last_step
        if images is None or images < FIRST_IMAGES:
            return False
        others = study.get_trials(deepcopy=False, states=FINISHED)
        scores = [other.intermediate_values[images] for other in others if images in other.intermediate_values]
        return len(scores) >= FIRST_TRIALS and trial.intermediate_values[images] < float(np.quantile(scores, WORST))


def make_pruner(halving: tuple[int, int] | None) -> BasePruner:
    """Builds the pruner: successive halving if the sweep sets `early_terminate`, else `WorstQuarter`."""
    if halving is None:
        return WorstQuarter()
    return SuccessiveHalvingPruner(min_resource=halving[0], reduction_factor=halving[1])


def make_sampler(name: str, point: int) -> BaseSampler:
    """Builds the sampler for one point, seeded by the point's number so that resumed and shared studies draw alike."""
    seed = int(np.random.SeedSequence([SEED, point]).generate_state(1)[0])
    return TPESampler(seed=seed, constant_liar=True) if name == "tpe" else RandomSampler(seed=seed)


def open_storage(url: str, attempts: int = 5) -> BaseStorage:
    """Opens a database of studies; running trials send a heartbeat to it.

    Raises:
        ValueError: If it cannot be opened.
    """
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=wait, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except Exception as error:  # SQLAlchemy, drivers and databases each raise their own types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "already exists" in reason and attempts > 1:  # another process is creating the tables
            time.sleep(1)
            return open_storage(url, attempts - 1)
        raise ValueError(
            f"the storage {hide_password(url)} cannot be opened: {reason}. Expected a database that all machines "
            "reach, such as postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE for one machine"
        ) from error


def hide_password(url: str) -> str:
    """Masks the password in a database URL."""
    head, at, place = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.split(':')[0]}:***@{place}" if at and ":" in user else url


def open_sweep(definition: Definition, storage: BaseStorage, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    """Opens the study of a sweep, or creates it if there is none with this name.

    Args:
        definition: The sweep.
        storage: Database of the study.
        name: Name of the study.
        settings: Settings that the study's scores depend on.

    Raises:
        ValueError: If the existing study has different settings.
    """
    direction = StudyDirection.MAXIMIZE if definition.maximize else StudyDirection.MINIMIZE
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    earlier = study.user_attrs.get("settings", settings)
    if differences := find_differences(earlier, settings):
        raise ValueError(
            f"the study {name} has different settings: {'; '.join(differences[:5])}. Expected the same settings to "
            "resume it, or another --name to start over"
        )
    study.set_user_attr("settings", dict(settings))
    return study


def find_attempts(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Returns the trial that counts for each point: a finished one, else a running, waiting or failed one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if POINT in trial.user_attrs]
    attempts: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (STANDING.index(trial.state), trial.number)):
        attempts.setdefault(trial.user_attrs[POINT], trial)
    return dict(sorted(attempts.items()))


@dataclass
class Sweep:
    """Runs the remaining points of a study in order, including those that failed or were interrupted in earlier runs.

    Attributes:
        definition: Definition of the sweep.
        study: The study that stores the trials.
        folder: Folder to write into.
        sampler: ``grid``, ``random`` or ``tpe``.
        total: Number of points to run.
        run_trial: Function that scores the values of a point.
        more: Extra arguments for main.py.
        config: Full configuration of a trial's run.
        alone: Whether one trial scores all points, while other machines wait for it.
        new: Number of trials that this process has finished or stopped early.
        errors: Error messages of the failed trials, by point.
    """

    definition: Definition
    study: optuna.Study
    folder: Path
    sampler: str
    total: int
    run_trial: RunTrial
    more: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    new: int = field(default=0, init=False)
    errors: dict[int, str] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Runs trials until no point is left, except those running on other machines.

        Raises:
            KeyboardInterrupt: On Ctrl-C, after the current trial has ended.
        """
        path = self.folder.absolute() / f".running-{socket.gethostname()}-{time.time_ns()}.lock"
        try:
            with FileLock(path), tqdm(total=self.total, unit="trial") as bar:
                while self._queue_next(bar):
                    self.study.optimize(lambda trial: self._score(trial, path, bar), 1, catch=(TakenError, TrialError))
        finally:
            path.unlink(missing_ok=True)

    def _queue_next(self, bar: Any) -> bool:
        """Queues the first missing point; returns whether there is a trial to run."""
        while True:
            release_dead(self.study)
            attempts = find_attempts(self.study)
            states = {point: trial.state for point, trial in attempts.items()}
            bar.n = min(self.total, sum(state in FINISHED for state in states.values()))
            bar.set_postfix_str(self._describe_best())
            left = [point for point in range(self.total) if states.get(point, TrialState.FAIL) == TrialState.FAIL]
            missing = next((point for point in left if point not in self.errors), None)
            if self.alone and self.errors:  # the other points would fail alike
                return False
            if TrialState.WAITING in states.values():  # queued by another machine, which may have died since
                return True
            if missing is None:
                return False
            if self.alone and TrialState.RUNNING in states.values():
                bar.set_description("waiting for another machine that runs the grid")
                time.sleep(WAIT)
                continue
            drawn: dict[str, Any] = {}  # values fixed in advance, not left to the sampler
            if self.sampler == "grid":
                drawn = self.definition.list_grid()[missing]
            elif missing in attempts and VALUES in attempts[missing].user_attrs:
                drawn = attempts[missing].params
            self.study.enqueue_trial(drawn, {POINT: missing})
            return True

    def _score(self, trial: optuna.Trial, lock: Path, bar: Any) -> float:
        trial.set_user_attr(OWNER, [socket.gethostname(), str(lock)])
        point = trial.user_attrs.get(POINT)  # missing if another machine took the queued trial
        if point is None or find_attempts(self.study)[point].number != trial.number:
            raise TakenError
        self.study.sampler = make_sampler(self.sampler, point)
        values = {parameter.name: parameter.suggest(trial) for parameter in self.definition.parameters}
        trial.set_user_attr(VALUES, values)
        for other in find_attempts(self.study).values():  # with few values, the same may be drawn twice
            if other.number != trial.number and other.user_attrs.get(VALUES) == values:
                if other.state == TrialState.COMPLETE and other.value is not None:
                    return other.value
                if other.state == TrialState.RUNNING:
                    time.sleep(WAIT)
                    raise TakenError
        bar.set_description(f"{self.total} points in one pass" if self.alone else name_point(values))

        def report(images: int, miou: float) -> None:
            bar.set_postfix_str(f"{images} images; {self._describe_best()}")
            if self.alone or self.definition.metric != "val/miou":
                return
            trial.report(miou, images)
            if trial.should_prune():
                trial.set_user_attr(IMAGES, images)
                self.new += 1
                raise optuna.TrialPruned

        start = time.monotonic()
        try:
            value = self.run_trial(self, values, report)
            self.new += 1
            return value
        except TrialError as error:
            self.errors[point] = f"{name_point(values)}: {error}"
            raise
        finally:
            trial.set_user_attr("seconds", round(time.monotonic() - start, 1))

    def _describe_best(self) -> str:
        """Formats the best score so far, for the progress bar."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return ""
        best = self.study.best_trial
        return f"best {best.value:.2f} ({name_point(best.user_attrs[VALUES])})"


def release_dead(study: optuna.Study) -> None:
    """Marks running trials as failed if their process on this machine ended, or if their heartbeat stopped."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, lock = trial.user_attrs.get(OWNER, (None, ""))
        taken = trial.datetime_start or datetime.now()
        unowned = host is None and datetime.now() - taken > timedelta(seconds=GRACE)  # killed while taking the trial
        if unowned or (host == socket.gethostname() and is_free(Path(lock))):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_free(path: Path) -> bool:
    """Returns whether the process that held a lock file has ended; deletes the file if so."""
    with suppress(Timeout), FileLock(path, blocking=False):
        path.unlink(missing_ok=True)
        return True
    return False
