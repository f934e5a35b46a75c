"""Copies the next batch to a GPU while the network works on this one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class DevicePrefetcher:
    """The batches of a loader on a CUDA device, each copied there while the one before is worked on.

    Worker processes of the loader decode further ahead. Everything else about the loader (its data set, its length) is
    the loader's own.

    Args:
        loader: With ``pin_memory``, or its copies would wait for the device.
        device: A CUDA device.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self.loader = loader
        self.device = device

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the loader."""
        if name == "loader":  # not there yet, while this is unpickled
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
        """Has the work that is queued from here on wait for the copies."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(stream)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.record_stream(current)
        return batch


Loader = DataLoader | DevicePrefetcher
