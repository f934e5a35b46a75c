"""A sweep as an Optuna study: every point is run once, resumes, and machines can share the study."""

import socket
import time
from collections.abc import Callable, Mapping
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
STANDING = [TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE]
POINT, VALUES, OWNER, IMAGES = "point", "values", "owner", "images"  # attributes of trials

RunTrial = Callable[[Mapping[str, Any], Report], float]


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
    """Opens the study of a sweep; makes it if there is none of the name.

    Args:
        definition: Of the sweep.
        storage: That it lies in.
        name: Of the study.
        settings: All that its values depend on.

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
    for trial in sorted(trials, key=lambda trial: (-STANDING.index(trial.state), trial.number)):
        attempts.setdefault(trial.user_attrs[POINT], trial)
    return dict(sorted(attempts.items()))


def find_best(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best trial that went to its end, the first of equals; None if there is none."""
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    finished = [trial for trial in find_attempts(study).values() if trial.state == TrialState.COMPLETE]
    return max(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


class SweepRun:
    """Runs what is left of a study, point by point; what was broken off is tried again, first.

    Args:
        definition: Of the sweep.
        study: That trials are taken from and told to.
        run_trial: Scores values.
        total: How many points are wanted.
        folder: Of the sweep.
        sampler: ``grid``, ``random`` or ``tpe``.
        alone: Whether the first trial does the work of all, for which other machines wait.
        show: Whether to show a progress bar.

    Attributes:
        new: How many trials this process has finished.
        errors: What went wrong with the trials that failed, by their names.
    """

    def __init__(
        self,
        definition: Definition,
        study: optuna.Study,
        run_trial: RunTrial,
        total: int,
        folder: Path,
        sampler: str,
        alone: bool = False,
        show: bool = True,
    ) -> None:
        self.definition = definition
        self.study = study
        self.run_trial = run_trial
        self.total = total
        self.sampler = sampler
        self.grid = definition.list_grid() if sampler == "grid" else []
        self.alone = alone
        self.show = show
        self.new = 0
        self.errors: dict[str, str] = {}
        self._failed: set[int] = set()
        self._lock = FileLock(folder / f".running-{socket.gethostname()}-{time.time_ns()}.lock")

    def run(self) -> None:
        """Runs trials until none is left; those that run on other machines are left to them.

        Raises:
            KeyboardInterrupt: On Ctrl-C, after the trial that runs has been ended.
        """
        try:
            with self._lock, tqdm(total=self.total, unit="trial", disable=not self.show) as bar:
                while self._queue_next(bar):
                    self.study.optimize(lambda trial: self._score(trial, bar), 1, catch=(TakenError, TrialError))
        finally:
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _queue_next(self, bar: Any) -> bool:
        """Queues the first point that is missing; returns whether there is a trial to run."""
        while True:
            release_dead(self.study)
            attempts = find_attempts(self.study)
            states = [trial.state for trial in attempts.values()]
            bar.n = min(self.total, sum(state in FINISHED for state in states))
            bar.set_postfix_str(describe_best(self.study))
            missing = [
                point
                for point in range(self.total)
                if (point not in attempts or attempts[point].state == TrialState.FAIL) and point not in self._failed
            ]
            if self.alone and self._failed:  # as the others would
                return False
            if TrialState.WAITING in states:  # another machine was about to take it, or has died then
                return True
            if self.alone and missing and TrialState.RUNNING in states:
                bar.set_description("another machine runs the grid, waiting for it")
                time.sleep(WAIT)
                continue
            if missing:
                self.study.enqueue_trial(self._find_drawn(missing[0], attempts), {POINT: missing[0]})
            return bool(missing)

    def _find_drawn(self, point: int, attempts: Mapping[int, FrozenTrial]) -> dict[str, Any]:
        """Returns what is known of a point before it is drawn: that of a grid, or of an earlier attempt."""
        if self.grid:
            return self.grid[point]
        return attempts[point].params if point in attempts and VALUES in attempts[point].user_attrs else {}

    def _score(self, trial: optuna.Trial, bar: Any) -> float:
        trial.set_user_attr(OWNER, [socket.gethostname(), str(Path(self._lock.lock_file).absolute())])
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
        start = time.monotonic()

        def report(images: int, miou: float) -> None:
            bar.set_postfix_str(f"{images} images; {describe_best(self.study)}")
            if self.alone or self.definition.metric != "val/miou":
                return
            trial.report(miou, images)
            if trial.should_prune():
                trial.set_user_attr(IMAGES, images)
                raise optuna.TrialPruned

        try:
            value = self.run_trial(values, report)
            self.new += 1
            return value
        except optuna.TrialPruned:
            self.new += 1
            raise
        except TrialError as error:
            self._failed.add(point)
            self.errors[name_point(values)] = str(error)
            raise
        finally:
            trial.set_user_attr("seconds", round(time.monotonic() - start, 1))


def describe_best(study: optuna.Study) -> str:
    """Says what is best so far, for the progress bar."""
    best = find_best(study)
    return f"best {best.value:.2f} ({name_point(best.user_attrs[VALUES])})" if best else ""


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
    try:
        with FileLock(path, blocking=False):
            pass
    except Timeout:
        return False
    path.unlink(missing_ok=True)
    return True
