"""The base of what rides along a `validate` run and chooses a setting by its labels."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor


class Search(Callback):
    """Sums something up over the images of a development set, and says at the end which setting is best.

    Attributes:
        refused: The runs in which nothing may be chosen.
        reason: Why not, for the error message.
    """

    refused: tuple[TrainerFn, ...] = (TrainerFn.TESTING, TrainerFn.PREDICTING)
    reason = "settings are chosen on the development set alone"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError in runs in which nothing may be chosen."""
        if stage in self.refused:
            raise ValueError(
                f"{type(self).__name__} is among the callbacks of a {TrainerFn(stage).value} run: expected a validate "
                f"run, as {self.reason}"
            )


def sum_over_processes(trainer: Trainer, *sums: Tensor) -> list[Tensor]:
    """Adds up what the processes of a run have summed; the same on all of them."""
    return [trainer.strategy.reduce(value, reduce_op="sum") for value in sums]


def log_result(module: LightningModule, values: Mapping[str, Any]) -> None:
    """Logs numbers as ``val/NAME`` that are the same on all processes, whose maximum is exact."""
    module.log_dict({f"val/{name}": float(value) for name, value in values.items()}, sync_dist=True, reduce_fx="max")
