"""What waits for a device: the copy of its results to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies tensors to the CPU as one, so that the host waits once.

    Args:
        tensors: On one device, of any dtypes and sizes; those of larger items first.

    Returns:
        The same on the CPU.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    data = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]).cpu()
    parts = data.split([tensor.numel() * tensor.element_size() for tensor in tensors])
    return [part.view(tensor.dtype).reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
