"""The data of a `predict` run: what predictions depend on, which images there are, and what became of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer

from callbacks.method import require_segmentation
from callbacks.run.records import to_plain
from callbacks.run.settings import describe_data, describe_predictor
from lightning_modules.loaders import list_loaders

# What data sets say about themselves that does not show in predictions.
NOT_IN_PREDICTIONS = ("role", "choose_on_target", "broken", "left_out", "release")


def describe_predicting(trainer: Trainer, module: LightningModule, palette: np.ndarray) -> dict[str, Any]:
    """Returns all that predictions depend on, in plain values.

    Args:
        trainer: Of the run.
        module: Around the network, with the weights that predict.
        palette: (256, 3) uint8 RGB, the colours of the classes.
    """
    data = {}
    for number, member in enumerate(list_members(trainer)):
        described = describe_data(member, NOT_IN_PREDICTIONS)
        data[described.get("domain", f"data{number}")] = described
    num_classes = require_segmentation(module).num_classes
    colours = [f"#{palette[label].tobytes().hex()}" for label in range(num_classes)]
    return to_plain({**describe_predictor(trainer, module), "colours": colours, "data": data})


def list_members(trainer: Trainer) -> list[Any]:
    """Lists the datamodules of the data sets that are predicted: several targets, or one."""
    datamodule = getattr(trainer, "datamodule", None)
    return [] if datamodule is None else list(getattr(datamodule, "targets", [datamodule]))


def list_left_out(trainer: Trainer) -> dict[str, set[str]]:
    """Returns the names of the images that this process left out, as they are broken or too small, by domain."""
    left_out: dict[str, set[str]] = {}
    for member in list_members(trainer):
        problems = [problem for found in getattr(member, "left_out", {}).values() for problem in found]
        if problems:
            left_out.setdefault(member.domain, set()).update(problem.name for problem in problems)
    return left_out


def has_names(loader: Any) -> bool:
    """Returns whether a loader's data set tells its domain and the names of its images."""
    dataset = getattr(loader, "dataset", None)
    return hasattr(dataset, "domain") and hasattr(dataset, "name") and hasattr(dataset, "__len__")


def list_names(trainer: Trainer) -> dict[str, set[str]]:
    """Returns the names of all images to predict, done or not, by domain, where data sets tell them."""
    datasets = [loader.dataset for loader in list_loaders(trainer.predict_dataloaders) if has_names(loader)]
    return {dataset.domain: {dataset.name(index) for index in range(len(dataset))} for dataset in datasets}


def count_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts images, and those that did not go as they should."""
    adaptations = [record["adaptation"] for record in records if record["adaptation"]]
    return {
        "images": len(records),
        "fallbacks": sum(adaptation["fallback"] for adaptation in adaptations),
        "notes": sorted({adaptation["note"] for adaptation in adaptations if adaptation["note"]}),
        "images_with_notes": sum(adaptation["note"] is not None for adaptation in adaptations),
        "images_not_finite": sum(not record["finite"] for record in records),
    }
