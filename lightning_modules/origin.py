"""The origin of a checkpoint (network, data, version), and its comparison with the run that loads it."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from lightning_modules.segmentation import SegmentationModule

FREE_ARGUMENTS = {"weights", "num_classes", "dropout"}  # arguments of a network that may differ from training


def describe_origin(module: "SegmentationModule") -> dict[str, Any]:
    """Returns the network of a training run, its data and their normalisation, and the version of this project.

    Args:
        module: Module in training; facts that its trainer's data do not provide are left out.
    """
    origin = module.origin | find_version()
    trainer = module._trainer
    normalization = getattr(getattr(trainer, "datamodule", None), "normalization", None)
    if normalization is not None:
        origin["normalization"] = normalization
    dataset = getattr(getattr(trainer, "train_dataloader", None), "dataset", None)
    if dataset is not None and hasattr(dataset, "fingerprint"):
        domain = getattr(dataset, "domain", type(dataset).__name__)
        origin["trained_on"] = {"domain": domain, "images": len(dataset), "fingerprint": find_fingerprint(dataset)}
    return origin


@lru_cache(maxsize=1)
def find_fingerprint(dataset: Any) -> str:
    """Returns the fingerprint of the training data; cached, because it checks every file."""
    return dataset.fingerprint()


def find_version() -> dict[str, str]:
    """Returns the version of this project, or an empty dict if it is not installed."""
    try:
        return {"version": version("segadapt")}
    except PackageNotFoundError:
        return {}


def check_origin(module: "SegmentationModule", checkpoint: Mapping[str, Any]) -> None:
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
    normalized = getattr(getattr(module._trainer, "datamodule", None), "normalization", None)
    if None not in (normalized, trained := origin.get("normalization")) and normalized != trained:
        raise ValueError(
            f"the checkpoint was trained on images normalised by {trained}, the data are normalised by {normalized}: "
            "expected the same, as scores would be too low. Normalise the data as in training"
        )


def check_classes(module: "SegmentationModule", checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> None:
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
