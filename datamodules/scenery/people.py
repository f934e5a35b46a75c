"""People, bicycles and motorcycles: joints in space, joined by limbs of varying thickness. Lengths are metres."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .canvas import Canvas, Item, Pose, Surface, shade, upright
from .domains import Colour, TrainId, palette
from .street import Side, Street

TYRE: Colour = (28, 28, 30)
METAL: Colour = (120, 122, 126)
SPOKE: Colour = (150, 150, 154)
SKINS = palette("ecc4a4 d6a682 ac7858 76503a")
HAIRS = palette("281e18 5c3e26 c4a062 96928e 181618")
TROUSERS = palette("2e3a5c 2c2c32 6e6252")
SHOES = palette("282220 dedcd6 5a402e")
CAP_ANGLES = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 5)
RING = np.linspace(0, 2 * np.pi, 17)
SIDES = (-1.0, 1.0)  # left and right

Joint = tuple[float, float, float]  # metres along, up, and to the right


class Limb(NamedTuple):
    """A rounded bar between two joints, with a radius at each end."""

    start: Joint
    end: Joint
    radii: tuple[float, float]
    colour: Colour | None = None  # None for the paint of a two-wheeler
    is_detail: bool = False  # left out where the figure is small


class TwoWheeler(NamedTuple):
    """A bicycle or a motorcycle, with the places of its rider's seat, hands and feet."""

    label: TrainId
    limbs: tuple[Limb, ...]
    wheels: tuple[tuple[float, float, float], ...]  # (along, radius, half the tyre's width)
    seat: Joint
    grip: Joint
    pedal: Joint


REAR, FRONT, CRANK = (-0.52, 0.35, 0.0), (0.56, 0.35, 0.0), (-0.04, 0.3, 0.0)  # joints of a bicycle's frame
SADDLE, HEAD = (-0.22, 0.88, 0.0), (0.4, 0.86, 0.0)
FRAME = (
    (REAR, CRANK), (CRANK, SADDLE), (SADDLE, HEAD), (CRANK, HEAD), (REAR, (-0.2, 0.8, 0.0)), (HEAD, FRONT),
    (HEAD, (0.36, 1.03, 0.0)),
)  # fmt: skip
BICYCLE = TwoWheeler(
    TrainId.BICYCLE,
    (
        *(Limb(start, end, (0.03, 0.03)) for start, end in FRAME),
        Limb((0.38, 1.03, -0.28), (0.38, 1.03, 0.28), (0.028, 0.028), TYRE),
        Limb((-0.34, 0.93, 0.0), (-0.12, 0.93, 0.0), (0.06, 0.04), TYRE),
    ),
    wheels=((-0.54, 0.35, 0.032), (0.56, 0.35, 0.032)),
    seat=(-0.22, 0.98, 0.0),
    grip=(0.42, 1.02, 0.26),
    pedal=(-0.02, 0.32, 0.0),
)
MOTORCYCLE = TwoWheeler(
    TrainId.MOTORCYCLE,
    (
        Limb((-0.1, 0.36, 0.0), (0.22, 0.4, 0.0), (0.2, 0.19), (70, 72, 76)),
        Limb((-0.66, 0.3, 0.13), (0.0, 0.28, 0.13), (0.065, 0.055), METAL, True),
        Limb((-0.72, 0.8, 0.0), (-0.1, 0.74, 0.0), (0.1, 0.13), TYRE),
        Limb((-0.62, 0.62, 0.0), (-0.3, 0.58, 0.0), (0.11, 0.13)),
        Limb((0.0, 0.74, 0.0), (0.34, 0.82, 0.0), (0.17, 0.15)),
        Limb((0.46, 0.98, 0.0), (0.76, 0.34, 0.0), (0.06, 0.05), METAL),
        Limb((0.52, 0.92, 0.0), (0.54, 0.86, 0.0), (0.13, 0.12)),
        Limb((0.64, 0.88, 0.0), (0.65, 0.88, 0.0), (0.075, 0.075), (240, 236, 208), True),
        Limb((0.4, 1.04, -0.36), (0.4, 1.04, 0.36), (0.032, 0.032), TYRE),
        Limb((0.44, 1.12, -0.3), (0.44, 1.15, -0.34), (0.05, 0.05), TYRE, True),
        Limb((0.44, 1.12, 0.3), (0.44, 1.15, 0.34), (0.05, 0.05), TYRE, True),
        Limb((-0.84, 0.74, 0.0), (-0.83, 0.7, 0.0), (0.06, 0.05), (200, 36, 30), True),
        Limb((0.62, 0.64, 0.0), (0.88, 0.58, 0.0), (0.09, 0.07)),
    ),
    wheels=((-0.66, 0.33, 0.075), (0.76, 0.33, 0.065)),
    seat=(-0.25, 0.84, 0.0),
    grip=(0.42, 1.06, 0.32),
    pedal=(0.05, 0.36, 0.0),
)
TWO_WHEELERS = {machine.label: machine for machine in (BICYCLE, MOTORCYCLE)}


