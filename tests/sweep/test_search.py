"""Sweeps: the study that trials are recorded in, with a function in place of main.py."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from filelock import FileLock

from experiments.sweep import search
from experiments.sweep.definition import read_definition
from experiments.sweep.search import POINT, VALUES, Search, open_study
from experiments.sweep.trial import TrialError, read_metric, run_trial
from tests.sweep.given import write_sweep

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of signs of life


def open_search(tmp_path: Path, run_trial: search.RunTrial, total: int = 4) -> Search:
    """Opens the study of a grid as another process would."""
    definition = read_definition(write_sweep(tmp_path))
    study = open_study(definition, tmp_path, f"sqlite:///{tmp_path / 'study.db'}", "study", {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Search(definition, study, tmp_path, "grid", total, run_trial)


def list_states(study: optuna.Study) -> list[tuple[Any, str]]:
    return [(trial.user_attrs[VALUES]["method.alpha"], trial.state.name) for trial in study.get_trials()]


def score(values: Mapping[str, Any], report: Any) -> float:
    return 100 - 100 * abs(values["method.alpha"] - 0.4)


def test_machines_that_share_a_study_do_nothing_twice(tmp_path: Path) -> None:
    there = Mock(side_effect=score)

    def here(values: Mapping[str, Any], report: Any) -> float:
        open_search(tmp_path, there).run()  # all that another machine can do while this trial runs
        return score(values, report)

    own = open_search(tmp_path, here)
    own.run()
    assert [call.args[0]["method.alpha"] for call in there.call_args_list] == [0.2, 0.4, 0.6]
    assert list_states(own.study) == [(alpha, "COMPLETE") for alpha in (0.0, 0.2, 0.4, 0.6)]


def test_machines_that_come_to_one_point_agree_who_has_it(tmp_path: Path) -> None:
    """Both have queued it before either has taken it: the trial with the lower number goes on."""

    def here(values: Mapping[str, Any], report: Any) -> float:
        own.study.enqueue_trial({"method.alpha": "0.0"}, {POINT: 0})
        open_search(tmp_path, score, total=2).run()
        return score(values, report)

    own = open_search(tmp_path, here, total=1)
    own.run()
    found = [(trial.state.name, trial.user_attrs[POINT]) for trial in own.study.trials]
    assert found == [("COMPLETE", 0), ("FAIL", 0), ("COMPLETE", 1)] and not own.errors


def test_a_trial_of_a_machine_that_has_died_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEARTBEAT", "GRACE"):
        monkeypatch.setattr(search, name, 1)
    first = open_search(tmp_path, Mock(side_effect=SystemExit))
    first.owner = ("elsewhere", "lock")
    with pytest.raises(SystemExit):
        first.run()
    open_search(tmp_path, score, total=1).run()
    assert list_states(first.study) == [(0.0, "RUNNING")]  # it may be alive
    time.sleep(2.5)
    again = open_search(tmp_path, score)
    again.run()
    assert list_states(again.study) == [(0.0, "FAIL"), *((alpha, "COMPLETE") for alpha in (0.0, 0.2, 0.4, 0.6))]


def test_the_error_of_an_earlier_run_is_not_that_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text("error: of an earlier run\n")
    monkeypatch.setattr("main.main", lambda args: sys.exit(3))
    with pytest.raises(TrialError, match="exit code 3"):
        run_trial([], tmp_path, lambda images, miou: None)


def test_a_trial_that_chose_on_a_target_has_no_score() -> None:
    summary = {"data": {"development": {"choose_on_target": True}}, "mean": {"miou": 60.0}, "domains": {}}
    with pytest.raises(TrialError, match=r"development\.choose_on_target is true: a sweep never chooses on a target"):
        read_metric(summary, "val/miou")
    summary["data"] = {"development": {"choose_on_target": False}}
    assert read_metric(summary, "val/miou") == 60


def test_a_process_is_alive_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    """Not as long as there is a process of this id: ids come again, and each container has its own."""
    path = tmp_path / "lock"
    with FileLock(path):
        assert not search.is_free(path)
    path.touch()  # as a killed process leaves it
    assert search.is_free(path) and not path.exists()


def test_a_database_that_another_makes_just_now_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, tries = search.RDBStorage, []

    def make_later(*args: Any, **kwargs: Any) -> optuna.storages.RDBStorage:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("(sqlite3.OperationalError) table studies already exists")
        return make(*args, **kwargs)

    monkeypatch.setattr(search, "RDBStorage", make_later)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    assert search.open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == [] and len(tries) == 3


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    definition = read_definition(write_sweep(tmp_path))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(definition, tmp_path, url, "study", {"weights": "a"})
    with pytest.raises(ValueError, match="weights was a, is now b"):
        open_study(definition, tmp_path, url, "study", {"weights": "b"})
    open_study(definition, tmp_path, url, "other", {"weights": "b"})
    for place in ("nonsense://me:secret@somewhere/db", "sqlite:////no/x"):
        with pytest.raises(ValueError, match=r"cannot be opened: [^\n]*Expected --storage") as error:
            open_study(definition, tmp_path, place, "study", {})
        shown = place.replace("secret", "***")
        assert f"the storage {shown} cannot" in str(error.value) and "secret" not in str(error.value)
