"""What a method has to say of one image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass
class Adaptation:
    """The outcome of adapting to one image.

    Attributes:
        probabilities: (1, K, H, W) prediction.
        losses: Loss before each update step.
        note: Why adaptation was skipped or undone; None if all went well.
        fallback: Whether the prediction is the unadapted one.
    """

    probabilities: Tensor
    losses: Sequence[float] = ()
    note: str | None = None
    fallback: bool = False

    @property
    def steps(self) -> int:
        """Number of update steps taken."""
        return len(self.losses)

    @property
    def loss_first(self) -> float | None:
        """Loss before the first step, if there were steps."""
        return self.losses[0] if self.losses else None

    @property
    def loss_last(self) -> float | None:
        """Loss before the last step, if there were steps."""
        return self.losses[-1] if self.losses else None

    def is_finite(self) -> bool:
        """Returns whether no probability is NaN or infinite: their sum would be, too."""
        return bool(self.probabilities.sum().isfinite())

    def split(self) -> list["Adaptation"]:
        """Returns the outcome of each image, if several were predicted at once."""
        return [replace(self, probabilities=single) for single in self.probabilities.split(1)]

    def to_record(self) -> dict[str, Any]:
        """Returns all but the prediction, for JSON."""
        names = ("steps", "loss_first", "loss_last", "note", "fallback")
        return {name: getattr(self, name) for name in names} | {"losses": list(self.losses)}
