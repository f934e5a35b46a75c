"""The settings that determine a run's outcome, as plain values: a run can only be resumed with the same ones."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn

from callbacks.method import require_segmentation
from callbacks.run.records import find_method, to_plain

DIGEST = re.compile(r"[0-9a-f]{64}")  # SHA-256
ADDED = {"autocontrast": False, "refine": 0}  # arguments that earlier revisions lacked, with the value they amount to
NAMED = 5  # maximum number of settings that an error names
WAYS_OUT = "another results.folder, or --results.overwrite=true"


def describe_predictor(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns everything that a prediction depends on except the data: method, network, weights and precision.

    Args:
        trainer: The run's Trainer.
        module: The module around the network, with the weights used for prediction.
    """
    segmentation, method = require_segmentation(module), find_method(trainer)
    settings = method.settings() if method else None
    return to_plain(
        {
            "method": settings,
            "temperature": segmentation.temperature,
            "network": type(segmentation.network).__name__,
            "layers": fingerprint_layers(segmentation.network),
            "weights": fingerprint_weights(segmentation.network),
            "precision": str(trainer.precision),
            "class_names": segmentation.class_names,
            **describe_execution(segmentation.network),
        }
        | ({"method_files": files} if (files := fingerprint_files(settings)) else {})
    )


def describe_execution(network: nn.Module) -> dict[str, Any]:
    """Returns non-default ways of running a network (compiled, memory layout), which change rounding."""
    unusual: dict[str, Any] = {}
    if getattr(network, "_compiled_call_impl", None) is not None:
        unusual["compiled"] = True
    if "channels_last" in vars(network):  # set on the instance, not by its class
        unusual["channels_last"] = vars(network)["channels_last"]
    return unusual


def describe_evaluation(trainer: Trainer, module: LightningModule, evaluated: Sequence[Any]) -> dict[str, Any]:
    """Returns everything that the scores of a `validate` or `test` run depend on.

    Args:
        trainer: The run's Trainer.
        module: The module around the network, with the weights used for prediction.
        evaluated: The data sets that the datamodule opened, each with ``datamodule``, ``dataset`` and ``batches``.
    """
    limit = trainer.limit_test_batches if trainer.state.fn == TrainerFn.TESTING else trainer.limit_val_batches
    settings = {"stage": find_stage(trainer), **describe_predictor(trainer, module)}
    settings["limit_batches"] = describe_limit(limit)
    if settings["limit_batches"] != 1.0:
        settings["processes"] = trainer.world_size  # the limit is per process, so this determines the images
    data = {}
    for number, (member, dataset, _) in enumerate(evaluated):
        described = describe_data(member, without=("left_out",))
        data[str(described.get("domain", f"data{number}"))] = described | {
            "eval_batch_size": member.eval_batch_size,
            "images": len(dataset),
            "fingerprint": dataset.fingerprint(),
        }
    return to_plain(settings | {"data": data})


def describe_limit(limit: float | None) -> float | str | None:
    """Formats a Lightning limit for the settings, where 1 (one batch) and 1.0 (all batches) must differ."""
    return f"{limit} batch{'es' * (limit != 1)}" if isinstance(limit, int) else limit


def describe_data(member: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a datamodule's description of its data, and its folder."""
    described = member.describe() if hasattr(member, "describe") else {"class": type(member).__name__}
    root = find_root(member)
    kept = {key: value for key, value in described.items() if key not in without}
    return kept | {"root": None if root is None else str(root.resolve())}


def find_stage(trainer: Trainer) -> str | None:
    """Returns the stage of a run: ``fit``, ``validate``, ``test`` or ``predict``; None outside of these."""
    return trainer.state.fn.value if trainer.state.fn else None


def keeps_knowledge(callback: Any) -> bool:
    """Returns whether a method or search carries knowledge from image to image, and so cannot resume midway."""
    return bool(getattr(callback, "keeps_knowledge", False))


def find_root(member: Any) -> Path | None:
    """Returns the folder that a datamodule reads; None if it reads none."""
    if hasattr(member, "find_root"):
        return member.find_root()
    root = getattr(member, "root", None)
    return None if root is None else Path(root).expanduser()


def fingerprint_weights(network: nn.Module) -> str:
    """Returns the SHA-256 of all parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(values.numpy())
    return digest.hexdigest()


def fingerprint_layers(network: nn.Module) -> str:
    """Returns the SHA-256 of a network's printed layers, which show strides and dilations that weights do not."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(network)).encode()).hexdigest()


def fingerprint_files(settings: Any) -> dict[str, str]:
    """Returns the SHA-256 of each file named in the settings, such as the checkpoints of an ensemble."""
    found = {}
    for text in list_texts(settings):
        if "\0" not in text and len(text) < 1000 and (path := Path(text).expanduser()).is_file():
            with path.open("rb") as file:
                found[text] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def list_texts(value: Any) -> Iterator[str]:
    """Yields the strings and paths among the values of nested settings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from list_texts(item)
    elif isinstance(value, str | Path):
        yield str(value)


def find_differences(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Describes each setting that differs, with its earlier and its current value."""
    before, now = flatten(earlier), flatten(settings)
    before = {key: ADDED[name] for key in now if (name := key.rpartition(".")[2]) in ADDED} | before
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [explain_difference(key, before.get(key), now.get(key)) for key in keys]


def explain_difference(key: str, before: Any, now: Any) -> str:
    """Says how a setting differs; of digests, their beginnings, and for images what they depend on."""
    was, now = (value[:12] if DIGEST.fullmatch(str(value)) else value for value in (before, now))
    return f"{key} was {was}, is now {now}" + key.endswith("fingerprint") * " (other images, or changed files)"


def check_settings(
    folder: Path, what: str, earlier: Mapping[str, Any], settings: Mapping[str, Any], ways_out: str = WAYS_OUT
) -> None:
    """Raises ValueError if settings differ; the message names those that do.

    Args:
        folder: The folder that holds the earlier results.
        what: The kind of these results, such as ``predictions``.
        earlier: Their settings, nested.
        settings: Settings of this run, nested.
        ways_out: Ways to start over, for the message.
    """
    differences = find_differences(earlier, settings)
    if not differences:
        return
    more = f"; and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
    raise ValueError(
        f"{folder} has {what} from different settings: {'; '.join(differences[:NAMED])}{more}. Expected the same "
        f"settings to resume, or {ways_out} to start over"
    )


def flatten(settings: Any) -> dict[str, Any]:
    """Flattens nested settings to dotted names: ``{"method": {"lr": 0.1}}`` becomes ``{"method.lr": 0.1}``."""
    if not isinstance(settings, Mapping):
        return {"": settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{name}" if name else str(key): item for name, item in flatten(value).items()}
    return flat
