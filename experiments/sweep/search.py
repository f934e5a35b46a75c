"""Runs a sweep as an Optuna study, which can be resumed and shared between machines; every point runs once.

A point is the number of a setting: its place in the grid, or the seed with which the sampler draws it.
"""

import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
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
POINT, VALUES, OWNER = "point", "values", "owner"  # attributes of trials

RunTrial = Callable[[Mapping[str, Any], ReportProgress], float]


class WorstQuarter(BasePruner):
    """Prunes a trial that scores in the worst quarter of the trials on the same images.

    Prunes only after 10 images, and only if at least 4 other trials have a score at that number of images. Optuna's
    PercentilePruner would compare a trial's best score on fewer images.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop a trial."""
        images = trial.last_step
        if images is None or images < FIRST_IMAGES:
            return False
        others = study.get_trials(deepcopy=False, states=FINISHED)
        scores = [other.intermediate_values[images] for other in others if images in other.intermediate_values]
        return len(scores) >= FIRST_TRIALS and trial.intermediate_values[images] < float(np.quantile(scores, WORST))


def make_pruner(definition: Definition) -> BasePruner:
    """Builds the pruner: successive halving if the sweep sets `early_terminate`, else `WorstQuarter`."""
    rule = definition.early_terminate
    if definition.metric.name != "val/miou":
        return NopPruner()
    return SuccessiveHalvingPruner(rule.min_iter, rule.eta) if rule and rule.min_iter else WorstQuarter()


def make_sampler(name: str, point: int) -> BaseSampler:
    """Builds the sampler for one point, seeded by the point's number so that resumed and shared studies draw alike."""
    seed = int(np.random.SeedSequence([SEED, point]).generate_state(1)[0])
    return TPESampler(seed=seed, constant_liar=True) if name == "tpe" else RandomSampler(seed=seed)


def open_study(definition: Definition, folder: Path, url: str, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    """Opens the study of a sweep in a database, or creates it if there is none with this name.

    Raises:
        ValueError: If the database cannot be opened, or the study's scores were made with different settings.
    """
    direction = StudyDirection.MAXIMIZE if definition.maximize else StudyDirection.MINIMIZE
    with FileLock(folder / ".study.lock"):  # of several processes, one creates the tables
        storage = open_storage(url)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    if differences := find_differences(study.user_attrs.get("settings", settings), settings):
        raise ValueError(
            f"the study {name} has different settings: {'; '.join(differences[:5])}. Expected the same settings to "
            "resume it, or another --name to start over"
        )
    study.set_user_attr("settings", dict(settings))
    return study


def open_storage(url: str, attempts: int = 5) -> RDBStorage:
    """Opens a database of studies, to which running trials send a heartbeat; raises ValueError if it cannot."""
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=wait, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except Exception as error:  # SQLAlchemy, drivers and databases each raise their own types
        if "already exists" in str(error) and attempts > 1:  # another machine is creating the tables
            time.sleep(1)
            return open_storage(url, attempts - 1)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)  # without the password
        raise ValueError(
            f"the storage {place} cannot be opened: {reason}. Expected --storage with a database that all machines "
            "reach, such as postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE for one machine"
        ) from error


def find_attempts(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Returns the trial that counts for each point: a finished one, else a running, waiting or failed one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if POINT in trial.user_attrs]
    attempts: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: (STANDING.index(trial.state), trial.number)):
        attempts.setdefault(trial.user_attrs[POINT], trial)
    return dict(sorted(attempts.items()))


class Search:
    """Runs the remaining points of a study in order, including those that failed or were interrupted in earlier runs.

    Args:
        definition: Definition of the sweep.
        study: The study that stores the trials.
        folder: Folder for the lock by which other processes see that this one is alive.
        sampler: ``grid``, ``random`` or ``tpe``.
        total: Number of points to run.
        run_trial: Function that scores the values of a point.

    Attributes:
        errors: Error messages of the failed trials, by point.
    """

    def __init__(
        self,
        definition: Definition,
        study: optuna.Study,
        folder: Path,
        sampler: str,
        total: int,
        run_trial: RunTrial,
    ) -> None:
        self.parameters = definition.chosen
        self.grid = definition.list_grid() if sampler == "grid" else []
        self.study, self.sampler, self.total, self.run_trial = study, sampler, total, run_trial
        self.errors: dict[int, str] = {}
        self.lock = folder.absolute() / f".running-{socket.gethostname()}-{time.time_ns()}.lock"
        self.owner = (socket.gethostname(), str(self.lock))

    def run(self) -> None:
        """Runs trials until no point is left, except those running on other machines."""
        try:
            with FileLock(self.lock), tqdm(total=self.total, unit="trial") as bar:
                while self._queue_next(bar):
                    self.study.optimize(lambda trial: self._score(trial, bar), 1, catch=TrialError)
        finally:
            self.lock.unlink(missing_ok=True)

    def _queue_next(self, bar: Any) -> bool:
        """Queues the first missing point, unless another machine has; returns whether there is a trial to run."""
        release_dead(self.study)
        attempts = find_attempts(self.study)
        bar.n = min(self.total, sum(attempt.state in FINISHED for attempt in attempts.values()))
        bar.refresh()
        for point in range(self.total):
            attempt = attempts.get(point)
            if point in self.errors or (attempt and attempt.state in (*FINISHED, TrialState.RUNNING)):
                continue
            if attempt is None or attempt.state == TrialState.FAIL:
                drawn = self.grid[point] if self.grid else {}  # empty: left to the sampler
                if attempt and VALUES in attempt.user_attrs:
                    drawn = attempt.params
                self.study.enqueue_trial(drawn, {POINT: point, OWNER: self.owner})
            return True
        return False

    def _score(self, trial: optuna.Trial, bar: Any) -> float:
        trial.set_user_attr(OWNER, self.owner)
        point, attempts = trial.user_attrs.get(POINT), find_attempts(self.study)
        if point is None or attempts[point].number != trial.number:
            raise TrialError("another machine runs this point")
        self.study.sampler = make_sampler(self.sampler, point)
        values = {parameter.name: parameter.suggest(trial) for parameter in self.parameters}
        trial.set_user_attr(VALUES, values)
        for other in attempts.values():  # with few values, the same may be drawn twice
            if other.number != trial.number and other.user_attrs.get(VALUES) == values:
                if other.state == TrialState.COMPLETE and other.value is not None:
                    return other.value
                if other.state == TrialState.RUNNING:
                    time.sleep(WAIT)
                    raise TrialError("another machine runs these values")

        def report(images: int, miou: float) -> None:
            bar.set_postfix_str(f"{name_point(values)}: {miou:.2f} after {images} images")
            trial.report(miou, images)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            return self.run_trial(values, report)
        except TrialError as error:
            self.errors[point] = f"{name_point(values)}: {error}"
            raise


def release_dead(study: optuna.Study) -> None:
    """Marks running trials as failed if their process on this machine ended, or if their heartbeat stopped."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, lock = trial.user_attrs.get(OWNER, ("", ""))
        if host == socket.gethostname() and is_free(Path(lock)):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def is_free(path: Path) -> bool:
    """Returns whether the process that held a lock file has ended; deletes the file if so."""
    with suppress(Timeout), FileLock(path, blocking=False):
        path.unlink(missing_ok=True)
        return True
    return False
