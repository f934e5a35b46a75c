"""What the callbacks share that choose a setting by the labels of a `validate` run."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor


def refuse_run(search: Callback, stage: str, reason: str) -> None:
    """Raises ValueError: settings must not be chosen in runs of this stage."""
    raise ValueError(
        f"{type(search).__name__} is among the callbacks of a {TrainerFn(stage).value} run: expected a validate run, "
        f"as {reason}"
    )


def sum_over_processes(trainer: Trainer, *sums: Tensor) -> list[Tensor]:
    """Returns the sums over all processes of a run; the same on every process."""
    return [trainer.strategy.reduce(value, reduce_op="sum") for value in sums]


def log_result(module: LightningModule, values: Mapping[str, Any]) -> None:
    """Logs numbers as ``val/NAME``; they must be equal on all processes, so reducing by maximum keeps them exact."""
    module.log_dict({f"val/{name}": float(value) for name, value in values.items()}, sync_dist=True, reduce_fx="max")
