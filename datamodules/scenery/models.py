"""The vehicles of the street: cars, trucks, buses and trams, as data. Lengths are metres."""

from typing import NamedTuple

import numpy as np

from .canvas import rectangle
from .domains import TrainId

Point = tuple[float, float]  # along, up
# Rectangles on a face: (left, right, low, high, paint), -1 to 1 across and 0 to 1 along the face. Those that are not
# centred are mirrored to the other half.
Details = tuple[tuple[float, float, float, float, str], ...]
Patches = tuple[tuple[str, np.ndarray], ...]  # on both sides: paint, and corners (4, 2) as (along, up)


class Face(NamedTuple):
    """A face across a hull's width, from one point of its side view to the next."""

    along: float
    up: float
    paint: str
    details: Details = ()


class Hull(NamedTuple):
    """A side view swept across the width; paints are given by name."""

    faces: tuple[Face, ...]  # from the rear bumper over the roof to the front; the last one is a point only
    width: float
    patches: Patches = ()
    flank: str = "body"  # paint of the sides
    belt: float = 1.0  # height above which the sides lean inwards
    lean: float = 0.0  # metres that each side leans in at the top


class Model(NamedTuple):
    """A kind of vehicle."""

    label: TrainId
    length: float
    height: float
    track: float  # width between the outsides of the wheels
    hulls: tuple[Hull, ...]  # from rear to front
    wheels: tuple[Point, ...] = ()  # (along, radius)


def make_car(length: float, width: float, tail: Point, roof: tuple[float, float, float], cowl: Point) -> Model:
    """Describes a passenger car.

    Given are the start of the rear window (along, up), start, end and height of the roof, the start of the windscreen,
    and the height of the bonnet.
    """
    (rear, front, height), (foot, bonnet) = roof, cowl
    middle, belt = 0.5 * (rear + front), max(tail[1], bonnet + 0.06)
    faces = (
        Face(0.05, 0.24, "dark"),
        Face(0.0, 0.48, "body", ((-0.96, -0.66, 0.5, 0.95, "tail"), (-0.28, 0.28, 0.2, 0.55, "plate"))),
        Face(0.06, tail[1] - 0.02, "body"),
        Face(*tail, "glass"),
        Face(rear, height - 0.03, "body"),
        Face(middle, height, "body"),
        Face(front, height - 0.03, "glass"),
        Face(foot, bonnet + 0.06, "body"),
        Face(length - 0.12, bonnet - 0.12, "body", ((-0.95, -0.6, 0.2, 0.7, "head"), (-0.5, 0.5, 0.3, 0.85, "dark"))),
        Face(length, 0.52, "dark", ((-0.28, 0.28, 0.1, 0.6, "plate"),)),
        Face(length - 0.04, 0.22, "dark"),
    )
    low, high, pillar = belt + 0.02, height - 0.1, middle + 0.15  # of the side windows
    rear_window = [(tail[0] + 0.2, low), (rear + 0.14, high), (pillar - 0.06, high), (pillar - 0.06, low)]
    front_window = [(pillar + 0.04, low), (pillar + 0.04, high), (front - 0.06, high), (foot - 0.24, low)]
    sill = rectangle(0.1, length - 0.1, 0.24, 0.4)
    patches = ("dark", sill), ("glass", np.array(rear_window)), ("glass", np.array(front_window))
    hull = Hull(faces, width, patches, belt=belt, lean=0.2)
    return Model(TrainId.CAR, length, height, width, (hull,), ((0.78, 0.33), (length - 0.85, 0.33)))


def make_box(span: Point, heights: Point, width: float, paint: str, rear: Details = (), patches: Patches = ()) -> Hull:
    """Describes a box-shaped hull with details on its rear."""
    (start, stop), (low, high) = span, heights
    outline = Face(start, low, paint, rear), Face(start, high, paint), Face(stop, high, paint), Face(stop, low, "dark")
    return Hull(outline, width, patches, flank=paint)


