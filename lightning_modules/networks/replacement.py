"""In-place replacement of a network's modules, shared by norms, dropout and blocks."""

from collections.abc import Callable

from torch import nn


def replace_modules(network: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replaces modules inside a network, in place; a module used in several places gets one shared replacement.

    Args:
        network: Any module.
        make: Returns a module's replacement, or None to keep the module; not called on replacements.

    Returns:
        Number of replaced modules.
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
