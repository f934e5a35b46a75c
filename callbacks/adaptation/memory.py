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
    memory = f"the memory of the {image.device.type}"
    if image.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(image.device)
        name = torch.cuda.get_device_name(image.device)
        memory = f"{name} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"
    return TooLargeError(
        f"an image of {image.shape[-2]}x{image.shape[-1]} pixels (HxW) is too large for {memory}: "
        f"{error.splitlines()[0]}. Make images smaller (data.evaluation_resize), or use less memory: "
        "--trainer.precision=bf16-mixed, for SegTTT also fewer `trainable` layers"
    )
