"""The street: its course, and the widths of its parts. All lengths are metres, all chances 0 to 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeVar

import numpy as np

from .canvas import Camera, Light, Point, Pose, shade
from .domains import Colour, Domain

LANE, PARKING, TRACK = 3.2, 2.3, 3.6  # widths
FAR = 170.0  # where streets end

Choice = TypeVar("Choice")


class Dice(np.random.Generator):
    """A random generator that also draws from ranges and among choices."""

    def between(self, low: float, high: float) -> float:
        """Draws a number uniformly from a range."""
        return low + (high - low) * float(self.random())

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return bool(self.random() < probability)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Draws one of the choices."""
        return choices[int(self.integers(len(choices)))]

    def pick_weighted(self, weights: Mapping[Choice, float]) -> Choice:
        """Draws a key with a chance proportional to its weight."""
        bounds = np.cumsum(list(weights.values()))
        return list(weights)[int(np.searchsorted(bounds, self.random() * bounds[-1], side="right"))]


@dataclass(frozen=True)
class Course:
    """The course of a street: `across` metres to the right of its middle and `along` metres ahead become world x, z."""

    offset: float  # metres that the camera stands to the right of the middle
    slope: float  # sideways metres per metre ahead
    bend: float  # curvature in 1 / metres

    def place(self, across: float, along: float) -> Point:
        """Returns world (x, z)."""
        return across - self.offset + self.slope * along + 0.5 * self.bend * along * along, along

    def pose(self, across: float, along: float, turn: float) -> Pose:
        """Returns a place with a direction: the street's, turned by some radians."""
        return Pose(*self.place(across, along), float(np.arctan(self.slope + self.bend * along)) + turn)

    def bow(self, along: np.ndarray) -> np.ndarray:
        """Returns the street's sideways shift (x), in metres, between the camera and `along`."""
        return self.slope * along + 0.5 * self.bend * along**2

    def strip(self, left: float, right: float, along: np.ndarray) -> np.ndarray:
        """Returns the outline (2N, 3) of the ground between two distances from the middle."""
        edges = [np.stack([at - self.offset + self.bow(along), 0 * along, along], axis=1) for at in (left, right)]
        return np.concatenate([edges[0], edges[1][::-1]])


# Differences between the kinds of street: canyons, boulevards, suburbs, outskirts.
STREET_KINDS: dict[str, tuple] = {
    "weight": (0.32, 0.22, 0.26, 0.2),  # how often it is drawn
    "lanes": ((1, 1, 2), (1, 2, 2), (1,), (1, 2)),  # choices for the lanes per direction
    "sidewalk": ((2.4, 4.0), (3.0, 5.0), (1.6, 2.6), (1.6, 3.0)),  # its width
    "verge": (0.1, 0.6, 0.5, 0.6),  # chance of a grass strip between kerb and sidewalk
    "setback": ((0.0, 0.0), (0.0, 4.0), (3.5, 8.0), (5.0, 14.0)),  # distance from the sidewalk to the buildings
    "heights": ((9, 24), (10, 26), (4.5, 8), (5, 12)),  # of buildings
    "lengths": ((9, 20), (12, 26), (9, 14), (16, 34)),  # of buildings, along the street
    "lot": (0.16, 0.2, 0.45, 0.6),  # chance of an open lot instead of a building
    "houses": (0.1, 0.05, 0.9, 0.15),  # chance of a pitched roof
    "lawn": (0.3, 0.6, 0.9, 0.8),  # chance that open ground beside the sidewalk is grass
    "wall": (0.5, 0.3, 0.28, 0.4),  # weights of what stands at the edge of a lot or front garden
    "fence": (0.4, 0.4, 0.4, 0.5),
    "hedge": (0.1, 0.3, 0.32, 0.1),
    "open": (0.2, 0.2, 0.2, 0.2),
    "tree_gap": ((9, 20), (7, 14), (8, 22), (10, 30)),  # distance between trees
    "trees": (0.45, 0.8, 0.6, 0.5),  # chance of a row of trees on a side
    "parking": (0.6, 0.35, 0.5, 0.2),  # chance of parked cars on a side
    "track": (0.12, 0.5, 0.05, 0.25),  # chance of a tram track beside the road
    "crossing": (0.5, 0.55, 0.3, 0.35),  # chance of a crossing street
    "open_end": (0.5, 0.6, 0.7, 0.8),  # chance that no building closes the view
}


