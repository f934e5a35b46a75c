"""People, bicycles and motorcycles: joints in space, joined by limbs of varying thickness."""

from dataclasses import dataclass, field

import numpy as np

from .canvas import Canvas, shade
from .domains import Colour, TrainId
from .ground import Solid

TYRE: Colour = (28, 28, 30)
METAL: Colour = (120, 122, 126)
CAP_ANGLES = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 5)
RING = np.linspace(0, 2 * np.pi, 17)

Joint = tuple[float, float, float]


@dataclass(frozen=True)
class Limb:
    """A rounded bar between two joints (along, up, side) in metres, with a radius at each end."""

    start: Joint
    end: Joint
    radii: tuple[float, float]
    colour: Colour
    label: TrainId
    is_detail: bool = False


@dataclass(frozen=True)
class Wheel:
    """An upright wheel in the plane of travel; its whole disc carries the label."""

    along: float
    radius: float
    tyre: float
    label: TrainId
    spoked: bool


@dataclass(frozen=True)
class Figure:
    """Limbs and wheels that stand on the ground.

    Attributes:
        x: Metres to the right of the camera.
        z: Metres ahead of the camera.
        heading: Radians clockwise from straight ahead.
        limbs: Its limbs; those farther away are painted first.
        wheels: Its wheels, painted before the limbs.
        height: Height in metres, for the shadow.
        length: Metres along its heading, for the shadow.
    """

    x: float
    z: float
    heading: float
    limbs: tuple[Limb, ...]
    wheels: tuple[Wheel, ...] = field(default=())
    height: float = 1.75
    length: float = 0.4

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        along = 0.5 * self.length * np.array([-1.0, -1.0, 1.0, 1.0])
        side = 0.16 * np.array([-1.0, 1.0, 1.0, -1.0])
        return Solid(self.place(along, np.zeros(4), side)[:, [0, 2]], 0.0, self.height)

    def place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turn the figure's own coordinates into world points (N, 3)."""
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        points = np.empty((*along.shape, 3))
        points[..., 0] = self.x + along * sine + side * cosine
        points[..., 1] = up
        points[..., 2] = self.z + along * cosine - side * sine
        return points

    def draw(self, canvas: Canvas) -> None:
        """Paint wheels and limbs, far ones first."""
        if self.z < 1.5:
            return
        numbers = {
            label: canvas.add_upright(label, self.z)
            for label in sorted({limb.label for limb in self.limbs} | {wheel.label for wheel in self.wheels})
        }
        scale = canvas.camera.scale(self.z)
        for wheel in self.wheels:
            self._draw_wheel(canvas, wheel, scale, numbers[wheel.label])
        joints = np.array([(limb.start, limb.end) for limb in self.limbs])
        world = self.place(joints[..., 0], joints[..., 1], joints[..., 2])
        outlines = outline_limbs(canvas.camera.project(world), scale * np.array([limb.radii for limb in self.limbs]))
        brightness = 0.55 + 0.5 * canvas.light.on(0.0, 0.3, -0.95)
        small = scale < 9
        for index in np.argsort(-world[..., 2].mean(axis=1), kind="stable").tolist():
            limb = self.limbs[index]
            if not (small and limb.is_detail):
                canvas.fill(outlines[index], shade(limb.colour, brightness), numbers[limb.label])

    def _draw_wheel(self, canvas: Canvas, wheel: Wheel, scale: float, number: int) -> None:
        ring = self.place(
            wheel.along + wheel.radius * np.cos(RING), wheel.radius * (1 + np.sin(RING)), np.zeros(len(RING))
        )
        rim = canvas.camera.project(ring)
        if np.ptp(rim[:, 0]) < 2.4 * wheel.tyre * scale:
            ends = rim[[4, 12]]
            radii = np.full((1, 2), max(wheel.tyre * scale, 0.6))
            canvas.fill(outline_limbs(ends[None], radii)[0], TYRE, number)
            return
        canvas.fill(rim, None if wheel.spoked else METAL, number)
        if wheel.spoked and scale * wheel.radius > 4:
            for spoke in range(4):
                canvas.trace(rim[[spoke * 2, spoke * 2 + 8]], (150, 150, 154), 0.01 * scale)
        canvas.trace(rim, TYRE, 2.0 * wheel.tyre * scale, number)


