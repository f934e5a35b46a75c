"""Weights in files: reading them in any wrapper, and comparing them with a network's own."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")  # keys in files
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")  # added to names by DDP, compilers and wrappers


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of `fit`, or weights of another program, without running any code that the file may contain.

    Args:
        path: File written by `torch.save`: a Lightning checkpoint, a state dict, or a dict with one under a key such as
            ``model``.

    Returns:
        The content of the file, with the weights under ``state_dict``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, cannot be read, or contains no weights.
    """
    check_file(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise errors of any type
        if "GLOBAL" in str(error):  # a class, or a function
            raise ValueError(
                f"the checkpoint {path} contains a pickled module, or other objects that could run code: expected "
                "only tensors. Save its weights: torch.save(network.state_dict(), PATH)"
            ) from error
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}): expected one that `fit` wrote"
        ) from error
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"the checkpoint {path} contains {type(saved).__name__}: expected a state dict, or a dict with one"
        )
    if is_state(saved):
        return {"state_dict": drop_count(saved)}
    for key in WRAPPERS:
        if is_state(saved.get(key)):
            others = [str(name) for name, value in saved.items() if name != key and is_state(value)]
            if others:
                warnings.warn(
                    f"{path}: using the weights under {key}; the file also contains {', '.join(others)}. To use "
                    "those (averaged weights score differently), save them to a file of their own",
                    stacklevel=2,
                )
            return {**saved, "state_dict": drop_count(saved[key])}
    found = ", ".join(map(str, list(saved)[:8])) or "nothing"
    raise ValueError(
        f"the checkpoint {path} contains {found}: expected weights, or weights under one of {', '.join(WRAPPERS)}"
    )


def check_file(path: str | Path) -> None:
    """Checks the first bytes of a file, before torch reads it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it was not written by `torch.save`; the message says what it is instead.
    """
    file = Path(path)
    if "://" in str(path):
        raise FileNotFoundError(f"the checkpoint {path} is a URL: expected a file. Download it first")
    if file.is_dir():
        inside = [*file.glob("*.ckpt"), *file.glob("checkpoints/*.ckpt")]
        hint = f", e.g. {max(inside)}" if inside else " that `fit` wrote"
        raise FileNotFoundError(f"the checkpoint {path} is a folder: expected a file{hint}")
    if not file.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: expected a file that `fit` wrote")
    with file.open("rb") as stream:
        begin = stream.read(64)
    if zipfile.is_zipfile(file) or begin[:1] == b"\x80":  # torch before 1.6 wrote bare pickles
        return
    if begin.startswith(b"version https://git-lfs"):
        kind = "a Git LFS pointer (run git lfs pull)"
    elif begin.lstrip().startswith(b"<"):
        kind = "a web page (download the file itself)"
    elif begin[8:9] == b"{":
        kind = "a safetensors file (convert it: torch.save(safetensors.torch.load_file(OLD), NEW))"
    else:
        kind = "empty" if not begin else "truncated" if begin[:2] == b"PK" else "not a torch.save file"
    raise ValueError(f"the checkpoint {path} cannot be read, it is {kind}: expected one that `fit` wrote")


def drop_count(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes ``n_averaged``, the counter of torch's AveragedModel, from a state dict."""
    averaged = all(name == "n_averaged" or name.startswith("module.") for name in state)
    return {name: value for name, value in state.items() if not (averaged and name == "n_averaged")}


def is_state(value: Any) -> bool:
    """Returns whether a value is a state dict: tensors by name."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def rename_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns saved weights under a network's own names, if their names differ only in the prefixes of wrappers.

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
    """Removes the prefixes of wrappers from a name."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def check_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Raises ValueError if saved weights are NaN or infinite, or contain a second copy of the network.

    Args:
        own: The state dict of the network.
        saved: The state dict to be loaded, under the network's names.
    """
    broken = [
        name
        for name, value in saved.items()
        if name in own and not value.isfinite().all() and own[name].isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(saved)} tensors of the checkpoint are NaN or infinite (e.g. {broken[0]}): its "
            "training diverged. Use an earlier checkpoint, or train again with a lower learning rate"
        )
    unknown = saved.keys() - own.keys()
    copies = {name.partition(".")[0] for name in unknown}
    bare = {strip(name.partition(".")[2]) for name in unknown}
    if len(copies) == 1 and own.keys() <= saved.keys() and bare <= {strip(name) for name in own}:
        raise ValueError(
            f"the checkpoint contains a second copy of the network's weights, with names that begin with "
            f"{copies.pop()}.: expected one. Save only the copy that you want to a file"
        )


def find_difference(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str | None:
    """Describes how the names and shapes of saved tensors differ from a network's, with examples; None if they fit.

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
    counts = f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(differing)} with another shape"
    return f"{counts} (e.g. {'; '.join(examples)})"


def fit_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint under a network's own names.

    Args:
        own: The state dict of the network.
        saved: The state dict to be loaded.

    Raises:
        ValueError: If they belong to another network or are not finite; the message lists the differences.
    """
    state = rename_weights(own, saved)
    check_weights(own, state)
    difference = find_difference(own, state)
    if difference is not None:
        raise ValueError(
            f"the checkpoint is from a different network: {difference}. Use the config that the checkpoint was trained "
            "with: its config.yaml is in the folder of the training run"
        )
    return state
