"""When to take no further step on an image: the prediction has converged, or the time is up."""

import time

import torch
from torch import Tensor

from callbacks.pseudo_labels import IGNORED

STEP_PER_FINAL = 3.0  # a step is a forward and two backward passes


class Convergence:
    """Watches the predictions of one image from step to step.

    Args:
        agreement: Share of the labelled pixels in (0, 1] on which prediction and pseudo labels agree; None: no matter.
        change: Share of the pixels in [0, 1) whose label the latest step changed; None: no matter.
    """

    def __init__(self, agreement: float | None, change: float | None) -> None:
        self.agreement = agreement
        self.change = change
        self._before: Tensor | None = None

    @property
    def is_watching(self) -> bool:
        """Whether there is anything that ends the steps."""
        return self.agreement is not None or self.change is not None

    def is_reached(self, logits: Tensor, target: Tensor) -> bool:
        """Returns whether no further step is needed; waits for the device.

        Args:
            logits: (B, K, H, W), before the next step.
            target: (B, H, W) int64 pseudo labels, 255 where ignored.
        """
        labels, before = logits.detach().argmax(dim=1), self._before
        self._before = labels
        reached = torch.zeros((), dtype=torch.bool, device=logits.device)
        if self.agreement is not None:
            labelled = (target != IGNORED).sum()
            reached |= (labelled > 0) & ((labels == target).sum() >= self.agreement * labelled)
        if self.change is not None and before is not None:
            reached |= (labels != before).sum() <= self.change * labels.numel()
        return bool(reached)


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
