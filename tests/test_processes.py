"""Real processes: an error or the death of one ends all of a run, and the same command goes on with what was done."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.callbacks.runs import read_all, read_summary
from tests.processes import is_alive, list_children, wait_for
from tests.tiny import ROOT, arguments

SECONDS = 25  # from what went wrong to the end of the last process

# What `python main.py` does, with something going wrong on one process.
PROGRAM = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from callbacks.run.processes import run_to_end
from callbacks.report.gallery import RunPictures
from datamodules.base import DataError
from datamodules.street_scenes import StreetScenesDataModule
from lightning_modules.segmentation import SegmentationModule
from main import main

fault, rank = os.environ["FAULT"].split(":")
here = os.environ.get("LOCAL_RANK", "0") == rank

def fail(error):
    def failing(*args, **kwargs):
        print("FAILED", flush=True)
        raise error
    return failing

def delay(original, error):
    def delayed(self, batch, batch_idx, dataloader_idx=0):
        time.sleep(0.3)
        if here and batch_idx == 2 and error is not None:
            fail(error)()
        print("STEP", flush=True)
        return original(self, batch, batch_idx, dataloader_idx)
    return delayed

if fault == "data" and here:
    StreetScenesDataModule.make_dataset = fail(DataError("the disk of this machine is empty"))
elif fault == "folder" and here:
    RunPictures.__init__ = fail(PermissionError(13, "Permission denied", "results"))
elif fault in ("midway", "slow"):
    error = MemoryError("out of memory, as it were") if fault == "midway" else None
    SegmentationModule.test_step = delay(SegmentationModule.test_step, error)
    SegmentationModule.predict_step = delay(SegmentationModule.predict_step, error)
run_to_end(main)
"""


@contextmanager
def running(folder: Path, fault: str, processes: int, command: str = "test") -> Iterator[programs.Process]:
    """Starts a run of several gloo processes, whose words are in log.txt; none of them outlives the block."""
    program, log = folder / "program.py", folder / "log.txt"
    program.write_text(PROGRAM, encoding="utf-8")
    log.touch()
    more = [f"--trainer.devices={processes}", "--trainer.strategy=ddp", "--data.num_test=9"]
    environment = {**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK", None)
    words = [str(program), command, *arguments(folder, *more)]
    process = programs.start(words, folder, log, environment=environment, new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def read_log(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def wait_for_end(process: programs.Process, others: list[int]) -> None:
    """Waits until all processes of a run have ended, and fails if that takes longer than it may."""
    wait_for(lambda: process.poll() is not None and not any(map(is_alive, others)), SECONDS)
    assert process.returncode != 0


EMPTY = "the disk of this machine is empty"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("fault", "processes", "message"),
    [
        ("data:1", 2, EMPTY),
        pytest.param("data:2", 3, EMPTY, marks=pytest.mark.slow),
        pytest.param("folder:0", 2, "Permission denied", marks=pytest.mark.slow),
        pytest.param("midway:0", 2, "MemoryError: out of memory, as it were", marks=pytest.mark.slow),
        pytest.param("midway:1", 2, "MemoryError: out of memory, as it were", marks=pytest.mark.slow),
    ],
)
def test_an_error_on_one_process_ends_all_with_it(fault: str, processes: int, message: str, tmp_path: Path) -> None:
    with running(tmp_path, fault, processes) as process:
        wait_for(lambda: "FAILED" in read_log(tmp_path) or process.poll() is not None, 200)
        assert "FAILED" in read_log(tmp_path), "the run ended before the fault came"
        wait_for_end(process, list_children(process.pid))
    screen = read_log(tmp_path)
    assert message in screen
    if not fault.startswith("midway"):
        assert screen.count(message) == processes and "Traceback" not in screen  # the others say it too
        assert not (tmp_path / "results" / ".lock").exists()
    if fault == "data:1":
        assert f"error: {EMPTY}\n" in screen and f"error: {EMPTY} (on rank 1; ranks 0 to 1)\n" in screen


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("command", "victim"), [("test", "child"), ("predict", "parent")])
def test_a_process_that_is_killed_takes_the_others_with_it(command: str, victim: str, tmp_path: Path) -> None:
    with running(tmp_path, "slow:0", 2, command) as process:
        wait_for(lambda: read_log(tmp_path).count("STEP") >= 4 or process.poll() is not None, 200)
        children = list_children(process.pid)
        assert children, read_log(tmp_path)
        os.kill(process.pid if victim == "parent" else children[0], signal.SIGKILL)
        wait_for_end(process, children)


@pytest.mark.slow
def test_a_training_ends_when_the_program_that_started_it_is_killed(tmp_path: Path) -> None:
    child = f"import os, pathlib, sys, time; sys.path.insert(0, {str(ROOT)!r}); "
    child += "from callbacks.run.processes import watch_parent; watch_parent(); "
    child += "pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'pid'); time.sleep(600)"
    program = f"import sys; from experiments.study import run_to_exit; run_to_exit([sys.executable, '-c', {child!r}])"
    parent = programs.start(["-c", program], tmp_path)
    try:
        wait_for(lambda: (tmp_path / "pid").exists() or parent.poll() is not None)
        pid = int((tmp_path / "pid").read_text())
    finally:
        parent.kill()
        parent.wait()
    try:
        wait_for(lambda: not is_alive(pid), 20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# A test that is killed, in one process and in two, goes on with the same command.


METHOD = ["--method=SegTTT", "--method.num_steps=3", "--method.scales=[0.75,1.0]", "--data.num_test=6"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
Outcome = tuple[dict[str, Any], list[str]]  # of a run: its summary and its records


def read_outcome(folder: Path) -> Outcome:
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
def uninterrupted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The outcome of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(arguments(folder, *METHOD, f"--ckpt_path={checkpoint}"), folder)
    return read_outcome(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_ends_alike(seed: int, checkpoint: Path, uninterrupted: Outcome, tmp_path: Path) -> None:
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
def test_a_killed_run_goes_on_in_2(first: list[str], checkpoint: Path, uninterrupted: Outcome, tmp_path: Path) -> None:
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
