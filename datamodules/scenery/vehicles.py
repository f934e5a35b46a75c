"""Cars, vans, trucks, buses and trams: hulls swept across their width, described by data."""

from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from .camera import NEAR
from .canvas import Canvas, mix, shade
from .domains import Colour, TrainId
from .ground import Solid

GLASS: Colour = (44, 54, 64)
DARK: Colour = (34, 34, 38)
TYRE: Colour = (26, 26, 28)
PLATE: Colour = (232, 228, 200)
HEADLIGHT: Colour = (238, 238, 226)
TAILLIGHT: Colour = (196, 28, 24)
METAL: Colour = (150, 152, 156)
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 14)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 14)[:-1])], axis=1)
SIDES = (-1.0, 1.0)
LEAST_DETAILED = 7.0  # pixels of height from which wheels, windows and lamps are drawn

Point = tuple[float, float]
Band = tuple[float, float, float, float, str]


@dataclass(frozen=True)
class Detail:
    """A patch on a face of the hull: from (left, low) to (right, high), -1 to 1 across and 0 to 1 along the face."""

    face: int
    left: float
    right: float
    low: float
    high: float
    paint: str

    def mirrored(self) -> "Detail":
        """Return the same patch on the other half."""
        return Detail(self.face, -self.right, -self.left, self.low, self.high, self.paint)


@dataclass(frozen=True)
class Hull:
    """A side view swept across the width; lengths in metres.

    Attributes:
        profile: Points (along, up, paint of the face to the next), from the rear bumper over the roof to the front.
        width: Full width.
        belt: Height above which the sides lean inwards.
        lean: Metres that each side leans in at the top.
        windows: Quads (along, up) of glass on both sides.
        bands: Patches on both sides: (from along, to along, from up, to up, paint).
        details: Patches on the faces between the sides.
        flank: Paint of both sides.
    """

    profile: tuple[tuple[float, float, str], ...]
    width: float
    belt: float = 1.0
    lean: float = 0.0
    windows: tuple[tuple[Point, ...], ...] = ()
    bands: tuple[Band, ...] = ()
    details: tuple[Detail, ...] = ()
    flank: str = "body"


@dataclass(frozen=True)
class Model:
    """A kind of vehicle: hulls from rear to front, and wheels as (along, radius)."""

    label: TrainId
    length: float
    hulls: tuple[Hull, ...]
    wheels: tuple[Point, ...]
    track: float
    height: float


def both(face: int, left: float, right: float, low: float, high: float, paint: str) -> tuple[Detail, Detail]:
    """Return a patch on a face and its mirror image."""
    detail = Detail(face, left, right, low, high, paint)
    return detail, detail.mirrored()


def row_of_windows(start: float, stop: float, count: int, low: float, high: float) -> tuple[tuple[Point, ...], ...]:
    """Return `count` upright windows between two points along the side."""
    pitch = (stop - start) / count
    lefts = [start + index * pitch + 0.05 for index in range(count)]
    return tuple(outline_band(left, left + pitch - 0.1, low, high) for left in lefts)


def outline_band(start: float, stop: float, low: float, high: float) -> tuple[Point, ...]:
    """Return the corners of a rectangle on a side."""
    return (start, low), (start, high), (stop, high), (stop, low)


def make_car(length: float, roof: float, tail: Point, glass: tuple[float, float, float, float], width: float) -> Model:
    """Describe a passenger car.

    Args:
        length: From bumper to bumper.
        roof: Height of the roof.
        tail: Where the rear window starts (along, up).
        glass: Along positions of the roof's rear end, its front end, the windscreen's foot; and the bonnet's height.
        width: Full width.
    """
    rear_roof, front_roof, foot, bonnet = glass
    belt = max(tail[1], bonnet + 0.06)
    middle = 0.5 * (rear_roof + front_roof) + 0.15
    low, high = belt + 0.02, roof - 0.1
    profile = (
        (0.05, 0.24, "dark"),
        (0.0, 0.48, "body"),
        (0.06, tail[1] - 0.02, "body"),
        (tail[0], tail[1], "glass"),
        (rear_roof, roof - 0.03, "body"),
        (0.5 * (rear_roof + front_roof), roof, "body"),
        (front_roof, roof - 0.03, "glass"),
        (foot, bonnet + 0.06, "body"),
        (length - 0.12, bonnet - 0.12, "body"),
        (length, 0.52, "dark"),
        (length - 0.04, 0.22, "dark"),
    )
    windows = (
        ((tail[0] + 0.2, low), (rear_roof + 0.14, high), (middle - 0.06, high), (middle - 0.06, low)),
        ((middle + 0.04, low), (middle + 0.04, high), (front_roof - 0.06, high), (foot - 0.24, low)),
    )
    details = (
        *both(1, -0.96, -0.66, 0.5, 0.95, "tail"),
        Detail(1, -0.28, 0.28, 0.2, 0.55, "plate"),
        *both(8, -0.95, -0.6, 0.2, 0.7, "head"),
        Detail(8, -0.5, 0.5, 0.3, 0.85, "dark"),
        Detail(9, -0.28, 0.28, 0.1, 0.6, "plate"),
    )
    hull = Hull(profile, width, belt, 0.2, windows, ((0.1, length - 0.1, 0.24, 0.4, "dark"),), details)
    return Model(TrainId.CAR, length, (hull,), ((0.78, 0.33), (length - 0.85, 0.33)), width, roof)


