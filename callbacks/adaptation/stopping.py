"""When to take no further step on an image: the time is up."""

import time

import torch
from torch import Tensor

STEP_PER_FINAL = 3.0  # a step is a forward and two backward passes

Pace = dict[tuple[int, ...], tuple[float, float]]  # by size of the image: ms of a step and of the final prediction


class Deadline:
    """Whether a further step of one image fits into its time. The clock starts when this is made.

    Args:
        milliseconds: That the image may take; None is no limit.
        pace: What images of each size took before, so what this one may expect; learns from it.
        image: (B, 3, H, W); its size and device.
    """

    def __init__(self, milliseconds: float | None, pace: Pace, image: Tensor) -> None:
        self._limit = milliseconds
        self._pace = pace
        self._shape = tuple(image.shape)
        self._device = image.device
        self._start = time.perf_counter()
        self._marks: list[float] = []  # when each step began, and when the last one ended

    def allows_step(self) -> bool:
        """Returns whether the time suffices for a step and the final prediction; called before and after each step."""
        if self._limit is None:
            return True
        self._marks.append(self._read())
        step, final = self._expect()
        return self._marks[-1] + step + final <= self._limit

    def end(self) -> None:
        """Learns from this image, when its prediction is made."""
        if self._limit is None or not self._marks:
            return
        (step, _), final = self._expect(), self._read() - self._marks[-1]
        if len(self._marks) == 1:  # no step was taken; the one expected may have been a warm-up: not for ever
            step = min(step, STEP_PER_FINAL * final)
        self._pace[self._shape] = step, final

    def _expect(self) -> tuple[float, float]:
        step, final = self._pace.get(self._shape, (0.0, 0.0))
        if len(self._marks) > 1:
            step = (self._marks[-1] - self._marks[0]) / (len(self._marks) - 1)
        return step, final or step / STEP_PER_FINAL

    def _read(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return 1000 * (time.perf_counter() - self._start)
