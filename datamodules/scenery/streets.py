"""The street: where it runs, and how wide what is. All lengths are metres, all chances 0 to 1."""

from dataclasses import dataclass

import numpy as np

from .camera import Pose
from .canvas import shade
from .dice import Dice
from .domains import Colour, Domain, Range

LANE, PARKING, TRACK = 3.2, 2.3, 3.6  # widths
FAR = 170.0  # where streets end


@dataclass(frozen=True)
class Course:
    """Where the street runs: `across` metres to the right of its middle and `along` metres ahead become world x, z."""

    offset: float  # metres that the camera stands to the right of the middle
    slope: float  # sideways metres per metre ahead
    bend: float  # curvature in 1 / metres

    def place(self, across: float, along: float) -> tuple[float, float]:
        """Return world (x, z)."""
        return across - self.offset + self.slope * along + 0.5 * self.bend * along * along, along

    def pose(self, across: float, along: float, turn: float) -> Pose:
        """Return a place and a direction that is turned by radians from the street's."""
        return Pose(*self.place(across, along), float(np.arctan(self.slope + self.bend * along)) + turn)

    def bow(self, along: np.ndarray) -> np.ndarray:
        """Return how far the street has moved sideways since it passed the camera."""
        return self.slope * along + 0.5 * self.bend * along**2

    def strip(self, left: float, right: float, along: np.ndarray) -> np.ndarray:
        """Return the outline (2N, 3) of the ground between two distances from the middle."""
        edges = [np.stack([at - self.offset + self.bow(along), 0 * along, along], axis=1) for at in (left, right)]
        return np.concatenate([edges[0], edges[1][::-1]])


@dataclass(frozen=True)
class StreetKind:
    """Facts of one kind of street."""

    weight: float  # how often it is drawn
    lanes: tuple[int, ...]  # choices for the lanes per direction
    sidewalk: Range  # its width
    verge: float  # chance of a grass strip between kerb and sidewalk
    setback: Range  # distance from the sidewalk to the buildings
    heights: Range  # of buildings
    lengths: Range  # of buildings, along the street
    lot: float  # chance of an open lot instead of a building
    houses: float  # chance of a pitched roof
    lawn: float  # chance that open ground beside the sidewalk is grass
    barriers: dict[str, float]  # weights of what stands at the edge of a lot or front garden
    tree_gap: Range  # distance between trees
    trees: float  # chance of a row of trees on a side
    parking: float  # chance of parked cars on a side
    track: float  # chance of a tram track beside the road
    crossing: float  # chance of a crossing street
    open_end: float  # chance that no building closes the view


