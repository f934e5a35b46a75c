"""What a call costs: time, memory, counted operations; and how fast the machine multiplies matrices."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from callbacks import method
from callbacks.method import TooLargeError
from callbacks.stages import recording

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MATRIX_SIZES = {"cuda": 8192, "cpu": 2048}  # large enough that a larger one is not faster
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

Call = Callable[[], Any]


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Returns the context in which Lightning calls a step with this precision: autocast, or none for ``32-true``."""
    if precision == "32-true":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def synchronize(device: torch.device) -> None:
    """Waits until a device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(call: Call, device: torch.device) -> float:
    """Returns the milliseconds that a call takes on the wall clock, until the device is done with it."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return 1000 * (time.perf_counter() - start)


def time_by_turns(
    calls: Sequence[Call], repeats: int, device: torch.device
) -> list[tuple[list[float], dict[str, list[float]]]]:
    """Times calls that take turns, so that what else the machine does weighs on all of them.

    Args:
        calls: Warm already.
        repeats: How often each is called; the order changes from turn to turn.
        device: Where they run.

    Returns:
        For each call the milliseconds of each turn, and by name the median milliseconds of its stages
        (see `callbacks.stages`), in the order in which they run.
    """
    times: list[list[float]] = [[] for _ in calls]
    stages: list[list[dict[str, list[float]]]] = [[] for _ in calls]
    gc.collect()
    for turn in range(repeats):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for number in order:
            with recording(device) as record:
                times[number].append(time_call(calls[number], device))
            stages[number].append(record.milliseconds())
    return [(milliseconds, average_stages(runs)) for milliseconds, runs in zip(times, stages, strict=True)]


def average_stages(runs: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Returns the median over runs of each stage; of a stage that runs several times, each of its times."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    return {
        name: [statistics.median(times) for times in zip(*(run.get(name, []) for run in runs), strict=False)]
        for name in names
    }


def find_spread(values: Sequence[float]) -> float:
    """Returns the interquartile range of some values, 0 of a single one."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def count_flops(call: Call) -> tuple[int, dict[str, int]]:
    """Counts the floating-point operations of the matrix products and convolutions of a call, backward ones too.

    A multiplication and an addition are two. The call must not be compiled.

    Returns:
        The number of all, and by name those of each stage (see `callbacks.stages`).
    """
    stages: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter, recording(torch.device("cpu")) as record:

        def add(name: str) -> AbstractContextManager:
            return count_stage(name)

        @contextmanager
        def count_stage(name: str) -> Iterator[None]:
            before = counter.get_total_flops()
            yield
            stages[name] = stages.get(name, 0) + counter.get_total_flops() - before

        record.add = add  # type: ignore[method-assign, assignment]  # counts where others time
        call()
    return counter.get_total_flops(), stages


def measure_peak(call: Call, device: torch.device) -> float | None:
    """Returns the peak memory during a call.

    Returns:
        In MB (2^20 bytes): on a GPU that of torch's tensors, weights included; else that of the whole process, or
        None where the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")  # the peak starts again at what the process has now
    except OSError:
        call()
        return None
    call()
    return read_status("VmHWM")


def read_status(field: str) -> float | None:
    """Reads a number of kB from Linux's account of this process, in MB; None where there is none."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def measure_rate(device: torch.device, precision: str, size: int | None = None, repeats: int = 10) -> float:
    """Measures how fast a large square matrix product runs, in the best of some turns.

    Args:
        device: Where.
        precision: One of `PRECISIONS`; float32 products use TF32 if convolutions do.
        size: Rows and columns; None is enough for the device.
        repeats: Number of turns.

    Returns:
        TFLOP/s.
    """
    size = size or MATRIX_SIZES[device.type]
    matrix = torch.randn(size, size, device=device, dtype=PRECISIONS[precision])
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        best = min(time_call(lambda: matrix @ matrix, device) for _ in range(repeats + 1))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * size**3 / best / 1e9


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keeps convolutions and matrix products on a GPU from rounding float32 to TF32 within a ``with`` block."""
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that memory ran out, on a GPU or elsewhere."""
    return isinstance(error, TooLargeError | MemoryError) or method.is_out_of_memory(error)


def free_memory(device: torch.device) -> None:
    """Gives back what is not used any more, so that one measurement does not weigh on the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def profile_call(call: Call, device: torch.device, place: Path, rows: int = 25) -> str:
    """Profiles a call.

    Args:
        call: Warm already.
        device: Where it runs.
        place: Where to write a trace (``.trace.json.gz``, for chrome://tracing or Perfetto) and the table (``.txt``).
        rows: Length of the table.

    Returns:
        The table of the operators that take most time themselves.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        synchronize(device)
    table = profiler.key_averages().table("self_cuda_time_total" if on_cuda else "self_cpu_time_total", row_limit=rows)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name(f"{place.name}.txt").write_text(f"{table}\n", encoding="utf-8")
    profiler.export_chrome_trace(str(place.with_name(f"{place.name}.trace.json.gz")))
    return table
