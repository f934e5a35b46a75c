"""People, bicycles and motorcycles: joints in space, joined by limbs of varying thickness."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .camera import Pose
from .canvas import Canvas, Surface, shade, upright
from .domains import Colour, TrainId
from .solids import Solid

TYRE: Colour = (28, 28, 30)
METAL: Colour = (120, 122, 126)
SPOKE: Colour = (150, 150, 154)
CAP_ANGLES = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 5)
RING = np.linspace(0, 2 * np.pi, 17)
SIDES = (-1.0, 1.0)  # left and right

Joint = tuple[float, float, float]  # metres along, up, and to the right


class Limb(NamedTuple):
    """A rounded bar between two joints, with a radius at each end."""

    start: Joint
    end: Joint
    radii: tuple[float, float]
    colour: Colour
    is_detail: bool = False  # left out where the figure is small


class Wheel(NamedTuple):
    """An upright wheel in the plane of travel; its whole disc carries the label."""

    along: float
    radius: float
    tyre: float
    is_spoked: bool


class TwoWheeler(NamedTuple):
    """A bicycle or a motorcycle, and where its rider sits, holds on and has both feet."""

    label: TrainId
    limbs: list[Limb]
    wheels: tuple[Wheel, Wheel]
    seat: Joint
    grip: Joint
    pedal: Joint


@dataclass(frozen=True)
class Outfit:
    """Colours of a person."""

    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    bag: Colour | None = None
    helmet: Colour | None = None
    is_skirt: bool = False


@dataclass(frozen=True)
class Figure:
    """A person, a two-wheeler, or one on the other."""

    pose: Pose
    person: list[Limb]
    machine: TwoWheeler | None = None
    stature: float = 1.0  # scales the person

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        if self.machine:
            return Solid(self.pose.footprint(1.7, 0.32), 0.0, 1.7 if self.person else 1.05)
        return Solid(self.pose.footprint(0.4, 0.32), 0.0, 1.75 * self.stature)

    def draw(self, canvas: Canvas) -> None:
        """Paint wheels, then limbs, far ones first."""
        if self.pose.z < 1.5:
            return
        scale = canvas.camera.scale(self.pose.z)
        surfaces = [upright(TrainId.RIDER if self.machine else TrainId.PERSON, self.pose.z)] * len(self.person)
        limbs = self.person
        if self.machine:
            surface = upright(self.machine.label, self.pose.z)
            for wheel in self.machine.wheels:
                self._draw_wheel(canvas, wheel, scale, surface)
            surfaces = [surface] * len(self.machine.limbs) + surfaces
            limbs = self.machine.limbs + limbs
        joints = self.stature * np.array([(limb.start, limb.end) for limb in limbs])
        world = self.pose.place(joints[..., 0], joints[..., 1], joints[..., 2])
        radii = scale * (self.stature * np.array([limb.radii for limb in limbs]))
        outlines = outline_limbs(canvas.camera.project(world), radii)
        brightness = 0.55 + 0.5 * canvas.light.on(0.0, 0.3, -0.95)
        for index in np.argsort(-world[..., 2].mean(axis=1), kind="stable").tolist():
            if scale >= 9 or not limbs[index].is_detail:
                canvas.fill(outlines[index], shade(limbs[index].colour, brightness), surfaces[index])

    def _draw_wheel(self, canvas: Canvas, wheel: Wheel, scale: float, surface: Surface) -> None:
        along, up = wheel.along + wheel.radius * np.cos(RING), wheel.radius * (1 + np.sin(RING))
        rim = canvas.camera.project(self.pose.place(along, up, np.zeros(len(RING))))
        if np.ptp(rim[:, 0]) < 2.4 * wheel.tyre * scale:  # seen from the front
            radii = np.full((1, 2), max(wheel.tyre * scale, 0.6))
            canvas.fill(outline_limbs(rim[None, [4, 12]], radii)[0], TYRE, surface)
            return
        canvas.fill(rim, None if wheel.is_spoked else METAL, surface)
        if wheel.is_spoked and scale * wheel.radius > 4:
            for spoke in range(0, 8, 2):
                canvas.trace(rim[[spoke, spoke + 8]], SPOKE, 0.01 * scale)
        canvas.trace(rim, TYRE, 2.0 * wheel.tyre * scale, surface)


def outline_limbs(ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return rounded outlines (N, 10, 2) of bars between pixels (N, 2, 2) with radii (N, 2) in pixels."""
    radii = np.maximum(radii, 0.55)
    direction = np.arctan2(ends[:, 1, 1] - ends[:, 0, 1], ends[:, 1, 0] - ends[:, 0, 0])
    angles = np.concatenate([CAP_ANGLES + np.pi, CAP_ANGLES])[None] + direction[:, None]
    centres = np.repeat(ends, len(CAP_ANGLES), axis=1)
    reach = np.repeat(radii, len(CAP_ANGLES), axis=1)
    return centres + reach[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def make_head(along: float, up: float, outfit: Outfit) -> list[Limb]:
    """Return neck, head, and hair or helmet above a point between the shoulders."""
    cover = outfit.helmet or outfit.hair
    thickness = 0.135 if outfit.helmet else 0.112
    return [
        Limb((along, up, 0.0), (along + 0.02, up + 0.14, 0.0), (0.06, 0.06), outfit.skin, True),
        Limb((along + 0.04, up + 0.2, 0.0), (along + 0.04, up + 0.28, 0.0), (0.09, 0.1), outfit.skin),
        Limb((along - 0.01, up + 0.27, 0.0), (along - 0.01, up + 0.3, 0.0), (thickness, thickness), cover),
    ]


def make_walker(outfit: Outfit, stride: float) -> list[Limb]:
    """Return the limbs of a standing (stride 0) or walking adult of 1.75 m."""
    step = 0.34 * stride
    hip, shoulder = 0.92, 1.42
    leg, sleeve = outfit.skin if outfit.is_skirt else outfit.bottom, shade(outfit.top, 0.86)
    limbs: list[Limb] = []
    for sign in SIDES:
        foot = (sign * step, 0.07, 0.11 * sign)
        knee = (0.5 * sign * step + 0.06 * abs(stride), 0.5, 0.1 * sign)
        hand = (-0.8 * sign * step + 0.05, 0.86, 0.27 * sign)
        elbow = (-0.45 * sign * step - 0.04, 1.12, 0.27 * sign)
        limbs += [
            Limb((0.0, hip, 0.09 * sign), knee, (0.115, 0.085), leg),
            Limb(knee, foot, (0.085, 0.06), leg),
            Limb(foot, (foot[0] + 0.16, 0.05, foot[2]), (0.065, 0.05), outfit.shoes, True),
            Limb((0.0, shoulder, 0.2 * sign), elbow, (0.085, 0.066), sleeve),
            Limb(elbow, hand, (0.066, 0.048), sleeve),
            Limb(hand, (hand[0] + 0.02, 0.8, hand[2]), (0.05, 0.045), outfit.skin, True),
            Limb((0.0, shoulder - 0.04, 0.13 * sign), (0.0, hip, 0.08 * sign), (0.13, 0.12), outfit.top),
        ]
    if outfit.is_skirt:
        limbs.append(Limb((0.0, hip, 0.0), (0.0, 0.58, 0.0), (0.17, 0.26), outfit.bottom))
    if outfit.bag:
        limbs.append(Limb((-0.2, 1.36, 0.0), (-0.2, 1.06, 0.0), (0.16, 0.17), outfit.bag))
    return limbs + make_head(0.0, 1.44, outfit)


def make_rider(outfit: Outfit, machine: TwoWheeler, lean: float) -> list[Limb]:
    """Return the limbs of a person on a two-wheeler who leans forward by some metres."""
    seat, grip, pedal = machine.seat, machine.grip, machine.pedal
    neck = (seat[0] + lean, seat[1] + 0.55)
    sleeve = shade(outfit.top, 0.86)
    limbs: list[Limb] = []
    for sign in SIDES:
        drop = 0.13 * sign
        foot = (pedal[0], pedal[1] + drop, 0.14 * sign)
        knee = (0.5 * (seat[0] + pedal[0]) + 0.26, 0.55 * (seat[1] + pedal[1]) + 0.1 + 0.5 * drop, 0.15 * sign)
        hand = (grip[0], grip[1] + 0.03, grip[2] * sign)
        elbow = (0.5 * (neck[0] + grip[0]) - 0.02, 0.5 * (neck[1] + grip[1]) - 0.08, 0.3 * sign)
        chest, hip = (neck[0], neck[1] - 0.1, 0.11 * sign), (seat[0], seat[1] + 0.06, 0.08 * sign)
        limbs += [
            Limb((seat[0], seat[1] + 0.04, 0.1 * sign), knee, (0.125, 0.095), outfit.bottom),
            Limb(knee, foot, (0.09, 0.06), outfit.bottom),
            Limb(foot, (foot[0] + 0.14, foot[1] - 0.03, foot[2]), (0.06, 0.05), outfit.shoes, True),
            Limb((neck[0], neck[1] - 0.06, 0.19 * sign), elbow, (0.085, 0.068), sleeve),
            Limb(elbow, hand, (0.068, 0.05), sleeve),
            Limb(chest, hip, (0.14, 0.13), outfit.top),
        ]
    return limbs + make_head(*neck, outfit)


def make_bicycle(colour: Colour) -> TwoWheeler:
    """Describe a bicycle."""
    rear, front, crank = (-0.52, 0.35, 0.0), (0.56, 0.35, 0.0), (-0.04, 0.3, 0.0)
    saddle, head = (-0.22, 0.88, 0.0), (0.4, 0.86, 0.0)
    frame = [
        (rear, crank), (crank, saddle), (saddle, head), (crank, head), (rear, (-0.2, 0.8, 0.0)), (head, front),
        (head, (0.36, 1.03, 0.0)),
    ]  # fmt: skip
    limbs = [
        *(Limb(start, end, (0.03, 0.03), colour) for start, end in frame),
        Limb((0.38, 1.03, -0.28), (0.38, 1.03, 0.28), (0.028, 0.028), TYRE),
        Limb((-0.34, 0.93, 0.0), (-0.12, 0.93, 0.0), (0.06, 0.04), TYRE),
    ]
    wheels = Wheel(-0.54, 0.35, 0.032, True), Wheel(0.56, 0.35, 0.032, True)
    return TwoWheeler(TrainId.BICYCLE, limbs, wheels, (-0.22, 0.98, 0.0), (0.42, 1.02, 0.26), (-0.02, 0.32, 0.0))


def make_motorcycle(colour: Colour) -> TwoWheeler:
    """Describe a motorcycle."""
    limbs = [
        Limb((-0.1, 0.36, 0.0), (0.22, 0.4, 0.0), (0.2, 0.19), (70, 72, 76)),
        Limb((-0.66, 0.3, 0.13), (0.0, 0.28, 0.13), (0.065, 0.055), METAL, True),
        Limb((-0.72, 0.8, 0.0), (-0.1, 0.74, 0.0), (0.1, 0.13), TYRE),
        Limb((-0.62, 0.62, 0.0), (-0.3, 0.58, 0.0), (0.11, 0.13), colour),
        Limb((0.0, 0.74, 0.0), (0.34, 0.82, 0.0), (0.17, 0.15), colour),
        Limb((0.46, 0.98, 0.0), (0.76, 0.34, 0.0), (0.06, 0.05), METAL),
        Limb((0.52, 0.92, 0.0), (0.54, 0.86, 0.0), (0.13, 0.12), colour),
        Limb((0.64, 0.88, 0.0), (0.65, 0.88, 0.0), (0.075, 0.075), (240, 236, 208), True),
        Limb((0.4, 1.04, -0.36), (0.4, 1.04, 0.36), (0.032, 0.032), TYRE),
        Limb((0.44, 1.12, -0.3), (0.44, 1.15, -0.34), (0.05, 0.05), TYRE, True),
        Limb((0.44, 1.12, 0.3), (0.44, 1.15, 0.34), (0.05, 0.05), TYRE, True),
        Limb((-0.84, 0.74, 0.0), (-0.83, 0.7, 0.0), (0.06, 0.05), (200, 36, 30), True),
        Limb((0.62, 0.64, 0.0), (0.88, 0.58, 0.0), (0.09, 0.07), colour),
    ]
    wheels = Wheel(-0.66, 0.33, 0.075, False), Wheel(0.76, 0.33, 0.065, False)
    return TwoWheeler(TrainId.MOTORCYCLE, limbs, wheels, (-0.25, 0.84, 0.0), (0.42, 1.06, 0.32), (0.05, 0.36, 0.0))
