"""Selection of parameters by module name, and a count of the values that each BatchNorm normalises."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def counting_values(network: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Counts values per channel in each BatchNorm's input within a ``with`` block; of several calls, the largest."""
    counts: dict[nn.Module, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].numel() // inputs[0].shape[1]
        counts[layer] = max(values, counts.get(layer, 0))

    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def check_is_list(names: Sequence[str] | None) -> None:
    """Raises ValueError if names is a single string in place of a list: its letters would be taken for names."""
    if isinstance(names, str):
        raise ValueError(f"trainable is the string {names!r}: expected a list of names, e.g. [{names!r}]")


def select_parameters(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Lists the floating-point parameters in the named modules.

    Args:
        network: Any module.
        names: Dotted names of modules or parameters; each matches whole parts anywhere in a parameter's path.

    Returns:
        Full names of the parameters, in the network's order.

    Raises:
        ValueError: If no name is given, or one matches nothing; the message lists the available modules.
    """
    paths: dict[int, list[str]] = {}  # all names of each parameter; shared ones have several
    for path, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            paths.setdefault(id(parameter), []).append(path)
    every = [path for aliases in paths.values() for path in aliases]
    unmatched = [name for name in names if not any(_lies_in(path, name) for path in every)]
    if unmatched or not names:
        children = [name for name, _ in network.named_children()]
        children += [
            f"{name}.{inner}" for name, child in network.named_children() for inner, _ in child.named_children()
        ]
        found = f"{unmatched} match no parameter" if unmatched else "expected at least one"
        raise ValueError(
            f"the modules to train are {list(names)}, but {found}: set trainable to names of modules of "
            f"{type(network).__name__}, such as {children[:20]}"
        )
    return [aliases[0] for aliases in paths.values() if any(_lies_in(path, name) for path in aliases for name in names)]


def _lies_in(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."
