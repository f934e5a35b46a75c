"""Plans who and what moves, or is parked: vehicles, two-wheelers, and people. Lengths are metres."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .camera import Pose
from .canvas import shade
from .domains import TrainId
from .figures import Figure, Outfit, make_bicycle, make_motorcycle, make_rider, make_walker
from .models import MODELS
from .streets import LANE, Side, Street
from .vehicles import Model, Vehicle

CAR, TRUCK, BUS, TRAM = TrainId.CAR, TrainId.TRUCK, TrainId.BUS, TrainId.TRAIN
BICYCLE, MOTORCYCLE = TrainId.BICYCLE, TrainId.MOTORCYCLE
TWO_WHEELERS = {BICYCLE: make_bicycle, MOTORCYCLE: make_motorcycle}
SKINS = ((236, 196, 164), (214, 166, 130), (172, 120, 88), (118, 80, 58))
HAIRS = ((40, 30, 24), (92, 62, 38), (196, 160, 98), (150, 146, 142), (24, 22, 24))
TROUSERS = ((46, 58, 92), (44, 44, 50), (110, 98, 82))
SHOES = ((40, 34, 32), (222, 220, 214), (90, 64, 46))
LIVERIES = (
    ((214, 60, 48), (236, 232, 220)), ((238, 196, 60), (60, 62, 70)), ((52, 120, 84), (232, 228, 206)),
    ((54, 96, 176), (232, 234, 236)), ((232, 232, 228), (196, 44, 56)),
)  # fmt: skip
BUS_PAINTS = ((232, 186, 44), (206, 44, 44), (40, 110, 180), (232, 232, 226), (60, 148, 96), (236, 132, 40))
BUS_STRIPES = ((236, 236, 230), (60, 64, 72), (40, 80, 140))
CARGO_PAINTS = ((234, 234, 230), (214, 218, 220), (74, 110, 160), (200, 176, 130), (196, 84, 60), (110, 140, 110))


def is_lengthwise(turn: float) -> bool:
    """Tell whether a direction, in radians from the street's, is along the street and not across."""
    return abs(np.cos(turn)) > 0.5


def place_vehicle(street: Street, model: Model, across: float, along: float, turn: float) -> Iterator[Vehicle]:
    """Place a vehicle, turned from the street's direction, if there is room."""
    size = model.track, model.length
    if not street.claim(across, along, size if is_lengthwise(turn) else size[::-1]):
        return
    dice = street.dice
    body, second, accent = street.pick_paint(), dice.pick(CARGO_PAINTS), dice.pick(BUS_PAINTS)
    if model.label == BUS:
        body, second = dice.pick(BUS_PAINTS), dice.pick(BUS_STRIPES)
    elif model.label == TRAM:
        body, second = dice.pick(LIVERIES)
    is_lit = dice.chance(min(1.0, 2.2 * street.lamps))
    yield Vehicle(model, street.course.pose(across, along, turn), body, second, accent, is_lit)


def place_rider(street: Street, label: TrainId, across: float, along: float, turn: float) -> Iterator[Figure]:
    """Place a bicycle or a motorcycle that is ridden, if there is room."""
    if not street.claim(across, along, (0.8, 2.0) if is_lengthwise(turn) else (2.0, 0.8)):
        return
    outfit, lean = draw_outfit(street), 0.14
    if label == BICYCLE:
        lean = street.dice.between(0.12, 0.3)
    else:
        outfit = replace(outfit, helmet=street.pick_paint())
    machine = TWO_WHEELERS[label](street.pick_paint())
    yield Figure(street.course.pose(across, along, turn), make_rider(outfit, machine, lean), machine)


def plan_traffic(street: Street) -> Iterator[Vehicle | Figure]:
    """Fill the lanes, the edges of the road, the tram track, and the crossing street."""
    dice, rate = street.dice, street.domain.rate
    density = dice.between(0.35, 1.0)
    weights = {
        CAR: 0.66, TRUCK: 0.12 * rate("truck"), BUS: 0.11, MOTORCYCLE: 0.075 * rate("rider"),
        BICYCLE: 0.075 * rate("rider"), TRAM: 0.03 * rate("tram"),
    }  # fmt: skip
    for lane in range(-street.lanes, street.lanes):
        across = (lane + 0.5) * LANE
        turn = 0.0 if lane >= 0 else np.pi
        is_own = abs(across - street.course.offset) < 1.6
        along = dice.between(8.0, 22.0) if is_own else dice.between(4.5, 16.0)
        while along < 75.0:
            label = dice.pick_weighted(weights)
            is_there = dice.chance(density)
            swerve = dice.normal(0.0, 0.2)
            if label in TWO_WHEELERS:
                if is_there:
                    shift = 0.9 if label == BICYCLE else 0.3
                    yield from place_rider(street, label, across + np.sign(across) * shift + swerve, along, turn)
                along += dice.between(4.0, 14.0)
                continue
            model = dice.pick(MODELS[label])
            if is_there:
                yield from place_vehicle(street, model, across + swerve, along + 0.5 * model.length, turn)
            along += model.length + dice.between(3.0, 26.0)
    for side in street.sides:
        if dice.chance(0.16 * rate("rider")):
            label, at = dice.pick((BICYCLE, MOTORCYCLE, BICYCLE)), dice.between(5.0, 15.0)
            yield from place_rider(street, label, side.sign * (street.lanes * LANE - 0.5), at, side.turn)
        if side.track is not None and dice.chance(0.8):
            model = dice.pick(MODELS[TRAM])
            along = dice.between(7.0, 26.0) + 0.5 * model.length
            yield from place_vehicle(street, model, side.sign * side.track, along, side.turn)
    if street.crossing and dice.chance(0.55):
        yield from plan_cross_traffic(street, street.crossing)