class Side:
    """One side of the street: distances from the middle, outwards, with the sign of the side (right is +1)."""

    def __init__(self, street: "Street", sign: int, is_tracked: bool) -> None:
        dice, kind = street.dice, street.kind
        self.sign = sign
        self.turn = 0.0 if sign > 0 else np.pi  # direction of traffic, in radians from the street's
        is_parked = dice.chance(kind.parking) and not is_tracked
        self.kerb = street.lanes * LANE + (PARKING if is_parked else 0.3)
        self.track = self.kerb + 0.5 * TRACK if is_tracked else None  # middle of the tram track, if there is one
        self.edge = self.kerb + (TRACK if is_tracked else 0.0)  # where the verge or the sidewalk starts
        has_verge = dice.chance(kind.verge * street.domain.rate("lawn"))
        self.walk = self.edge + (dice.between(1.2, 2.4) if has_verge else 0.0)  # where the sidewalk starts
        self.line = self.walk + dice.between(*kind.sidewalk)  # where lots begin
        self.setback = dice.between(*kind.setback)  # from there to the buildings


class Street:
    """A street with all its random properties, but without the objects on it."""

    def __init__(self, dice: Dice, domain: Domain, camera: Camera, light: Light) -> None:
        self.dice, self.domain, self.camera, self.light = dice, domain, camera, light
        kind = dice.pick_weighted(dict(enumerate(STREET_KINDS["weight"])))
        self.kind = SimpleNamespace(**{name: values[kind] for name, values in STREET_KINDS.items()})
        self.lanes = dice.pick(self.kind.lanes)
        offset = (int(dice.integers(self.lanes)) + 0.5) * LANE + dice.normal(0.0, 0.35)
        bend = dice.between(-0.006, 0.006) if dice.chance(0.4) else 0.0
        self.course = Course(offset, dice.normal(0.0, 0.025), bend)
        tracked = dice.pick((-1, 1)) if dice.chance(self.kind.track * domain.rate("tram")) else 0
        self.sides = [Side(self, sign, tracked == sign) for sign in (-1, 1)]
        start = dice.between(14.0, 38.0)
        self.crossing = (start, start + 2 * LANE + 2.0) if dice.chance(self.kind.crossing) else None
        self.pavement = dice.pick(domain.pavement)
        self.grass = dice.pick(domain.grass)
        self.asphalt = shade(domain.road_tone, dice.between(*domain.asphalt))
        self.taken: list[tuple[float, float, float, float]] = []  # occupied road: left, right, near, far

    def pick_paint(self) -> Colour:
        """Draws a car's colour."""
        return shade(self.dice.pick(self.domain.paints), self.dice.between(0.88, 1.1))

    def is_crossed(self, near: float, far: float, margin: float = 1.0) -> bool:
        """Returns whether a stretch along the street meets the crossing street."""
        return self.crossing is not None and far > self.crossing[0] - margin and near < self.crossing[1] + margin

    def claim(self, across: float, along: float, width: float, length: float, turn: float) -> bool:
        """Reserves room on the road for an object along or across the street; returns False if some of it is taken."""
        size = (width, length) if abs(np.cos(turn)) > 0.5 else (length, width)
        left, right = across - 0.5 * size[0], across + 0.5 * size[0]
        near, far = along - 0.5 * size[1], along + 0.5 * size[1]
        if any(left < taken[1] and right > taken[0] and near < taken[3] and far > taken[2] for taken in self.taken):
            return False
        self.taken.append((left, right, near, far))
        return True


def space(start: float, stop: float, step: float) -> list[float]:
    """Returns positions at equal distances, the last one before `stop`."""
    return np.arange(start, stop, step).tolist()
