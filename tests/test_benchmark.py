"""The benchmark: its plain loop does what our methods do, its counts are right, and nothing measured is lost."""

import csv
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.iabn import IaBN
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT, select_parameters
from callbacks.tta import TTA
from experiments.benchmark import cost
from experiments.benchmark import run as benchmark
from experiments.benchmark.cases import Case, draw_image, list_trainable, make_network
from experiments.benchmark.plain_loop import PlainLoop, PlainSettings
from experiments.benchmark.rows import COLUMNS
from experiments.benchmark.run import Benchmark, run_benchmark
from lightning_modules.predictor import predict_plainly
from main import main
from tests.fakes import NormAct2d, Snapshot, TinyNetwork
from tests.tiny import DATA, EXPERIMENT, QUIET, arguments

SCALES = (0.25, 0.5, 0.75)
TRAINABLE = ("layer4", "head")


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MATRIX_SIZES", {"cpu": 128, "cuda": 1024})


@pytest.fixture
def sample() -> tuple[np.ndarray, Tensor]:
    return draw_image((64, 128))


def quick(folder: Path, *more: str) -> list[str]:
    return ["--quick", "--device=cpu", "--repeats=1", f"--folder={folder}", "--precision", "32-true", *more]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "benchmark.json").read_text())


# The plain loop.


def compare(method: Method | None, settings: PlainSettings, sample: tuple[np.ndarray, Tensor], folder: Path) -> Tensor:
    """Asserts that ours and the plain loop predict the same; returns the prediction."""
    network = TinyNetwork()
    before = Snapshot(network)
    loop = PlainLoop(network, folder / "checkpoint.pt", settings)
    plain = loop.predict(*sample)
    ours = predict_plainly(network, sample[1]) if method is None else method.predict(network, sample[1])
    assert (ours - plain).abs().max() < 1e-4
    assert (ours.argmax(dim=1) == plain.argmax(dim=1)).float().mean() >= 0.999
    assert ours.argmax(dim=1).unique().numel() > 1
    assert torch.equal(plain, loop.predict(*sample))  # no image depends on the one before
    before.check(network)
    return ours


def test_plain_loop_predicts_plainly(sample: tuple[np.ndarray, Tensor], tmp_path: Path) -> None:
    compare(None, PlainSettings(), sample, tmp_path)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_plain_loop_is_iabn(alpha: float, sample: tuple[np.ndarray, Tensor], tmp_path: Path) -> None:
    compare(IaBN(alpha), PlainSettings(alpha), sample, tmp_path)


def test_plain_loop_is_tta(sample: tuple[np.ndarray, Tensor], tmp_path: Path) -> None:
    method = TTA(0.1, SCALES, resampling="pillow")
    compare(method, PlainSettings(0.1, SCALES), sample, tmp_path)


@pytest.mark.parametrize("trainable", [TRAINABLE, ("head",), ("layer3", "layer4", "head")])
def test_plain_loop_is_seg_ttt(trainable: tuple[str, ...], sample: tuple[np.ndarray, Tensor], tmp_path: Path) -> None:
    moving = select_parameters(TinyNetwork(), trainable)
    settings = {"psi": 0.9, "lr": 0.02}

    def run(steps: int) -> Tensor:
        method = SegTTT(
            0.1, num_steps=steps, trainable=trainable, scales=SCALES, semantics="paper", resampling="pillow", **settings
        )
        return compare(method, PlainSettings(0.1, SCALES, steps=steps, moving=moving, **settings), sample, tmp_path)

    assert (run(5) - run(1)).abs().max() > 0.01  # the steps do something, and still both agree


def test_plain_loop_without_confident_pixels_takes_no_step(sample: tuple[np.ndarray, Tensor], tmp_path: Path) -> None:
    network = TinyNetwork()
    loop = PlainLoop(network, tmp_path / "checkpoint.pt", PlainSettings(0.1, SCALES, psi=2.0, steps=3))
    method = IaBN(0.1)
    assert (loop.predict(*sample) - method.predict(network, sample[1])).abs().max() < 1e-5


