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


def count_records(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("records*.jsonl"))


def run_until(args: list[str], folder: Path, records: int, number: int = signal.SIGKILL, delay: float = 0.0) -> None:
    """Runs main.py and sends its group of processes a signal once there are so many records, a little later."""
    process = programs.start(["main.py", "test", *args], folder, folder / "log.txt", new_session=True)
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
@pytest.mark.parametrize("first", [TWO, []], ids=["two", "one"])
def test_a_run_that_is_killed_goes_on_in_two_processes(
    first: list[str], checkpoint: Path, uninterrupted: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    args = arguments(tmp_path, *METHOD, f"--ckpt_path={checkpoint}")
    run_until([*args, *first], tmp_path, records=4)
    assert 4 <= count_records(tmp_path) < 18
    for _ in range(2):  # the second time nothing is left for either
        finish([*args, *TWO], tmp_path)
        assert read_outcome(tmp_path) == uninterrupted
    found = [run["found"] for run in json.loads((tmp_path / "results" / "run.json").read_text())["runs"]]
    assert found[0] == 0 and 3 <= found[1] < 18


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fewer_images_than_processes(checkpoint: Path, tmp_path: Path) -> None:
    """One image of each target over two gloo processes: the second has nothing to do, and nobody waits for ever."""
    outcomes = []
    for processes in ([], TWO):
        folder = tmp_path / str(len(processes))
        folder.mkdir()
        args = arguments(folder, f"--ckpt_path={checkpoint}", "--data.num_test=1", "--method=IaBN")
        screen = finish([*args, *processes], folder)
        outcomes.append((read_outcome(folder), [line for line in screen.splitlines() if "test/" in line]))
    assert outcomes[0] == outcomes[1] and len(outcomes[0][0][1]) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_folder_the_same_command_finds_its_unfinished_run(checkpoint: Path, tmp_path: Path) -> None:
    args = [arg for arg in arguments(tmp_path, *METHOD, logger=True) if not arg.startswith("--results.folder")]
    args += [f"--ckpt_path={checkpoint}"]
    run_until(args, tmp_path, records=3)
    assert "images are already scored" in finish(args, tmp_path)
    (found,) = (tmp_path / "outputs" / "runs" / "csv").glob("*/run.json")
    assert found.parent.name == "version_0"
    assert json.loads((found.parent / "results.json").read_text())["complete"] is True
