"""Profiling of predictions: methods mark named stages, which are only timed within `recording`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from lightning_modules.predictor import Stopwatch

_record: ContextVar["StageTimes | None"] = ContextVar("stage_times", default=None)


class StageTimes:
    """The times of the stages that ran within `recording` on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stopwatches: list[tuple[str, Stopwatch]] = []

    def add(self, name: str) -> Stopwatch:
        """Adds a run of a stage; returns its stopwatch."""
        stopwatch = Stopwatch(self.device)
        self._stopwatches.append((name, stopwatch))
        return stopwatch

    def milliseconds(self) -> dict[str, list[float]]:
        """Returns the times of all runs of each stage, by stage, in starting order; waits for the device."""
        times: dict[str, list[float]] = {}
        for name, stopwatch in self._stopwatches:
            times.setdefault(name, []).append(stopwatch.milliseconds())
        return times


@contextmanager
def recording(device: torch.device) -> Iterator[StageTimes]:
    """Times the stages that run within a ``with`` block; yields their times."""
    times = StageTimes(device)
    token = _record.set(times)
    try:
        yield times
    finally:
        _record.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Marks a stage of a prediction; costs nothing outside `recording`, and never waits for the device."""
    times = _record.get()
    if times is None:
        yield
        return
    with times.add(name):
        yield
