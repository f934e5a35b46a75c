"""Times methods on one full-size image, as `experiments.benchmark` does, and a training step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from statistics import median

import torch

from experiments.benchmark import cost
from experiments.benchmark.cases import Case
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.measure import measure
from experiments.benchmark.subject import CLASSES, Subject
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup

RATES = {"bf16": ("bf16-mixed", True), "float32 (TF32)": ("32-true", True), "float32": ("32-true", False)}
SHOWN = {  # columns of the benchmark to show: title and key
    "method": "method", "steps": "steps", "ms": "ms", "spread": "ms_spread", "plain loop ms": "ms_plain_loop",
    "peak MB": "peak_mb", "TFLOP": "tflop", "of matrix rate": "fraction_of_measured_rate", "compile": "compile",
    "note": "note",
}  # fmt: skip


@cache
def measure_matrix_rate(setup: Setup, name: str) -> float:
    """Measures how fast the device multiplies matrices in one of the precisions of `RATES`, in TFLOP/s."""
    precision, tf32 = RATES[name]
    return cost.measure_rate(setup.device, precision, tf32, 128 if setup.tiny else None)


def list_rates(setup: Setup) -> Iterator[Row]:
    """Yields a row for each of `RATES`."""
    for name in RATES:
        yield {"precision": name, "TFLOP/s": measure_matrix_rate(setup, name)}


@lru_cache(maxsize=1)
def make_full_size_subject(setup: Setup, backbone: str) -> Subject:
    """Makes a network on the device, and a full-size image (1024x2048)."""
    return setup.make_subject(setup.make_network(backbone), 1024, 2048, setup.device)


def time_methods(setup: Setup, backbone: str, precision: str, options: Sequence[str] = ()) -> Iterator[Row]:
    """Times the methods in one of the precisions of `RATES`, with extra options of the benchmark."""
    repeats = 2 if setup.tiny else 5
    given = parse_arguments([f"--device={setup.device.type}", f"--repeats={repeats}", *options])
    subject = make_full_size_subject(setup, backbone)
    moved = ",".join(subject.network.adapted_layers)  # type: ignore[arg-type]
    cases = [Case("t-BN"), Case("IaBN"), Case("Seg-TTT", 10, moved), Case("Seg-TTT", 3, moved), Case("TTA")]
    if setup.tiny and given.compile != "none":
        cases = cases[:1]  # compiling is slow, however tiny the network
    for case in cases:  # most important first
        with fast_float32():
            row = measure(case, RATES[precision][0], subject, given, measure_matrix_rate(setup, precision))
        yield {"network": backbone, "precision": precision, **{title: row[key] or None for title, key in SHOWN.items()}}


@contextmanager
def fast_float32() -> Iterator[None]:
    """Enables TF32 and cuDNN's benchmark mode within a ``with`` block, as the GPU presets do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with cost.float32_products(tf32=True):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def time_training(setup: Setup) -> Iterator[Row]:
    """Times a training step (forward, loss, backward, SGD) of one process in bf16, with both memory layouts."""
    batch, side = (2, 64) if setup.tiny else (4, 512)
    for layout in (torch.contiguous_format, torch.channels_last):
        step = make_training_step(setup, layout, batch, side)
        for _ in range(2):
            step()
        times = [1000 * cost.time_call(step) for _ in range(3 if setup.tiny else 10)]
        row = {"layout": str(layout).removeprefix("torch."), "batch": batch, "size": f"{side}x{side}"}
        yield {**row, "ms per step": median(times)}


def make_training_step(setup: Setup, layout: torch.memory_format, batch: int, side: int) -> cost.Call:
    """Returns a call that takes one training step on a batch of random square images."""
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
