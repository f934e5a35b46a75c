"""Measures the time, memory and operations of a call, and how fast the machine multiplies matrices."""

import gc
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Measurement, TaskSpec, timer
from torch.utils.flop_counter import FlopCounterMode

from callbacks.run.records import find_commit
from callbacks.stages import recording

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MATRIX_SIZES = {"cuda": 8192, "cpu": 2048}  # large enough for the full rate
RATE_TURNS = 11
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

Call = Callable[[], Any]
Times = tuple[Measurement, dict[str, list[float]]]


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Returns the context in which Lightning runs a step at this precision: autocast, or none for ``32-true``."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "32-true")


def time_call(call: Call) -> float:
    """Returns the wall-clock seconds of a call, until the device has finished it."""
    start = timer()  # torch's timer, which waits for the device
    call()
    return timer() - start


def time_by_turns(calls: Sequence[Call], repeats: int, device: torch.device) -> list[Times]:
    """Times calls in alternation, so that other load on the machine affects all of them alike.

    Args:
        calls: Calls that are already warmed up.
        repeats: Number of times each is called; the order is reversed every other turn.
        device: Device that they run on.

    Returns:
        For each call its times, and by name the median milliseconds of its stages (see `callbacks.stages`): a list,
        with one median for each time that the stage runs within a call.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    stages: list[list[dict[str, list[float]]]] = [[] for _ in calls]
    gc.collect()
    for turn in range(repeats):
        numbers = range(len(calls))
        for number in numbers if turn % 2 == 0 else reversed(numbers):
            with recording(device) as record:
                seconds[number].append(time_call(calls[number]))
            stages[number].append(record.milliseconds())
    results = []
    for times, turns in zip(seconds, stages, strict=True):
        medians = {name: np.median([stage[name] for stage in turns], axis=0).tolist() for name in turns[0]}
        results.append((Measurement(1, times, TaskSpec("call()", "")), medians))
    return results


def count_flops(call: Call) -> tuple[int, dict[str, int]]:
    """Counts the floating-point operations of a call's matrix products and convolutions: in total, and by stage."""
    stages: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter, recording(torch.device("cpu")) as record:

        @contextmanager
        def count_stage(name: str) -> Iterator[None]:
            before = counter.get_total_flops()
            yield
            stages[name] = stages.get(name, 0) + counter.get_total_flops() - before

        record.add = count_stage  # type: ignore[method-assign, assignment]  # counts instead of timing
        call()
    return counter.get_total_flops(), stages


def measure_peak(call: Call, device: torch.device) -> float | None:
    """Returns the peak memory during a call in MB (2^20 bytes).

    On a GPU, that of torch's tensors, weights included; on a CPU, that of the whole process, or None where the system
    does not report it.
    """
    free_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")  # resets the peak to the current memory of the process
    except OSError:
        call()
        return None
    call()
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def free_memory(device: torch.device) -> None:
    """Frees unused memory, so that one measurement does not affect the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_rate(device: torch.device, precision: str, tf32: bool = True, size: int | None = None) -> float:
    """Returns the TFLOP/s of a large square matrix product, as the best of several turns.

    Args:
        device: Device to measure.
        precision: One of `PRECISIONS`.
        tf32: Whether float32 products on a GPU use TF32, as convolutions do by default.
        size: Rows and columns; None for the size in `MATRIX_SIZES`.
    """
    size = size or MATRIX_SIZES[device.type]
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


def describe_device(device: torch.device) -> dict[str, Any]:
    """Describes the hardware and software that measurements depend on."""
    machine: dict[str, Any] = {
        "machine": platform.platform(), "processor": name_processor(), "cores": os.cpu_count(), "gpu": None,
        "device": device.type, "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "torch": torch.__version__, "cuda": None, "cudnn": None, "tf32": None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": find_commit(),
    }  # fmt: skip
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        machine |= {"cudnn": torch.backends.cudnn.version(), "tf32": torch.backends.cudnn.allow_tf32}
        machine |= {"gpu_memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30}
        machine |= {"gpus": torch.cuda.device_count(), "driver": find_driver()}
    return machine


def find_driver() -> str:
    """Returns the version of the GPU driver from ``nvidia-smi``, or ``unknown`` with the error's type."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def name_processor() -> str:
    """Returns the model name of the processor."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
