"""Weights in files: reading them whatever wrapped them, and saying how they differ from a network's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")  # keys of files
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")  # that DDP, compilers and wrappers put before names


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of `fit`, or weights of another program, without running code that a file may hold.

    Args:
        path: File of `torch.save`: a checkpoint of Lightning, a state dict, or one under a key such as ``model``.

    Returns:
        What the file holds, with the weights under ``state_dict``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds no weights; says what was found.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: expected a file that `fit` wrote")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever they come across
        if "GLOBAL" in str(error):  # a class, or a function
            raise ValueError(
                f"the checkpoint {path} holds a whole pickled module, or other objects that could run code: expected "
                "tensors alone. Save its weights: torch.save(network.state_dict(), PATH)"
            ) from error
        raise ValueError(f"the checkpoint {path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"the checkpoint {path} holds {type(saved).__name__}: expected a state dict, or one under a key"
        )
    if is_state(saved):
        return {"state_dict": dict(saved)}
    for key in WRAPPERS:
        if is_state(saved.get(key)):
            return {**saved, "state_dict": dict(saved[key])}
    found = ", ".join(map(str, list(saved)[:8])) or "nothing"
    raise ValueError(
        f"the checkpoint {path} holds {found}: expected weights, or weights under one of {', '.join(WRAPPERS)}"
    )


def is_state(value: Any) -> bool:
    """Returns whether a value is a state dict: tensors by name."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def rename_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns saved weights under a network's own names, if they differ from these in what wrappers put before them.

    Args:
        own: The state dict of the network.
        saved: The state dict to be loaded.
    """
    bare = {strip(name): name for name in own}
    found = {strip(name): value for name, value in saved.items()}
    if own.keys() & saved.keys() or len(found) != len(saved):
        return dict(saved)
    return {bare.get(name, name): value for name, value in found.items()}


def strip(name: str) -> str:
    """Returns a name without what wrappers put before it."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def find_difference(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str | None:
    """Says how saved tensors differ in names and shapes from a network's own: how many, and examples. None if they fit.

    Args:
        own: The state dict of the network.
        saved: The state dict to be loaded.
    """
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    found = {key: tuple(value.shape) for key, value in saved.items()}
    missing, unknown = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    differing = sorted(key for key in shapes.keys() & found.keys() if shapes[key] != found[key])
    if not (missing or unknown or differing):
        return None
    examples = [f"{key} is missing" for key in missing[:2]]
    examples += [f"{key} is not part of the network" for key in unknown[:2]]
    examples += [f"{key} is {found[key]}, the network has {shapes[key]}" for key in differing[:2]]
    counts = f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(differing)} of another shape"
    return f"{counts} (e.g. {'; '.join(examples)})"
