"""Times methods on one image of full size, beside the plain loop and the device's own rate."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path
from statistics import median

import torch

from experiments.benchmark import cases, cost
from experiments.benchmark.cases import Case
from experiments.benchmark.plain_loop import PlainLoop
from experiments.benchmark.subject import CLASSES, Subject
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup
from lightning_modules.compilation import compile_network

CASES = {  # the most wanted first
    "plain": Case("t-BN"),
    "IaBN": Case("IaBN"),
    "Seg-TTT 10": Case("Seg-TTT", 10, "default"),
    "Seg-TTT 3": Case("Seg-TTT", 3, "default"),
    "TTA": Case("TTA"),
}
RATES = {"bf16": ("bf16-mixed", True), "float32 (TF32)": ("32-true", True), "float32": ("32-true", False)}
ALPHA = 0.1
REPEATS = 5


@cache
def measure_rate(setup: Setup, name: str) -> float:
    """Measures how fast the device multiplies matrices in one of `RATES`, in TFLOP/s."""
    precision, tf32 = RATES[name]
    return cost.measure_rate(setup.device, precision, tf32, 128 if setup.tiny else None)


def list_rates(setup: Setup) -> Iterator[Row]:
    """Yields the rates."""
    for name in RATES:
        yield {"precision": name, "TFLOP/s": measure_rate(setup, name)}


@lru_cache(maxsize=1)
def make_subject(setup: Setup, backbone: str) -> Subject:
    """Makes a network on the device, and an image of full size."""
    return setup.make_subject(setup.make_network(backbone), 1024, 2048, setup.device)


def make_call(subject: Subject, case: Case, precision: str) -> cost.Call:
    """Returns a call that predicts the image by a method in one of the precisions of `RATES`."""
    method = case.make_method(case.list_settings(ALPHA, subject.lr))
    return cases.make_call(method, subject.network, subject.image, RATES[precision][0])


@cache
def count_tflop(setup: Setup, backbone: str, name: str) -> float:
    """Counts the operations of one of `CASES`; the network must not be compiled."""
    return cost.count_flops(make_call(make_subject(setup, backbone), CASES[name], "bf16"))[0] / 1e12


def time_methods(setup: Setup, backbone: str, precision: str, compiled: bool = False) -> Iterator[Row]:
    """Times the methods in one of the precisions of `RATES`."""
    subject = make_subject(setup, backbone)
    names = ["plain"] if compiled and setup.tiny else list(CASES)  # compiling takes long, however tiny
    tflops = [count_tflop(setup, backbone, name) for name in names]
    rate = measure_rate(setup, precision)
    if compiled:
        compile_network(subject.network)
    try:
        for name, tflop in zip(names, tflops, strict=True):
            row: Row = {"network": backbone, "precision": precision, "method": name}
            call = make_call(subject, CASES[name], precision)
            if compiled:
                with fast_float32():
                    row["compiling s"] = cost.time_call(call)
                row["compiled"] = subject.network._compiled_call_impl is not None  # else a warning said why
            row |= time_call(setup, call)
            yield {**row, "TFLOP": tflop, "of matrix rate": tflop / row["ms"] * 1000 / rate}
    finally:
        compile_network(subject.network, "none")


def time_plain_loop(setup: Setup, backbone: str) -> Iterator[Row]:
    """Times the methods as one writes them at first, in float32 (TF32)."""
    subject = make_subject(setup, backbone)
    for name, case in CASES.items():
        settings = case.list_settings(ALPHA, subject.lr)
        if case.steps:
            settings["trainable"] = subject.network.adapted_layers
        with tempfile.TemporaryDirectory() as folder:
            loop = PlainLoop(subject.network, Path(folder) / "checkpoint.pth", **settings)
            times = time_call(setup, partial(loop.predict, subject.pixels, subject.image))
        yield {"network": backbone, "precision": "float32 (TF32)", "method": f"plain loop: {name}", **times}


def time_call(setup: Setup, call: cost.Call) -> Row:
    """Returns the milliseconds of some calls, and the peak memory of one."""
    with fast_float32():
        call()  # warm: chooses algorithms, which takes memory of its own
        peak = cost.measure_peak(call, setup.device)
        times = [1000 * cost.time_call(call) for _ in range(2 if setup.tiny else REPEATS)]
    return {"ms": median(times), "ms min": min(times), "ms max": max(times), "peak MB": peak}


@contextmanager
def fast_float32() -> Iterator[None]:
    """Lets float32 products round to TF32, and cuDNN choose its algorithms by trying, as the GPU presets do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with cost.float32_products(tf32=True):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def time_training(setup: Setup) -> Iterator[Row]:
    """Times forward, loss, backward and SGD of one process in bf16, with both memory layouts."""
    batch, side = (2, 64) if setup.tiny else (4, 512)
    for layout in (torch.contiguous_format, torch.channels_last):
        step = make_training_step(setup, layout, batch, side)
        for _ in range(2):
            step()
        times = [1000 * cost.time_call(step) for _ in range(3 if setup.tiny else 10)]
        row = {"layout": str(layout).removeprefix("torch."), "batch": batch, "size": f"{side}x{side}"}
        yield {**row, "ms per step": median(times)}


def make_training_step(setup: Setup, layout: torch.memory_format, batch: int, side: int) -> cost.Call:
    """Returns a call that trains a network on a batch of random square images."""
    network = setup.make_network().to(setup.device).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, side, side, generator=generator).to(setup.device, memory_format=layout)
    mask = torch.randint(0, CLASSES, (batch, side, side), generator=generator).to(setup.device)

    def step() -> None:
        with cost.autocast(setup.device, "bf16-mixed"):
            loss = torch.nn.functional.cross_entropy(network(image).float(), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