STREET_KINDS = {
    "canyon": StreetKind(
        weight=0.32, lanes=(1, 1, 2), sidewalk=(2.4, 4.0), verge=0.1, setback=(0.0, 0.0), heights=(9, 24),
        lengths=(9, 20), lot=0.16, houses=0.1, lawn=0.3, barriers={"wall": 0.5, "fence": 0.4, "hedge": 0.1},
        tree_gap=(9, 20), trees=0.45, parking=0.6, track=0.12, crossing=0.5, open_end=0.5,
    ),
    "boulevard": StreetKind(
        weight=0.22, lanes=(1, 2, 2), sidewalk=(3.0, 5.0), verge=0.6, setback=(0.0, 4.0), heights=(10, 26),
        lengths=(12, 26), lot=0.2, houses=0.05, lawn=0.6, barriers={"wall": 0.3, "fence": 0.4, "hedge": 0.3},
        tree_gap=(7, 14), trees=0.8, parking=0.35, track=0.5, crossing=0.55, open_end=0.6,
    ),
    "suburb": StreetKind(
        weight=0.26, lanes=(1,), sidewalk=(1.6, 2.6), verge=0.5, setback=(3.5, 8.0), heights=(4.5, 8),
        lengths=(9, 14), lot=0.45, houses=0.9, lawn=0.9, barriers={"wall": 0.28, "fence": 0.4, "hedge": 0.32},
        tree_gap=(8, 22), trees=0.6, parking=0.5, track=0.05, crossing=0.3, open_end=0.7,
    ),
    "outskirts": StreetKind(
        weight=0.2, lanes=(1, 2), sidewalk=(1.6, 3.0), verge=0.6, setback=(5.0, 14.0), heights=(5, 12),
        lengths=(16, 34), lot=0.6, houses=0.15, lawn=0.8, barriers={"wall": 0.4, "fence": 0.5, "hedge": 0.1},
        tree_gap=(10, 30), trees=0.5, parking=0.2, track=0.25, crossing=0.35, open_end=0.8,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One side of the street: distances from the middle, outwards, with the sign of the side (right is +1)."""

    sign: int
    kerb: float
    track: float | None  # middle of the tram track, if there is one
    edge: float  # where the verge or the sidewalk starts
    walk: float  # where the sidewalk starts
    line: float  # where lots begin
    setback: float  # from there to the buildings

    @property
    def turn(self) -> float:
        """The direction of what drives on this side, in radians from the street's."""
        return 0.0 if self.sign > 0 else np.pi


class Street:
    """A street of which all is drawn but what stands on it.

    Args:
        dice: Source of all choices.
        domain: Palettes and frequencies.
        lamps: Share of lamps and windows that are lit.
    """

    def __init__(self, dice: Dice, domain: Domain, lamps: float) -> None:
        self.dice, self.domain, self.lamps = dice, domain, lamps
        self.kind = STREET_KINDS[dice.pick_weighted({name: kind.weight for name, kind in STREET_KINDS.items()})]
        self.lanes = dice.pick(self.kind.lanes)
        offset = (int(dice.integers(self.lanes)) + 0.5) * LANE + dice.normal(0.0, 0.35)
        bend = dice.between(-0.006, 0.006) if dice.chance(0.4) else 0.0
        self.course = Course(offset, dice.normal(0.0, 0.025), bend)
        tracked = dice.pick((-1, 1)) if dice.chance(self.kind.track * domain.rate("tram")) else 0
        self.sides = [self._draw_side(sign, tracked == sign) for sign in (-1, 1)]
        start = dice.between(14.0, 38.0)
        self.crossing = (start, start + 2 * LANE + 2.0) if dice.chance(self.kind.crossing) else None
        self.pavement = dice.pick(domain.pavement)
        self.grass = dice.pick(domain.grass)
        self.asphalt = shade(domain.road_tone, dice.between(*domain.asphalt))
        self.taken: list[tuple[float, float, float, float]] = []  # room on the road: left, right, near, far

    def _draw_side(self, sign: int, is_tracked: bool) -> Side:
        dice, kind = self.dice, self.kind
        is_parked = dice.chance(kind.parking) and not is_tracked
        kerb = self.lanes * LANE + (PARKING if is_parked else 0.3)
        edge = kerb + (TRACK if is_tracked else 0.0)
        walk = edge + (dice.between(1.2, 2.4) if dice.chance(kind.verge * self.domain.rate("lawn")) else 0.0)
        line = walk + dice.between(*kind.sidewalk)
        return Side(
            sign, kerb, kerb + 0.5 * TRACK if is_tracked else None, edge, walk, line, dice.between(*kind.setback)
        )

    def pick_paint(self) -> Colour:
        """Draw a car's colour."""
        return shade(self.dice.pick(self.domain.paints), self.dice.between(0.88, 1.1))

    def is_crossed(self, near: float, far: float, margin: float = 1.0) -> bool:
        """Tell whether a stretch along the street meets the crossing street."""
        return self.crossing is not None and far > self.crossing[0] - margin and near < self.crossing[1] + margin

    def claim(self, across: float, along: float, size: tuple[float, float]) -> bool:
        """Take a place on the road of a size (across, along), unless some of it is taken."""
        left, right = across - 0.5 * size[0], across + 0.5 * size[0]
        near, far = along - 0.5 * size[1], along + 0.5 * size[1]
        if any(left < taken[1] and right > taken[0] and near < taken[3] and far > taken[2] for taken in self.taken):
            return False
        self.taken.append((left, right, near, far))
        return True


def space(start: float, stop: float, step: float) -> list[float]:
    """Return places at equal distances, the last one before `stop`."""
    return np.arange(start, stop, step).tolist()
