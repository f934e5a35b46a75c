"""When to take no further step on an image: the time is up."""

import time

import torch
from torch import Tensor

STEP_PER_FINAL = 3.0  # a step is a forward and two backward passes


class Pace:
    """How long a step and the final prediction took, by size of the image: what the next image may expect."""

    def __init__(self) -> None:
        self._milliseconds: dict[tuple[int, ...], tuple[float, float]] = {}

    def expect(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Returns the milliseconds of a step and of the final prediction; 0 if there was no such image yet."""
        return self._milliseconds.get(shape, (0.0, 0.0))

    def note(self, shape: tuple[int, ...], step: float, final: float) -> None:
        """Notes what an image of a size took."""
        self._milliseconds[shape] = (step, final)


class Deadline:
    """Whether a further step of one image fits into its time. The clock starts when this is made.

    Args:
        milliseconds: That the image may take; None is no limit.
        pace: Of the images before; learns from this one.
        image: (B, 3, H, W); its size and device.
    """

    def __init__(self, milliseconds: float | None, pace: Pace, image: Tensor) -> None:
        self._limit = milliseconds
        self._pace = pace
        self._shape = tuple(image.shape)
        self._device = image.device
        self._start = time.perf_counter()
        self._marks: list[float] = []
        self._allowed = False

    def allows_step(self) -> bool:
        """Returns whether the time suffices for a step and the final prediction behind it; called before each step."""
        if self._limit is None:
            return True
        self._marks.append(self._read())
        step, final = self._expect()
        self._allowed = self._marks[-1] + step + final <= self._limit
        return self._allowed

    def end(self) -> None:
        """Learns from this image, when its prediction is made."""
        if self._limit is None or not self._marks:
            return
        step, final = self._expect()
        rest = self._read() - self._marks[-1]
        if not self._allowed:
            if len(self._marks) == 1:  # no step was taken; the one expected may have been a warm-up: not for ever
                step = min(step, STEP_PER_FINAL * rest)
            self._pace.note(self._shape, step, rest)
        elif len(self._marks) > 1:  # the rest is the last step and the final prediction
            self._pace.note(self._shape, step, rest - step if rest > step else final)
        else:
            self._pace.note(self._shape, rest * STEP_PER_FINAL / (1 + STEP_PER_FINAL), rest / (1 + STEP_PER_FINAL))

    def _expect(self) -> tuple[float, float]:
        step, final = self._pace.expect(self._shape)
        if len(self._marks) > 1:
            step = (self._marks[-1] - self._marks[0]) / (len(self._marks) - 1)
        return step, final or step / STEP_PER_FINAL

    def _read(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return 1000 * (time.perf_counter() - self._start)