def plan_cross_traffic(street: Street, crossing: tuple[float, float]) -> Iterator[Vehicle | Figure]:
    """Let something drive across, seen from its side."""
    dice = street.dice
    turn = dice.pick((-1, 1))
    along = 0.5 * sum(crossing) + turn * -0.5 * LANE
    across = street.course.offset + dice.between(-9.0, 9.0)
    weights = {CAR: 0.34, BUS: 0.14, TRUCK: 0.16, TRAM: 0.12, MOTORCYCLE: 0.12, BICYCLE: 0.12}
    label = dice.pick_weighted(weights)
    if label in TWO_WHEELERS:
        yield from place_rider(street, label, across, along, turn * 0.5 * np.pi)
    else:
        yield from place_vehicle(street, dice.pick(MODELS[label]), across, along, turn * 0.5 * np.pi)


def plan_parking(street: Street, side: Side) -> Iterator[Vehicle | Figure]:
    """Park cars along the kerb, and bicycles and motorcycles on the sidewalk."""
    dice, rate = street.dice, street.domain.rate
    if side.kerb > street.lanes * LANE + 1.0:
        along, fullness = dice.between(3.5, 12.0), dice.between(0.3, 0.9)
        while along < 70.0:
            model = dice.pick(MODELS[dice.pick_weighted({CAR: 0.9, TRUCK: 0.06 * rate("truck")})])
            middle, end = along + 0.5 * model.length, along + model.length
            if dice.chance(fullness) and not street.is_crossed(along, end, 5.0):
                yield from place_vehicle(street, model, side.sign * (side.kerb - 1.15), middle, side.turn)
            along += model.length + dice.between(0.8, 3.0)
    if dice.chance(0.34 * rate("two-wheeler")):
        make = TWO_WHEELERS[dice.pick((BICYCLE, MOTORCYCLE, BICYCLE, MOTORCYCLE))]
        near, turn = dice.between(5.5, 18.0), dice.between(0.5, 1.4) * side.sign
        for index in range(int(dice.integers(1, 5))):
            pose = street.course.pose(side.sign * (side.walk + 0.7), near + index * 1.1, turn)
            yield Figure(pose, [], make(street.pick_paint()))


def draw_outfit(street: Street) -> Outfit:
    """Draw the colours of a person."""
    dice, clothes = street.dice, street.domain.clothes
    return Outfit(
        skin=dice.pick(SKINS),
        hair=dice.pick(HAIRS),
        top=shade(dice.pick(clothes), dice.between(0.85, 1.1)),
        bottom=shade(dice.pick((*TROUSERS, *clothes)), 0.85),
        shoes=dice.pick(SHOES),
        bag=dice.pick(clothes) if dice.chance(0.25) else None,
        is_skirt=dice.chance(0.2),
    )


def draw_walker(street: Street, across: float, along: float, turn: float) -> Figure:
    """Draw a person on foot at a place."""
    dice = street.dice
    stature = dice.between(0.92, 1.07) * (0.68 if dice.chance(0.1) else 1.0)
    stride = dice.between(-1.0, 1.0) if dice.chance(0.8) else 0.0
    pose = Pose(*street.course.place(across, along), turn)
    return Figure(pose, make_walker(draw_outfit(street), stride), stature=stature)


def plan_people(street: Street, side: Side) -> Iterator[Figure]:
    """Let people walk on the sidewalk, alone and in groups."""
    dice = street.dice
    for _ in range(int(dice.poisson(1.7 * street.domain.rate("person") * dice.between(0.3, 1.7)))):
        along = float(np.exp(dice.between(np.log(5.0), np.log(45.0))))
        across = dice.between(min(side.walk + 0.9, side.line - 0.5), side.line - 0.35)
        turn = dice.pick((0.0, np.pi, 0.0, np.pi, 1.4)) + dice.normal(0, 0.25)
        for member in range(int(dice.integers(1, 4)) if dice.chance(0.35) else 1):
            yield draw_walker(street, side.sign * across + 0.6 * member, along + 0.25 * member, turn)


def plan_crossing_people(street: Street, crosswalk: float) -> Iterator[Figure]:
    """Let people walk over a crosswalk that starts at some metres ahead."""
    dice, (left, right) = street.dice, street.sides
    if dice.chance(0.55 * street.domain.rate("person")):
        turn = dice.pick((-1, 1)) * 0.5 * np.pi
        for _ in range(int(dice.integers(1, 4))):
            across = dice.between(-left.kerb, right.kerb)
            yield draw_walker(street, across, crosswalk + 1.5 + dice.between(-0.8, 0.8), turn)
