"""Checkpoints of `fit`: how they are written and read, and whether they suit the run that loads them."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_modules.networks.checkpoints import read_checkpoint

FREE_ARGUMENTS = {"weights", "num_classes", "dropout"}  # arguments of a network that may differ from training


class CheckpointReader(TorchCheckpointIO):
    """Reads checkpoints with `read_checkpoint`, and writes them so that a full disk does not damage the old file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint to a temporary file, which is then renamed."""
        place = Path(path)
        beside = place.with_name(f".{place.name}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, beside)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU."""
        return {"pytorch-lightning_version": "2.0.0", **read_checkpoint(path)}


def describe_origin(module: Any) -> dict[str, Any]:
    """Returns a training's network, data, their normalisation, and this project's version, as far as they are known."""
    origin = dict(module.origin)
    with suppress(PackageNotFoundError):
        origin["version"] = version("segadapt")
    if (normalization := find_normalization(module)) is not None:
        origin["normalization"] = normalization
    dataset: Any = getattr(getattr(module._trainer, "train_dataloader", None), "dataset", None)
    if hasattr(dataset, "fingerprint"):
        domain = getattr(dataset, "domain", type(dataset).__name__)
        origin["trained_on"] = {"domain": domain, "images": len(dataset), "fingerprint": find_fingerprint(dataset)}
    return origin


@lru_cache(maxsize=1)
def find_fingerprint(dataset: Any) -> str:
    """Returns the fingerprint of the training data; cached, because it checks every file."""
    return dataset.fingerprint()


def find_normalization(module: Any) -> Any:
    """Returns the normalisation of the images of a module's run, or None if it is not known."""
    return getattr(getattr(module._trainer, "datamodule", None), "normalization", None)


def check_origin(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Compares a checkpoint's origin with the run; warns if arguments of the network differ.

    Raises:
        ValueError: If the classes or the normalisation of the images differ.
    """
    origin = checkpoint.get("origin") or {}
    was, now = origin.get("arguments", {}), module.origin.get("arguments", {})
    changed = sorted(name for name in was.keys() & now.keys() - FREE_ARGUMENTS if was[name] != now[name])
    if changed:
        rank_zero_warn(
            "the network differs from the one that was trained; unless this is intended, use the config.yaml of "
            "that training: " + ", ".join(f"{name} was {was[name]}, is now {now[name]}" for name in changed)
        )
    check_classes(module, checkpoint)
    normalized, trained = find_normalization(module), origin.get("normalization")
    if None not in (normalized, trained) and normalized != trained:
        raise ValueError(
            f"the checkpoint was trained on images normalised by {trained}, the data are normalised by {normalized}: "
            "expected the same, as scores would be too low. Normalise the data as in training"
        )


def check_classes(module: Any, checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> None:
    """Raises ValueError if a checkpoint has other classes than the data; warns if it does not name its classes."""
    trained, present = checkpoint.get("class_names"), module.class_names
    if module.other_classes or trained == present:
        return
    if trained is None:
        rank_zero_warn(
            f"{name} does not name its classes (written before 2026-11-29, or by another program): they are assumed to "
            f"be {', '.join(present)}, in this order"
        )
    elif sorted(trained) == sorted(present):
        ids = ", ".join(f"{present.index(one)}: {one}" for one in trained)
        raise ValueError(
            f"{name} was trained with the classes in a different order than in the data: expected the same order, or "
            f"classes are mixed up. Set classes of the data to [{', '.join(trained)}], and, unless ids is set, ids "
            f"to {{{ids}}}; classes is now [{', '.join(present)}]"
        )
    else:
        raise ValueError(
            f"{name} was trained with other classes than the data has: expected the same in the same order. Set the "
            "data's classes to the checkpoint's, or, if only the names differ, --model.other_classes=true. Trained "
            f"with {', '.join(trained)}; the data has {', '.join(present)}"
        )


def check_method_state(name: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint's ``training_method`` is another method, or has tensors of other shapes.

    Args:
        name: Name of this run's method.
        own: State of this run's method.
        saved: ``name`` and ``state`` of the checkpoint's method; empty if it was trained without one.
    """
    found = saved.get("name", "no method")
    ours, theirs = ({key: one.shape for key, one in state.items()} for state in (own, saved.get("state", {})))
    if found != name or ours != theirs:
        raise ValueError(
            f"the checkpoint was trained by {found}{' with different sizes' * (found == name)}, this run uses {name}: "
            "expected the same --training and arguments to continue; to start over, omit --ckpt_path"
        )
