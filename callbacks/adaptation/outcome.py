"""What a method has to say of one image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def check_trust(trust: float) -> float:
    """Returns the weight of an adapted prediction; raises ValueError if it is outside [0, 1]."""
    if not isinstance(trust, Real) or not 0 <= trust <= 1:
        raise ValueError(f"trust is {trust}: expected the weight of the adapted prediction in [0, 1]; 1 is the paper")
    return trust


@dataclass
class Adaptation:
    """The outcome of adapting to one image.

    Attributes:
        probabilities: (1, K, H, W) prediction.
        losses: Loss before each update step.
        note: Why adaptation was skipped or undone; None if all went well.
        fallback: Whether the prediction is the unadapted one.
        relabelled: Share of all pixels whose class is another than the unadapted prediction's; None with full trust.
        held_back: Share of all pixels that the adapted prediction alone would have changed as well; None likewise.
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

    def temper(self, unadapted: Tensor, trust: float) -> "Adaptation":
        """Returns the outcome with the mean of both predictions, in which the adapted one has a weight of trust.

        Args:
            unadapted: (1, K, H, W) prediction before the adaptation.
            trust: In [0, 1].
        """
        mixed = torch.lerp(unadapted, self.probabilities, trust) if trust else unadapted  # not NaN of the adapted one
        before, adapted, after = (found.argmax(dim=1) for found in (unadapted, self.probabilities, mixed))
        relabelled, held_back = ((before != after), (before != adapted) & (before == after))
        shares = torch.stack([relabelled, held_back]).double().mean(dim=(1, 2, 3)).tolist()
        return replace(self, probabilities=mixed, relabelled=shares[0], held_back=shares[1])

    def split(self) -> list["Adaptation"]:
        """Returns the outcome of each image, if several were predicted at once."""
        return [replace(self, probabilities=single) for single in self.probabilities.split(1)]

    def to_record(self) -> dict[str, Any]:
        """Returns all but the prediction, for JSON."""
        names = ["steps", "loss_first", "loss_last", "note", "fallback"]
        names += [] if self.relabelled is None else ["relabelled", "held_back"]
        return {name: getattr(self, name) for name in names} | {"losses": list(self.losses)}
