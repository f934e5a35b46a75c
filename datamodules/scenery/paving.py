"""Lays the ground of a street: strips along it, its crossing, and what is painted on the asphalt."""

import numpy as np

from .canvas import shade
from .domains import Colour, TrainId
from .ground import Ground, Mark, Strip
from .streets import FAR, LANE, Street, space

WHITE: Colour = (226, 226, 220)
RAIL: Colour = (66, 60, 58)


def lay_ground(street: Street) -> tuple[Ground, float | None]:
    """Return the ground, and how far ahead a crosswalk starts that people walk over."""
    has_lawn = street.dice.chance(street.kind.lawn * street.domain.rate("lawn"))
    label = TrainId.TERRAIN if has_lawn else TrainId.SIDEWALK
    base = Strip(-FAR, FAR, label, street.grass if has_lawn else shade(street.pavement, 0.9))
    strips = lay_strips(street)
    marks, crosswalk = paint_marks(street)
    return Ground(street.course, base, strips, street.crossing, street.asphalt, marks), crosswalk


def lay_strips(street: Street) -> list[Strip]:
    """Lay the carriageway, and on both sides a tram track, a verge, the kerb and the sidewalk."""
    road, grass, pavement = TrainId.ROAD, TrainId.TERRAIN, TrainId.SIDEWALK
    left, right = street.sides
    strips = [Strip(-left.kerb, right.kerb, road, street.asphalt)]
    track = (grass, street.grass) if street.dice.chance(0.5) else (road, shade(street.asphalt, 1.12))
    for side in street.sides:
        edge = side.edge
        has_verge = side.walk > edge
        for inner, outer, label, colour in (
            (side.kerb, edge, *track),
            (edge, side.walk, grass, street.grass),
            (side.walk, side.line, pavement, street.pavement),
            (edge, edge + 0.12, grass if has_verge else pavement, shade(street.pavement, 0.66)),
            (edge + 0.12, edge + 0.34, pavement, shade(street.pavement, 1.14)),
        ):
            if outer > inner:
                ends = side.sign * inner, side.sign * outer
                strips.append(Strip(min(ends), max(ends), label, colour))
    return strips


def paint_marks(street: Street) -> tuple[list[Mark], float | None]:
    """Paint patches of newer asphalt, lane marks, kerb lines, rails, crosswalks; return the start of a crosswalk."""
    dice, crossing, lanes = street.dice, street.crossing, street.lanes
    left, right = street.sides
    marks: list[Mark] = []

    def paint(start: float, stop: float, near: float, far: float, colour: Colour = WHITE) -> None:
        """Paint a patch between two places across the street; where it is long it follows the bend."""
        along = np.linspace(near, far, max(2, int((far - near) / 6) + 1))
        marks.append(Mark(street.course.strip(start, stop, along), colour))

    for _ in range(int(dice.integers(0, 4))):
        middle, near = dice.between(-left.kerb + 1, right.kerb - 1), dice.between(3, 30)
        tone = shade(street.asphalt, dice.between(0.8, 0.93))
        width = dice.between(0.4, 1.4)
        paint(middle - width, middle + width, near, near + dice.between(1, 7), tone)
    is_double = dice.chance(0.3)
    for near, far in ((1.5, crossing[0] - 5.0), (crossing[1] + 5.0, 90.0)) if crossing else ((1.5, 90.0),):
        for lane in range(-lanes + 1, lanes):
            if lane == 0 and is_double:
                paint(-0.22, -0.08, near, far)
                paint(0.08, 0.22, near, far)
                continue
            for start in space(near + dice.between(0, 3), min(far, 70.0) - 3, 7.5):
                paint(lane * LANE - 0.08, lane * LANE + 0.08, start, start + 3.2)
        for side in street.sides:
            edge = side.sign * lanes * LANE
            paint(edge - 0.07, edge + 0.07, near, far)
    for side in street.sides:
        for rail in (-0.72, 0.72) if side.track is not None else ():
            at = side.sign * side.track + rail
            paint(at - 0.06, at + 0.06, 1.5, 110.0, RAIL)
    crosswalks = [dice.between(9.0, 26.0)] if dice.chance(0.25) and not crossing else []
    if crossing and dice.chance(0.8):
        crosswalks = [crossing[0] - 4.0, crossing[1] + 1.0]
    for near in crosswalks:
        for at in space(-left.kerb + 0.4, right.kerb - 0.4, 1.1):
            paint(at, at + 0.55, near, near + 3.0)
    if not crosswalks:
        return marks, None
    paint(0.2, lanes * LANE, crosswalks[0] - 1.4, crosswalks[0] - 1.0)
    return marks, crosswalks[0]
