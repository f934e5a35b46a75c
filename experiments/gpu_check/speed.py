"""Times methods as `experiments.benchmark` does, and a training step."""

from collections.abc import Iterator
from statistics import median

import torch

from experiments.benchmark import cost
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.measure import measure_all, measure_rates
from experiments.benchmark.subject import CLASSES
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup

RATES = {"bf16": ("bf16-mixed", True), "float32 (TF32)": ("32-true", True), "float32": ("32-true", False)}
METHODS = "--methods t-BN IaBN Seg-TTT TTA --steps 10 3 --trainable default --repeats 5"  # most important first
SHOWN = (
    "network", "precision", "method", "steps", "ms", "ms_spread", "ms_plain_loop", "peak_mb", "tflop",
    "fraction_of_measured_rate", "compile", "note",
)  # fmt: skip


def list_rates(setup: Setup) -> Iterator[Row]:
    """Yields how fast the device multiplies matrices."""
    for name, (precision, tf32) in RATES.items():
        yield {"precision": name, "TFLOP/s": cost.measure_rate(setup.device, precision, setup.tiny, tf32)}


def time_methods(setup: Setup, arguments: str) -> Iterator[Row]:
    """Times methods with some arguments of the benchmark, on one full-size image."""
    words = [f"--device={setup.device.type}", *METHODS.split(), "--sizes", "1024x2048", *arguments.split()]
    if setup.tiny:
        words += ["--networks", "deeplabv1_resnet10_small", "--sizes", "64x128", "--repeats", "2", "--quick"]
        words += ["--methods", "t-BN"] if "--compile" in words else []  # compiling is slow, however tiny the network
    options = parse_arguments(words)
    for row in measure_all(options, measure_rates(options)):
        yield {key: row[key] or None for key in SHOWN}


def time_training(setup: Setup) -> Iterator[Row]:
    """Times a training step (forward, loss, backward, SGD) of one process in bf16, with both memory layouts."""
    batch, side = (2, 64) if setup.tiny else (4, 512)
    for layout in (torch.contiguous_format, torch.channels_last):
        step = make_training_step(setup, layout, batch, side)
        times = [1000 * cost.time_call(step) for _ in range(5 if setup.tiny else 12)]
        row = {"layout": str(layout).removeprefix("torch."), "batch": batch, "size": f"{side}x{side}"}
        yield {**row, "ms per step": median(times[2:])}


def make_training_step(setup: Setup, layout: torch.memory_format, batch: int, side: int) -> cost.Call:
    """Returns a call that takes one training step on a batch of random square images."""
    network = setup.make_network().to(setup.device).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    image = torch.randn(batch, 3, side, side, device=setup.device).to(memory_format=layout)
    mask = torch.randint(CLASSES, (batch, side, side), device=setup.device)

    def step() -> None:
        with cost.autocast(setup.device, "bf16-mixed"):
            loss = torch.nn.functional.cross_entropy(network(image).float(), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