def outline_limbs(ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return rounded outlines (N, 10, 2) of bars between pixels (N, 2, 2) with radii (N, 2) in pixels."""
    radii = np.maximum(radii, 0.55)
    direction = np.arctan2(ends[:, 1, 1] - ends[:, 0, 1], ends[:, 1, 0] - ends[:, 0, 0])
    angles = np.concatenate([CAP_ANGLES + np.pi, CAP_ANGLES])[None] + direction[:, None]
    centres = np.repeat(ends, len(CAP_ANGLES), axis=1)
    reach = np.repeat(radii, len(CAP_ANGLES), axis=1)
    return centres + reach[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


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


def make_head(at: Joint, outfit: Outfit, label: TrainId) -> list[Limb]:
    """Return neck, head, and hair or helmet around a point between the shoulders."""
    along, up, side = at
    cover = outfit.helmet or outfit.hair
    thickness = 0.135 if outfit.helmet else 0.112
    return [
        Limb(at, (along + 0.02, up + 0.14, side), (0.06, 0.06), outfit.skin, label, True),
        Limb((along + 0.04, up + 0.2, side), (along + 0.04, up + 0.28, side), (0.09, 0.1), outfit.skin, label),
        Limb((along - 0.01, up + 0.27, side), (along - 0.01, up + 0.3, side), (thickness, thickness), cover, label),
    ]


def make_walker(outfit: Outfit, stature: float, stride: float) -> tuple[Limb, ...]:
    """Return the limbs of a standing (stride 0) or walking person; stature scales an adult of 1.75 m."""
    label = TrainId.PERSON
    step = 0.34 * stride
    hip, shoulder = 0.92, 1.42
    limbs: list[Limb] = []
    for sign in (-1.0, 1.0):
        foot = (sign * step, 0.07, 0.11 * sign)
        knee = (0.5 * sign * step + 0.06 * abs(stride), 0.5, 0.1 * sign)
        hand = (-0.8 * sign * step + 0.05, 0.86, 0.27 * sign)
        elbow = (-0.45 * sign * step - 0.04, 1.12, 0.27 * sign)
        leg = outfit.skin if outfit.is_skirt else outfit.bottom
        limbs += [
            Limb((0.0, hip, 0.09 * sign), knee, (0.115, 0.085), leg, label),
            Limb(knee, foot, (0.085, 0.06), leg, label),
            Limb(foot, (foot[0] + 0.16, 0.05, foot[2]), (0.065, 0.05), outfit.shoes, label, True),
            Limb((0.0, shoulder, 0.2 * sign), elbow, (0.085, 0.066), shade(outfit.top, 0.86), label),
            Limb(elbow, hand, (0.066, 0.048), shade(outfit.top, 0.86), label),
            Limb(hand, (hand[0] + 0.02, 0.8, hand[2]), (0.05, 0.045), outfit.skin, label, True),
            Limb((0.0, shoulder - 0.04, 0.13 * sign), (0.0, hip, 0.08 * sign), (0.13, 0.12), outfit.top, label),
        ]
    if outfit.is_skirt:
        limbs.append(Limb((0.0, hip, 0.0), (0.0, 0.58, 0.0), (0.17, 0.26), outfit.bottom, label))
    if outfit.bag:
        limbs.append(Limb((-0.2, 1.36, 0.0), (-0.2, 1.06, 0.0), (0.16, 0.17), outfit.bag, label))
    limbs += make_head((0.0, 1.44, 0.0), outfit, label)
    return tuple(_scale_limb(limb, stature) for limb in limbs)


def _scale_limb(limb: Limb, factor: float) -> Limb:
    start, end = (tuple(factor * value for value in joint) for joint in (limb.start, limb.end))
    radii = (factor * limb.radii[0], factor * limb.radii[1])
    return Limb(start, end, radii, limb.colour, limb.label, limb.is_detail)  # type: ignore[arg-type]


def make_rider(outfit: Outfit, seat: Joint, grip: Joint, pedal: Joint, lean: float) -> tuple[Limb, ...]:
    """Return the limbs of a person who sits at `seat`, holds `grip` and has both feet near `pedal`."""
    label = TrainId.RIDER
    neck = (seat[0] + lean, seat[1] + 0.55, 0.0)
    limbs: list[Limb] = []
    for sign in (-1.0, 1.0):
        drop = 0.13 * sign
        foot = (pedal[0], pedal[1] + drop, 0.14 * sign)
        knee = (0.5 * (seat[0] + pedal[0]) + 0.26, 0.55 * (seat[1] + pedal[1]) + 0.1 + 0.5 * drop, 0.15 * sign)
        hand = (grip[0], grip[1] + 0.03, grip[2] * sign)
        elbow = (0.5 * (neck[0] + grip[0]) - 0.02, 0.5 * (neck[1] + grip[1]) - 0.08, 0.3 * sign)
        limbs += [
            Limb((seat[0], seat[1] + 0.04, 0.1 * sign), knee, (0.125, 0.095), outfit.bottom, label),
            Limb(knee, foot, (0.09, 0.06), outfit.bottom, label),
            Limb(foot, (foot[0] + 0.14, foot[1] - 0.03, foot[2]), (0.06, 0.05), outfit.shoes, label, True),
            Limb((neck[0], neck[1] - 0.06, 0.19 * sign), elbow, (0.085, 0.068), shade(outfit.top, 0.86), label),
            Limb(elbow, hand, (0.068, 0.05), shade(outfit.top, 0.86), label),
            Limb(
                (neck[0], neck[1] - 0.1, 0.11 * sign), (seat[0], seat[1] + 0.06, 0.08 * sign), (0.14, 0.13),
                outfit.top, label,
            ),
        ]  # fmt: skip
    return (*limbs, *make_head(neck, outfit, label))


BICYCLE_SEAT, BICYCLE_GRIP, BICYCLE_PEDAL = (-0.22, 0.98, 0.0), (0.42, 1.02, 0.26), (-0.02, 0.32, 0.0)
MOTORCYCLE_SEAT, MOTORCYCLE_GRIP, MOTORCYCLE_PEDAL = (-0.25, 0.84, 0.0), (0.42, 1.06, 0.32), (0.05, 0.36, 0.0)


def make_bicycle(colour: Colour) -> tuple[tuple[Limb, ...], tuple[Wheel, ...]]:
    """Return the frame and wheels of a bicycle."""
    label = TrainId.BICYCLE
    rear, front, crank = (-0.52, 0.35, 0.0), (0.56, 0.35, 0.0), (-0.04, 0.3, 0.0)
    saddle, head = (-0.22, 0.88, 0.0), (0.4, 0.86, 0.0)
    bars = [
        (rear, crank), (crank, saddle), (saddle, head), (crank, head), (rear, (-0.2, 0.8, 0.0)), (head, front),
        (head, (0.36, 1.03, 0.0)),
    ]  # fmt: skip
    limbs = [Limb(start, end, (0.03, 0.03), colour, label) for start, end in bars]
    limbs.append(Limb((0.38, 1.03, -0.28), (0.38, 1.03, 0.28), (0.028, 0.028), TYRE, label))
    limbs.append(Limb((-0.34, 0.93, 0.0), (-0.12, 0.93, 0.0), (0.06, 0.04), TYRE, label))
    return tuple(limbs), tuple(Wheel(along, 0.35, 0.032, label, True) for along in (-0.54, 0.56))


def make_motorcycle(colour: Colour) -> tuple[tuple[Limb, ...], tuple[Wheel, ...]]:
    """Return the body and wheels of a motorcycle."""
    label = TrainId.MOTORCYCLE
    limbs = (
        Limb((-0.1, 0.36, 0.0), (0.22, 0.4, 0.0), (0.2, 0.19), (70, 72, 76), label),
        Limb((-0.66, 0.3, 0.13), (0.0, 0.28, 0.13), (0.065, 0.055), METAL, label, True),
        Limb((-0.72, 0.8, 0.0), (-0.1, 0.74, 0.0), (0.1, 0.13), TYRE, label),
        Limb((-0.62, 0.62, 0.0), (-0.3, 0.58, 0.0), (0.11, 0.13), colour, label),
        Limb((0.0, 0.74, 0.0), (0.34, 0.82, 0.0), (0.17, 0.15), colour, label),
        Limb((0.46, 0.98, 0.0), (0.76, 0.34, 0.0), (0.06, 0.05), METAL, label),
        Limb((0.52, 0.92, 0.0), (0.54, 0.86, 0.0), (0.13, 0.12), colour, label),
        Limb((0.64, 0.88, 0.0), (0.65, 0.88, 0.0), (0.075, 0.075), (240, 236, 208), label, True),
        Limb((0.4, 1.04, -0.36), (0.4, 1.04, 0.36), (0.032, 0.032), TYRE, label),
        Limb((0.44, 1.12, -0.3), (0.44, 1.15, -0.34), (0.05, 0.05), TYRE, label, True),
        Limb((0.44, 1.12, 0.3), (0.44, 1.15, 0.34), (0.05, 0.05), TYRE, label, True),
        Limb((-0.84, 0.74, 0.0), (-0.83, 0.7, 0.0), (0.06, 0.05), (200, 36, 30), label, True),
        Limb((0.62, 0.64, 0.0), (0.88, 0.58, 0.0), (0.09, 0.07), colour, label),
    )
    return limbs, (Wheel(-0.66, 0.33, 0.075, label, False), Wheel(0.76, 0.33, 0.065, label, False))
