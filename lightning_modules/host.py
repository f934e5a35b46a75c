"""Copies of results from a device to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies tensors to the CPU in one transfer, so that the host waits for the device only once.

    Args:
        tensors: Tensors on one device, of any sizes and dtypes; those with larger elements first.

    Returns:
        The same tensors on the CPU.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    data = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]).cpu()
    parts = data.split([tensor.numel() * tensor.element_size() for tensor in tensors])
    return [part.view(tensor.dtype).reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
