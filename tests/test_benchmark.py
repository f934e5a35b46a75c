"""The benchmark: its plain loop does what our methods do, its counts are right, and nothing measured is lost."""

import csv
import json
import mmap
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from callbacks.tta import TTA
from experiments.benchmark import cost, measure, subject
from experiments.benchmark.__main__ import format_benchmark, run_benchmark
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.measure import ALPHA, COLUMNS, METHODS, SCALES, list_cases, make_call, make_method
from experiments.benchmark.plain_loop import PlainLoop, normalise
from experiments.benchmark.subject import Subject, draw_image
from tests.fakes import NormAct2d, TinyNetwork, unchanged

CPU = torch.device("cpu")
PIXELS = draw_image(64, 128)
SAMPLE = PIXELS, normalise(PIXELS)
VIEWS = {"alpha": ALPHA, "scales": SCALES}
STEPS = {**VIEWS, "psi": 0.9, "lr": 0.02, "num_steps": 5}


def make_subject(network: nn.Module) -> Subject:
    return Subject("tiny", network, *SAMPLE, lr=0.02)


def quick(folder: Path, *more: str) -> list[dict[str, Any]]:
    common = ["--quick", "--device=cpu", "--repeats=1", f"--folder={folder}", "--precision", "32-true"]
    return run_benchmark([*common, *more])


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "benchmark.json").read_text())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("t-BN", {}),
        ("IaBN", {"alpha": ALPHA}),
        ("IaBN", {"alpha": 1.0}),
        ("TTA", VIEWS),
        ("Seg-TTT", {**STEPS, "trainable": ["layer4", "head"]}),
        ("Seg-TTT", {**STEPS, "trainable": ["head"]}),
    ],
)
def test_plain_loop_predicts_as_ours(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    network = TinyNetwork()
    loop = PlainLoop(network, tmp_path / "checkpoint.pt", **settings)
    method = make_method(name, {**settings, "resampling": "pillow"} if "scales" in settings else settings)
    with unchanged(network):
        plain, ours = loop.predict(*SAMPLE), make_call(method, make_subject(network), "32-true")()
    assert (ours - plain).abs().max() < 1e-4
    assert (ours.argmax(dim=1) == plain.argmax(dim=1)).float().mean() >= 0.999
    assert torch.equal(plain, loop.predict(*SAMPLE))  # no image depends on the one before
    if name == "Seg-TTT":  # the steps do something
        still = PlainLoop(network, tmp_path / "still.pt", ALPHA).predict(*SAMPLE)
        assert (plain - still).abs().max() > 0.01
        unsure = PlainLoop(network, tmp_path / "unsure.pt", **{**settings, "psi": 2.0})
        assert torch.equal(unsure.predict(*SAMPLE), still)  # without confident pixels no step is taken


@pytest.mark.parametrize(("norm", "message"), [(NormAct2d, "NormAct2d"), (None, "has no BatchNorm")])
def test_plain_loop_refuses_what_it_does_not_know(norm: type | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PlainLoop(TinyNetwork(norm=norm), tmp_path / "checkpoint.pt", ALPHA)


def test_operations_equal_a_count_by_hand() -> None:
    subject = make_subject(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval())

    def forward(height: int, width: int) -> int:
        return 2 * height * width * 4 * 3 * 9

    options = parse_arguments(["--steps", "3", "--trainable", "0", "--methods", "t-BN", "TTA", "Seg-TTT"])
    calls = [make_call(make_method(*case), subject, "32-true") for case in list_cases(subject, options)]
    views = 2 * (forward(16, 32) + forward(32, 64) + forward(48, 96))
    steps = 3 * 2 * forward(64, 128)  # forward and the gradient of the weights; the image has none
    *others, (total, stages) = map(cost.count_flops, calls)
    assert [each for each, _ in others] == [forward(64, 128), views] and total == views + steps + forward(64, 128)
    assert stages["step"] == steps and stages["final"] == forward(64, 128)
    with cost.timing_stages(CPU) as runs:
        cost.time_by_turns([calls[-1]], 2)
    assert len(runs["step"]) == 2 * 3 and all(each.milliseconds() > 0 for each in runs["step"])


def take_memory(device: torch.device, megabytes: int = 100) -> None:
    """Takes memory from the system; a tensor may get what earlier tests gave back to malloc, which counts already."""
    if device.type == "cuda":
        torch.ones(megabytes * 2**18, device=device)
        return
    with mmap.mmap(-1, megabytes * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1


@pytest.mark.parametrize(
    ("name", "least", "most"), [("cpu", 90, 130), pytest.param("cuda", 99, 103, marks=pytest.mark.cuda)]
)
def test_peak_memory(name: str, least: float, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device(name)
    _, before = cost.measure_peak(lambda: None, device)
    if before is None:
        pytest.skip("this system does not tell the peak memory of a process")
    found, again = (cost.measure_peak(call, device)[1] for call in (lambda: take_memory(device), lambda: None))
    assert found is not None and least <= found - before <= most
    assert again is not None and again - before < 30
    monkeypatch.setattr(cost, "PROCESS", tmp_path / "none")
    assert cost.measure_peak(lambda: "called", CPU) == ("called", None)  # where the system does not tell


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = cost.time_by_turns([lambda: order.append("ours"), lambda: order.append("plain")], 3)
    assert order == ["ours", "plain", "plain", "ours", "ours", "plain"]
    assert [len(each.times) for each in times] == [3, 3]


@pytest.mark.slow
def test_rows_have_every_key(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n", encoding="utf-8")
    rows = quick(tmp_path, "bf16-mixed", "--trainable", "head", "--sizes", "32x64", f"--write={page}")
    assert [(row["method"], row["precision"]) for row in rows] == list(product(METHODS, ("32-true", "bf16-mixed")))
    for row in rows:
        assert tuple(row) == COLUMNS
        assert (row["height"], row["width"], row["device"], row["note"]) == (32, 64, "cpu", "")
        assert row["method"] != "Seg-TTT" or (row["steps_fraction"] > 0 and len(row["stages"]["step"]) == row["steps"])
        assert row["ms"] > 0 and row["tflop"] > 0 and row["fraction_of_measured_rate"] > 0
        assert row["ratio"] == row["ms_plain_loop"] / row["ms"]
        assert row["agreement"] >= (0.999 if row["precision"] == "32-true" else 0.7)
        assert row["largest_difference"] < 0.3
        assert row["trainable"] == ("head" if row["method"] == "Seg-TTT" else None)
    assert json.loads(json.dumps(rows)) == read_rows(tmp_path)
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        assert [float(row["ms"]) for row in csv.DictReader(file)] == [row["ms"] for row in rows]
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["torch"] == torch.__version__ and set(machine["rate_tflop_per_s"]) == {"32-true", "bf16-mixed"}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| deeplabv1_resnet10_small | 32x64 | 32-true | t-BN |  |  | " in text and "Measured on 20" in text
    assert "| Seg-TTT | 1 | head | " in text


@pytest.mark.cuda
def test_rows_on_a_gpu(tmp_path: Path) -> None:
    args = ["--quick", "--device=cuda", f"--folder={tmp_path}", "--precision", "32-true", "bf16-mixed", "16-mixed"]
    for row in run_benchmark(args):
        assert row["note"] == "" and row["peak_mb"] > 0 and row["ms"] > 0 and row["ratio"] > 0


def test_earlier_rows_are_kept_and_the_plain_loop_can_be_left_out(tmp_path: Path) -> None:
    for _ in range(3):
        (row,) = quick(tmp_path, "--methods", "t-BN", "--plain=false")
    assert row["ms"] > 0 and row["ratio"] is row["ms_plain_loop"] is row["agreement"] is None
    names = {path.name for path in tmp_path.iterdir()}
    assert {"benchmark.json", "benchmark.1.json", "benchmark.2.json", "machine.2.json"} <= names


@pytest.mark.parametrize(
    ("error", "where", "note"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. 2 GiB.\nmore"), TTA, "out of memory: CUDA out of memory. 2 GiB."),
        (RuntimeError("DefaultCPUAllocator: 9 bytes"), TTA, "out of memory: DefaultCPUAllocator: 9 bytes"),
        (MemoryError(), TTA, "out of memory: MemoryError"),
        (torch.OutOfMemoryError("CUDA."), PlainLoop, "plain loop: out of memory: CUDA."),
        (KeyboardInterrupt(), TTA, None),
        (RuntimeError("shapes differ"), TTA, None),
    ],
)
def test_out_of_memory_becomes_a_note_and_other_errors_keep_the_rows_before(
    error: BaseException, where: type, note: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "predict", Mock(side_effect=error))
    words = [f"--plain={where is PlainLoop}".lower(), "--methods"]
    if note is None:
        with pytest.raises(type(error)):
            quick(tmp_path, *words, "t-BN", "IaBN", "TTA", "Seg-TTT")
        assert [row["method"] for row in read_rows(tmp_path)] == ["t-BN", "IaBN"]
    else:
        full, other = quick(tmp_path, *words, "TTA", "t-BN")
        assert full["note"] == note and full["ratio"] is None
        assert (full["ms"] is None) == (where is TTA) and other["ms"] > 0


def test_differing_labels_end_the_run_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LEAST_AGREEMENT", 1.1)
    with pytest.raises(ValueError, match="2 rows in float32 differ"):
        quick(tmp_path, "--methods", "t-BN", "IaBN")
    assert all("DIFFERS" in row["note"] for row in read_rows(tmp_path))


def test_times_of_a_cpu_are_not_named_after_the_gpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    assert "a GPU" not in format_benchmark([], cost.describe_device(CPU) | {"rate_tflop_per_s": {}})


def test_networks_without_arguments_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text("network:\n  class_path: tests.fakes.TinyNetwork\n", encoding="utf-8")
    monkeypatch.setattr(subject, "CONFIGS", tmp_path)
    assert isinstance(subject.make_network("own"), TinyNetwork)


def test_choices_that_name_the_same_modules_are_one() -> None:
    network, options = TinyNetwork(), parse_arguments(["--methods", "Seg-TTT", "--steps", "1"])
    for own in (("layer3", "layer4", "head"), ("layer4", "head")):  # the latter as the network with ResNet-101
        network.adapted_layers = own
        chosen = [settings["trainable"] for _, settings in list_cases(make_subject(network), options)]
        assert chosen == [list(own), *([["layer4", "head"]] if "layer3" in own else []), ["head"]]


def test_what_cannot_be_measured_is_refused_or_becomes_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"--sizes 1024": "not a size", "--methods Tent": "invalid choice"}
    for words, error in (wrong | {"--networks deeplab": "expected one of deeplabv1_resnet101, "}).items():
        with pytest.raises((SystemExit, FileNotFoundError)) as caught:
            quick(tmp_path, *words.split())
        assert error in f"{caught.value}{capsys.readouterr().err}"
    (row,) = quick(tmp_path, "--methods", "Seg-TTT", "--trainable", "decoder")
    assert row["ms"] is None and "['decoder'] match no parameter" in row["note"] and row["stages"] == {}
    fail = Mock(side_effect=NotImplementedError("no compiler for reduce-overhead"))
    monkeypatch.setattr(torch, "compile", Mock(return_value=fail))
    with pytest.warns(UserWarning, match="no compiler for reduce-overhead"):
        (row,) = quick(tmp_path, "--methods", "t-BN", "--compile=reduce-overhead")
    assert row["ms"] > 0 and row["compile"] == "none" and row["note"].startswith("not compiled")
