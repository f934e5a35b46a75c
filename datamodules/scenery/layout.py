"""Plans a scene: which street, what stands where. All lengths are metres; nothing here depends on the image size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from .backdrop import Skyline
from .canvas import Canvas, draw_between, mix, shade
from .domains import Colour, Domain, TrainId
from .facades import Barrier, Building, FacadeStyle
from .figures import (
    BICYCLE_GRIP,
    BICYCLE_PEDAL,
    BICYCLE_SEAT,
    MOTORCYCLE_GRIP,
    MOTORCYCLE_PEDAL,
    MOTORCYCLE_SEAT,
    Figure,
    Outfit,
    make_bicycle,
    make_motorcycle,
    make_rider,
    make_walker,
)
from .furniture import BIG_SIGNS, SMALL_SIGNS, Plant, Post
from .ground import FAR, Course, Ground, Mark, Solid, Strip
from .streets import LANE, PARKING, STREET_KINDS, TRACK, StreetKind
from .vehicles import MODELS, MODELS_OF_LABEL, Vehicle

SKINS = ((236, 196, 164), (214, 166, 130), (172, 120, 88), (118, 80, 58))
HAIRS = ((40, 30, 24), (92, 62, 38), (196, 160, 98), (150, 146, 142), (24, 22, 24))
POLES = ((112, 116, 120), (78, 84, 84), (142, 144, 142), (60, 74, 66))
RAIL: Colour = (66, 60, 58)
LIVERIES = (
    ((214, 60, 48), (236, 232, 220)), ((238, 196, 60), (60, 62, 70)), ((52, 120, 84), (232, 228, 206)),
    ((54, 96, 176), (232, 234, 236)), ((232, 232, 228), (196, 44, 56)),
)  # fmt: skip
BUS_PAINTS = ((232, 186, 44), (206, 44, 44), (40, 110, 180), (232, 232, 226), (60, 148, 96), (236, 132, 40))
CARGO_PAINTS = ((234, 234, 230), (214, 218, 220), (74, 110, 160), (200, 176, 130), (196, 84, 60), (110, 140, 110))
Choice = TypeVar("Choice")


class Item(Protocol):
    """Something that stands in the scene."""

    @property
    def solid(self) -> Solid:
        """Where it stands and how high it is."""

    def draw(self, canvas: Canvas) -> None:
        """Paint it."""


@dataclass(frozen=True)
class Side:
    """One side of the street: distances from the middle, with the sign of the side (right is +1).

    The order outwards is: kerb, tram track if any, verge if any, sidewalk, and the line where lots begin.
    """

    sign: int
    kerb: float
    track: float | None
    walk: float
    line: float
    setback: float

    @property
    def edge(self) -> float:
        """Where the verge or the sidewalk starts."""
        return self.kerb + (TRACK if self.track is not None else 0.0)


def pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """Draw one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def pick_weighted(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a key with a chance proportional to its weight."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


@dataclass
class Planner:
    """Fills a street step by step; what is planned is in `items`, `marks` and `strips`, room on the road in `taken`.

    Attributes:
        rng: Source of all choices.
        domain: Palettes and frequencies.
        kind: The kind of street.
        lamps: Share of lamps and windows that are lit.
    """

    rng: np.random.Generator
    domain: Domain
    kind: StreetKind
    lamps: float
    course: Course = field(init=False)
    lanes: int = field(init=False)
    sides: list[Side] = field(init=False)
    crossing: tuple[float, float] | None = field(init=False)
    pavement: Colour = field(init=False)
    grass: Colour = field(init=False)
    asphalt: Colour = field(init=False)
    items: list[Item] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the street itself: its course, its cross-section, its crossing."""
        rng, kind = self.rng, self.kind
        self.lanes = pick(rng, kind.lanes)
        lane = int(rng.integers(self.lanes))
        offset = (lane + 0.5) * LANE + rng.normal(0.0, 0.35)
        is_bent = self.chance(0.4)
        bend = float(rng.uniform(-0.006, 0.006)) if is_bent else 0.0
        self.course = Course(float(offset), float(rng.normal(0.0, 0.025)), bend)
        tracked = pick(rng, (-1, 1)) if self.chance(kind.track * self.domain.rate("tram")) else 0
        self.sides = []
        for sign in (-1, 1):
            is_parked = self.chance(kind.parking) and tracked != sign
            kerb = self.lanes * LANE + (PARKING if is_parked else 0.3)
            track = kerb + 0.5 * TRACK if tracked == sign else None
            edge = kerb + (TRACK if track is not None else 0.0)
            verge = draw_between(rng, (1.2, 2.4)) if self.chance(kind.verge * self.domain.rate("lawn")) else 0.0
            walk = edge + verge
            line = walk + draw_between(rng, kind.sidewalk)
            self.sides.append(Side(sign, kerb, track, walk, line, draw_between(rng, kind.setback)))
        start = draw_between(rng, (14.0, 38.0))
        self.crossing = (start, start + 2 * LANE + 2.0) if self.chance(kind.crossing) else None
        self.pavement = pick(rng, self.domain.pavement)
        self.grass = pick(rng, self.domain.grass)
        grey = draw_between(rng, self.domain.asphalt)
        tone = self.domain.road_tone
        self.asphalt = (grey * tone[0], grey * tone[1], grey * tone[2])

    def chance(self, probability: float) -> bool:
        """Return whether something with this probability happens."""
        return bool(self.rng.random() < probability)

    def pick_paint(self) -> Colour:
        """Draw a car's colour."""
        return shade(pick(self.rng, self.domain.paints), draw_between(self.rng, (0.88, 1.1)))

    def is_crossed(self, near: float, far: float, margin: float = 1.0) -> bool:
        """Tell whether a stretch along the street meets the crossing street."""
        return self.crossing is not None and far > self.crossing[0] - margin and near < self.crossing[1] + margin

    # Ground

    def plan_ground(self) -> Ground:
        """Lay strips, crossing and marks."""
        has_lawn = self.chance(self.kind.lawn * self.domain.rate("lawn"))
        base = Strip(-FAR, FAR, TrainId.TERRAIN, self.grass)
        if not has_lawn:
            base = Strip(-FAR, FAR, TrainId.SIDEWALK, shade(self.pavement, 0.9))
        left, right = self.sides
        self.strips.append(Strip(-left.kerb, right.kerb, TrainId.ROAD, self.asphalt))
        is_grassed = self.chance(0.5)
        for side in self.sides:
            if side.track is not None:
                label = TrainId.TERRAIN if is_grassed else TrainId.ROAD
                colour = self.grass if is_grassed else shade(self.asphalt, 1.12)
                self.add_strip(side.sign, side.kerb, side.edge, label, colour)
            if side.walk > side.edge:
                self.add_strip(side.sign, side.edge, side.walk, TrainId.TERRAIN, self.grass)
            self.add_strip(side.sign, side.walk, side.line, TrainId.SIDEWALK, self.pavement)
            first = TrainId.TERRAIN if side.walk > side.edge else TrainId.SIDEWALK
            self.add_strip(side.sign, side.edge, side.edge + 0.12, first, shade(self.pavement, 0.66))
            self.add_strip(side.sign, side.edge + 0.12, side.edge + 0.34, TrainId.SIDEWALK, shade(self.pavement, 1.14))
        crossings: list[Strip] = []
        span = self.crossing or (0.0, 0.0)
        if self.crossing:
            crossings.append(Strip(-FAR, FAR, TrainId.ROAD, self.asphalt))
        self.plan_marks()
        return Ground(self.course, base, tuple(self.strips), tuple(crossings), span, tuple(self.marks))

    def add_strip(self, sign: int, inner: float, outer: float, label: TrainId, colour: Colour) -> None:
        """Lay a strip on one side of the street."""
        self.strips.append(Strip(min(sign * inner, sign * outer), max(sign * inner, sign * outer), label, colour))

    def add_mark(self, left: float, right: float, near: float, far: float, colour: Colour | None = None) -> None:
        """Paint a patch; where it is long it follows the bend."""
        along = np.linspace(near, far, max(2, int((far - near) / 6) + 1))
        outline = self.course.strip(left, right, along)
        self.marks.append(Mark(outline, colour) if colour else Mark(outline))

    def plan_marks(self) -> None:
        """Paint patches of newer asphalt, lane marks, kerb lines, crosswalks, rails."""
        rng = self.rng
        left, right = self.sides
        for _ in range(int(rng.integers(0, 4))):
            middle, near = rng.uniform(-left.kerb + 1, right.kerb - 1), rng.uniform(3, 30)
            tone = shade(self.asphalt, float(rng.uniform(0.8, 0.93)))
            width = rng.uniform(0.4, 1.4)
            self.add_mark(middle - width, middle + width, near, near + rng.uniform(1, 7), tone)
        pieces = [(1.5, 90.0)]
        if self.crossing:
            pieces = [(1.5, self.crossing[0] - 5.0), (self.crossing[1] + 5.0, 90.0)]
        is_double = self.chance(0.3)
        for near, far in pieces:
            for lane in range(-self.lanes + 1, self.lanes):
                if lane == 0 and is_double:
                    self.add_mark(-0.22, -0.08, near, far)
                    self.add_mark(0.08, 0.22, near, far)
                    continue
                for start in np.arange(near + float(rng.uniform(0, 3)), min(far, 70.0) - 3, 7.5).tolist():
                    self.add_mark(lane * LANE - 0.08, lane * LANE + 0.08, start, start + 3.2)
            for side in self.sides:
                edge = side.sign * self.lanes * LANE
                self.add_mark(edge - 0.07, edge + 0.07, near, far)
        for side in self.sides:
            if side.track is not None:
                for rail in (-0.72, 0.72):
                    at = side.sign * side.track + rail
                    self.add_mark(at - 0.06, at + 0.06, 1.5, 110.0, RAIL)
        crosswalks = [draw_between(rng, (9.0, 26.0))] if self.chance(0.25) and not self.crossing else []
        if self.crossing and self.chance(0.8):
            crosswalks = [self.crossing[0] - 4.0, self.crossing[1] + 1.0]
        for near in crosswalks:
            if near > 2.0:
                for at in np.arange(-left.kerb + 0.4, right.kerb - 0.4, 1.1).tolist():
                    self.add_mark(at, at + 0.55, near, near + 3.0)
        if crosswalks and crosswalks[0] > 4:
            self.add_mark(0.2, self.lanes * LANE, crosswalks[0] - 1.4, crosswalks[0] - 1.0)
            self.plan_crossing_people(crosswalks[0] + 1.5)

    # Buildings and barriers

    def draw_style(self, height: float, has_shop: bool) -> FacadeStyle:
        """Draw the look of a building."""
        rng = self.rng
        colour = shade(pick(rng, self.domain.facades), draw_between(rng, (0.88, 1.1)))
        width = draw_between(rng, (0.9, 1.5))
        tall = draw_between(rng, (1.3, 1.9))
        glasses: tuple[Colour, ...] = ((58, 70, 84), (84, 100, 118), (44, 50, 58), (104, 124, 146))
        return FacadeStyle(
            colour=colour,
            trim=mix(colour, (236, 232, 224), draw_between(rng, (0.25, 0.85))),
            glass=pick(rng, glasses),
            material=pick(rng, self.domain.materials),
            bay=width + draw_between(rng, (0.9, 2.0)),
            floor=tall + draw_between(rng, (1.3, 1.7)),
            window=(width, tall),
            shop=shade(pick(rng, self.domain.paints), 1.0) if has_shop and height > 7 else None,
            lit=self.lamps,
            seed=int(rng.integers(2**31)),
        )

    def plan_side(self, side: Side) -> None:
        """Line one side of the street with buildings and lots."""
        rng, kind = self.rng, self.kind
        along = -draw_between(rng, (0.0, 10.0))
        previous = 0.0
        while along < 105.0:
            length = draw_between(rng, kind.lengths)
            if self.crossing and self.crossing[0] - 6.0 < along < self.crossing[1] + 2.5:
                along, previous = self.crossing[1] + 2.5, 0.0
            if self.crossing and along < self.crossing[0] - 2.5 < along + length:
                length = self.crossing[0] - 2.5 - along
            height = draw_between(rng, kind.heights)
            is_house = self.chance(kind.houses)
            is_lot = self.chance(kind.lot)
            style = self.draw_style(height, self.chance(0.5) and not is_house)
            roof = shade(pick(rng, self.domain.roofs), draw_between(rng, (0.85, 1.1)))
            if length < 3.0:
                along += max(length, 0.5)
                continue
            if is_lot or side.setback > 2.0:
                self.plan_barrier(side, along, along + length)
            if is_lot:
                self.plan_garden(side, along, along + length)
                along, previous = along + length, 0.0
                continue
            gap = draw_between(rng, (2.0, 5.0)) if is_house or side.setback > 2.0 else 0.0
            line = side.sign * (side.line + side.setback)
            end = along + length - gap
            if end > along + 2.0:
                building = Building(
                    near=self.course.place(line, along),
                    far=self.course.place(line, end),
                    breadth=side.sign * (draw_between(rng, (7.0, 10.0)) if is_house else 14.0),
                    height=height,
                    rise=draw_between(rng, (2.2, 3.8)) if is_house else 0.0,
                    roof=roof,
                    style=style,
                    shows_front=height > previous + 0.5 or side.setback > 2.0 or self.course.bend * side.sign < -0.001,
                )
                self.items.append(building)
            along += length
            previous = height if gap == 0 else 0.0

    def plan_barrier(self, side: Side, near: float, far: float) -> None:
        """Close a lot or garden off with sections of a wall, fence or hedge, or leave it open."""
        rng = self.rng
        kind = pick_weighted(rng, {**self.kind.barriers, "none": 0.2})
        height = draw_between(rng, {"wall": (1.5, 2.8), "fence": (1.3, 2.3), "hedge": (1.1, 1.9)}.get(kind, (1.0, 1.0)))
        variant = int(rng.integers(8))
        if kind == "none":
            return
        count = max(1, round((far - near) / 3.0))
        places = np.linspace(near, far, count + 1).tolist()
        across = side.sign * (side.line + 0.1)
        for start, end in pairwise(places):
            if end > 1.5 and start < 75.0 and not self.is_crossed(start, end):
                ends = self.course.place(across, max(start, 1.1)), self.course.place(across, end)
                self.items.append(Barrier(kind, variant, *ends, height))

    def plan_railing(self, side: Side) -> None:
        """Put a low fence between the road and the sidewalk, or none."""
        if not self.chance(0.16):
            return
        near = draw_between(self.rng, (4.0, 16.0))
        variant = pick(self.rng, (1, 2, 3, 5))
        for start in np.arange(near, near + draw_between(self.rng, (9.0, 30.0)), 2.5).tolist():
            if not self.is_crossed(start, start + 2.5, 5.0):
                across = side.sign * (side.edge + 0.3)
                ends = self.course.place(across, start), self.course.place(across, start + 2.4)
                self.items.append(Barrier("fence", variant, *ends, 1.1))

    # Plants and posts

    def draw_plant(self, across: float, along: float, is_bush: bool) -> Plant:
        """Draw a tree or a bush at a place."""
        rng = self.rng
        leaves = pick(rng, self.domain.foliage)
        gain = draw_between(rng, (0.85, 1.15))
        tinted = shade(leaves[0], gain), shade(leaves[1], gain)
        variant = int(rng.integers(5))
        size = float(rng.random())
        x, z = self.course.place(across, along)
        if is_bush:
            return Plant(x, z, "bush", variant, -0.1, (1.2 + 1.4 * size, 1.0 + 1.0 * size), tinted)
        shape = pick_weighted(rng, {"round": 0.6, "tall": 0.25, "cone": 0.15})
        crown = {"round": (3.4 + 2.6 * size, 3.2 + 2.6 * size), "tall": (3.4 + 1.6 * size, 4.6 + 3 * size)}
        trunk = 0.5 if shape == "cone" else 1.7 + 0.9 * float(rng.random())
        return Plant(x, z, shape, variant, trunk, crown.get(shape, (3.0 + size, 5.0 + 3 * size)), tinted)

    def plan_garden(self, side: Side, near: float, far: float) -> None:
        """Grow trees and bushes on a lot."""
        rng = self.rng
        for along in np.arange(near + 1.5, far - 1.0, 4.5).tolist():
            if along > 3.0 and self.chance(0.75 * self.domain.rate("tree")):
                across = side.sign * (side.line + draw_between(rng, (1.5, 7.0)))
                self.items.append(self.draw_plant(across, along, self.chance(0.3)))

    def plan_trees(self, side: Side) -> None:
        """Plant a row of trees along the kerb."""
        rng = self.rng
        if not self.chance(self.kind.trees * self.domain.rate("tree")):
            return
        along = draw_between(rng, (5.0, 14.0))
        across = side.edge + min(0.8, 0.5 * max(side.walk - side.edge, 1.6))
        while along < 80.0:
            if not self.is_crossed(along, along, 3.0):
                self.items.append(self.draw_plant(side.sign * across, along, self.chance(0.12)))
            along += draw_between(rng, self.kind.tree_gap)

    def plan_posts(self, side: Side) -> None:
        """Set street lamps, signs, bollards, and traffic lights."""
        rng = self.rng
        pole = pick(rng, POLES)
        across = side.sign * (side.edge + 0.45)
        lamp_height = draw_between(rng, (5.0, 8.5))
        has_arm = self.chance(0.7)
        if self.chance(0.75):
            for along in np.arange(draw_between(rng, (7.0, 20.0)), 75.0, 19.0).tolist():
                if not self.is_crossed(along, along):
                    x, z = self.course.place(across, along)
                    arm = -side.sign * 1.6 if has_arm else 0.0
                    self.items.append(Post(x, z, lamp_height, 0.085, pole, arm=arm, lamp=True))
        for _ in range(int(rng.integers(0, 4))):
            x, z = self.course.place(across + 0.1 * side.sign, draw_between(rng, (6.0, 32.0)))
            name = pick(rng, SMALL_SIGNS)
            radius = draw_between(rng, (0.42, 0.56))
            signs = [(name, 0.0, 2.75, radius)]
            if self.chance(0.25):
                signs.append((pick(rng, SMALL_SIGNS), 0.0, 1.75, 0.8 * radius))
            self.items.append(Post(x, z, 2.7, 0.05, pole, signs=tuple(signs)))
        if self.chance(0.22):
            x, z = self.course.place(across, draw_between(rng, (12.0, 34.0)))
            name, radius = pick(rng, BIG_SIGNS), draw_between(rng, (0.75, 1.05))
            if side.sign > 0 and self.chance(0.5):
                signs = [(name, -3.4, 5.5, radius)]
                self.items.append(Post(x, z, 5.6, 0.12, pole, arm=-4.6, signs=tuple(signs)))
            else:
                self.items.append(Post(x, z, 3.6, 0.09, pole, signs=((name, 0.0, 3.2, radius),)))
        if self.chance(0.2):
            near = draw_between(rng, (6.0, 18.0))
            for along in np.arange(near, near + 12.0, 1.9).tolist():
                self.items.append(Post(*self.course.place(across, along), 0.95, 0.08, pole))

    def plan_signals(self) -> None:
        """Set traffic lights at the crossing, or at a crosswalk without one."""
        rng = self.rng
        if self.crossing and self.chance(0.85):
            places = [self.crossing[0] - 1.0, self.crossing[1] + 1.0]
        elif self.chance(0.25):
            places = [draw_between(rng, (10.0, 28.0))]
        else:
            return
        state = int(rng.integers(3))
        pole = pick(rng, POLES)
        has_arm = self.chance(0.4)
        for along in places:
            for side in self.sides:
                x, z = self.course.place(side.sign * (side.edge + 0.5), along)
                signals: tuple[tuple[float, float], ...] = ((0.0, 3.0),)
                if has_arm and side.sign > 0:
                    post = Post(x, z, 5.6, 0.1, pole, -4.2, False, (*signals, (-3.9, 5.2)), state)
                else:
                    is_averted = side.sign < 0 and self.chance(0.35)
                    post = Post(x, z, 3.5, 0.08, pole, signals=signals, state=state, is_averted=is_averted)
                self.items.append(post)

    # Traffic

    def claim(self, across: float, along: float, size: tuple[float, float]) -> bool:
        """Take a place on the road of a size (across, along), unless some of it is taken."""
        left, right = across - 0.5 * size[0], across + 0.5 * size[0]
        near, far = along - 0.5 * size[1], along + 0.5 * size[1]
        if any(left < taken[1] and right > taken[0] and near < taken[3] and far > taken[2] for taken in self.taken):
            return False
        self.taken.append((left, right, near, far))
        return True

    def add_vehicle(self, model: str, across: float, along: float, turn: float) -> None:
        """Place a vehicle, turned from the street's direction, if there is room."""
        size = MODELS[model].track, MODELS[model].length
        if not self.claim(across, along, size if abs(np.cos(turn)) > 0.5 else size[::-1]):
            return
        x, z = self.course.place(across, along)
        rng = self.rng
        body, second, accent = self.pick_paint(), pick(rng, CARGO_PAINTS), pick(rng, BUS_PAINTS)
        label = MODELS[model].label
        if label == TrainId.BUS:
            body, second = pick(rng, BUS_PAINTS), pick(rng, ((236, 236, 230), (60, 64, 72), (40, 80, 140)))
        elif label == TrainId.TRAIN:
            body, second = pick(rng, LIVERIES)
        lit = self.chance(min(1.0, 2.2 * self.lamps))
        heading = self.course.heading(along) + turn
        self.items.append(Vehicle(model, x, z, heading, body, second, accent, lit))

    def plan_traffic(self) -> None:
        """Fill the lanes."""
        rng, domain = self.rng, self.domain
        density = draw_between(rng, (0.35, 1.0))
        weights = {
            "car": 0.66,
            "truck": 0.12 * domain.rate("truck"),
            "bus": 0.11,
            "motorcycle": 0.075 * domain.rate("rider"),
            "bicycle": 0.075 * domain.rate("rider"),
            "tram": 0.03 * domain.rate("tram"),
        }
        for lane in range(-self.lanes, self.lanes):
            across = (lane + 0.5) * LANE
            turn = 0.0 if lane >= 0 else np.pi
            is_own = abs(across - self.course.offset) < 1.6
            along = draw_between(rng, (8.0, 22.0) if is_own else (4.5, 16.0))
            while along < 75.0:
                kind = pick_weighted(rng, weights)
                is_there = self.chance(density)
                swerve = float(rng.normal(0.0, 0.2))
                if kind in ("motorcycle", "bicycle"):
                    if is_there:
                        shift = 0.9 if kind == "bicycle" else 0.3
                        self.add_rider(kind, across + np.sign(across) * shift + swerve, along, turn)
                    along += draw_between(rng, (4.0, 14.0))
                    continue
                label = {"car": TrainId.CAR, "truck": TrainId.TRUCK, "bus": TrainId.BUS, "tram": TrainId.TRAIN}[kind]
                model = pick(rng, MODELS_OF_LABEL[label])
                length = MODELS[model].length
                if is_there:
                    self.add_vehicle(model, across + swerve, along + 0.5 * length, turn)
                along += length + draw_between(rng, (3.0, 26.0))
        for side in self.sides:
            if self.chance(0.16 * domain.rate("rider")):
                kind, at = pick(rng, ("bicycle", "motorcycle", "bicycle")), draw_between(rng, (5.0, 15.0))
                self.add_rider(kind, side.sign * (self.lanes * LANE - 0.5), at, 0.0 if side.sign > 0 else np.pi)
            if side.track is not None and self.chance(0.8):
                model = pick(rng, MODELS_OF_LABEL[TrainId.TRAIN])
                along = draw_between(rng, (7.0, 26.0)) + 0.5 * MODELS[model].length
                turn = 0.0 if side.sign > 0 else np.pi
                self.add_vehicle(model, side.sign * side.track, along, turn)
        self.plan_cross_traffic()

    def plan_cross_traffic(self) -> None:
        """Let something drive across, seen from its side."""
        if not self.crossing or not self.chance(0.55):
            return
        rng = self.rng
        turn = pick(rng, (-1, 1))
        along = 0.5 * sum(self.crossing) + turn * -0.5 * LANE
        across = self.course.offset + draw_between(rng, (-9.0, 9.0))
        kind = pick_weighted(
            rng, {"car": 0.34, "bus": 0.14, "truck": 0.16, "tram": 0.12, "motorcycle": 0.12, "bicycle": 0.12}
        )
        if kind in ("motorcycle", "bicycle"):
            self.add_rider(kind, across, along, turn * 0.5 * np.pi)
            return
        label = {"car": TrainId.CAR, "truck": TrainId.TRUCK, "bus": TrainId.BUS, "tram": TrainId.TRAIN}[kind]
        self.add_vehicle(pick(rng, MODELS_OF_LABEL[label]), across, along, turn * 0.5 * np.pi)

    def plan_parking(self, side: Side) -> None:
        """Park cars along the kerb, and bicycles and motorcycles on the sidewalk."""
        rng = self.rng
        turn = 0.0 if side.sign > 0 else np.pi
        if side.kerb > self.lanes * LANE + 1.0:
            along = draw_between(rng, (3.5, 12.0))
            fullness = draw_between(rng, (0.3, 0.9))
            while along < 70.0:
                kind = pick_weighted(rng, {"car": 0.9, "truck": 0.06 * self.domain.rate("truck")})
                model = pick(rng, MODELS_OF_LABEL[TrainId.CAR if kind == "car" else TrainId.TRUCK])
                length = MODELS[model].length
                middle = along + 0.5 * length
                if self.chance(fullness) and not self.is_crossed(along, along + length, 5.0):
                    self.add_vehicle(model, side.sign * (side.kerb - 1.15), middle, turn)
                along += length + draw_between(rng, (0.8, 3.0))
        if self.chance(0.34 * self.domain.rate("two-wheeler")):
            kind = pick(rng, ("bicycle", "motorcycle", "bicycle", "motorcycle"))
            near = draw_between(rng, (5.5, 18.0))
            angle = draw_between(rng, (0.5, 1.4)) * side.sign
            for index in range(int(rng.integers(1, 5))):
                self.add_two_wheeler(kind, side.sign * (side.walk + 0.7), near + index * 1.1, angle)

    def add_two_wheeler(self, kind: str, across: float, along: float, turn: float, rider: tuple = ()) -> None:
        """Place a bicycle or a motorcycle, with the limbs of its rider if it has one."""
        make = make_bicycle if kind == "bicycle" else make_motorcycle
        limbs, wheels = make(self.pick_paint())
        x, z = self.course.place(across, along)
        heading = self.course.heading(along) + turn
        self.items.append(Figure(x, z, heading, (*limbs, *rider), wheels, 1.7 if rider else 1.05, 1.7))

    def add_rider(self, kind: str, across: float, along: float, turn: float) -> None:
        """Place a bicycle or a motorcycle that is ridden, if there is room."""
        if not self.claim(across, along, (0.8, 2.0) if abs(np.cos(turn)) > 0.5 else (2.0, 0.8)):
            return
        outfit = self.draw_outfit()
        if kind == "bicycle":
            limbs = make_rider(outfit, BICYCLE_SEAT, BICYCLE_GRIP, BICYCLE_PEDAL, draw_between(self.rng, (0.12, 0.3)))
        else:
            outfit = Outfit(outfit.skin, outfit.hair, outfit.top, outfit.bottom, outfit.shoes, helmet=self.pick_paint())
            limbs = make_rider(outfit, MOTORCYCLE_SEAT, MOTORCYCLE_GRIP, MOTORCYCLE_PEDAL, 0.14)
        self.add_two_wheeler(kind, across, along, turn, limbs)

    # People

    def draw_outfit(self) -> Outfit:
        """Draw the colours of a person."""
        rng, clothes = self.rng, self.domain.clothes
        return Outfit(
            skin=pick(rng, SKINS),
            hair=pick(rng, HAIRS),
            top=shade(pick(rng, clothes), draw_between(rng, (0.85, 1.1))),
            bottom=shade(pick(rng, ((46, 58, 92), (44, 44, 50), (110, 98, 82), *clothes)), 0.85),
            shoes=pick(rng, ((40, 34, 32), (222, 220, 214), (90, 64, 46))),
            bag=pick(rng, clothes) if self.chance(0.25) else None,
            is_skirt=self.chance(0.2),
        )

    def add_walker(self, across: float, along: float, turn: float) -> None:
        """Place a person on foot."""
        rng = self.rng
        stature = draw_between(rng, (0.92, 1.07)) * (0.68 if self.chance(0.1) else 1.0)
        stride = float(rng.uniform(-1, 1)) if self.chance(0.8) else 0.0
        limbs = make_walker(self.draw_outfit(), stature, stride)
        x, z = self.course.place(across, along)
        self.items.append(Figure(x, z, turn, limbs, height=1.75 * stature))

    def plan_people(self, side: Side) -> None:
        """Let people walk on the sidewalk, alone and in groups."""
        rng = self.rng
        count = rng.poisson(1.7 * self.domain.rate("person") * draw_between(rng, (0.3, 1.7)))
        for _ in range(int(count)):
            along = float(np.exp(rng.uniform(np.log(5.0), np.log(45.0))))
            across = draw_between(rng, (min(side.walk + 0.9, side.line - 0.5), side.line - 0.35))
            turn = pick(rng, (0.0, np.pi, 0.0, np.pi, 1.4)) + float(rng.normal(0, 0.25))
            for member in range(int(rng.integers(1, 4)) if self.chance(0.35) else 1):
                self.add_walker(side.sign * across + 0.6 * member, along + 0.25 * member, turn)

    def plan_crossing_people(self, along: float) -> None:
        """Let people walk over a crosswalk."""
        if self.chance(0.55 * self.domain.rate("person")):
            turn = pick(self.rng, (-1, 1)) * 0.5 * np.pi
            for _ in range(int(self.rng.integers(1, 4))):
                across = draw_between(self.rng, (-self.sides[0].kerb, self.sides[1].kerb))
                self.add_walker(across, along + float(self.rng.uniform(-0.8, 0.8)), turn)

    # Far away

    def plan_skylines(self, air: Colour) -> list[Skyline]:
        """Close the view with hills, roofs and trees."""
        rng = self.rng
        count = 24
        hills = np.maximum(7 + np.cumsum(rng.normal(0, 1.2, count)), 2.0)
        roofs = rng.uniform(4, 16 if self.chance(1 - self.kind.open_end) else 9, count)
        trees = 3 + np.abs(rng.normal(0, 2.0, 3 * count)) * (rng.random(3 * count) < 0.6)
        facade, leaves = pick(rng, self.domain.facades), pick(rng, self.domain.foliage)
        return [
            Skyline(TrainId.VEGETATION, 240.0, tuple(hills.tolist()), mix(self.grass, air, 0.5), False),
            Skyline(TrainId.BUILDING, 180.0, tuple(roofs.tolist()), mix(facade, air, 0.3), True),
            Skyline(TrainId.VEGETATION, FAR - 5.0, tuple(trees.tolist()), mix(*leaves, 0.4), False),
        ]

    def plan_end(self) -> None:
        """Put a building across the end of the street."""
        if self.chance(self.kind.open_end):
            return
        rng = self.rng
        along = draw_between(rng, (100.0, 125.0))
        x, z = self.course.place(0.0, along)
        height = draw_between(rng, (9.0, 18.0))
        width = draw_between(rng, (14.0, 40.0))
        left = x - 0.5 * width
        style = self.draw_style(height, has_shop=True)
        self.items.append(Building((left, z), (left, z + 10.0), width, height, 0.0, style.trim, style, True))


def draw_kind(rng: np.random.Generator) -> StreetKind:
    """Draw a kind of street."""
    return STREET_KINDS[pick_weighted(rng, {name: kind.weight for name, kind in STREET_KINDS.items()})]