def make_box(
    start: float,
    stop: float,
    low: float,
    high: float,
    width: float,
    paint: str,
    bands: tuple[Band, ...] = (),
    details: tuple[Detail, ...] = (),
) -> Hull:
    """Describe a box-shaped hull; its faces are 0 rear, 1 roof, 2 front."""
    profile = ((start, low, paint), (start, high, paint), (stop, high, paint), (stop, low, "dark"))
    return Hull(profile, width, bands=bands, details=details, flank=paint)


def make_cab(start: float, stop: float, roof: float, width: float) -> Hull:
    """Describe a truck's cab; its faces are 0 rear, 1 roof, 2 windscreen, 3 front, 4 bumper."""
    waist = 0.52 * roof
    profile = (
        (start, 0.5, "body"),
        (start, roof, "body"),
        (stop - 0.3, roof, "glass"),
        (stop - 0.04, waist, "body"),
        (stop, 0.85, "dark"),
        (stop, 0.4, "dark"),
    )
    window = ((start + 0.7, waist + 0.08), (start + 0.75, roof - 0.3), (stop - 0.4, roof - 0.3), (stop - 0.2, waist))
    details = (
        *both(4, -0.95, -0.62, 0.15, 0.7, "head"),
        Detail(3, -0.6, 0.6, 0.2, 0.75, "dark"),
        Detail(4, -0.25, 0.25, 0.2, 0.6, "plate"),
    )
    return Hull(profile, width, waist, 0.06, (window,), ((start, stop, 0.5, 0.8, "dark"),), details)


def make_truck(length: float, height: float, cargo: str) -> Model:
    """Describe a truck with a cab and a cargo box painted with `cargo`."""
    doors = (
        Detail(0, -0.02, 0.02, 0.06, 0.97, "dark"),
        *both(0, -0.62, -0.56, 0.06, 0.97, "metal"),
        Detail(0, -1.0, 1.0, 0.0, 0.05, "metal"),
    )
    frame = make_box(
        0.1, length - 0.4, 0.55, 0.95, 2.2, "dark",
        details=(*both(0, -0.98, -0.7, 0.3, 0.9, "tail"), Detail(0, -0.25, 0.25, 0.2, 0.8, "plate")),
    )  # fmt: skip
    stripe = ((0.3, length - 2.4, 0.56 * height, 0.7 * height, "accent"),) if cargo == "second" else ()
    ribs = tuple((at, at + 0.07, 1.0, height, "metal") for at in np.arange(0.0, length - 2.1, 0.9).tolist())
    box = make_box(0.0, length - 2.05, 0.95, height, 2.45, cargo, details=doors, bands=stripe or ribs)
    cab = make_cab(length - 1.95, length, min(height - 0.3, 2.75), 2.3)
    wheels = ((1.0, 0.48), (2.1, 0.48), (length - 1.0, 0.48)) if length > 7 else ((1.3, 0.44), (length - 1.0, 0.44))
    return Model(TrainId.TRUCK, length, (frame, box, cab), wheels, 2.3, height)