@pytest.mark.parametrize(("norm", "message"), [(NormAct2d, "NormAct2d"), (None, "has no BatchNorm")])
def test_plain_loop_refuses_what_it_does_not_know(norm: type | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PlainLoop(TinyNetwork(norm=norm), tmp_path / "checkpoint.pt", PlainSettings(0.1))


# Counts.


def test_operations_equal_a_count_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval()
    image = torch.randn(1, 3, 64, 128)

    def forward(height: int, width: int) -> int:
        return 2 * height * width * 4 * 3 * 9

    assert cost.count_flops(lambda: predict_plainly(network, image))[0] == forward(64, 128)
    views = 2 * (forward(16, 32) + forward(32, 64) + forward(48, 96))
    assert cost.count_flops(lambda: TTA(0.0, SCALES).predict(network, image))[0] == views
    method = SegTTT(0.0, num_steps=3, trainable=["0"], scales=SCALES)
    step = 2 * forward(64, 128)  # forward and the gradient of the weights; the image has none
    total, stages = cost.count_flops(lambda: method.predict(network, image))
    assert total == views + 3 * step + forward(64, 128)
    assert stages["step"] == 3 * step and stages["final"] == forward(64, 128)
    assert method.adaptations[0].steps == 3


def touch_fresh_pages(megabytes: int) -> None:
    """Takes memory from the system; a tensor may get what earlier tests gave back to malloc, which counts already."""
    with mmap.mmap(-1, megabytes * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1


def test_peak_memory_sees_an_allocation() -> None:
    device = torch.device("cpu")
    before = cost.measure_peak(lambda: None, device)
    if before is None:
        pytest.skip("this system does not tell the peak memory of a process")
    found = cost.measure_peak(lambda: touch_fresh_pages(100), device)
    assert found is not None and 90 < found - before < 130
    again = cost.measure_peak(lambda: None, device)
    assert again is not None and again - before < 30


@pytest.mark.cuda
def test_peak_memory_sees_an_allocation_on_a_gpu() -> None:
    device = torch.device("cuda")
    before = cost.measure_peak(lambda: None, device)
    found = cost.measure_peak(lambda: torch.ones(100 * 2**18, device=device), device)
    assert before is not None and found is not None and 99 <= found - before <= 103


def test_peak_memory_is_unknown_where_the_system_has_no_such_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cost, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    called = []
    assert cost.measure_peak(lambda: called.append(1), torch.device("cpu")) is None
    assert called == [1]


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls: list[Callable[[], None]] = [lambda: order.append("ours"), lambda: order.append("plain")]
    results = cost.time_by_turns(calls, 3, torch.device("cpu"))
    assert order == ["ours", "plain", "plain", "ours", "ours", "plain"]
    assert [len(times) for times, _ in results] == [3, 3]


def test_stages_are_medians_of_each_run() -> None:
    runs = [{"views": [1.0], "step": [10.0, 20.0]}, {"views": [3.0], "step": [30.0, 40.0]}, {"step": [11.0, 21.0]}]
    assert cost.average_stages(runs)["step"] == [11.0, 21.0]


def test_spread_is_the_interquartile_range() -> None:
    assert cost.find_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 2.0
    assert cost.find_spread([1.0]) == 0.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert cost.is_out_of_memory(error) is expected


# Rows.


@pytest.mark.slow
def test_rows_have_every_key(tmp_path: Path) -> None:
    rows = run_benchmark(quick(tmp_path, "bf16-mixed", "--trainable", "head", "--sizes", "32x64"))
    assert [(row["method"], row["precision"], row["trainable"]) for row in rows] == [
        (method, precision, trainable)
        for method, trainable in [
            ("t-BN", None), ("IaBN", None), ("TTA", None), ("Seg-TTT", "head"),
        ]
        for precision in ("32-true", "bf16-mixed")
    ]  # fmt: skip
    for row in rows:
        assert tuple(row) == COLUMNS
        assert (row["height"], row["width"], row["device"], row["note"]) == (32, 64, "cpu", "")
        assert row["ms"] > 0 and row["tflop"] > 0 and row["fraction_of_measured_rate"] > 0
        assert row["ratio"] == row["ms_plain_loop"] / row["ms"]
        assert row["precision"] != "32-true" or row["agreement"] >= 0.999
        assert row["method"] != "Seg-TTT" or row["steps_fraction"] > 0
        assert row["agreement"] > 0.7 and row["largest_difference"] < 0.3
    assert json.loads(json.dumps(rows)) == read_rows(tmp_path)
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [float(row["ms"]) for row in written] == [row["ms"] for row in rows]
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["torch"] == torch.__version__
    assert set(machine["rate_tflop_per_s"]) == {"32-true", "bf16-mixed"}


@pytest.mark.cuda
def test_rows_on_a_gpu(tmp_path: Path) -> None:
    args = ["--quick", "--device=cuda", f"--folder={tmp_path}", "--precision", "32-true", "bf16-mixed", "16-mixed"]
    for row in run_benchmark(args):
        assert row["note"] == "" and row["peak_mb"] > 0
        assert row["ms"] > 0 and row["ratio"] > 0


def test_without_the_plain_loop(tmp_path: Path) -> None:
    (row,) = run_benchmark(quick(tmp_path, "--methods", "t-BN", "--plain=false"))
    assert row["ms"] > 0
    assert row["ratio"] is row["ms_plain_loop"] is row["agreement"] is None


@pytest.mark.slow
def test_earlier_rows_are_kept(tmp_path: Path) -> None:
    for _ in range(3):
        run_benchmark(quick(tmp_path, "--methods", "t-BN", "--plain=false"))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"benchmark.json", "benchmark.1.json", "benchmark.2.json", "machine.2.json"} <= names


def test_interrupted_run_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Benchmark.measure

    def interrupt(self: Benchmark, case: Case, subject: Any) -> dict[str, Any]:
        if case.method == "TTA":
            raise KeyboardInterrupt
        return measure(self, case, subject)

    monkeypatch.setattr(Benchmark, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(quick(tmp_path, "--plain=false"))
    assert [row["method"] for row in read_rows(tmp_path)] == ["t-BN", "IaBN"]


def test_out_of_memory_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(self: TTA, network: nn.Module, image: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    monkeypatch.setattr(TTA, "predict", run_out)
    rows = run_benchmark(quick(tmp_path, "--methods", "TTA", "Seg-TTT", "--trainable", "head"))
    assert [row["method"] for row in rows] == ["TTA", "Seg-TTT"]
    assert rows[0]["note"] == "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB."
    assert rows[0]["ms"] is None and rows[1]["ms"] > 0 and rows[1]["note"] == ""


def test_plain_loop_out_of_memory_leaves_our_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(self: PlainLoop, pixels: np.ndarray, image: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PlainLoop, "predict", run_out)
    (row,) = run_benchmark(quick(tmp_path, "--methods", "IaBN"))
    assert row["ms"] > 0 and row["ratio"] is None
    assert row["note"] == "plain loop: out of memory: CUDA out of memory."


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TTA, network: nn.Module, image: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(TTA, "predict", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_benchmark(quick(tmp_path, "--methods", "TTA"))


def test_differing_labels_end_the_run_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LEAST_AGREEMENT", 1.1)
    with pytest.raises(ValueError, match="2 rows in float32 differ"):
        run_benchmark(quick(tmp_path, "--methods", "t-BN", "IaBN"))
    assert all("DIFFERS" in row["note"] for row in read_rows(tmp_path))


def test_network_that_the_method_does_not_suit_becomes_a_note(tmp_path: Path) -> None:
    (row,) = run_benchmark(quick(tmp_path, "--methods", "Seg-TTT", "--trainable", "decoder"))
    assert row["ms"] is None and "['decoder'] match no parameter" in row["note"]


def test_compiler_that_fails_becomes_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(self: nn.Module, mode: str) -> None:
        def fail(*inputs: Any) -> None:
            raise NotImplementedError(f"no compiler for {mode}")

        self._compiled_call_impl = fail

    monkeypatch.setattr(nn.Module, "compile", compile)
    (row,) = run_benchmark(quick(tmp_path, "--methods", "t-BN", "--compile=reduce-overhead"))
    assert row["ms"] > 0 and row["compile"] == "none"
    assert row["note"] == "not compiled: no compiler for reduce-overhead"


def test_choices_that_name_the_same_modules_are_one(tmp_path: Path) -> None:
    options = benchmark.parse_arguments(quick(tmp_path))
    network = TinyNetwork()
    assert list_trainable(network, options) == [("layer3", "layer4", "head"), ("layer4", "head"), ("head",)]
    network.adapted_layers = ("layer4", "head")  # as the network with ResNet-101
    assert list_trainable(network, options) == [("layer4", "head"), ("head",)]


def test_unknown_network_is_a_clear_error() -> None:
    with pytest.raises(FileNotFoundError, match="expected one of deeplabv1_resnet101, "):
        make_network("deeplab")


@pytest.mark.parametrize("args", [["--sizes", "1024"], ["--accuracy", "a.ckpt"], ["--methods", "Tent"]])
def test_wrong_arguments_are_refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_benchmark(args)
    assert "error: " in capsys.readouterr().err


def test_profile_writes_table_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_benchmark(quick(tmp_path, "--profile")) == []
    name = "profile_deeplabv1_resnet10_small_64x128_cpu_32-true"
    table = (tmp_path / f"{name}.txt").read_text()
    assert "conv" in table and table in capsys.readouterr().out
    assert (tmp_path / f"{name}.trace.json.gz").stat().st_size > 0


@pytest.mark.slow
def test_accuracy_is_drawn_against_time(tmp_path: Path) -> None:
    main(["fit", *arguments(tmp_path, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    args = quick(tmp_path / "figure", f"--accuracy={checkpoint}", f"--config={EXPERIMENT}")
    args += ["--methods", "t-BN", "Seg-TTT", "--steps", "1", "--trainable", "head"]
    args += ["--scales", "0.5", "1", "--", *DATA, *QUIET, "--data.num_test=1"]
    points = run_benchmark(args)
    assert [(point["method"], point["steps"], point["trainable"]) for point in points] == [
        ("t-BN", None, None),
        ("Seg-TTT", 1, "head"),
    ]
    assert all(point["ms"] > 0 and list(point["domains"]) == ["haze", "dusk", "dust"] for point in points)
    assert json.loads((tmp_path / "figure" / "accuracy.json").read_text()) == points
    assert all((tmp_path / "figure" / f"accuracy.{suffix}").stat().st_size > 0 for suffix in ("png", "svg"))


@pytest.mark.slow
def test_the_table_is_written_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n", encoding="utf-8")
    arguments = [
        "--quick",
        "--methods",
        "t-BN",
        "Seg-TTT",
        "--trainable",
        "head",
        "--precision",
        "32-true",
        "--plain",
        "false",
    ]
    run_benchmark([*arguments, f"--folder={tmp_path}", f"--write={page}"])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| deeplabv1_resnet10_small | 64x128 | 32-true | t-BN |  |  | " in text and "Measured on 20" in text
    assert "| Seg-TTT | 1 | head | " in text
