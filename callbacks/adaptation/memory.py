"""What to say of an image that does not fit into the memory of a device."""

import torch
from torch import Tensor


class TooLargeError(ValueError):
    """An image needs more memory than the device has."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def explain_shortage(image: Tensor, error: str) -> TooLargeError:
    """Makes the error that says what did not fit into memory, and what to do, of what torch says."""
    height, width = image.shape[-2:]
    return TooLargeError(
        f"an image of {height}x{width} pixels (HxW) is too large for {describe_memory(image.device)}: "
        f"{error.splitlines()[0]}. Make images smaller (data.evaluation_resize), or lower the need: "
        "--trainer.precision=bf16-mixed, for SegTTT also fewer `trainable` layers"
    )


def describe_memory(device: torch.device) -> str:
    """Names a device and, where torch tells it, how much of its memory is free."""
    if device.type != "cuda":
        return f"the memory of the {device.type}"
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"