def make_bus(length: float) -> Model:
    """Describe a city bus; the faces are 0 and 1 rear, 2 roof, 3 windscreen, 4 and 5 front."""
    profile = (
        (0.0, 0.35, "body"),
        (0.0, 1.75, "body"),
        (0.08, 3.05, "body"),
        (length - 0.12, 3.05, "body"),
        (length - 0.1, 2.72, "glass"),
        (length, 1.2, "body"),
        (length, 0.35, "dark"),
    )
    details = (
        Detail(1, -0.84, 0.84, 0.12, 0.72, "glass"),
        Detail(1, -0.5, 0.5, 0.78, 0.95, "display"),
        *both(0, -0.97, -0.8, 0.25, 0.7, "tail"),
        Detail(0, -0.6, 0.6, 0.2, 0.6, "dark"),
        Detail(3, -0.72, 0.72, 0.1, 0.95, "display"),
        *both(5, -0.95, -0.66, 0.4, 0.75, "head"),
        Detail(5, -0.25, 0.25, 0.1, 0.32, "plate"),
    )
    doors = ((length - 1.6, length - 0.5, 0.5, 2.6, "glass"), (0.45 * length, 0.45 * length + 1.2, 0.5, 2.6, "glass"))
    bands = ((0.0, length, 0.35, 0.62, "dark"), (0.0, length, 0.95, 1.25, "second"), *doors)
    windows = row_of_windows(0.4, length - 0.3, 6, 1.5, 2.6)
    hull = Hull(profile, 2.5, 1.2, 0.06, windows, bands, details)
    return Model(TrainId.BUS, length, (hull,), ((2.3, 0.46), (length - 2.5, 0.46)), 2.5, 3.05)


def make_tram(car: float, count: int) -> Model:
    """Describe a tram of `count` cars that are each `car` metres long, with a pantograph."""
    hulls: list[Hull] = []
    for index in range(count):
        start = index * car + (0.25 if index else 0.0)
        stop = (index + 1) * car
        rear_nose = 0.5 if index == 0 else 0.0
        nose = 0.5 if index == count - 1 else 0.0
        profile = (
            (start, 0.14, "body"),
            (start, 1.25, "glass" if rear_nose else "dark"),
            (start + rear_nose, 2.9, "second"),
            (start + rear_nose + 0.1, 3.35, "metal"),
            (stop - nose - 0.1, 3.35, "second"),
            (stop - nose, 2.9, "glass" if nose else "dark"),
            (stop, 1.25, "body"),
            (stop, 0.14, "dark"),
        )
        details = (
            *both(0, -0.9, -0.66, 0.35, 0.65, "tail"),
            Detail(0, -1.0, 1.0, 0.82, 1.0, "second"),
            Detail(2, -0.5, 0.5, 0.1, 0.8, "display"),
            Detail(4, -0.5, 0.5, 0.2, 0.9, "display"),
            Detail(6, -1.0, 1.0, 0.0, 0.18, "second"),
            *both(6, -0.9, -0.6, 0.3, 0.62, "head"),
        )
        bands = (
            (start, stop, 0.14, 0.4, "dark"),
            (start, stop, 1.0, 1.3, "second"),
            (start + rear_nose, stop - nose, 2.85, 3.35, "second"),
            (start + 0.35 * car, start + 0.35 * car + 1.3, 0.4, 2.6, "glass"),
            (start + 0.7 * car, start + 0.7 * car + 1.3, 0.4, 2.6, "glass"),
        )
        windows = row_of_windows(start + rear_nose + 0.2, stop - nose - 0.2, 5, 1.45, 2.65)
        hulls.append(Hull(profile, 2.5, 1.4, 0.08, windows, bands, details))
        if index < count - 1:
            hulls.append(make_box(stop - 0.1, stop + 0.35, 0.3, 3.2, 2.2, "dark"))
    middle = 0.5 * car
    hulls.append(make_box(middle - 0.9, middle + 0.9, 3.35, 3.6, 1.6, "metal"))
    hulls.append(make_box(middle - 0.06, middle + 0.06, 3.6, 4.5, 0.12, "dark"))
    hulls.append(make_box(middle - 0.12, middle + 0.12, 4.5, 4.6, 1.7, "dark"))
    return Model(TrainId.TRAIN, car * count, tuple(hulls), (), 2.5, 3.4)


