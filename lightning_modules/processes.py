"""Communication between the processes of a distributed run."""

import torch.distributed
from torch import Tensor


def are_several() -> bool:
    """Returns whether the run has several processes."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def average_over_processes(values: Tensor) -> Tensor:
    """Returns the mean of a tensor over all processes; with one process, the tensor itself."""
    if not are_several():
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def gather_from_processes(values: Tensor) -> Tensor:
    """Returns the (N, ...) tensors of all processes, concatenated in order of rank; without gradients.

    They are of one size: unlike torchmetrics' `gather_all_tensors`, this neither asks for sizes nor waits for the GPU.
    """
    if not are_several():
        return values.detach()
    found = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, values.detach().contiguous())
    return torch.cat(found)
