"""Runs of several processes: an error of one ends all of them with its message, and so does the death of one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests import programs
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


def start(folder: Path, fault: str, processes: int, command: str = "test") -> programs.Process:
    """Starts a run of several gloo processes; what they say is in log.txt."""
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    more = [f"--trainer.devices={processes}", "--trainer.strategy=ddp", "--data.num_test=9"]
    environment = {**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK", None)
    words = [str(program), command, *arguments(folder, *more)]
    (folder / "log.txt").touch()
    return programs.start(words, folder, folder / "log.txt", environment=environment, new_session=True)


def read_log(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def wait_for_end(process: programs.Process, others: list[int], since: float) -> None:
    """Waits until all processes of a run have ended, and fails if that takes longer than it may."""
    try:
        process.wait(timeout=SECONDS)
        while any(map(is_alive, others)):
            assert time.monotonic() < since + SECONDS, "a process has outlived the run"
            time.sleep(0.1)
    finally:
        for other in others:
            if is_alive(other):
                os.kill(other, signal.SIGKILL)
    assert process.returncode != 0


def run_with_fault(folder: Path, fault: str, processes: int) -> str:
    """Runs to the end that a fault makes; returns what was said on the screen."""
    process = start(folder, fault, processes)
    try:
        wait_for(lambda: "FAILED" in read_log(folder) or process.poll() is not None, 200)
        assert "FAILED" in read_log(folder), "the run ended before the fault came"
        wait_for_end(process, list_children(process.pid), time.monotonic())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return read_log(folder)


@pytest.mark.timeout(300)
def test_data_missing_on_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    screen = run_with_fault(tmp_path, "data:1", 2)
    assert "error: the disk of this machine is empty\n" in screen
    assert "error: the disk of this machine is empty (on process 1 of 0 to 1)\n" in screen  # and the first says so too
    assert "Traceback" not in screen


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("fault", "processes"), [("data:2", 3), ("folder:0", 2)])
def test_a_run_that_cannot_begin_on_one_process_ends_on_all(fault: str, processes: int, tmp_path: Path) -> None:
    screen = run_with_fault(tmp_path, fault, processes)
    message = "the disk of this machine is empty" if "data" in fault else "Permission denied"
    assert screen.count(message) == processes and "Traceback" not in screen
    assert not (tmp_path / "results" / ".lock").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_midway_on_one_process_ends_all(rank: int, tmp_path: Path) -> None:
    assert "MemoryError: out of memory, as it were" in run_with_fault(tmp_path, f"midway:{rank}", 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("command", "victim"), [("test", "child"), ("predict", "parent")])
def test_a_process_that_is_killed_takes_the_others_with_it(command: str, victim: str, tmp_path: Path) -> None:
    process = start(tmp_path, "slow:0", 2, command)
    try:
        wait_for(lambda: read_log(tmp_path).count("STEP") >= 4 or process.poll() is not None, 200)
        children = list_children(process.pid)
        assert children, read_log(tmp_path)
        os.kill(process.pid if victim == "parent" else children[0], signal.SIGKILL)
        wait_for_end(process, children, time.monotonic())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_training_ends_when_the_program_that_started_it_is_killed(tmp_path: Path) -> None:
    child = f"import os, pathlib, sys, time; sys.path.insert(0, {str(ROOT)!r}); "
    child += "from callbacks.run.processes import watch_parent; watch_parent(); "
    child += "pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'pid'); time.sleep(600)"
    program = f"import sys; from experiments.study import run_training; run_training([sys.executable, '-c', {child!r}])"
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


ENDS = "import atexit, os, sys; atexit.register(print, 'last'); print(sys.argv, os.getcwd(), __name__); sys.exit(7)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["main.py", "test", "--method=Foo"], ["-m", "experiments.protocol"], ["-c", ENDS, "a", "b c"]],
    ids=["main", "module", "code"],
)
def test_python_and_a_fork_say_the_same(command: list[str], tmp_path: Path) -> None:
    forked = programs.run(command, tmp_path, code=None)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, *([str(ROOT / command[0]), *command[1:]] if command[0] == "main.py" else command)]
    real = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (forked.returncode, forked.stdout) == (real.returncode, real.stdout)
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]