def make_truck(length: float, height: float, cargo: str) -> Model:
    """Describes a truck with a cab and a cargo box painted with `cargo`."""
    lamps = ((-0.98, -0.7, 0.3, 0.9, "tail"), (-0.25, 0.25, 0.2, 0.8, "plate"))
    doors = ((-0.02, 0.02, 0.06, 0.97, "dark"), (-0.62, -0.56, 0.06, 0.97, "metal"), (-1.0, 1.0, 0.0, 0.05, "metal"))
    stripe = (("accent", rectangle(0.3, length - 2.4, 0.56 * height, 0.7 * height)),)
    ribs = tuple(("metal", rectangle(at, at + 0.07, 1.0, height)) for at in np.arange(0.0, length - 2.1, 0.9).tolist())
    start, roof = length - 1.95, min(height - 0.3, 2.75)  # of the cab
    waist = 0.52 * roof
    cab = (
        Face(start, 0.5, "body"),
        Face(start, roof, "body"),
        Face(length - 0.3, roof, "glass"),
        Face(length - 0.04, waist, "body", ((-0.6, 0.6, 0.2, 0.75, "dark"),)),
        Face(length, 0.85, "dark", ((-0.95, -0.62, 0.15, 0.7, "head"), (-0.25, 0.25, 0.2, 0.6, "plate"))),
        Face(length, 0.4, "dark"),
    )
    window = rectangle(start + 0.7, length - 0.4, waist + 0.08, roof - 0.3)
    window[[1, 3]] = (start + 0.75, roof - 0.3), (length - 0.2, waist)  # slanting
    patches = ("dark", rectangle(start, length, 0.5, 0.8)), ("glass", window)
    hulls = (
        make_box((0.1, length - 0.4), (0.55, 0.95), 2.2, "dark", lamps),
        make_box((0.0, length - 2.05), (0.95, height), 2.45, cargo, doors, stripe if cargo == "second" else ribs),
        Hull(cab, 2.3, patches, belt=waist, lean=0.06),
    )
    wheels = ((1.0, 0.48), (2.1, 0.48), (length - 1.0, 0.48)) if length > 7 else ((1.3, 0.44), (length - 1.0, 0.44))
    return Model(TrainId.TRUCK, length, height, 2.3, hulls, wheels)


def make_bus(length: float) -> Model:
    """Describes a city bus."""
    faces = (
        Face(0.0, 0.35, "body", ((-0.97, -0.8, 0.25, 0.7, "tail"), (-0.6, 0.6, 0.2, 0.6, "dark"))),
        Face(0.0, 1.75, "body", ((-0.84, 0.84, 0.12, 0.72, "glass"), (-0.5, 0.5, 0.78, 0.95, "display"))),
        Face(0.08, 3.05, "body"),
        Face(length - 0.12, 3.05, "body", ((-0.72, 0.72, 0.1, 0.95, "display"),)),
        Face(length - 0.1, 2.72, "glass"),
        Face(length, 1.2, "body", ((-0.95, -0.66, 0.4, 0.75, "head"), (-0.25, 0.25, 0.1, 0.32, "plate"))),
        Face(length, 0.35, "dark"),
    )
    patches = (
        ("dark", rectangle(0.0, length, 0.35, 0.62)),
        ("second", rectangle(0.0, length, 0.95, 1.25)),
        ("glass", rectangle(length - 1.6, length - 0.5, 0.5, 2.6)),
        ("glass", rectangle(0.45 * length, 0.45 * length + 1.2, 0.5, 2.6)),
        *row_of_windows(0.4, length - 0.3, 6, 1.5, 2.6),
    )
    hull = Hull(faces, 2.5, patches, belt=1.2, lean=0.06)
    return Model(TrainId.BUS, length, 3.05, 2.5, (hull,), ((2.3, 0.46), (length - 2.5, 0.46)))


