"""Vehicles, drawn as hulls swept across their width, and where they drive and park. Lengths are metres."""

from collections.abc import Iterator

import cv2
import numpy as np

from .canvas import Canvas, Item, Pose, mix_colours, rectangle, ring, shade, upright
from .domains import Colour, TrainId, palette, palettes
from .models import MODELS, Hull, Model
from .people import TWO_WHEELERS, place_rider, stand_figure
from .street import LANE, Side, Street

TYRE: Colour = (26, 26, 28)
DARK: Colour = (34, 34, 38)
METAL: Colour = (150, 152, 156)
SKY_IN_GLASS: Colour = (150, 170, 190)
PAINTS: dict[str, Colour] = {
    "glass": (44, 54, 64), "dark": DARK, "metal": METAL, "plate": (232, 228, 200),
    "head": (238, 238, 226), "tail": (196, 28, 24), "display": (214, 150, 48),
}  # fmt: skip
LIT_PAINTS: dict[str, Colour] = {"head": (255, 252, 224), "tail": (255, 60, 44), "display": (255, 180, 60)}
CIRCLE = ring(13)
SIDES = np.array([-1.0, 1.0])
LEAST_DETAILED = 7.0  # height in pixels above which wheels, windows and lamps are drawn
CAR, TRUCK, BUS, TRAM = TrainId.CAR, TrainId.TRUCK, TrainId.BUS, TrainId.TRAIN
BICYCLE, MOTORCYCLE = TrainId.BICYCLE, TrainId.MOTORCYCLE
LIVERIES = palettes("d63c30 ece8dc", "eec43c 3c3e46", "347854 e8e4ce", "3660b0 e8eaec", "e8e8e4 c42c38")
BUS_PAINTS = palette("e8ba2c ce2c2c 286eb4 e8e8e2 3c9460 ec8428")
BUS_STRIPES = palette("ecece6 3c4048 28508c")
CARGO_PAINTS = palette("eaeae6 d6dadc 4a6ea0 c8b082 c4543c 6e8c6e")


