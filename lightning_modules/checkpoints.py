"""Checkpoint input and output of the Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_modules.networks.checkpoints import read_checkpoint


class CheckpointReader(TorchCheckpointIO):
    """Reads checkpoints with `read_checkpoint`, and writes them so that a full disk does not damage the old file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint atomically: to a temporary file, which is then renamed."""
        place = Path(path)
        beside = place.with_name(f".{place.name}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(checkpoint, beside)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU."""
        return {"pytorch-lightning_version": "2.0.0", **read_checkpoint(path)}