class Person:
    """A person's clothes and colours, the clothes drawn from a street's palettes."""

    def __init__(self, street: Street) -> None:
        dice, clothes = street.dice, street.domain.clothes
        self.skin, self.hair = dice.pick(SKINS), dice.pick(HAIRS)
        self.top = shade(dice.pick(clothes), dice.between(0.85, 1.1))
        self.sleeve = shade(self.top, 0.86)
        self.bottom = shade(dice.pick((*TROUSERS, *clothes)), 0.85)
        self.shoes = dice.pick(SHOES)
        self.bag = dice.pick(clothes) if dice.chance(0.25) else None
        self.has_skirt = dice.chance(0.2)
        self.helmet: Colour | None = None

    def walk(self, stride: float) -> list[Limb]:
        """Returns the limbs of a standing (stride 0) or walking adult of 1.75 m."""
        step = 0.34 * stride
        hip, shoulder = 0.92, 1.42
        leg = self.skin if self.has_skirt else self.bottom
        limbs: list[Limb] = []
        for sign in SIDES:
            foot = (sign * step, 0.07, 0.11 * sign)
            knee = (0.5 * sign * step + 0.06 * abs(stride), 0.5, 0.1 * sign)
            hand = (-0.8 * sign * step + 0.05, 0.86, 0.27 * sign)
            elbow = (-0.45 * sign * step - 0.04, 1.12, 0.27 * sign)
            limbs += [
                Limb((0.0, hip, 0.09 * sign), knee, (0.115, 0.085), leg),
                Limb(knee, foot, (0.085, 0.06), leg),
                Limb(foot, (foot[0] + 0.16, 0.05, foot[2]), (0.065, 0.05), self.shoes, True),
                Limb((0.0, shoulder, 0.2 * sign), elbow, (0.085, 0.066), self.sleeve),
                Limb(elbow, hand, (0.066, 0.048), self.sleeve),
                Limb(hand, (hand[0] + 0.02, 0.8, hand[2]), (0.05, 0.045), self.skin, True),
                Limb((0.0, shoulder - 0.04, 0.13 * sign), (0.0, hip, 0.08 * sign), (0.13, 0.12), self.top),
            ]
        if self.has_skirt:
            limbs.append(Limb((0.0, hip, 0.0), (0.0, 0.58, 0.0), (0.17, 0.26), self.bottom))
        if self.bag:
            limbs.append(Limb((-0.2, 1.36, 0.0), (-0.2, 1.06, 0.0), (0.16, 0.17), self.bag))
        return limbs + self._hold_head(0.0, 1.44)

    def ride(self, machine: TwoWheeler, lean: float) -> list[Limb]:
        """Returns the limbs of a person on a two-wheeler who leans forward by some metres."""
        seat, grip, pedal = machine.seat, machine.grip, machine.pedal
        neck = (seat[0] + lean, seat[1] + 0.55)
        limbs: list[Limb] = []
        for sign in SIDES:
            drop = 0.13 * sign
            foot = (pedal[0], pedal[1] + drop, 0.14 * sign)
            knee = (0.5 * (seat[0] + pedal[0]) + 0.26, 0.55 * (seat[1] + pedal[1]) + 0.1 + 0.5 * drop, 0.15 * sign)
            hand = (grip[0], grip[1] + 0.03, grip[2] * sign)
            elbow = (0.5 * (neck[0] + grip[0]) - 0.02, 0.5 * (neck[1] + grip[1]) - 0.08, 0.3 * sign)
            chest, hip = (neck[0], neck[1] - 0.1, 0.11 * sign), (seat[0], seat[1] + 0.06, 0.08 * sign)
            limbs += [
                Limb((seat[0], seat[1] + 0.04, 0.1 * sign), knee, (0.125, 0.095), self.bottom),
                Limb(knee, foot, (0.09, 0.06), self.bottom),
                Limb(foot, (foot[0] + 0.14, foot[1] - 0.03, foot[2]), (0.06, 0.05), self.shoes, True),
                Limb((neck[0], neck[1] - 0.06, 0.19 * sign), elbow, (0.085, 0.068), self.sleeve),
                Limb(elbow, hand, (0.068, 0.05), self.sleeve),
                Limb(chest, hip, (0.14, 0.13), self.top),
            ]
        return limbs + self._hold_head(*neck)

    def _hold_head(self, along: float, up: float) -> list[Limb]:
        """Returns neck, head, and hair or helmet above a point between the shoulders."""
        thickness = 0.135 if self.helmet else 0.112
        top = (along - 0.01, up + 0.27, 0.0), (along - 0.01, up + 0.3, 0.0)
        return [
            Limb((along, up, 0.0), (along + 0.02, up + 0.14, 0.0), (0.06, 0.06), self.skin, True),
            Limb((along + 0.04, up + 0.2, 0.0), (along + 0.04, up + 0.28, 0.0), (0.09, 0.1), self.skin),
            Limb(*top, (thickness, thickness), self.helmet or self.hair),
        ]


