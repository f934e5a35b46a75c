"""The time limit per image: when to stop taking steps."""

import time

import torch
from torch import Tensor

STEP_PER_FINAL = 3.0  # a step is a forward and two backward passes

Pace = dict[tuple[int, ...], tuple[float, float]]  # by image shape: ms per step and of the final prediction


class Deadline:
    """Decides whether another step on an image fits into its time limit. The clock starts on construction.

    Args:
        milliseconds: Time limit for the image; None means no limit.
        pace: Times of earlier images by shape, used as estimates; `end` updates it.
        image: (B, 3, H, W); only its shape and device are used.
    """

    def __init__(self, milliseconds: float | None, pace: Pace, image: Tensor) -> None:
        self._limit = milliseconds
        self._pace = pace
        self._shape = tuple(image.shape)
        self._device = image.device
        self._start = time.perf_counter()
        self._marks: list[float] = []  # start of each step and end of the last one, in ms

    def allows_step(self) -> bool:
        """Returns whether a step and the final prediction still fit; called before the first step and after each."""
        if self._limit is None:
            return True
        self._marks.append(self._read())
        step, final = self._expect()
        return self._marks[-1] + step + final <= self._limit

    def end(self) -> None:
        """Updates the pace with the times of this image; called after its final prediction."""
        if self._limit is None or not self._marks:
            return
        (step, _), final = self._expect(), self._read() - self._marks[-1]
        if len(self._marks) == 1:  # no step was taken: limit the estimate, which may come from a slow warm-up step
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
