"""The check of a GPU: it runs with little installed, goes on after a failure, and loses nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check import correctness
from experiments.gpu_check.__main__ import CHECKS, check_gpu
from experiments.gpu_check.correctness import copy_state, is_unchanged, share_equal
from experiments.gpu_check.runner import Check, Report, Row, Setup
from tests.tiny import ROOT

# What a lent machine need not have. (PyYAML is there: Lightning itself loads it.)
ABSENT = "albumentations cv2 jsonargparse wandb timm scipy matplotlib jinja2 optuna segmentation_models_pytorch"
WITHOUT = f"""
import importlib.metadata, runpy, sys
ABSENT = set({ABSENT.split()!r})
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
look_up = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name.lower().replace("-", "_") in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return look_up(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
runpy.run_module("experiments.gpu_check", run_name="__main__", alter_sys=True)
"""
# The last three are the code of those of the other backbone again.
LONG = {"processes", "r50-compile", "r101-bf16", "r101-float32", "r101-compile"}
SETUP = Setup(torch.device("cpu"), tiny=True)
METHODS = {"plain", "IaBN", "IaBN refined", "TTA", "TTA autocontrast", "SegTTT", "SegTTT released", "Tent"}


def read(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))["steps"]


def states(folder: Path) -> dict[str, str]:
    return {step["name"]: step["state"] for step in read(folder)}


def run(folder: Path, *more: str) -> int:
    return check_gpu(["--device", "cpu", "--tiny", "--folder", str(folder), *more])


def run_checks(folder: Path, seconds: float = 60, **runs: Callable[[Setup], Iterator[Row]]) -> Report:
    """Runs checks of at most a second; those whose names begin with t are timings."""
    report = Report(folder, {"device": "cpu"})
    checks = [Check(name, run, 1.2, None if name.startswith("t") else "it") for name, run in runs.items()]
    report.run_all(checks, SETUP, seconds)
    return report


def make_check(then: Callable[[], Any] = list, **row: Any) -> Callable[[Setup], Iterator[Row]]:
    """Makes a check that yields a row, and then does something."""

    def check(setup: Setup) -> Iterator[Row]:
        yield row
        then()

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [[check.name for check in CHECKS if check.name not in LONG], ["processes", "r50-compile"]]
)
def test_every_step_runs_on_a_cpu_with_little_installed(steps: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "--device", "cpu", "--tiny", "--folder", str(tmp_path), "--only", *steps]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == dict.fromkeys(steps, "ok")
    assert "All checks passed." in result.stdout
    if "methods" in steps:
        page = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
        assert "## methods" in page and "| SegTTT released | bf16-mixed |" in page
        found = {row["method"] for step in read(tmp_path) if step["name"] == "methods" for row in step["rows"]}
        assert found == METHODS | {"Ensemble", "MCDropout"}


def test_a_check_that_raises_is_recorded_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fail = Mock(side_effect=ValueError("one | two"))
    failing, differing = make_check(fail, value=1.0, ok=True), make_check(value=3.0, ok=False)
    report = run_checks(tmp_path, a=failing, b=make_check(value=2.0), c=differing, t=failing)
    assert states(tmp_path) == {"a": "FAILED", "b": "ok", "c": "FAILED", "t": "FAILED"}
    assert report.list_checks("FAILED") == ["a", "c"]
    first = read(tmp_path)[0]
    assert first["error"] == "ValueError: one | two" and "then()" in first["traceback"]
    assert first["rows"] == [{"value": 1.0, "ok": True}]
    assert r"ValueError: one \| two" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert "WRONG: value 3" in capsys.readouterr().out


def test_a_row_is_in_the_file_before_the_next_is_measured_and_when_the_process_is_stopped(tmp_path: Path) -> None:
    def look() -> None:
        (step,) = read(tmp_path)
        assert step["rows"] == [{"value": 1.0}] and step["state"] == "running"

    stop = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_checks(tmp_path, a=make_check(look, value=1.0), b=make_check(stop, value=4.0), c=make_check())
    first, second = read(tmp_path)
    assert (first["state"], second["state"]) == ("ok", "FAILED")
    assert second["rows"] == [{"value": 4.0}] and second["error"] == "KeyboardInterrupt"


def test_a_check_ends_at_its_limit_and_later_ones_at_that_of_all(tmp_path: Path) -> None:
    run_checks(tmp_path, 4.0, a=make_check(lambda: time.sleep(60), value=5.0), b=make_check())
    assert states(tmp_path) == {"a": "out of time", "b": "not run"}
    first, second = read(tmp_path)
    assert first["rows"] == [{"value": 5.0}] and second["error"] == "out of time"


def test_what_failed_or_was_not_run_is_named_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--only", "norm") == 0
    monkeypatch.setitem(correctness.NORM_ERRORS, torch.float32, 0.0)
    assert run(tmp_path, "--only", "norm", "waits") == 1
    assert states(tmp_path) == {"norm": "FAILED", "waits": "ok"}
    with pytest.raises(SystemExit):
        run(tmp_path, "--only", "nonsense")
    checks = [Check("a", make_check(), 5, "it"), Check("b", make_check(), 5, "it"), Check("t", make_check(), 5)]
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    capsys.readouterr()
    for names, named in (("abt", "a, b"), ("b", "b"), ("t", "")):  # t is a timing
        assert run(tmp_path, "--minutes", "0", "--only", *names) == (1 if named else 0)
        assert states(tmp_path) == dict.fromkeys(names, "not run")
        printed = capsys.readouterr().out
        assert (f"NOT RUN for lack of time (raise --minutes): {named}\n" in printed) == bool(named)
        assert ("passed" in printed) == (not named)


def test_a_map_of_one_pixel_lies_in_the_layout_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Mock(side_effect=correctness.differentiate)
    monkeypatch.setattr(correctness, "differentiate", spy)
    correctness.measure_norm_errors(SETUP.device, torch.float32, torch.channels_last, (1, 64, 1, 1), False)
    assert spy.call_args.args[1].stride() == (64, 1, 64, 64)


def test_a_gradient_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_statistics(x, mean, var, weight, bias, alpha, eps, pooled):
        output = correctness.normalise_features(x, mean, var, weight, bias, alpha, eps).detach()
        return output + 0 * x + 0 * weight[:, None, None] + 0 * bias[:, None, None]

    monkeypatch.setattr(correctness.blended_norm, "normalize_blended", forget_statistics)
    rows = list(correctness.check_norm(SETUP))
    assert not any(row["ok"] for row in rows)
    assert rows[0]["output"] < 1e-5 and rows[0]["gradient"] > 0.9


def test_comparisons() -> None:
    reference = torch.tensor([0.9, 0.1, 0.51, 0.2]).view(1, 1, 2, 2)
    reference = torch.cat([reference, 1 - reference], dim=1)
    other = reference.clone()
    other[0, :, 1, 0] = torch.tensor([0.0, 1.0])  # the one pixel that is nearly tied
    for compared, share in ((1 - reference, 0), (reference, 1), (other, 1)):
        assert share_equal(compared, reference) == share
    network = torch.nn.BatchNorm2d(2)
    before = copy_state(network)
    assert is_unchanged(network, before) and not is_unchanged(network.eval(), before)