def outline_limbs(ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Returns rounded outlines (N, 10, 2) of bars between pixels (N, 2, 2) with radii (N, 2) in pixels."""
    radii = np.maximum(radii, 0.55)
    direction = np.arctan2(ends[:, 1, 1] - ends[:, 0, 1], ends[:, 1, 0] - ends[:, 0, 0])
    angles = np.concatenate([CAP_ANGLES + np.pi, CAP_ANGLES])[None] + direction[:, None]
    centres = np.repeat(ends, len(CAP_ANGLES), axis=1)
    reach = np.repeat(radii, len(CAP_ANGLES), axis=1)
    return centres + reach[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def draw_wheels(canvas: Canvas, machine: TwoWheeler, pose: Pose, surface: Surface) -> None:
    """Paints the upright wheels of a two-wheeler, whose whole discs carry its label."""
    scale, is_spoked = canvas.camera.scale(pose.z), machine.label == TrainId.BICYCLE
    for along, radius, tyre in machine.wheels:
        points = pose.place(along + radius * np.cos(RING), radius * (1 + np.sin(RING)), np.zeros(1))
        rim = canvas.camera.project(points)
        if np.ptp(rim[:, 0]) < 2.4 * tyre * scale:  # seen from the front
            radii = np.full((1, 2), max(tyre * scale, 0.6))
            canvas.fill(outline_limbs(rim[None, [4, 12]], radii)[0], TYRE, surface)
            continue
        canvas.fill(rim, None if is_spoked else METAL, surface)
        for spoke in range(0, 8, 2) if is_spoked and scale * radius > 4 else ():
            canvas.trace(rim[[spoke, spoke + 8]], SPOKE, 0.01 * scale)
        canvas.trace(rim, TYRE, 2.0 * tyre * scale, surface)


def stand_figure(
    pose: Pose, person: list[Limb], machine: TwoWheeler | None = None, paint: Colour = TYRE, stature: float = 1.0
) -> Item:
    """Returns a person scaled by a stature, a two-wheeler in some paint, or a rider on a two-wheeler."""

    def draw(canvas: Canvas) -> None:
        scale = canvas.camera.scale(pose.z)
        limbs, surfaces = person, [upright(TrainId.RIDER if machine else TrainId.PERSON, pose.z)] * len(person)
        if machine:
            surface = upright(machine.label, pose.z)
            draw_wheels(canvas, machine, pose, surface)
            limbs, surfaces = [*machine.limbs, *limbs], [surface] * len(machine.limbs) + surfaces
        joints = stature * np.array([(limb.start, limb.end) for limb in limbs])
        world = pose.place(*np.moveaxis(joints, -1, 0))
        radii = scale * stature * np.array([limb.radii for limb in limbs])
        outlines = outline_limbs(canvas.camera.project(world), radii)
        brightness = 0.55 + 0.5 * canvas.light.on(0.0, 0.3, -0.95)
        for index in np.argsort(-world[..., 2].mean(axis=1), kind="stable").tolist():  # far ones first
            if scale >= 9 or not limbs[index].is_detail:
                canvas.fill(outlines[index], shade(limbs[index].colour or paint, brightness), surfaces[index])

    if machine:
        return Item(pose.footprint(1.7, 0.32), 1.7 if person else 1.05, draw)
    return Item(pose.footprint(0.4, 0.32), 1.75 * stature, draw)


def place_rider(street: Street, label: TrainId, across: float, along: float, turn: float) -> Iterator[Item]:
    """Places a bicycle or a motorcycle with a rider, if there is room."""
    if not street.claim(across, along, 0.8, 2.0, turn):
        return
    person, lean = Person(street), 0.14
    if label == TrainId.BICYCLE:
        lean = street.dice.between(0.12, 0.3)
    else:
        person.helmet = street.pick_paint()
    machine = TWO_WHEELERS[label]
    pose = street.course.pose(across, along, turn)
    yield stand_figure(pose, person.ride(machine, lean), machine, street.pick_paint())


def place_walker(street: Street, across: float, along: float, turn: float) -> Item:
    """Places a person on foot."""
    dice = street.dice
    stature = dice.between(0.92, 1.07) * (0.68 if dice.chance(0.1) else 1.0)
    stride = dice.between(-1.0, 1.0) if dice.chance(0.8) else 0.0
    pose = Pose(*street.course.place(across, along), turn)
    return stand_figure(pose, Person(street).walk(stride), stature=stature)


def plan_people(street: Street, side: Side) -> Iterator[Item]:
    """Places people on the sidewalk, alone and in groups."""
    dice = street.dice
    for _ in range(int(dice.poisson(1.7 * street.domain.rate("person") * dice.between(0.3, 1.7)))):
        along = float(np.exp(dice.between(np.log(5.0), np.log(45.0))))
        across = dice.between(min(side.walk + 0.9, side.line - 0.5), side.line - 0.35)
        turn = dice.pick((0.0, np.pi, 0.0, np.pi, 1.4)) + dice.normal(0, 0.25)
        for member in range(int(dice.integers(1, 4)) if dice.chance(0.35) else 1):
            yield place_walker(street, side.sign * across + 0.6 * member, along + 0.25 * member, turn)


def plan_crossing_people(street: Street, crosswalk: float | None) -> Iterator[Item]:
    """Places people on a crosswalk that starts some metres ahead, if there is one."""
    dice, (left, right) = street.dice, street.sides
    if crosswalk is not None and dice.chance(0.55 * street.domain.rate("person")):
        turn = dice.pick((-1, 1)) * 0.5 * np.pi
        for _ in range(int(dice.integers(1, 4))):
            across = dice.between(-left.kerb, right.kerb)
            yield place_walker(street, across, crosswalk + 1.5 + dice.between(-0.8, 0.8), turn)
