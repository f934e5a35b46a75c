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
    if is_state(saved):
        saved = {"state_dict": saved}
    states = [key for key, value in saved.items() if is_state(value)] if isinstance(saved, Mapping) else []
    key = next((key for key in WRAPPERS if key in states), None)
    if key is None:
        found = ", ".join(map(str, list(saved)[:8])) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(
            f"the checkpoint {path} contains {found or 'nothing'}: expected weights, or weights under one of "
            f"{', '.join(WRAPPERS)}"
        )
    others = ", ".join(other for other in states if other != key)
    if others:
        warnings.warn(
            f"{path}: using the weights under {key}; the file also contains {others}. To use "
            "those (averaged weights score differently), save them to a file of their own",
            stacklevel=2,
        )
    state = {name: value for name, value in saved[key].items() if name != "n_averaged"}  # AveragedModel's counter
    return {**saved, "state_dict": state}


def check_file(path: str | Path) -> None:
    """Checks the first bytes of a file, before torch reads it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it was not written by `torch.save`; the message says what it is instead.
    """
    file = Path(path)
    if "://" in str(path):  # the first question: a long one is no valid path to ask the system for
        raise FileNotFoundError(f"the checkpoint {path} is a URL: expected a file. Download it first")
    if not file.is_file():
        found, hint = "does not exist", " that `fit` wrote"
        if file.is_dir():
            inside = [*file.glob("*.ckpt"), *file.glob("checkpoints/*.ckpt")]
            found, hint = "is a folder", f", e.g. {max(inside)}" if inside else hint
        raise FileNotFoundError(f"the checkpoint {path} {found}: expected a file{hint}")
    with file.open("rb") as stream:
        begin = stream.read(64)
    if zipfile.is_zipfile(file) or begin[:1] == b"\x80":  # torch before 1.6 wrote bare pickles
        return
    kinds = {
        "empty": not begin,
        "truncated": begin[:2] == b"PK",
        "a Git LFS pointer (run git lfs pull)": begin.startswith(b"version https://git-lfs"),
        "a web page (download the file itself)": begin.lstrip().startswith(b"<"),
        "a safetensors file (convert it: torch.save(safetensors.torch.load_file(OLD), NEW))": begin[8:9] == b"{",
        "not a torch.save file": True,
    }
    kind = next(name for name, matches in kinds.items() if matches)
    raise ValueError(f"the checkpoint {path} cannot be read, it is {kind}: expected one that `fit` wrote")


def is_state(value: Any) -> bool:
    """Returns whether a value is a state dict: tensors by name."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def rename_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns saved weights under the names of a network's `own`, if they differ only in the prefixes of wrappers."""
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
    common = own.keys() & saved.keys()
    broken = [name for name in common if not saved[name].isfinite().all() and own[name].isfinite().all()]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(saved)} tensors of the checkpoint are NaN or infinite (e.g. {min(broken)}): its "
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
    """Describes how the names and shapes of saved tensors differ from a network's, with examples; None if they fit."""
    missing, unknown = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    differing = [key for key in sorted(own.keys() & saved.keys()) if own[key].shape != saved[key].shape]
    if not (missing or unknown or differing):
        return None
    examples = [f"{key} is missing" for key in missing[:2]]
    examples += [f"{key} is not part of the network" for key in unknown[:2]]
    for key in differing[:2]:
        examples.append(f"{key} is {tuple(saved[key].shape)}, the network has {tuple(own[key].shape)}")
    counts = f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(differing)} with another shape"
    return f"{counts} (e.g. {'; '.join(examples)})"


def fit_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint under the names of a network's `own`.

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
