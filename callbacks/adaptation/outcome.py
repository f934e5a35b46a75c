"""The outcome of a method for one image: prediction, losses and notes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Adaptation:
    """The outcome of adapting to one image.

    Attributes:
        probabilities: (1, K, H, W) prediction in [0, 1].
        losses: Loss before each update step.
        note: Why adaptation was skipped or undone; None if neither happened.
        fallback: Whether the prediction is the unadapted one.
        relabelled: Fraction of pixels whose class differs from the unadapted prediction, before edge refinement; None
            with full trust.
        held_back: Fraction of pixels that keep their unadapted class but that the adapted prediction alone would have
            changed; None with full trust.
    """

    probabilities: Tensor
    losses: Sequence[float] = ()
    note: str | None = None
    fallback: bool = False
    relabelled: float | None = None
    held_back: float | None = None

    @property
    def steps(self) -> int:
        """Number of update steps taken."""
        return len(self.losses)

    def is_finite(self) -> bool:
        """Returns whether all probabilities are finite, by their sum: NaN and infinity propagate."""
        return bool(self.probabilities.sum().isfinite())

    def temper(self, unadapted: Tensor, trust: float) -> "Adaptation":
        """Mixes in the (1, K, H, W) unadapted prediction; the adapted one keeps the weight `trust` in [0, 1]."""
        mixed = torch.lerp(unadapted, self.probabilities, trust) if trust else unadapted  # 0 * NaN is NaN
        before, adapted, after = (found.argmax(dim=1) for found in (unadapted, self.probabilities, mixed))
        relabelled, held_back = ((before != after), (before != adapted) & (before == after))
        shares = torch.stack([relabelled, held_back]).double().mean(dim=(1, 2, 3)).tolist()
        return replace(self, probabilities=mixed, relabelled=shares[0], held_back=shares[1])

    def split(self) -> list["Adaptation"]:
        """Returns one outcome per image of a batch that was predicted at once."""
        return [replace(self, probabilities=single) for single in self.probabilities.split(1)]

    def to_record(self) -> dict[str, Any]:
        """Returns everything but the prediction, for JSON."""
        losses = list(self.losses)
        record: dict[str, Any] = {
            "steps": self.steps,
            "loss_first": losses[0] if losses else None,
            "loss_last": losses[-1] if losses else None,
            "note": self.note,
            "fallback": self.fallback,
        }
        if self.relabelled is not None:
            record |= {"relabelled": self.relabelled, "held_back": self.held_back}
        return record | {"losses": losses}
