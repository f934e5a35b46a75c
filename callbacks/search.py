"""The base class of callbacks that choose a setting by the labels of a `validate` run."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor


class Search(Callback):
    """Accumulates scores over the images of a development set and picks the best setting at the end.

    Attributes:
        refused: Kinds of runs in which settings must not be chosen.
        reason: Why not, for the error message.
    """

    refused: tuple[TrainerFn, ...] = (TrainerFn.TESTING, TrainerFn.PREDICTING)
    reason = "settings are chosen on the development set alone"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError in runs of a refused kind."""
        if stage in self.refused:
            raise ValueError(
                f"{type(self).__name__} is among the callbacks of a {TrainerFn(stage).value} run: expected a validate "
                f"run, as {self.reason}"
            )


def sum_over_processes(trainer: Trainer, *sums: Tensor) -> list[Tensor]:
    """Returns the sums over all processes of a run; the same on every process."""
    return [trainer.strategy.reduce(value, reduce_op="sum") for value in sums]


def log_result(module: LightningModule, values: Mapping[str, Any]) -> None:
    """Logs numbers as ``val/NAME``; they must be equal on all processes, so reducing by maximum keeps them exact."""
    module.log_dict({f"val/{name}": float(value) for name, value in values.items()}, sync_dist=True, reduce_fx="max")
