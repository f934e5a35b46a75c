"""Measures the time, memory and operations of a call, and how fast the machine multiplies matrices."""

import gc
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils import collect_env
from torch.utils.benchmark import Measurement, TaskSpec, timer
from torch.utils.flop_counter import FlopCounterMode

from callbacks.run.records import find_commit
from callbacks.stages import observing
from lightning_modules.predictor import Stopwatch

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MATRIX_SIZES = {"cuda": 8192, "cpu": 2048}  # large enough for the full rate
TINY_MATRIX = 128
RATE_TURNS = 11
PROCESS = Path("/proc/self")

Call = Callable[[], Any]


def choose_device(kind: str) -> str:
    """Returns ``cuda`` or ``cpu`` for ``auto``, and any other kind as it is."""
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return kind


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Returns the context in which Lightning runs a step at this precision: autocast, or none for ``32-true``."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "32-true")


def time_call(call: Call) -> float:
    """Returns the wall-clock seconds of a call, until the device has finished it."""
    start = timer()  # torch's timer, which waits for the device
    call()
    return timer() - start


def time_by_turns(calls: Sequence[Call], repeats: int) -> list[Measurement]:
    """Times calls that are warmed up in alternation, so that other load on the machine affects all of them alike.

    The order is reversed every other turn.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    gc.collect()
    for turn in range(repeats):
        numbers = range(len(calls))
        for number in numbers if turn % 2 == 0 else reversed(numbers):
            seconds[number].append(time_call(calls[number]))
    return [Measurement(1, times, TaskSpec("call()", "")) for times in seconds]


@contextmanager
def timing_stages(device: torch.device) -> Iterator[dict[str, list[Stopwatch]]]:
    """Yields a dict that collects, by name, a stopwatch for every run of a stage (see `callbacks.stages`)."""
    runs: dict[str, list[Stopwatch]] = {}

    def observe(name: str) -> Stopwatch:
        runs.setdefault(name, []).append(Stopwatch(device))
        return runs[name][-1]

    with observing(observe):
        yield runs


def count_flops(call: Call) -> tuple[int, dict[str, int]]:
    """Counts the floating-point operations of a call's matrix products and convolutions: in total, and by stage."""
    stages: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:

        @contextmanager
        def observe(name: str) -> Iterator[None]:
            before = counter.get_total_flops()
            yield
            stages[name] = stages.get(name, 0) + counter.get_total_flops() - before

        with observing(observe):
            call()
    return counter.get_total_flops(), stages


def measure_peak(call: Call, device: torch.device) -> tuple[Any, float | None]:
    """Returns the result of a call, and the peak memory during it in MB (2^20 bytes).

    On a GPU, that of torch's tensors, weights included; on a CPU, that of the whole process, or None where the system
    does not report it.
    """
    free_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return call(), torch.cuda.max_memory_allocated(device) / 2**20
    try:
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets the peak to the current memory
    except OSError:
        return call(), None
    result, status = call(), (PROCESS / "status").read_text(encoding="ascii")
    return result, int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024


def free_memory(device: torch.device) -> None:
    """Frees unused memory, so that one measurement does not affect the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@cache
def measure_rate(device: torch.device, precision: str, tiny: bool = False, tf32: bool = True) -> float:
    """Returns the TFLOP/s of a large (or tiny) square matrix product, as the best of several turns.

    On a GPU, float32 products use TF32 as convolutions do by default, or not.
    """
    size = TINY_MATRIX if tiny else MATRIX_SIZES[device.type]
    matrix = torch.randn(size, size, device=device, dtype=PRECISIONS[precision])
    with float32_products(tf32):
        best = min(time_call(lambda: matrix @ matrix) for _ in range(RATE_TURNS))
    return 2 * size**3 / best / 1e12


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Sets whether convolutions and matrix products on a GPU round float32 to TF32 within a ``with`` block."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextmanager
def fast_settings() -> Iterator[None]:
    """Enables TF32 and cuDNN's benchmark mode within a ``with`` block, as the GPU presets do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with float32_products(tf32=True):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def describe_device(device: torch.device) -> dict[str, Any]:
    """Describes the hardware and software that measurements depend on."""
    machine: dict[str, Any] = {
        "machine": platform.platform(), "processor": name_processor(), "cores": os.cpu_count(), "gpu": None,
        "device": device.type, "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "torch": str(torch.__version__),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": find_commit(),
    }  # fmt: skip
    if device.type == "cuda":
        machine |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": collect_env.get_nvidia_driver_version(collect_env.run),
        }
    return machine


def name_processor() -> str:
    """Returns the model name of the processor."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