def make_tram(car: float, count: int) -> Model:
    """Describes a tram of `count` cars of `car` metres, with joints between, slanting ends, and a pantograph."""
    hulls: list[Hull] = []
    for index in range(count):
        start, stop = index * car + (0.25 if index else 0.0), (index + 1) * car
        tail, nose = 0.5 if index == 0 else 0.0, 0.5 if index == count - 1 else 0.0
        faces = (
            Face(start, 0.14, "body", ((-0.9, -0.66, 0.35, 0.65, "tail"), (-1.0, 1.0, 0.82, 1.0, "second"))),
            Face(start, 1.25, "glass" if tail else "dark"),
            Face(start + tail, 2.9, "second", ((-0.5, 0.5, 0.1, 0.8, "display"),)),
            Face(start + tail + 0.1, 3.35, "metal"),
            Face(stop - nose - 0.1, 3.35, "second", ((-0.5, 0.5, 0.2, 0.9, "display"),)),
            Face(stop - nose, 2.9, "glass" if nose else "dark"),
            Face(stop, 1.25, "body", ((-1.0, 1.0, 0.0, 0.18, "second"), (-0.9, -0.6, 0.3, 0.62, "head"))),
            Face(stop, 0.14, "dark"),
        )
        patches = (
            ("dark", rectangle(start, stop, 0.14, 0.4)),
            ("second", rectangle(start, stop, 1.0, 1.3)),
            ("second", rectangle(start + tail, stop - nose, 2.85, 3.35)),
            ("glass", rectangle(start + 0.35 * car, start + 0.35 * car + 1.3, 0.4, 2.6)),
            ("glass", rectangle(start + 0.7 * car, start + 0.7 * car + 1.3, 0.4, 2.6)),
            *row_of_windows(start + tail + 0.2, stop - nose - 0.2, 5, 1.45, 2.65),
        )
        hulls.append(Hull(faces, 2.5, patches, belt=1.4, lean=0.08))
        if index < count - 1:
            hulls.append(make_box((stop - 0.1, stop + 0.35), (0.3, 3.2), 2.2, "dark"))
    middle = 0.5 * car
    pantograph = (
        make_box((middle - 0.9, middle + 0.9), (3.35, 3.6), 1.6, "metal"),
        make_box((middle - 0.06, middle + 0.06), (3.6, 4.5), 0.12, "dark"),
        make_box((middle - 0.12, middle + 0.12), (4.5, 4.6), 1.7, "dark"),
    )
    return Model(TrainId.TRAIN, car * count, 3.4, 2.5, (*hulls, *pantograph))


def row_of_windows(start: float, stop: float, count: int, low: float, high: float) -> Patches:
    """Returns `count` upright windows between two points along the side."""
    pitch = (stop - start) / count
    lefts = [start + index * pitch + 0.05 for index in range(count)]
    return tuple(("glass", rectangle(left, left + pitch - 0.1, low, high)) for left in lefts)


MODELS = {
    TrainId.CAR: (
        make_car(3.95, 1.74, (0.12, 0.96), (0.55, 2.15, 1.46), (3.05, 0.86)),  # hatchback
        make_car(4.6, 1.8, (0.85, 0.98), (1.5, 2.6, 1.43), (3.4, 0.86)),  # sedan
        make_car(4.6, 1.8, (0.1, 0.98), (0.4, 2.6, 1.48), (3.4, 0.86)),  # estate
        make_car(4.4, 1.9, (0.1, 1.12), (0.36, 2.4, 1.74), (3.1, 1.05)),  # off-roader
        make_car(4.7, 1.92, (0.06, 1.1), (0.24, 3.0, 1.9), (4.0, 1.08)),  # minivan
    ),
    TrainId.TRUCK: (
        make_truck(6.4, 3.1, "second"),  # box truck
        make_truck(8.6, 3.6, "second"),  # lorry
        make_truck(7.8, 3.3, "accent"),  # tarpaulin truck
    ),
    TrainId.BUS: (make_bus(11.0), make_bus(8.5)),
    TrainId.TRAIN: (make_tram(9.0, 2), make_tram(11.0, 1)),
}
