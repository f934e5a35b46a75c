"""Copies the next batch to a GPU while the network processes the current one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class DevicePrefetcher:
    """Wraps a loader and copies each batch to a CUDA device while the previous one is processed.

    The loader's worker processes decode further ahead. All other attributes (data set, length) are the loader's.

    Args:
        loader: A loader with ``pin_memory``; without it the copies would block.
        device: A CUDA device.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self.loader = loader
        self.device = device

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the loader."""
        if name == "loader":  # not set yet during unpickling
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the batches in order."""
        stream = torch.cuda.Stream(self.device)
        ready: dict[str, Any] | None = None
        for batch in self.loader:
            with torch.cuda.stream(stream):
                coming = {key: self._copy(value) for key, value in batch.items()}
            if ready is not None:
                yield ready
            ready = self._receive(coming, stream)
        if ready is not None:
            yield ready

    def _copy(self, value: Any) -> Any:
        return value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value

    def _receive(self, batch: dict[str, Any], stream: torch.cuda.Stream) -> dict[str, Any]:
        """Makes work queued from now on wait for the copies."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(stream)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.record_stream(current)
        return batch


Loader = DataLoader | DevicePrefetcher
