"""A warning on CPUs without bf16 instructions, where bf16 is much slower than float32."""

import time
from functools import cache

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

RUNS = 3


def warn_of_slow_bf16(precision: str, device: torch.device) -> None:
    """Warns if a run uses bf16 on a CPU on which it is slower than float32.

    Args:
        precision: Precision of the run, as the Trainer names it.
        device: Device of the run.
    """
    if device.type != "cpu" or not precision.startswith("bf16"):
        return
    float32, bf16 = time_convolution(torch.float32), time_convolution(torch.bfloat16)
    if bf16 >= float32:
        rank_zero_warn(
            f"precision is {precision}, and on this CPU a small convolution takes {bf16:.2f} ms in bf16 and "
            f"{float32:.2f} ms in float32: expected a CPU with AVX512-BF16 or AMX. Scores are "
            "unaffected; to save time set trainer.precision=32-true"
        )


@cache
def time_convolution(dtype: torch.dtype) -> float:
    """Returns the shortest of several timings of a small convolution on the CPU, in milliseconds.

    This takes a few milliseconds, once per process and dtype. It draws no random numbers, so results do not change.
    """
    image = torch.ones(1, 64, 32, 32, dtype=dtype, device="cpu").contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, device="cpu").contiguous(memory_format=torch.channels_last)
    times = []
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for _ in range(RUNS + 1):  # the first one is a warm-up
            start = time.perf_counter()
            F.conv2d(image, weight, padding=1)
            times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])
