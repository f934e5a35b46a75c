"""Runs what the paper's tables are made of: in order, once, to the end whatever fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.command_line import run_program
from experiments.tables import execution
from experiments.tables.__main__ import list_all_runs, run_tables
from experiments.tables.execution import Task, list_tasks, run_tasks
from experiments.tables.paper import NAMES, read_table
from experiments.tables.runs import WORLDS, Plan, Run
from tests.fake_results import plan_of, write_planned
from tests.processes import is_alive, list_children, wait_for
from tests.tiny import ROOT

IABN = Run("gta_resnet50", "iabn")


def find_written(folder: Path, *names: str) -> dict[Path, int]:
    """Returns when the files of these names in a folder were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in names}


def test_everything_is_planned_once_and_in_an_order_that_works(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "--world", "street_scenes")
    tasks = list_tasks(plan, list_all_runs(plan, [read_table(name) for name in NAMES]))
    assert len(tasks) == len(set(tasks))
    for number, task in enumerate(tasks):
        assert set(task.list_needed(plan)) <= set(tasks[:number])
    trained = {task.experiment for task in tasks if task.kind == "train"}
    assert {"gta_resnet50_seed2", "haze_resnet101", "synthia_resnet101_dropout"} <= trained
    without = {"haze_resnet50", "gta_resnet50_switchable"}
    assert not {task.experiment for task in tasks if task.kind == "select"} & without


def test_members_of_an_ensemble_share_a_config_and_have_a_seed_each() -> None:
    world = WORLDS["licensed"]
    members = world.list_members("gta_resnet50")
    assert len(members) == len(set(members)) == 10
    assert {world.find_config(member).name for member in members} == {"gta_resnet50.yaml"}
    seeds = [f"--seed_everything={number}" for number in range(1, 10)]
    assert [world.list_arguments(member) for member in members] == [[], *([seed] for seed in seeds)]


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, done = plan_of(tmp_path), []

    def perform(plan: Plan, task: Task) -> str | None:
        done.append((task.kind, task.experiment))
        return "no data" if task == Task("train", "gta_resnet50") else None

    monkeypatch.setattr(execution, "perform", perform)
    other = Run("gta_resnet101", "iabn")
    failed = run_tasks(plan, list_tasks(plan, [IABN, other]), jobs=1)
    assert done == [("train", "gta_resnet101"), ("train", "gta_resnet50"), ("test", "gta_resnet101")]
    assert failed == ["gta_resnet50: training: no data", "gta_resnet50: testing iabn: a step that it needs failed"]
    write_planned(plan, other, {"cityscapes": 38.0})
    assert list_tasks(plan, [other]) == []  # it has results


def kill_self(plan: Plan, task: Task) -> str | None:
    """Ends its own process, as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.mark.slow
def test_a_killed_process_fails_its_step_not_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "perform", kill_self)
    tasks = [Task("train", name) for name in ("gta_resnet50", "gta_resnet101")]
    failed = run_tasks(plan_of(tmp_path), tasks, jobs=2)
    assert failed and all("training: its process, or that of a parallel step, was killed" in line for line in failed)


@pytest.mark.parametrize("error", [SystemExit(1), SIGTERMException()], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_ends_all_steps(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if type(error) is SystemExit:
        error.__context__ = KeyboardInterrupt()  # from which Lightning exits
    train = Mock(side_effect=error)
    monkeypatch.setattr(execution, "make_protocol", lambda *_: Mock(train=train))
    with pytest.raises(SystemExit):
        run_tasks(plan_of(tmp_path), [Task("train", "gta_resnet50"), Task("train", "gta_resnet101")], 1)
    assert train.call_count == 1


def test_ctrl_c_says_that_what_was_finished_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(Mock(side_effect=KeyboardInterrupt))
    assert ended.value.code == 130 and "finished steps are kept" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    args = ["table2", "--world", "street_scenes", "--quick", "--folder", str(tmp_path), "--run"]
    command = [sys.executable, "-m", "experiments.tables", *args, "--jobs", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "steps left" in line:
                break
        children = list_children(process.pid)
        process.terminate()
    assert len(children) >= 2
    wait_for(lambda: not any(is_alive(child) for child in children), 60)
    trained = find_written(tmp_path, "training.json")
    assert trained
    (built,) = run_tables(args)
    assert built.missing == {} and all(None not in row.ours.values() for row in built.parts[0].rows)
    assert "constructed demonstration" in (tmp_path / "table2.md").read_text()
    found = find_written(tmp_path, "results.json", "best.ckpt")
    assert len(found) >= 6
    run_tables(args)  # nothing is done twice
    assert find_written(tmp_path, "results.json", "best.ckpt") == found
    assert trained.items() <= find_written(tmp_path, "training.json").items()
