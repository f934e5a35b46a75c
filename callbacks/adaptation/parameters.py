"""Selection of parameters by module name."""

from collections.abc import Sequence

from torch import nn


def select_parameters(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Lists the full names of the floating-point parameters in the named modules, in the network's order.

    Args:
        network: Any module.
        names: Dotted names of modules or parameters; each matches whole parts anywhere in a parameter's path.

    Raises:
        ValueError: If no name is given, or one matches nothing; the message lists the available modules.
    """
    named = list(network.named_parameters(remove_duplicate=False))  # a shared parameter under each of its names
    places = [(path, parameter) for path, parameter in named if parameter.is_floating_point()]
    unmatched = [name for name in names if not any(_lies_in(path, name) for path, _ in places)]
    if unmatched or not names:
        modules = [name for name, _ in network.named_modules() if name and name.count(".") <= 1]
        found = f"{unmatched} match no parameter" if unmatched else "expected at least one"
        raise ValueError(
            f"the modules to train are {list(names)}, but {found}: set trainable to names of modules of "
            f"{type(network).__name__}, such as {sorted(modules, key=lambda name: name.count('.'))[:20]}"
        )
    chosen = {id(parameter) for path, parameter in places if any(_lies_in(path, name) for name in names)}
    return [path for path, parameter in network.named_parameters() if id(parameter) in chosen]


def _lies_in(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."
