"""Which folder a run writes into, and that no other run writes there meanwhile."""

import fcntl
import os
import signal
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger

from callbacks import IaBN
from callbacks.alpha_search import AlphaSearch
from callbacks.results import Results
from callbacks.run.lock import FolderInUseError, FolderLock
from callbacks.run.settings import find_differences, fingerprint_files
from tests import programs
from tests.callbacks.runs import (
    Stop,
    list_found,
    make_data,
    make_module,
    read_all,
    read_json,
    read_summary,
    run,
    stop_run,
)
from tests.fakes import make_trainer
from tests.processes import wait_for


def run_logged(folder: Path, *callbacks: Callback, at: int | None = None, **results: Any) -> list[str]:
    """Runs with a logger that numbers its folders, as main.py does; returns the names of what was predicted."""
    stop, logger = Stop(at), CSVLogger(folder, name="csv")
    with nullcontext() if at is None else pytest.raises(RuntimeError, match="stopped"):
        run(folder / "x", *callbacks, stop, results={"folder": None, **results}, logger=logger)
    return stop.names


@pytest.mark.slow
def test_without_a_folder_the_newest_unfinished_run_goes_on(tmp_path: Path) -> None:
    csv = tmp_path / "csv"
    assert len(run_logged(tmp_path)) == 9  # finished: version_0
    assert len(run_logged(tmp_path, at=2)) == 2  # version_1, which does not go on from the finished one
    assert len(run_logged(tmp_path, IaBN(0.2), at=3)) == 3  # another run: version_2
    assert len(run_logged(tmp_path)) == 7  # goes on with version_1
    assert list_found(csv / "version_1") == [0, 2] and read_all(csv / "version_1") == read_all(csv / "version_0")
    assert not (csv / "version_3" / "run.json").exists()
    assert len(run_logged(tmp_path, IaBN(0.2), overwrite=True)) == 9
    assert list_found(csv / "version_2") == [0]
    assert len(run_logged(tmp_path)) == 9  # all of this command are finished: a new one
    newest = max(csv.glob("version_*/results.json"), key=os.path.getmtime).parent
    assert read_summary(newest) == read_summary(csv / "version_0")
    lock = FolderLock(csv / "version_2")
    lock.acquire()
    assert len(run_logged(tmp_path, IaBN(0.2))) == 9  # the unfinished one is still going on elsewhere
    lock.release()
    assert len(run_logged(tmp_path, IaBN(0.2))) == 6


def test_a_folder_that_nobody_chose_is_set_aside_for_other_settings(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for alpha in (0.1, 0.2):
        run(tmp_path / "x", IaBN(alpha), results={"folder": None})
    for name, alpha in (("results.1.json", 0.1), ("results.json", 0.2)):
        assert read_json(tmp_path / "outputs" / "results" / name)["method"]["alpha"] == alpha


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_folder_that_another_run_writes_into_is_refused(stage: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold = "import sys, time; from pathlib import Path; from callbacks.run.lock import FolderLock\n"
    hold += "lock = FolderLock(Path(sys.argv[1])); lock.acquire(); Path('held').touch(); time.sleep(60)"
    holder = programs.start(["-c", hold, str(out)], tmp_path)
    trainer = make_trainer(tmp_path, callbacks=[Results(str(out), report=False)])
    start = partial(getattr(trainer, stage), make_module(), datamodule=make_data())
    try:
        wait_for((tmp_path / "held").exists)
        message = rf"another run is writing to {out}: process {holder.pid} on .*another results.folder"
        for _ in range(2):
            with pytest.raises(FolderInUseError, match=message):
                start()
        assert [path.name for path in out.iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.wait()
    start()
    assert not (out / ".lock").exists()


def test_a_lock_ends_with_its_run_and_is_not_inherited(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
        second.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        first.release()
        second.acquire()  # though the child, like a loader's worker, lives on
        second.release()
        second.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(95, "Operation not supported")))
    with pytest.warns(UserWarning, match="cannot be locked"):
        run(tmp_path / "out")
    assert read_summary(tmp_path / "out")["complete"] is True


def test_after_an_error_the_folder_is_unlocked_and_the_trainer_as_before(tmp_path: Path) -> None:
    data, results = make_data(), Results(str(tmp_path / "out"), panels=0, report=False)
    trainer = make_trainer(tmp_path, callbacks=[Stop(1), results], limit_test_batches=3)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.test(make_module(), datamodule=data)
    assert trainer.limit_test_batches == 3 and len(data.test_dataloader()[0]) == 4
    assert not (tmp_path / "out" / ".lock").exists()


def test_results_without_a_manifest_are_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "records.jsonl").write_text('{"domain": "near", "name": "near_0"}\n')
    (out / "results.json").write_text('{"complete": true}\n')
    stop = Stop()
    run(out, stop)
    assert len(stop.names) == 9 and (out / "records.1.jsonl").exists() and (out / "results.1.json").exists()
    (out / "run.json").write_text("no manifest")
    run(out)
    assert (out / "run.2.json").read_text() == "no manifest" and (out / "records.2.jsonl").exists()


def test_overwriting_begins_anew_and_loses_nothing(tmp_path: Path) -> None:
    out, panels = tmp_path / "out", {"panels": 1}
    run(out, IaBN(0.1), results=panels)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    panel = (out / "panels" / "near" / "near_0.png").read_bytes()
    stop = Stop()
    run(out, IaBN(0.9), stop, results=panels | {"overwrite": True})
    assert len(stop.names) == 9 and read_summary(out)["method"]["alpha"] == 0.9
    for name, data in before.items():
        stem, suffix = name.rsplit(".", 1)
        assert (out / f"{stem}.1.{suffix}").read_bytes() == data
    assert (out / "panels.1" / "near" / "near_0.png").read_bytes() == panel
    assert (out / "panels" / "near" / "near_0.png").read_bytes() != panel


def test_files_that_settings_name_count_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "member.ckpt"
    path.write_bytes(b"weights")
    settings = {"name": "Ensemble", "checkpoints": [str(path), str(tmp_path / "nowhere")], "alpha": 0.1}
    before = fingerprint_files(settings)
    assert list(before) == [str(path)]
    path.write_bytes(b"others")
    assert fingerprint_files(settings) != before and fingerprint_files(None) == {}


def test_a_search_with_another_grid_is_another_run(tmp_path: Path) -> None:
    stop_run(tmp_path / "out", AlphaSearch([0.0, 0.5]), at=2, stage="validate")
    with pytest.raises(ValueError, match=r"search\.grid\.alpha was \[0\.0, 0\.5\], is now \[0\.0, 0\.6\]"):
        run(tmp_path / "out", AlphaSearch([0.0, 0.6]), stage="validate")


def test_arguments_that_earlier_revisions_lacked_are_no_difference_at_their_default() -> None:
    earlier = {"name": "TTA", "alpha": 0.1}
    for refine, expected in ((0, []), (3, ["method.refine was 0, is now 3"])):
        now = {**earlier, "autocontrast": False, "refine": refine}
        assert find_differences({"method": earlier}, {"method": now}) == expected
