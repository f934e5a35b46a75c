"""Callbacks that add to the record of each image, and so go on with a run that was interrupted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Contributor(Callback, ABC):
    """Adds to the records that `Results` writes in a `validate` run, and to what it writes at the end.

    `Results` asks for each batch, on each process; on the first process it hands over the records of an earlier run of
    the same settings before the first batch.
    """

    @abstractmethod
    def describe_settings(self) -> dict[str, Any]:
        """Returns what the additions depend on, for JSON: with other settings, earlier records do not count."""

    @abstractmethod
    def extend_records(
        self, trainer: Trainer, module: LightningModule, batch: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Returns what is added to the record of each image of a batch, for JSON; may be called twice with a batch."""

    @abstractmethod
    def add_earlier(self, record: Mapping[str, Any]) -> None:
        """Counts the record of an image that was scored before this run."""

    @abstractmethod
    def report(self) -> dict[str, dict[str, Any]]:
        """Returns what is written at the end of a whole run, by the name of the file in the folder of results."""


def list_contributors(trainer: Trainer) -> list[Contributor]:
    """Lists the contributors of a run: none but in `validate`."""
    if trainer.state.fn != "validate":
        return []
    return [callback for callback in trainer.callbacks if isinstance(callback, Contributor)]  # type: ignore[attr-defined]
