"""What the outcome of a run depends on, in plain values: by it a run that goes on knows that it is the same run."""

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

NAMED = 5  # how many settings an error names
WAYS_OUT = "another results.folder, or --results.overwrite=true"


def describe_predictor(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns all that a prediction depends on besides the data: method, network, weights and precision.

    Args:
        trainer: Of the run.
        module: Around the network, with the weights that predict.
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
    """Returns how a network is run, where it is not as usual: compiled or laid out otherwise, it rounds otherwise."""
    unusual: dict[str, Any] = {}
    if getattr(network, "_compiled_call_impl", None) is not None:
        unusual["compiled"] = True
    if "channels_last" in vars(network):  # set on this one, against its class
        unusual["channels_last"] = vars(network)["channels_last"]
    return unusual


def describe_evaluation(trainer: Trainer, module: LightningModule, evaluated: Sequence[Any]) -> dict[str, Any]:
    """Returns all that the scores of a `validate` or `test` run depend on.

    Args:
        trainer: Of the run.
        module: Around the network, with the weights that predict.
        evaluated: The data sets as the datamodule opened them (``datamodule``, ``dataset`` and ``batches`` each).
    """
    limit = trainer.limit_test_batches if trainer.state.fn == TrainerFn.TESTING else trainer.limit_val_batches
    settings = {"stage": find_stage(trainer), **describe_predictor(trainer, module)}
    settings["limit_batches"] = describe_limit(limit)
    if settings["limit_batches"] != 1.0:
        settings["processes"] = trainer.world_size  # each has so many batches: which images these are depends on it
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
    """Returns a limit of Lightning's as settings have it: 1 is one batch and 1.0 all of them, though both are equal."""
    return f"{limit} batch{'es' * (limit != 1)}" if isinstance(limit, int) else limit


def describe_data(member: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what a datamodule says about its data, and its folder."""
    described = member.describe() if hasattr(member, "describe") else {"class": type(member).__name__}
    root = find_root(member)
    kept = {key: value for key, value in described.items() if key not in without}
    return kept | {"root": None if root is None else str(root.resolve())}


def find_stage(trainer: Trainer) -> str | None:
    """Returns what a run does: ``fit``, ``validate``, ``test`` or ``predict``."""
    return trainer.state.fn.value if trainer.state.fn else None


def keeps_knowledge(callback: Any) -> bool:
    """Returns whether what a method or search makes of an image depends on those before: it cannot resume midway."""
    return bool(getattr(callback, "keeps_knowledge", False))


def find_root(member: Any) -> Path | None:
    """Returns the folder that a datamodule reads, if it reads one."""
    if hasattr(member, "find_root"):
        return member.find_root()
    root = getattr(member, "root", None)
    return None if root is None else Path(root).expanduser()


def fingerprint_weights(network: nn.Module) -> str:
    """Returns the SHA-256 of names and values of parameters and buffers: the same wherever a checkpoint lies."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(values.numpy())
    return digest.hexdigest()


def fingerprint_layers(network: nn.Module) -> str:
    """Returns the SHA-256 of a network's description, where strides and dilations show that weights do not hold."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(network)).encode()).hexdigest()


def fingerprint_files(settings: Any) -> dict[str, str]:
    """Returns the SHA-256 of each file that settings name, such as the checkpoints of an ensemble."""
    found = {}
    for text in list_texts(settings):
        if "\0" not in text and len(text) < 1000 and (path := Path(text).expanduser()).is_file():
            with path.open("rb") as file:
                found[text] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def list_texts(value: Any) -> Iterator[str]:
    """Yields the strings and paths in nested settings, without the keys."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from list_texts(item)
    elif isinstance(value, str | Path):
        yield str(value)


def find_differences(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Says of each setting that differs what it was and what it is now."""
    before, now = flatten(earlier), flatten(settings)
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key)}, is now {now.get(key)}" for key in keys]


def check_settings(
    folder: Path, what: str, earlier: Mapping[str, Any], settings: Mapping[str, Any], ways_out: str = WAYS_OUT
) -> None:
    """Raises ValueError if settings differ; names those that do.

    Args:
        folder: Where `what` lies.
        what: What was made with the earlier settings, such as ``predictions``.
        earlier: Settings, nested.
        settings: Of this run, nested.
        ways_out: What to name to begin anew.
    """
    differences = find_differences(earlier, settings)
    if not differences:
        return
    more = f"; and {len(differences) - NAMED} more" if len(differences) > NAMED else ""
    raise ValueError(
        f"{folder} holds {what} of other settings: {'; '.join(differences[:NAMED])}{more}. Expected the same settings "
        f"to go on, {ways_out} to begin anew"
    )


def flatten(settings: Any) -> dict[str, Any]:
    """Returns nested settings by dotted names: ``{"method": {"lr": 0.1}}`` as ``{"method.lr": 0.1}``."""
    if not isinstance(settings, Mapping):
        return {"": settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{name}" if name else str(key): item for name, item in flatten(value).items()}
    return flat
