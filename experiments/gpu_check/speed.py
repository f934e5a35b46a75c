"""Times methods as `experiments.benchmark` does, and a training step."""

from collections.abc import Iterator
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import timer

from experiments.benchmark import cost
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.measure import measure_all
from experiments.benchmark.subject import CLASSES, make_network
from experiments.gpu_check.runner import Row, Setup

METHODS = "--methods t-BN IaBN Seg-TTT TTA --steps 10 3 --trainable default --repeats 5"  # most important first
SHOWN = (
    "network", "precision", "method", "steps", "ms", "ms_spread", "ms_plain_loop", "peak_mb", "tflop",
    "fraction_of_measured_rate", "steps_fraction", "compile", "note",
)  # fmt: skip


def list_rates(setup: Setup) -> Iterator[Row]:
    """Yields how fast the device multiplies matrices."""
    for precision, tf32 in (("bf16-mixed", True), ("32-true", True), ("32-true", False)):
        rate = cost.measure_rate(setup.device, precision, setup.tiny, tf32)
        yield {"precision": precision, "TF32": tf32, "TFLOP/s": rate}


def time_methods(setup: Setup, arguments: str) -> Iterator[Row]:
    """Times methods with some arguments of the benchmark, on one full-size image."""
    words = [f"--device={setup.device.type}", *METHODS.split(), "--sizes", "1024x2048", *arguments.split()]
    if setup.tiny:
        words += ["--networks", "deeplabv1_resnet10_small", "--sizes", "64x128", "--repeats", "2", "--quick"]
        words += ["--methods", "t-BN"] if "--compile" in words else []  # compiling is slow, however tiny the network
    for row in measure_all(parse_arguments(words)):
        yield {key: row[key] or None for key in SHOWN}


def time_training(setup: Setup) -> Iterator[Row]:
    """Times a training step (forward, loss, backward, SGD) of one process in bf16, with both memory layouts."""
    batch, side = (2, 64) if setup.tiny else (4, 512)
    mask = torch.randint(CLASSES, (batch, side, side), device=setup.device)
    for layout in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(batch, 3, side, side, device=setup.device).to(memory_format=layout)
        network = make_network(setup.network).to(setup.device).to(memory_format=layout).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        seconds = []
        for _ in range(5 if setup.tiny else 12):
            start = timer()  # torch's timer, which waits for the device
            with cost.autocast(setup.device, "bf16-mixed"):
                loss = cross_entropy(network(image).float(), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(timer() - start)
        row = {"layout": str(layout).removeprefix("torch."), "batch": batch, "size": f"{side}x{side}"}
        yield {**row, "ms per step": 1000 * median(seconds[2:])}