class Vehicle:
    """A vehicle entirely ahead of the camera: a model whose middle is at a pose, with colours for its named paints."""

    def __init__(self, canvas: Canvas, model: Model, pose: Pose, paints: dict[str, Colour]) -> None:
        self.canvas, self.model, self.pose, self.paints = canvas, model, pose, paints
        self.is_large = canvas.camera.scale(pose.z) * model.height > LEAST_DETAILED
        self.surface = upright(model.label, float(pose.footprint(model.length, model.track)[:, 1].min()))

    def draw(self) -> None:
        """Paints the underside, the tyres, the hulls with their details, and the visible wheels."""
        canvas, camera, model, heading = self.canvas, self.canvas.camera, self.model, self.pose.heading
        along, side = rectangle(0.1, model.length - 0.1, -0.48 * model.track, 0.48 * model.track).T
        underside = self._place(along, np.full(4, 0.16), side)
        canvas.fill(underside, TYRE, None if model.wheels else self.surface)
        # The outlines of the tyres in pixels: (wheel, side, outer or inner, point, 2).
        middle, radius = np.reshape(model.wheels if self.is_large else (), (-1, 2)).T[:, :, None, None, None]
        side = SIDES[:, None, None] * (0.5 * model.track - np.array([0.0, 0.24]))[:, None]
        tyres = camera.project(self._place(middle + radius * CIRCLE[:, 0], radius * (1.0 + CIRCLE[:, 1]), side))
        for tyre in tyres.reshape(-1, 2 * len(CIRCLE), 2).astype(np.float32):
            canvas.fill(cv2.convexHull(tyre)[:, 0], TYRE, self.surface)
        for hull in model.hulls if np.cos(heading) < 0 else model.hulls[::-1]:
            self._draw_hull(hull)
        across = np.cos(heading) * self.pose.x - np.sin(heading) * self.pose.z
        for tyre in tyres[:, SIDES * across < -0.5 * model.track, 0].reshape(-1, len(CIRCLE), 2):
            low, high = tyre.min(axis=0), tyre.max(axis=0)
            if high[1] - low[1] >= 3 and high[0] >= 0 and low[0] <= camera.width:
                centre = 0.5 * (low + high)
                for share, colour in ((1.16, DARK), (1.0, TYRE), (0.62, METAL), (0.2, DARK)):  # the arch to the hub
                    canvas.fill(centre + share * (tyre - centre), colour, self.surface if share == 1.0 else None)

    def _place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turns the vehicle's own coordinates, metres from its rear, into world points (..., 3)."""
        return self.pose.place(along - 0.5 * self.model.length, up, side)

    def _place_on_side(self, hull: Hull, side: np.ndarray, along: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Turns points on a hull's left (-1) or right (1) side into world points (..., 3)."""
        rise = max(max(face.up for face in hull.faces) - hull.belt, 0.1)
        half_width = 0.5 * hull.width - hull.lean * np.clip((up - hull.belt) / rise, 0.0, 1.0)
        return self._place(along, up, side * half_width)

    def _draw_hull(self, hull: Hull) -> None:
        """Paints the visible faces between the sides, then the visible side, each with its details."""
        canvas, camera, heading = self.canvas, self.canvas.camera, self.pose.heading
        along, up = np.array([face[:2] for face in hull.faces]).T
        edges = self._place_on_side(hull, SIDES[:, None], along, up)
        quads = camera.project(np.stack([edges[0, :-1], edges[0, 1:], edges[1, 1:], edges[1, :-1]], axis=1))
        steps, rises = np.diff(along), np.diff(up)
        normals = np.stack([-rises * np.sin(heading), steps, -rises * np.cos(heading)], axis=1)
        normals /= np.maximum(np.hypot(steps, rises), 1e-6)[:, None]
        facing = np.sum(normals * (edges[0, :-1] - (0.0, camera.eye, 0.0)), axis=1) < 0
        for index in np.flatnonzero(facing).tolist():
            face, normal, quad = hull.faces[index], normals[index].tolist(), quads[index]
            colour = self.paints[face.paint]
            if face.paint == "glass":
                colour = mix_colours(colour, SKY_IN_GLASS, 0.25 * normal[1] + 0.08)
            canvas.fill(quad, shade(colour, canvas.light.on(*normal)), self.surface)
            for left, right, low, high, paint in face.details if self.is_large else ():
                for first, last in dict.fromkeys([(left, right), (-right, -left)]):  # once if centred
                    across, rise = rectangle(0.5 * first + 0.5, 0.5 * last + 0.5, low, high).T[..., None]
                    bottom, top = quad[0] + across * (quad[3] - quad[0]), quad[1] + across * (quad[2] - quad[1])
                    canvas.fill(bottom + rise * (top - bottom), self.paints[paint])
        for side, edge in zip(SIDES, edges, strict=True):
            x, z = side * np.cos(heading), -side * np.sin(heading)
            if x * edge[0, 0] + z * edge[0, 2] >= 0:
                continue
            outline, brightness = camera.project(edge), canvas.light.on(x, 0.0, z)
            canvas.fill(outline, shade(self.paints[hull.flank], brightness), self.surface)
            if self.is_large and hull.patches and np.ptp(outline[:, 0]) >= 4:
                corners = np.array([corners for _, corners in hull.patches])
                patches = camera.project(self._place_on_side(hull, side, *np.moveaxis(corners, -1, 0)))
                for patch, (paint, _) in zip(patches, hull.patches, strict=True):
                    canvas.fill(patch, shade(self.paints[paint], brightness))


def place_vehicle(street: Street, model: Model, across: float, along: float, turn: float) -> Iterator[Item]:
    """Places a vehicle, turned from the street's direction, if there is room."""
    if not street.claim(across, along, model.track, model.length, turn):
        return
    dice = street.dice
    body, second, accent = street.pick_paint(), dice.pick(CARGO_PAINTS), dice.pick(BUS_PAINTS)
    if model.label == BUS:
        body, second = dice.pick(BUS_PAINTS), dice.pick(BUS_STRIPES)
    elif model.label == TRAM:
        body, second = dice.pick(LIVERIES)
    is_lit = dice.chance(min(1.0, 2.2 * street.light.lamps))
    paints = PAINTS | (LIT_PAINTS if is_lit else {}) | {"body": body, "second": second, "accent": accent}
    pose = street.course.pose(across, along, turn)
    footprint = pose.footprint(model.length, model.track)
    yield Item(footprint, 0.9 * model.height, lambda canvas: Vehicle(canvas, model, pose, paints).draw())


def plan_traffic(street: Street) -> Iterator[Item]:
    """Fills the lanes, the edges of the road, the tram track, and the crossing street."""
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
    if street.crossing and dice.chance(0.55):  # something drives across, seen from its side
        sign = dice.pick((-1, 1))
        along, turn = 0.5 * (sum(street.crossing) - sign * LANE), sign * 0.5 * np.pi
        across = street.course.offset + dice.between(-9.0, 9.0)
        label = dice.pick_weighted({CAR: 0.34, BUS: 0.14, TRUCK: 0.16, TRAM: 0.12, MOTORCYCLE: 0.12, BICYCLE: 0.12})
        if label in TWO_WHEELERS:
            yield from place_rider(street, label, across, along, turn)
        else:
            yield from place_vehicle(street, dice.pick(MODELS[label]), across, along, turn)


def plan_parking(street: Street, side: Side) -> Iterator[Item]:
    """Parks cars along the kerb, and bicycles and motorcycles on the sidewalk."""
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
        machine = TWO_WHEELERS[dice.pick((BICYCLE, MOTORCYCLE, BICYCLE, MOTORCYCLE))]
        near, turn = dice.between(5.5, 18.0), dice.between(0.5, 1.4) * side.sign
        for index in range(int(dice.integers(1, 5))):
            pose = street.course.pose(side.sign * (side.walk + 0.7), near + index * 1.1, turn)
            yield stand_figure(pose, [], machine, street.pick_paint())
