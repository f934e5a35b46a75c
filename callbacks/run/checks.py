"""Checks of a run's configuration, made before any data are read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules.networks.checkpoints import check_file

NAMED = ("last", "best")  # values of ckpt_path that are no paths to Lightning
CLUSTERS = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")  # set by multi-machine launchers


def check_run(run: Any, subcommand: str) -> None:
    """Raises ValueError or OSError if the configuration of a run cannot work, before any data are read.

    Args:
        run: Configuration of the sub-command.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    if run.get("ckpt_path") and run.model.released:
        raise ValueError("ckpt_path and model.released are both set: expected one of them; set the other to null")
    check_writable(run.results.folder)
    check_devices(run.trainer)
    check_work(run.trainer, subcommand)
    if subcommand != "fit":
        check_weights_given(run)


def drop_unused(run: Any, subcommand: str) -> None:
    """Drops the training method unless the run trains, and ImageNet weights that a checkpoint would replace.

    The ImageNet weights stay if a training method is set, because it may use them as a reference.

    Args:
        run: Configuration of the sub-command.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    if subcommand != "fit":
        run.training = None
    arguments = run.model.network.get("init_args")
    replaced = run.get("ckpt_path") or run.model.released
    if replaced and arguments is not None and arguments.get("weights") and not run.get("training"):
        arguments.weights = None


def check_checkpoint(path: str | Path | None) -> None:
    """Raises an error for `last` and `best`, and for a file that is empty, truncated or no checkpoint.

    None and a missing file pass.
    """
    if path in NAMED:
        raise ValueError(
            f"ckpt_path is {path!r}: expected the path of a file, e.g. "
            "outputs/runs/csv/version_0/checkpoints/last.ckpt. The folder of a new run is empty, so there is no "
            f"{path!r} yet"
        )
    if path is not None and Path(path).exists():
        check_file(path)


def check_work(trainer: Any, subcommand: str) -> None:
    """Raises ValueError if a limit of 0 would make a run do nothing.

    Args:
        trainer: Configuration of the Trainer.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    if trainer.fast_dev_run:
        return  # it sets limits of its own
    names = {"fit": "train", "validate": "val"}
    limits = [f"limit_{names.get(subcommand, subcommand)}_batches"]
    if subcommand == "fit":
        limits = ["max_epochs", "max_steps", *([] if trainer.overfit_batches else limits)]
    for name in limits:
        if trainer[name] == 0:
            raise ValueError(
                f"trainer.{name} is 0, so {subcommand} would do nothing: expected 1 or more, or omit the option"
            )


def check_weights_given(run: Any) -> None:
    """Raises ValueError if a run that scores or labels images has no trained weights and `untrained` is not set.

    Args:
        run: Configuration of the sub-command.
    """
    method = run.get("method")
    members = method is not None and (method.get("init_args") or {}).get("checkpoints")
    given = run.get("ckpt_path") or run.model.released or loads_weights(run.model.network.as_dict()) or members
    if not given and not run.untrained:
        raise ValueError(
            "there is no trained network: expected --ckpt_path=outputs/runs/csv/version_0/checkpoints/best.ckpt (or "
            "model.released). To run one with random weights on purpose, pass --untrained=true"
        )


def loads_weights(network: Mapping[str, Any]) -> bool:
    """Returns whether a network of another library, possibly inside a wrapper, is configured to load weights."""
    own = str(network["class_path"]).startswith("lightning_modules.")  # their `weights` only initialise training
    for name, value in (network.get("init_args") or {}).items():
        if isinstance(value, Mapping) and "class_path" in value:
            if loads_weights(value):
                return True
        elif value and not own and any(word in name for word in ("weights", "pretrained", "checkpoint")):
            return True
    return False


def check_devices(trainer: Any) -> None:
    """Raises ValueError if the requested devices are missing, or the run's processes could not be started.

    Args:
        trainer: Configuration of the Trainer.
    """
    accelerator, devices, strategy = trainer.accelerator, trainer.devices, trainer.strategy
    there = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not there:
        raise ValueError(
            f"trainer.accelerator is {accelerator}, but torch {torch.__version__} finds no GPU: expected one that "
            "nvidia-smi lists, and a torch build that supports it. Without a GPU, pass --trainer.accelerator=cpu"
        )
    if str(devices) in ("0", "[]"):
        raise ValueError(f"trainer.devices is {devices}: expected 1 or more; on a CPU, pass --trainer.accelerator=cpu")
    if trainer.num_nodes > 1 and not trainer.plugins and not any(name in os.environ for name in CLUSTERS):
        raise ValueError(
            f"trainer.num_nodes is {trainer.num_nodes}, but no launcher specifies the other machines: expected "
            "torchrun, SLURM or MASTER_ADDR on each of them. On one machine, omit trainer.num_nodes"
        )
    if isinstance(strategy, str) and strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise ValueError(
            f"trainer.strategy is {strategy}: expected ddp. Strategies that spawn or fork lose the loggers and threads "
            "of the run"
        )


def check_writable(folder: str | Path | None) -> None:
    """Raises PermissionError or NotADirectoryError if a folder cannot be written to, or cannot be created."""
    if folder is None:
        return
    place = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    if not place.is_dir():
        raise NotADirectoryError(f"results.folder is {folder}, but {place} is a file: expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(
            f"results.folder is {folder}, but {place} is not writable: expected a folder that you can write to"
        )
