"""What methods of training share between the processes of a run."""

import torch.distributed
from torch import Tensor


def average_over_processes(values: Tensor) -> Tensor:
    """Returns the mean of a tensor over all processes; the tensor itself in a run of one."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized() and group.get_world_size() > 1):
        return values
    total = values.clone()
    group.all_reduce(total)
    return total / group.get_world_size()


def gather_from_processes(values: Tensor) -> Tensor:
    """Returns the (N, ...) tensors of all processes behind each other, in order; without gradients."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized() and group.get_world_size() > 1):
        return values.detach()
    found = [torch.empty_like(values) for _ in range(group.get_world_size())]
    group.all_gather(found, values.detach().contiguous())
    return torch.cat(found)
