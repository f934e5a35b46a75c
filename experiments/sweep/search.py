"""A sweep as an Optuna study: resumes, and can be shared by several machines."""

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from callbacks.run.settings import find_differences
from experiments.sweep.definition import Definition
from experiments.sweep.samplers import EVERY, FINISHED, VALUES, GridInOrder, list_claims
from experiments.sweep.trial import Report, name_point

ATTEMPTS = 5  # to open a database that another process is making
HEARTBEAT, GRACE = 10, 60  # seconds between two signs of life of a trial, and without one until it counts as dead
OWNER, IMAGES = "owner", "images"

RunTrial = Callable[[Mapping[str, Any], Report], float]


class TakenError(Exception):
    """Another machine is at the same point already."""


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Opens a database that studies lie in; its trials give signs of life.

    Raises:
        ValueError: If it cannot be opened.
    """
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for attempt in range(ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.storages.RDBStorage(
                    url, engine_kwargs=wait, heartbeat_interval=HEARTBEAT, grace_period=GRACE
                )
        except Exception as error:  # of SQLAlchemy, of a driver, of a database: each has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "already exists" in reason and attempt < ATTEMPTS - 1:  # another process makes its tables just now
                time.sleep(1)
                continue
            raise ValueError(
                f"the storage {hide_password(url)} cannot be opened: {reason}. Expected a database that all machines "
                "reach, such as postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE for one machine"
            ) from error
    raise AssertionError("unreachable")


def hide_password(url: str) -> str:
    """Returns the address of a database without its password."""
    head, at, place = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.split(':')[0]}:***@{place}" if at and ":" in user else url


def open_study(
    definition: Definition, storage: optuna.storages.BaseStorage, name: str, settings: Mapping[str, Any]
) -> optuna.Study:
    """Opens the study of a sweep; makes it if there is none of the name.

    Args:
        definition: Of the sweep.
        storage: That it lies in.
        name: Of the study.
        settings: All that its values depend on.

    Raises:
        ValueError: If the study of the name has other settings.
    """
    direction = optuna.study.StudyDirection.MAXIMIZE if definition.maximize else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    earlier = study.user_attrs.get("settings")
    if earlier is None:
        study.set_user_attr("settings", dict(settings))
    elif differences := find_differences(earlier, settings):
        raise ValueError(
            f"the study {name} is of other settings: {'; '.join(differences[:5])}. Expected the same settings to go "
            "on, or another --name to begin anew"
        )
    return study


class Search:
    """Runs trials until there are as many as wanted. What is finished stays; what was broken off is tried again, first.

    Args:
        definition: Of the sweep.
        study: That trials are taken from and told to.
        run_trial: Scores values.
        total: How many points or trials are wanted.
        show: Whether to show a progress bar.

    Attributes:
        new: How many trials this process has finished.
    """

    def __init__(
        self, definition: Definition, study: optuna.Study, run_trial: RunTrial, total: int, show: bool = True
    ) -> None:
        self.definition = definition
        self.study = study
        self.run_trial = run_trial
        self.total = total
        self.show = show
        self.new = 0

    def run(self) -> None:
        """Runs trials until none is left; those that run on other machines are left to them.

        Raises:
            ChildError: If a trial fails: others would as well.
            KeyboardInterrupt: On Ctrl-C, after the trial that runs has been ended.
        """
        with tqdm(total=self.total, unit="trial", disable=not self.show) as bar:
            while True:
                self._release_dead()
                self._try_again()
                finished, running = count_trials(self.study)
                bar.n = min(finished, self.total)
                bar.set_postfix_str(describe_best(self.study))
                if finished + running >= self.total:
                    break
                self.study.optimize(lambda trial: self._score(trial, bar), n_trials=1, catch=(TakenError,))

    def _score(self, trial: optuna.Trial, bar: Any) -> float:
        values = {parameter.name: parameter.suggest(trial) for parameter in self.definition.parameters}
        trial.set_user_attr(OWNER, describe_owner())
        trial.set_user_attr(VALUES, values)
        for other in list_claims(self.study):
            if other.number == trial.number or other.user_attrs[VALUES] != values:
                continue
            if other.state == TrialState.COMPLETE and other.value is not None:
                return other.value
            if other.state == TrialState.PRUNED:
                raise optuna.TrialPruned
            if other.number < trial.number:
                time.sleep(0.5)
                raise TakenError
        bar.set_description(name_point(values))
        start = time.monotonic()
        reported: set[int] = set()

        def report(images: int, value: float | None) -> None:
            if images % EVERY != 0 or images in reported:
                return
            reported.add(images)
            bar.set_postfix_str(f"{images} images; {describe_best(self.study)}")
            if value is None:
                return
            trial.report(value, images)
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
        finally:
            trial.set_user_attr("seconds", round(time.monotonic() - start, 1))

    def _release_dead(self) -> None:
        """Gives up running trials whose process is gone: at once on this machine, elsewhere without a sign of life."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_gone(trial.user_attrs.get(OWNER)):
                with suppress(ValueError, RuntimeError):  # another process of this machine was faster
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _try_again(self) -> None:
        """Lines up what failed and was not tried again since."""
        known = [trial.user_attrs[VALUES] for trial in list_claims(self.study)]
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        known += [trial.user_attrs[VALUES] for trial in waiting if VALUES in trial.user_attrs]
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            values = trial.user_attrs.get(VALUES)
            if values is not None and values not in known:
                self.study.enqueue_trial(trial.params, user_attrs={VALUES: values})
                known.append(values)


def count_trials(study: optuna.Study) -> tuple[int, int]:
    """Returns how many trials are finished, and how many are running; in a grid a point counts once."""
    claims = list_claims(study)
    if isinstance(study.sampler, GridInOrder):
        finished = unique(trial.user_attrs[VALUES] for trial in claims if trial.state in FINISHED)
        running = unique(trial.user_attrs[VALUES] for trial in claims if trial.state == TrialState.RUNNING)
        return len(finished), sum(values not in finished for values in running)
    finished_trials = [trial for trial in claims if trial.state in FINISHED]
    return len(finished_trials), len(claims) - len(finished_trials)


def unique(items: Iterable[Any]) -> list[Any]:
    """Returns items without those that are there already."""
    kept: list[Any] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept


def find_best(study: optuna.Study) -> FrozenTrial | None:
    """Returns the best trial that went to its end, the first of equals; None if there is none."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    return max(finished, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def describe_best(study: optuna.Study) -> str:
    """Says what is best so far, for the progress bar."""
    best = find_best(study)
    return f"best {best.value:.2f} ({name_point(best.user_attrs[VALUES])})" if best else ""


def describe_owner() -> dict[str, Any]:
    """Returns which process this is, of all there were on all machines."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": find_start(os.getpid())}


def is_gone(owner: Mapping[str, Any] | None) -> bool:
    """Returns whether a process of this machine has ended; of another machine, or unknown, it is not known."""
    if owner is None or owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return find_start(owner["pid"]) != owner["started"]


def find_start(process: int) -> str | None:
    """Returns when a process started, in ticks since the machine did; None where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
