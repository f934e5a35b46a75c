"""Checks of batches and data loaders, and the names of classes, images and domains."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Trainer

from lightning_modules.metrics import IGNORED


def check_batch(batch: Any, *keys: str) -> None:
    """Raises ValueError if a batch is not a dict with these keys."""
    if not isinstance(batch, Mapping) or any(key not in batch for key in keys):
        found = f"a dict with {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch is {found}: expected a dict with {', '.join(keys)} from the data loader")


def name_images(batch: Mapping[str, Any], batch_idx: int) -> list[str]:
    """Returns the names of a batch's images, or numbers if they have no names."""
    return list(batch.get("name") or (f"{batch_idx:06d}_{number}" for number in range(len(batch["image"]))))


def name_classes(num_classes: int, names: Sequence[str] | None) -> list[str]:
    """Returns the names of the classes, or their numbers; ValueError if there are too many or they do not match."""
    if not 2 <= num_classes <= IGNORED:
        raise ValueError(f"num_classes is {num_classes}: expected 2 to {IGNORED} (labels are 8-bit, 255 is ignored)")
    if names is None:
        return [str(number) for number in range(num_classes)]
    if len(names) != num_classes:
        raise ValueError(f"there are {len(names)} class names for {num_classes} classes: expected one per class")
    return list(names)


def name_domains(loaders: Any) -> list[str]:
    """Returns a name for each loader: its data set's ``domain``, or its number; repeated names get a number."""
    names: list[str] = []
    for number, loader in enumerate(list_loaders(loaders)):
        name = str(getattr(getattr(loader, "dataset", None), "domain", f"data{number}"))
        while name in names:
            name = f"{name}_{number}"
        names.append(name)
    return names


def list_loaders(loaders: Any) -> list[Any]:
    """Returns loaders as a list; Lightning stores them as one loader, a sequence or a dict."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, Sequence) else [loaders]


def check_not_targets(loaders: Any) -> None:
    """Raises ValueError if a validation set is a target domain: nothing may be selected on a target's labels."""
    for loader in list_loaders(loaders):
        if getattr(getattr(loader, "dataset", None), "role", None) == "target":
            raise ValueError(
                f"{loader.dataset.domain} is a target of the protocol: nothing may be chosen on its labels. "
                "Validate on a development set, or set choose_on_target=true in its datamodule"
            )


def may_skip(trainer: Trainer, dataloader_idx: int, names: Sequence[str], why: str) -> bool:
    """Returns whether the data module skips images that cannot be predicted; if so, it records them."""
    datamodule = getattr(trainer, "datamodule", None)
    members = getattr(datamodule, "targets", [datamodule])
    if dataloader_idx >= len(members) or not hasattr(members[dataloader_idx], "may_skip"):
        return False
    return members[dataloader_idx].may_skip(names, why)
