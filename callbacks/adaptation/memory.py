"""The error for an image that does not fit into a device's memory."""

import torch
from torch import Tensor


class TooLargeError(ValueError):
    """An image needs more memory than the device has."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def explain_shortage(image: Tensor, error: str) -> TooLargeError:
    """Turns torch's out-of-memory message into an error that names the image size and the remedies."""
    height, width = image.shape[-2:]
    return TooLargeError(
        f"an image of {height}x{width} pixels (HxW) is too large for {describe_memory(image.device)}: "
        f"{error.splitlines()[0]}. Make images smaller (data.evaluation_resize), or use less memory: "
        "--trainer.precision=bf16-mixed, for SegTTT also fewer `trainable` layers"
    )


def describe_memory(device: torch.device) -> str:
    """Describes a device's memory; on CUDA, with the free and total amount."""
    if device.type != "cuda":
        return f"the memory of the {device.type}"
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"
