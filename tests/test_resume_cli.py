"""`main.py test` is really killed, in one process and in two, and goes on with the same command."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.callbacks.runs import read_all, read_summary
from tests.processes import wait_for
from tests.tiny import arguments

METHOD = ["--method=SegTTT", "--method.num_steps=3", "--method.scales=[0.75,1.0]", "--data.num_test=6"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def read_outcome(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the summary and the sorted records, without dates, measured times and the commit."""
    return read_summary(folder / "results"), sorted(map(json.dumps, read_all(folder / "results")))


def start(args: list[str], folder: Path) -> programs.Process:
    """Starts main.py as the leader of a group of processes."""
    return programs.start(["main.py", "test", *args], folder, folder / "log.txt", new_session=True)


def count_records(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "results").glob("records*.jsonl"))


def run_until(args: list[str], folder: Path, records: int, number: int = signal.SIGKILL, delay: float = 0.0) -> None:
    """Runs main.py and sends its group of processes a signal once there are so many records, a little later."""
    process = start(args, folder)
    wait_for(lambda: process.poll() is not None or count_records(folder) >= records, 200)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, number)
    process.wait(timeout=60)
    time.sleep(0.1)


def finish(args: list[str], folder: Path) -> str:
    """Runs main.py to its end; returns what it says on the screen."""
    done = programs.run(["main.py", "test", *args], folder)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def uninterrupted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The outcome of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(arguments(folder, *METHOD, f"--ckpt_path={checkpoint}"), folder)
    return read_outcome(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    seed: int, checkpoint: Path, uninterrupted: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    draw = random.Random(seed)
    args = arguments(tmp_path, *METHOD, f"--ckpt_path={checkpoint}")
    for number in (signal.SIGKILL, draw.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])):
        before = count_records(tmp_path)
        run_until(args, tmp_path, draw.randint(before, 18), number, draw.random() * (0.3 if before else 3))
    finish(args, tmp_path)
    assert read_outcome(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 2)])
def test_a_run_in_two_processes_that_is_killed_goes_on_in_any_number(
    first: int, second: int, checkpoint: Path, uninterrupted: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    common = arguments(tmp_path, *METHOD, f"--ckpt_path={checkpoint}")
    runs = [[*common, *(TWO if processes == 2 else [])] for processes in (first, second)]
    run_until(runs[0], tmp_path, records=4)
    assert 4 <= count_records(tmp_path) < 18
    finish(runs[1], tmp_path)
    assert read_outcome(tmp_path) == uninterrupted
    found = [run["found"] for run in json.loads((tmp_path / "results" / "run.json").read_text())["runs"]]
    assert found[0] == 0 and 3 <= found[1] < 18
    if second == 2:  # and once more, with nothing left for either
        finish(runs[1], tmp_path)
        assert read_outcome(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fewer_images_than_processes(checkpoint: Path, tmp_path: Path) -> None:
    """One image of each target over two gloo processes: the second has nothing to do, and nobody waits for ever."""
    outcomes = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        args = arguments(folder, f"--ckpt_path={checkpoint}", "--data.num_test=1", "--method=IaBN")
        screen = finish([*args, *(TWO if processes == 2 else [])], folder)
        outcomes[processes] = read_outcome(folder), [line for line in screen.splitlines() if "test/" in line]
    assert outcomes[1] == outcomes[2] and len(outcomes[1][0][1]) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_folder_the_same_command_finds_its_unfinished_run(checkpoint: Path, tmp_path: Path) -> None:
    args = [arg for arg in arguments(tmp_path, *METHOD, logger=True) if not arg.startswith("--results.folder")]
    args += [f"--ckpt_path={checkpoint}"]
    process, runs = start(args, tmp_path), tmp_path / "outputs" / "runs" / "csv"
    wait_for(lambda: any(path.read_bytes().count(b"\n") >= 3 for path in runs.glob("*/records.jsonl")), 200)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    screen = finish(args, tmp_path)
    assert "images are already scored" in screen
    assert [path.parent.name for path in runs.glob("*/run.json")] == ["version_0"]
    assert json.loads((runs / "version_0" / "results.json").read_text())["complete"] is True
