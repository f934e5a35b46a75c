"""The random choices that a scene is made of."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


class Dice(np.random.Generator):
    """A random generator that also draws from ranges and among choices."""

    def between(self, low: float, high: float) -> float:
        """Draw a number uniformly."""
        return low + (high - low) * float(self.random())

    def chance(self, probability: float) -> bool:
        """Tell whether something with this probability happens."""
        return bool(self.random() < probability)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Draw one of the choices."""
        return choices[int(self.integers(len(choices)))]

    def pick_weighted(self, weights: Mapping[Choice, float]) -> Choice:
        """Draw a key with a chance proportional to its weight."""
        bounds = np.cumsum(list(weights.values()))
        return list(weights)[int(np.searchsorted(bounds, self.random() * bounds[-1], side="right"))]