MODELS = MappingProxyType(
    {
        "hatchback": make_car(3.95, 1.46, (0.12, 0.96), (0.55, 2.15, 3.05, 0.86), 1.74),
        "sedan": make_car(4.6, 1.43, (0.85, 0.98), (1.5, 2.6, 3.4, 0.86), 1.8),
        "estate": make_car(4.6, 1.48, (0.1, 0.98), (0.4, 2.6, 3.4, 0.86), 1.8),
        "offroader": make_car(4.4, 1.74, (0.1, 1.12), (0.36, 2.4, 3.1, 1.05), 1.9),
        "minivan": make_car(4.7, 1.9, (0.06, 1.1), (0.24, 3.0, 4.0, 1.08), 1.92),
        "box truck": make_truck(6.4, 3.1, "second"),
        "lorry": make_truck(8.6, 3.6, "second"),
        "tarpaulin truck": make_truck(7.8, 3.3, "accent"),
        "bus": make_bus(11.0),
        "short bus": make_bus(8.5),
        "tram": make_tram(9.0, 2),
        "short tram": make_tram(11.0, 1),
    }
)
MODELS_OF_LABEL = {
    label: tuple(name for name, model in MODELS.items() if model.label == label)
    for label in (TrainId.CAR, TrainId.TRUCK, TrainId.BUS, TrainId.TRAIN)
}


