"""Running a network with other tensors than its own, so that its own are never written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def substituted(network: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Puts other tensors in place of a network's parameters and buffers within a ``with`` block.

    Unlike `torch.func.functional_call` the substitution also holds during the backward pass (networks that recompute
    activations need that), and it is undone for modules that are registered under two names.

    Args:
        network: Any module.
        state: Stand-ins by the name of what they stand in for; of a shared tensor, its first name. Others stay.
    """
    named = (*network.named_parameters(), *network.named_buffers())
    stand_ins = {id(tensor): state[name] for name, tensor in named if name in state}
    slots = [
        (tensors, key, tensor)
        for module in network.modules()
        for tensors in (module._parameters, module._buffers)
        for key, tensor in tensors.items()
        if id(tensor) in stand_ins
    ]
    try:
        for tensors, key, tensor in slots:
            tensors[key] = stand_ins[id(tensor)]  # type: ignore[assignment]
        yield
    finally:
        for tensors, key, tensor in slots:
            tensors[key] = tensor  # type: ignore[assignment]
