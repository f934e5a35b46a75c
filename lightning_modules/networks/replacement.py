"""Putting other modules in the place of some of a network's, by one rule for norms, dropout and blocks."""

from collections.abc import Callable

from torch import nn


def replace_modules(network: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replaces modules inside a network, in place; one that sits in several places stays one.

    Args:
        network: Any module.
        make: Returns what takes a module's place, or None to leave it; never called for what it made.

    Returns:
        How many modules were replaced.
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in replaced and (other := make(child)) is not None:
                replaced[child] = other
            parent._modules[name] = replaced.get(child, child)
    return len(replaced)
