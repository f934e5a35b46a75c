"""Plans what stands beside a street: buildings, walls, trees, lamps, signs and traffic lights. Lengths are metres."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .backdrop import Skyline
from .canvas import mix, shade
from .domains import Colour, TrainId
from .facades import Barrier, Building, FacadeStyle
from .furniture import BIG_SIGNS, SMALL_SIGNS, Plant, Post
from .streets import FAR, Side, Street, space

POLES = ((112, 116, 120), (78, 84, 84), (142, 144, 142), (60, 74, 66))
GLASSES = ((58, 70, 84), (84, 100, 118), (44, 50, 58), (104, 124, 146))
BARRIER_HEIGHTS = {"wall": (1.5, 2.8), "fence": (1.3, 2.3), "hedge": (1.1, 1.9), "none": (1.0, 1.0)}


def draw_style(street: Street, height: float, has_shop: bool) -> FacadeStyle:
    """Draw the look of a building."""
    dice, domain = street.dice, street.domain
    colour = shade(dice.pick(domain.facades), dice.between(0.88, 1.1))
    width, tall = dice.between(0.9, 1.5), dice.between(1.3, 1.9)
    return FacadeStyle(
        colour=colour,
        trim=mix(colour, (236, 232, 224), dice.between(0.25, 0.85)),
        glass=dice.pick(GLASSES),
        material=dice.pick(domain.materials),
        bay=width + dice.between(0.9, 2.0),
        floor=tall + dice.between(1.3, 1.7),
        window=(width, tall),
        shop=dice.pick(domain.paints) if has_shop and height > 7 else None,
        seed=int(dice.integers(2**31)),
    )


def plan_buildings(street: Street, side: Side) -> Iterator[Building | Barrier | Plant]:
    """Line one side of the street with buildings and lots."""
    dice, kind, crossing, course = street.dice, street.kind, street.crossing, street.course
    is_set_back = side.setback > 2.0
    along = -dice.between(0.0, 10.0)
    previous = 0.0  # height of the building before
    while along < 105.0:
        length = dice.between(*kind.lengths)
        if crossing and crossing[0] - 6.0 < along < crossing[1] + 2.5:
            along, previous = crossing[1] + 2.5, 0.0
        if crossing and along < crossing[0] - 2.5 < along + length:
            length = crossing[0] - 2.5 - along
        height = dice.between(*kind.heights)
        is_house, is_lot = dice.chance(kind.houses), dice.chance(kind.lot)
        style = draw_style(street, height, dice.chance(0.5) and not is_house)
        roof = shade(dice.pick(street.domain.roofs), dice.between(0.85, 1.1))
        if length < 3.0:
            along += max(length, 0.5)
            continue
        if is_lot or is_set_back:
            yield from plan_barrier(street, side, along, along + length)
        if is_lot:
            yield from plan_garden(street, side, along, along + length)
            along, previous = along + length, 0.0
            continue
        gap = dice.between(2.0, 5.0) if is_house or is_set_back else 0.0
        line = side.sign * (side.line + side.setback)
        end = along + length - gap
        if end > along + 2.0:
            yield Building(
                near=course.place(line, along),
                far=course.place(line, end),
                breadth=side.sign * (dice.between(7.0, 10.0) if is_house else 14.0),
                height=height,
                rise=dice.between(2.2, 3.8) if is_house else 0.0,
                roof=roof,
                style=style,
                shows_front=height > previous + 0.5 or is_set_back or course.bend * side.sign < -0.001,
            )
        along += length
        previous = height if gap == 0 else 0.0


def plan_end(street: Street) -> Iterator[Building]:
    """Put a building across the end of the street, or leave it open."""
    dice = street.dice
    if dice.chance(street.kind.open_end):
        return
    x, z = street.course.place(0.0, dice.between(100.0, 125.0))
    height, width = dice.between(9.0, 18.0), dice.between(14.0, 40.0)
    left = x - 0.5 * width
    style = draw_style(street, height, has_shop=True)
    yield Building((left, z), (left, z + 10.0), width, height, 0.0, style.trim, style, True)


def plan_skylines(street: Street, air: Colour) -> list[Skyline]:
    """Close the view with hills, roofs and trees."""
    dice, count = street.dice, 24
    hills = np.maximum(7 + np.cumsum(dice.normal(0, 1.2, count)), 2.0)
    roofs = dice.uniform(4, 16 if dice.chance(1 - street.kind.open_end) else 9, count)
    trees = 3 + np.abs(dice.normal(0, 2.0, 3 * count)) * (dice.random(3 * count) < 0.6)
    facade, leaves = dice.pick(street.domain.facades), dice.pick(street.domain.foliage)
    return [
        Skyline(TrainId.VEGETATION, 240.0, hills, mix(street.grass, air, 0.5)),
        Skyline(TrainId.BUILDING, 180.0, roofs, mix(facade, air, 0.3), is_stepped=True),
        Skyline(TrainId.VEGETATION, FAR - 5.0, trees, mix(*leaves, 0.4)),
    ]


def plan_barrier(street: Street, side: Side, near: float, far: float) -> Iterator[Barrier]:
    """Close a lot or garden off with sections of a wall, fence or hedge, or leave it open."""
    dice, place = street.dice, street.course.place
    kind = dice.pick_weighted({**street.kind.barriers, "none": 0.2})
    height = dice.between(*BARRIER_HEIGHTS[kind])
    variant = int(dice.integers(8))
    if kind == "none":
        return
    across = side.sign * (side.line + 0.1)
    for start, end in pairwise(np.linspace(near, far, max(1, round((far - near) / 3.0)) + 1).tolist()):
        if end > 1.5 and start < 75.0 and not street.is_crossed(start, end):
            yield Barrier(kind, variant, place(across, max(start, 1.1)), place(across, end), height)


def plan_railing(street: Street, side: Side) -> Iterator[Barrier]:
    """Put a low fence between the road and the sidewalk, or none."""
    dice, place = street.dice, street.course.place
    if not dice.chance(0.16):
        return
    near = dice.between(4.0, 16.0)
    variant = dice.pick((1, 2, 3, 5))
    across = side.sign * (side.edge + 0.3)
    for start in space(near, near + dice.between(9.0, 30.0), 2.5):
        if not street.is_crossed(start, start + 2.5, 5.0):
            yield Barrier("fence", variant, place(across, start), place(across, start + 2.4), 1.1)


def draw_plant(street: Street, across: float, along: float, is_bush: bool) -> Plant:
    """Draw a tree or a bush at a place."""
    dice = street.dice
    shaded, lit = dice.pick(street.domain.foliage)
    gain = dice.between(0.85, 1.15)
    leaves = shade(shaded, gain), shade(lit, gain)
    variant, size = int(dice.integers(5)), dice.random()
    place = street.course.place(across, along)
    if is_bush:
        return Plant(*place, "bush", variant, -0.1, (1.2 + 1.4 * size, 1.0 + 1.0 * size), leaves)
    shape = dice.pick_weighted({"round": 0.6, "tall": 0.25, "cone": 0.15})
    crown = {
        "round": (3.4 + 2.6 * size, 3.2 + 2.6 * size),
        "tall": (3.4 + 1.6 * size, 4.6 + 3 * size),
        "cone": (3.0 + size, 5.0 + 3 * size),
    }[shape]
    trunk = 0.5 if shape == "cone" else 1.7 + 0.9 * dice.random()
    return Plant(*place, shape, variant, trunk, crown, leaves)


def plan_garden(street: Street, side: Side, near: float, far: float) -> Iterator[Plant]:
    """Grow trees and bushes on a lot."""
    dice = street.dice
    for along in space(near + 1.5, far - 1.0, 4.5):
        if along > 3.0 and dice.chance(0.75 * street.domain.rate("tree")):
            across = side.sign * (side.line + dice.between(1.5, 7.0))
            yield draw_plant(street, across, along, dice.chance(0.3))


def plan_trees(street: Street, side: Side) -> Iterator[Plant]:
    """Plant a row of trees along the kerb."""
    dice = street.dice
    if not dice.chance(street.kind.trees * street.domain.rate("tree")):
        return
    along = dice.between(5.0, 14.0)
    across = side.edge + min(0.8, 0.5 * max(side.walk - side.edge, 1.6))
    while along < 80.0:
        if not street.is_crossed(along, along, 3.0):
            yield draw_plant(street, side.sign * across, along, dice.chance(0.12))
        along += dice.between(*street.kind.tree_gap)


def plan_posts(street: Street, side: Side) -> Iterator[Post]:
    """Set street lamps, small signs, big signs, and bollards."""
    dice, place = street.dice, street.course.place
    pole = dice.pick(POLES)
    across = side.sign * (side.edge + 0.45)
    lamp_height = dice.between(5.0, 8.5)
    arm = -side.sign * 1.6 if dice.chance(0.7) else 0.0
    if dice.chance(0.75):
        for along in space(dice.between(7.0, 20.0), 75.0, 19.0):
            if not street.is_crossed(along, along):
                yield Post(*place(across, along), lamp_height, 0.085, pole, arm, lamp=True)
    for _ in range(int(dice.integers(0, 4))):
        x, z = place(across + 0.1 * side.sign, dice.between(6.0, 32.0))
        name, radius = dice.pick(SMALL_SIGNS), dice.between(0.42, 0.56)
        signs = [(name, 0.0, 2.75, radius)]
        if dice.chance(0.25):
            signs.append((dice.pick(SMALL_SIGNS), 0.0, 1.75, 0.8 * radius))
        yield Post(x, z, 2.7, 0.05, pole, signs=tuple(signs))
    if dice.chance(0.22):
        x, z = place(across, dice.between(12.0, 34.0))
        name, radius = dice.pick(BIG_SIGNS), dice.between(0.75, 1.05)
        if side.sign > 0 and dice.chance(0.5):
            yield Post(x, z, 5.6, 0.12, pole, arm=-4.6, signs=((name, -3.4, 5.5, radius),))
        else:
            yield Post(x, z, 3.6, 0.09, pole, signs=((name, 0.0, 3.2, radius),))
    if dice.chance(0.2):
        near = dice.between(6.0, 18.0)
        for along in space(near, near + 12.0, 1.9):
            yield Post(*place(across, along), 0.95, 0.08, pole)


def plan_signals(street: Street) -> Iterator[Post]:
    """Set traffic lights at the crossing, or at a crosswalk without one."""
    dice, crossing = street.dice, street.crossing
    if crossing and dice.chance(0.85):
        places = [crossing[0] - 1.0, crossing[1] + 1.0]
    elif dice.chance(0.25):
        places = [dice.between(10.0, 28.0)]
    else:
        return
    state = int(dice.integers(3))
    pole = dice.pick(POLES)
    has_arm = dice.chance(0.4)
    for along in places:
        for side in street.sides:
            x, z = street.course.place(side.sign * (side.edge + 0.5), along)
            if has_arm and side.sign > 0:
                yield Post(x, z, 5.6, 0.1, pole, arm=-4.2, signals=((0.0, 3.0), (-3.9, 5.2)), state=state)
            else:
                is_averted = side.sign < 0 and dice.chance(0.35)
                yield Post(x, z, 3.5, 0.08, pole, signals=((0.0, 3.0),), state=None if is_averted else state)