@dataclass(frozen=True)
class Vehicle:
    """A vehicle on the ground.

    Attributes:
        model: Name in `MODELS`.
        x: Metres to the right of the camera, at the vehicle's middle.
        z: Metres ahead of the camera, at the vehicle's middle.
        heading: Radians clockwise from straight ahead; at 0 its rear is seen.
        body: Colour of the body.
        second: Colour of the cargo box or of the livery's stripe.
        accent: Colour of tarpaulins and lettering.
        lit: Whether its lights are on.
    """

    model: str
    x: float
    z: float
    heading: float
    body: Colour
    second: Colour
    accent: Colour
    lit: bool

    def place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turn the vehicle's own coordinates, metres from its rear, into world points (..., 3)."""
        along = along - 0.5 * MODELS[self.model].length
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        points = np.empty((*along.shape, 3))
        points[..., 0] = self.x + along * sine + side * cosine
        points[..., 1] = up
        points[..., 2] = self.z + along * cosine - side * sine
        return points

    @property
    def footprint(self) -> np.ndarray:
        """Corners (4, 2) on the ground as world x, z."""
        model = MODELS[self.model]
        along = np.array([0.0, 0.0, model.length, model.length])
        side = 0.5 * model.track * np.array([-1.0, 1.0, 1.0, -1.0])
        return self.place(along, np.zeros(4), side)[:, [0, 2]]

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(self.footprint, 0.0, 0.9 * MODELS[self.model].height)

    def draw(self, canvas: Canvas) -> None:
        """Paint wheels, hulls and details."""
        model = MODELS[self.model]
        footprint = self.footprint
        if footprint[:, 1].max() < 1.2:
            return
        number = canvas.add_upright(model.label, max(1.0, float(footprint[:, 1].min())))
        underside = self.place(
            np.array([0.1, 0.1, model.length - 0.1, model.length - 0.1]),
            np.full(4, 0.16),
            0.48 * model.track * np.array([-1.0, 1.0, 1.0, -1.0]),
        )
        canvas.fill(canvas.camera.project_polygon(underside), TYRE, number if not model.wheels else None)
        is_large = canvas.camera.scale(self.z) * model.height > LEAST_DETAILED
        rims = self._project_wheels(canvas) if model.wheels and is_large else None
        if rims is not None:
            for rim in rims.reshape(-1, 2 * len(CIRCLE), 2).astype(np.float32):
                canvas.fill(cv2.convexHull(rim)[:, 0], TYRE, number)
        order = model.hulls if np.cos(self.heading) < 0 else model.hulls[::-1]
        for hull in order:
            self._draw_hull(canvas, hull, number, is_large)
        if rims is None:
            return
        for index, side in enumerate(SIDES):
            if self._shows_side(side, 0.5 * model.track):
                for rim in rims[:, index, 0]:
                    self._draw_wheel(canvas, rim, number)

    def _shows_side(self, side: float, half: float) -> bool:
        """Tell whether the flank on the left (-1) or right (1), `half` metres from the middle, faces the camera."""
        normal = side * np.cos(self.heading), -side * np.sin(self.heading)
        return bool(normal[0] * self.x + normal[1] * self.z + half < 0)

    def _project_wheels(self, canvas: Canvas) -> np.ndarray | None:
        """Return the rims in pixels (wheel, side, outer or inner, point, 2), or None if one is behind the camera."""
        model = MODELS[self.model]
        middle, radius = np.array(model.wheels).T[:, :, None, None, None]
        outer = 0.5 * model.track * np.array(SIDES)[None, :, None, None]
        side = outer * np.array([1.0, 1.0 - 0.48 / model.track])[None, None, :, None]
        along = middle + radius * CIRCLE[:, 0] + 0.0 * side
        world = self.place(along, radius * (1.0 + CIRCLE[:, 1]) + 0.0 * side, side)
        return canvas.camera.project(world) if world[..., 2].min() > NEAR else None

    def _draw_wheel(self, canvas: Canvas, rim: np.ndarray, number: int) -> None:
        low, high = rim.min(axis=0), rim.max(axis=0)
        if high[1] - low[1] < 3 or high[0] < 0 or low[0] > canvas.camera.width:
            return
        middle = 0.5 * (low + high)
        for share, colour in ((1.16, DARK), (1.0, TYRE), (0.62, METAL), (0.2, DARK)):
            canvas.fill(middle + share * (rim - middle), colour, number if share == 1.0 else None)

    def _colour(self, paint: str) -> Colour:
        fixed = {
            "glass": GLASS,
            "dark": DARK,
            "plate": PLATE,
            "metal": METAL,
            "head": (255, 252, 224) if self.lit else HEADLIGHT,
            "tail": (255, 60, 44) if self.lit else TAILLIGHT,
            "display": (255, 180, 60) if self.lit else (214, 150, 48),
            "body": self.body,
            "second": self.second,
            "accent": self.accent,
        }
        return fixed[paint]

    def _draw_hull(self, canvas: Canvas, hull: Hull, number: int, is_large: bool) -> None:
        camera, light = canvas.camera, canvas.light
        profile = np.array([point[:2] for point in hull.profile])
        roof = profile[:, 1].max()
        half = 0.5 * hull.width

        def half_width(up: np.ndarray) -> np.ndarray:
            return half - hull.lean * np.clip((up - hull.belt) / max(roof - hull.belt, 0.1), 0.0, 1.0)

        reach = half_width(profile[:, 1])
        edges = np.stack([self.place(profile[:, 0], profile[:, 1], side * reach) for side in (-1.0, 1.0)])
        pixels = camera.project(edges)
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        is_clear = float(edges[..., 2].min()) > NEAR
        corners_in_pixels = np.stack([pixels[0, :-1], pixels[0, 1:], pixels[1, 1:], pixels[1, :-1]], axis=1)
        for face in range(len(profile) - 1):
            corners = np.stack([edges[0, face], edges[0, face + 1], edges[1, face + 1], edges[1, face]])
            step = profile[face + 1] - profile[face]
            normal = np.array([-step[1] * sine, step[0], -step[1] * cosine]) / max(float(np.hypot(*step)), 1e-6)
            if float(normal @ (corners[0] - (0.0, camera.eye, 0.0))) >= 0:
                continue
            colour = self._colour(hull.profile[face][2])
            if hull.profile[face][2] == "glass":
                colour = mix(colour, (150, 170, 190), 0.25 * float(normal[1]) + 0.08)
            quad = corners_in_pixels[face] if is_clear else camera.project_polygon(corners)
            canvas.fill(quad, shade(colour, light.on(*normal.tolist())), number)
            if is_large and is_clear:
                for detail in hull.details:
                    if detail.face == face:
                        self._draw_detail(canvas, detail, pixels[:, face], pixels[:, face + 1])
        side = next((side for side in SIDES if self._shows_side(side, half)), None)
        if side is None:
            return
        flank = SIDES.index(side)
        brightness = light.on(side * cosine, 0.0, -side * sine)
        canvas.fill(camera.project_polygon(edges[flank]), shade(self._colour(hull.flank), brightness), number)
        if not is_large or np.ptp(pixels[flank, :, 0]) < 4:
            return
        paints = [band[4] for band in hull.bands] + ["glass"] * len(hull.windows)
        if not paints:
            return
        shapes = np.array([*(outline_band(*band[:4]) for band in hull.bands), *hull.windows])
        world = self.place(shapes[..., 0], shapes[..., 1], side * half_width(shapes[..., 1]))
        outlines = camera.project(world) if is_clear else [camera.project_polygon(points) for points in world]
        for outline, paint in zip(outlines, paints, strict=True):
            canvas.fill(outline, shade(self._colour(paint), brightness))

    def _draw_detail(self, canvas: Canvas, detail: Detail, lower: np.ndarray, upper: np.ndarray) -> None:
        across = np.array([detail.left, detail.left, detail.right, detail.right])[:, None] * 0.5 + 0.5
        rise = np.array([detail.low, detail.high, detail.high, detail.low])[:, None]
        bottom = lower[0] + across * (lower[1] - lower[0])
        top = upper[0] + across * (upper[1] - upper[0])
        canvas.fill(bottom + rise * (top - bottom), self._colour(detail.paint))
