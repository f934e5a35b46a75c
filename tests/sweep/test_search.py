"""Sweeps: the study that trials are recorded in, with a function in place of main.py."""

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from experiments.sweep import search
from experiments.sweep.definition import read_definition
from experiments.sweep.report import list_points
from experiments.sweep.search import POINT, Sweep, hide_password, open_storage, open_sweep
from experiments.sweep.trial import TrialError, read_metric, restoring_process
from tests.sweep.given import write_sweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of signs of life


def open_search(tmp_path: Path, run_trial: search.RunTrial, total: int = 4, alone: bool = False) -> Sweep:
    """Opens the study of a grid as another process would."""
    definition = read_definition(write_sweep(tmp_path))
    study = open_sweep(definition, open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "study", {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Sweep(definition, study, tmp_path, "grid", total, run_trial, alone=alone)


def list_states(study: optuna.Study) -> list[tuple[Any, str]]:
    return [(trial.user_attrs["values"]["method.alpha"], trial.state.name) for trial in study.get_trials()]


def score(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
    return 100 - 100 * abs(values["method.alpha"] - 0.4)


@pytest.mark.parametrize("alone", [False, True])
def test_machines_that_share_a_study_do_nothing_twice(alone: bool, tmp_path: Path) -> None:
    done: dict[str, list[float]] = {"here": [], "there": []}

    def there(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        done["there"].append(values["method.alpha"])
        return score(sweep, values, report)

    def here(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        done["here"].append(values["method.alpha"])
        open_search(tmp_path, there).run()  # all that another machine can do while this trial runs
        return score(sweep, values, report)

    own = open_search(tmp_path, here, alone=alone)
    own.run()
    assert done == {"here": [0.0], "there": [0.2, 0.4, 0.6]}
    assert list_states(own.study) == [(alpha, "COMPLETE") for alpha in (0.0, 0.2, 0.4, 0.6)]


def test_machines_that_come_to_one_point_agree_who_has_it(tmp_path: Path) -> None:
    """Both have queued it before either has taken it: the trial with the lower number goes on."""

    def here(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        sweep.study.enqueue_trial({"method.alpha": 0.0}, {POINT: 0})
        open_search(tmp_path, score, total=2).run()
        return score(sweep, values, report)

    own = open_search(tmp_path, here, total=1)
    own.run()
    found = [(trial.state.name, trial.user_attrs[POINT]) for trial in own.study.trials]
    assert found == [("COMPLETE", 0), ("FAIL", 0), ("COMPLETE", 1)]


@pytest.mark.parametrize(("where", "alone"), [("here", False), ("elsewhere", False), ("elsewhere", True)])
def test_a_trial_whose_process_has_died_is_tried_again(
    where: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HEARTBEAT", 1), ("GRACE", 1), ("WAIT", 0.1)):
        monkeypatch.setattr(search, name, seconds)
    study = open_search(tmp_path, score).study
    study.enqueue_trial({"method.alpha": 0.0}, {POINT: 0})
    trial = study.ask()
    trial.set_user_attr("owner", [socket.gethostname() if where == "here" else "other", str(tmp_path / "lock")])
    trial.set_user_attr("values", {"method.alpha": trial.suggest_categorical("method.alpha", [0.0, 0.2, 0.4, 0.6])})
    if where == "elsewhere":
        study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        open_search(tmp_path, score, total=1).run()
        assert list_states(study) == [(0.0, "RUNNING")]  # it may be alive
        if not alone:
            time.sleep(2.5)
    again = open_search(tmp_path, score, alone=alone)  # alone: waits for it
    again.run()
    assert list_states(again.study)[:2] == [(0.0, "FAIL"), (0.0, "COMPLETE")]
    assert sum(state == "COMPLETE" for _, state in list_states(again.study)) == 4


def test_of_a_point_tried_twice_the_finished_trial_counts(tmp_path: Path) -> None:
    sweep = open_search(tmp_path, score)
    for point, alpha, value in ((0, 0.2, None), (1, 0.2, 80.0), (2, 0.0, 60.0)):
        sweep.study.enqueue_trial({"method.alpha": alpha}, {POINT: point})
        trial = sweep.study.ask()
        trial.suggest_categorical("method.alpha", [0.0, 0.2, 0.4, 0.6])
        trial.set_user_attr("values", {"method.alpha": alpha})
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        sweep.study.tell(trial, value, state)
    rows = [(row["values"]["method.alpha"], row["score"], row["state"]) for row in list_points(sweep)]
    assert rows == [(0.2, 80.0, "finished"), (0.0, 60.0, "finished")]


def test_handlers_of_other_libraries_are_left_alone(tmp_path: Path) -> None:
    other, logger = logging.NullHandler(), logging.getLogger("pytorch_lightning")  # has no stream to put in place
    logger.addHandler(other)
    try:
        with (tmp_path / "log.txt").open("w") as log, restoring_process([], log):
            assert other in logger.handlers
    finally:
        logger.removeHandler(other)


def test_a_trial_that_chose_on_a_target_has_no_score() -> None:
    summary = {"data": {"development": {"choose_on_target": True}}, "mean": {"miou": 60.0}, "domains": {}}
    with pytest.raises(TrialError, match=r"development\.choose_on_target is true: a sweep never chooses on a target"):
        read_metric(summary, "val/miou")
    summary["data"] = {"development": {"choose_on_target": False}}
    assert read_metric(summary, "val/miou") == 60


def test_a_database_that_another_process_makes_just_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, tries = search.RDBStorage, []

    def make_later(*args: Any, **kwargs: Any) -> optuna.storages.RDBStorage:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("(sqlite3.OperationalError) table studies already exists")
        return make(*args, **kwargs)

    monkeypatch.setattr(search, "RDBStorage", make_later)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    assert open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == [] and len(tries) == 3


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    definition = read_definition(write_sweep(tmp_path))
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    open_sweep(definition, storage, "study", {"weights": "a"})
    with pytest.raises(ValueError, match="weights was a, is now b"):
        open_sweep(definition, storage, "study", {"weights": "b"})
    open_sweep(definition, storage, "other", {"weights": "b"})
    with pytest.raises(ValueError, match=r"cannot be opened.*Expected a database"):
        open_storage("nonsense://somewhere")
    assert hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
