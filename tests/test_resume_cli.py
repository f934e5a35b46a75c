"""`main.py test` is really killed, in one process and in two, and goes on with the same command."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.callbacks.runs import list_found, read_all, read_summary
from tests.processes import wait_for
from tests.tiny import arguments

METHOD = ["--method=SegTTT", "--method.num_steps=3", "--method.scales=[0.75,1.0]", "--data.num_test=6"]
IMAGES = 18
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def read_outcome(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the summary and the sorted records, without dates, measured times and the commit."""
    return read_summary(folder), sorted(map(json.dumps, read_all(folder)))


def count_records(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records*.jsonl"))


def finish(args: list[str], folder: Path) -> str:
    """Runs main.py to its end; returns what it says on the screen."""
    done = programs.run(["main.py", "test", *args], folder)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_twice_goes_on_in_any_number_of_processes(checkpoint: Path, tmp_path: Path) -> None:
    """And as people start it, without a folder: the same command finds its unfinished run."""
    own = [*METHOD, f"--ckpt_path={checkpoint}"]
    finish(arguments(tmp_path / "whole", *own), tmp_path)
    expected = read_outcome(tmp_path / "whole" / "results")
    args = [word for word in arguments(tmp_path, *own, logger=True) if not word.startswith("--results.folder")]
    folder = tmp_path / "outputs" / "runs" / "csv" / "version_0"
    for processes, records in (([], 4), (TWO, 9)):
        process = programs.start(["main.py", "test", *args, *processes], tmp_path, new_session=True)
        wait_for(lambda: process.poll() is not None or count_records(folder) >= records, 200)  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        assert records <= count_records(folder) < IMAGES
    assert "images are scored already" in finish([*args, *TWO], tmp_path)
    assert [path.parent.name for path in folder.parent.glob("*/run.json")] == ["version_0"]
    assert read_outcome(folder) == expected and len(expected[1]) == IMAGES
    found = list_found(folder)
    assert found[0] == 0 and 3 <= found[1] < found[2] < IMAGES
    finish([*args, *TWO, f"--results.folder={folder}"], tmp_path)  # and once more, with nothing left for either
    assert read_outcome(folder) == expected and list_found(folder)[3] == IMAGES


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fewer_images_than_processes(checkpoint: Path, tmp_path: Path) -> None:
    """One image of each target over two gloo processes: the second has nothing to do, and nobody waits for ever."""
    outcomes = []
    for name, processes in (("one", []), ("two", TWO)):
        args = arguments(tmp_path / name, f"--ckpt_path={checkpoint}", "--data.num_test=1", "--method=IaBN")
        screen = finish([*args, *processes], tmp_path)
        table = [line for line in screen.splitlines() if "test/" in line]
        outcomes.append((*read_outcome(tmp_path / name / "results"), table))
    assert outcomes[0] == outcomes[1] and len(outcomes[0][1]) == 3
