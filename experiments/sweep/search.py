"""A sweep as an Optuna study: every point is run once, resumes, and machines can share the study."""

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
from experiments.sweep.trial import Report, TrialError, name_point

SEED = 0
HEARTBEAT, GRACE = 10, 60  # seconds between two signs of life of a trial, and without one until it counts as dead
WAIT = 3.0  # seconds between two looks at what another machine does
FIRST_IMAGES, FIRST_TRIALS, WORST = 10, 4, 0.25  # see `WorstQuarter`
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
STANDING = [*FINISHED, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL]  # which of two attempts counts
POINT, VALUES, OWNER, IMAGES = "point", "values", "owner", "images"  # attributes of trials

RunTrial = Callable[["Sweep", Mapping[str, Any], Report], float]


class TakenError(Exception):
    """Another process is at the same point already."""


class WorstQuarter(BasePruner):
    """Stops a trial that, on the images it has seen, is below three quarters of the trials on the same images.

    Not before 10 images, and not before 4 other trials have seen as many.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial is hopeless."""
        images = trial.last_step
        if images is None or images < FIRST_IMAGES:
            return False
        others = study.get_trials(deepcopy=False, states=FINISHED)
        scores = [other.intermediate_values[images] for other in others if images in other.intermediate_values]
        return len(scores) >= FIRST_TRIALS and trial.intermediate_values[images] < float(np.quantile(scores, WORST))


def make_pruner(halving: tuple[int, int] | None) -> BasePruner:
    """Makes what stops hopeless trials; the sweep's own `early_terminate` if it has one."""
    if halving is None:
        return WorstQuarter()
    return SuccessiveHalvingPruner(min_resource=halving[0], reduction_factor=halving[1])


def make_sampler(name: str, point: int) -> BaseSampler:
    """Makes what draws a point, with a seed of its own: a study that resumes, or is shared, draws the same points."""
    seed = int(np.random.SeedSequence([SEED, point]).generate_state(1)[0])
    return TPESampler(seed=seed, constant_liar=True) if name == "tpe" else RandomSampler(seed=seed)


def open_storage(url: str, attempts: int = 5) -> BaseStorage:
    """Opens a database that studies lie in; its trials give signs of life.

    Raises:
        ValueError: If it cannot be opened.
    """
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=wait, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except Exception as error:  # of SQLAlchemy, of a driver, of a database: each has its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "already exists" in reason and attempts > 1:  # another process makes its tables just now
            time.sleep(1)
            return open_storage(url, attempts - 1)
        raise ValueError(
            f"the storage {hide_password(url)} cannot be opened: {reason}. Expected a database that all machines "
            "reach, such as postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE for one machine"
        ) from error


def hide_password(url: str) -> str:
    """Returns the address of a database without its password."""
    head, at, place = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.split(':')[0]}:***@{place}" if at and ":" in user else url


def open_sweep(definition: Definition, storage: BaseStorage, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    """Opens the study of a sweep, whose values depend on these settings; makes it if there is none of the name.

    Raises:
        ValueError: If the study of the name has other settings.
    """
    direction = StudyDirection.MAXIMIZE if definition.maximize else StudyDirection.MINIMIZE
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    earlier = study.user_attrs.get("settings", settings)
    if differences := find_differences(earlier, settings):
        raise ValueError(
            f"the study {name} is of other settings: {'; '.join(differences[:5])}. Expected the same settings to go "
            "on, or another --name to begin anew"
        )
    study.set_user_attr("settings", dict(settings))
    return study


def find_attempts(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Returns the trial that counts of each point: the finished one, else one that runs or waits, else a failed one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if POINT in trial.user_attrs]
    attempts: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (STANDING.index(trial.state), trial.number)):
        attempts.setdefault(trial.user_attrs[POINT], trial)
    return dict(sorted(attempts.items()))


@dataclass
class Sweep:
    """Runs what is left of a study, point by point; what was broken off is tried again, first.

    Attributes:
        definition: What is tried, and by which command.
        study: That trials are taken from and told to.
        folder: To write into.
        sampler: ``grid``, ``random`` or ``tpe``.
        total: How many points are wanted.
        run_trial: Scores values.
        more: Further arguments of main.py.
        config: What the command of a trial comes down to.
        alone: Whether the first trial does the work of all, for which other machines wait.
        new: How many trials this process has finished.
        errors: What went wrong with the trials that failed, by their points.
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
        """Runs trials until none is left; those that run on other machines are left to them.

        Raises:
            KeyboardInterrupt: On Ctrl-C, after the trial that runs has been ended.
        """
        path = self.folder.absolute() / f".running-{socket.gethostname()}-{time.time_ns()}.lock"
        try:
            with FileLock(path), tqdm(total=self.total, unit="trial") as bar:
                while self._queue_next(bar):
                    self.study.optimize(lambda trial: self._score(trial, path, bar), 1, catch=(TakenError, TrialError))
        finally:
            path.unlink(missing_ok=True)

    def _queue_next(self, bar: Any) -> bool:
        """Queues the first point that is missing; returns whether there is a trial to run."""
        while True:
            release_dead(self.study)
            attempts = find_attempts(self.study)
            states = {point: trial.state for point, trial in attempts.items()}
            bar.n = min(self.total, sum(state in FINISHED for state in states.values()))
            bar.set_postfix_str(self._describe_best())
            left = [point for point in range(self.total) if states.get(point, TrialState.FAIL) == TrialState.FAIL]
            missing = next((point for point in left if point not in self.errors), None)
            if self.alone and self.errors:  # as the others would
                return False
            if TrialState.WAITING in states.values():  # another machine was about to take it, or has died then
                return True
            if missing is None:
                return False
            if self.alone and TrialState.RUNNING in states.values():
                bar.set_description("another machine runs the grid, waiting for it")
                time.sleep(WAIT)
                continue
            drawn: dict[str, Any] = {}  # what is known of a point before it is drawn
            if self.sampler == "grid":
                drawn = self.definition.list_grid()[missing]
            elif missing in attempts and VALUES in attempts[missing].user_attrs:
                drawn = attempts[missing].params
            self.study.enqueue_trial(drawn, {POINT: missing})
            return True

    def _score(self, trial: optuna.Trial, lock: Path, bar: Any) -> float:
        trial.set_user_attr(OWNER, [socket.gethostname(), str(lock)])
        point = trial.user_attrs.get(POINT)  # none if another machine took the trial that was queued
        if point is None or find_attempts(self.study)[point].number != trial.number:
            raise TakenError
        self.study.sampler = make_sampler(self.sampler, point)
        values = {parameter.name: parameter.suggest(trial) for parameter in self.definition.parameters}
        trial.set_user_attr(VALUES, values)
        for other in find_attempts(self.study).values():  # of few values the same may be drawn twice
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
        """Says what is best so far, for the progress bar."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return ""
        best = self.study.best_trial
        return f"best {best.value:.2f} ({name_point(best.user_attrs[VALUES])})"


def release_dead(study: optuna.Study) -> None:
    """Gives up running trials whose process is gone: at once on this machine, elsewhere without a sign of life."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, lock = trial.user_attrs.get(OWNER, (None, ""))
        taken = trial.datetime_start or datetime.now()
        unowned = host is None and datetime.now() - taken > timedelta(seconds=GRACE)  # killed as it took the trial
        if unowned or (host == socket.gethostname() and is_free(Path(lock))):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_free(path: Path) -> bool:
    """Returns whether the process that locked a file has ended."""
    with suppress(Timeout), FileLock(path, blocking=False):
        path.unlink(missing_ok=True)
        return True
    return False
