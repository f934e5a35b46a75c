"""The street's course and the ground: carriageway, sidewalks, verges, marks, and the shadows that fall on them."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .camera import NEAR, Camera
from .canvas import SUBPIXEL_BITS, SUBPIXELS, Canvas
from .domains import Colour, TrainId
from .textures import TILE_PIXELS, get_material

FAR = 170.0  # metres; where streets end
MILESTONES = np.concatenate([[NEAR], np.geomspace(2.0, FAR, 22)])
SHADOW_FAR = 60.0  # metres; shadows farther away are not drawn
TEXELS_PER_METRE = 64.0
GROUND_MATERIALS = ("asphalt", "paving", "grass")
MATERIAL_OF_LABEL = {TrainId.ROAD: "asphalt", TrainId.SIDEWALK: "paving", TrainId.TERRAIN: "grass"}
MARK_COLOUR = (226, 226, 220)


@dataclass(frozen=True)
class Course:
    """Where the street runs: `across` metres to the right of its middle and `along` metres ahead become world x, z.

    Attributes:
        offset: Metres that the camera stands to the right of the middle.
        slope: Sideways metres per metre ahead.
        bend: Curvature in 1 / metres.
    """

    offset: float
    slope: float
    bend: float

    def place(self, across: float, along: float) -> tuple[float, float]:
        """Return world (x, z)."""
        return across - self.offset + self.slope * along + 0.5 * self.bend * along * along, along

    def bow(self, along: np.ndarray) -> np.ndarray:
        """Return how far the street has moved sideways since it passed the camera."""
        return self.slope * along + 0.5 * self.bend * along**2

    def heading(self, along: float) -> float:
        """Return the direction of the street in radians, 0 is straight ahead."""
        return float(np.arctan(self.slope + self.bend * along))

    def trace(self, across: float, along: np.ndarray) -> np.ndarray:
        """Return ground points (N, 3) at a constant distance from the middle."""
        return np.stack([across - self.offset + self.bow(along), np.zeros_like(along), along], axis=1)

    def strip(self, left: float, right: float, along: np.ndarray) -> np.ndarray:
        """Return the outline (2N, 3) of the ground between two distances from the middle."""
        return np.concatenate([self.trace(left, along), self.trace(right, along)[::-1]])

    def patch(self, left: float, right: float, near: float, far: float) -> np.ndarray:
        """Return the outline (4, 3) of a short piece of the ground."""
        return self.strip(left, right, np.array([near, far]))


@dataclass(frozen=True)
class Strip:
    """A band of ground along the street, from `left` to `right` metres across."""

    left: float
    right: float
    label: TrainId
    colour: Colour


@dataclass(frozen=True)
class Mark:
    """A painted patch on the ground; `outline` holds world points (N, 3)."""

    outline: np.ndarray
    colour: Colour = MARK_COLOUR


@dataclass(frozen=True)
class Ground:
    """All that lies flat: strips along the street, crossings of other streets, marks."""

    course: Course
    base: Strip
    strips: tuple[Strip, ...]
    crossings: tuple[Strip, ...]
    crossing_span: tuple[float, float]
    marks: tuple[Mark, ...]

    def draw(self, canvas: Canvas) -> None:
        """Paint the ground below the horizon."""
        camera = canvas.camera
        per_row = 1.0 / (camera.focal * camera.eye)
        numbers = {
            label: canvas.add_surface(label, -camera.horizon * per_row, per_row=per_row) for label in MATERIAL_OF_LABEL
        }
        top = min(camera.height, round(camera.horizon))
        canvas.image[top:] = np.rint(self.base.colour)
        canvas.numbers[top:] = numbers[self.base.label]
        for strip in self.strips:
            outline = camera.project(self.course.strip(strip.left, strip.right, MILESTONES))
            canvas.fill(outline, strip.colour, numbers[strip.label])
        for crossing in self.crossings:
            outline = self.course.patch(crossing.left, crossing.right, *self.crossing_span)
            canvas.fill(camera.project_polygon(outline), crossing.colour, numbers[crossing.label])
        add_relief(canvas, self.course, top, numbers)
        for mark in self.marks:
            canvas.fill(camera.project_polygon(mark.outline), mark.colour)


@lru_cache(maxsize=1)
def _stack_ground_materials() -> np.ndarray:
    return np.stack([get_material(name) for name in GROUND_MATERIALS], axis=-1)


def add_relief(canvas: Canvas, course: Course, top: int, numbers: dict[TrainId, int]) -> None:
    """Multiply the ground below row `top` by the relief of its materials; it fades where pixels cover much ground."""
    camera = canvas.camera
    rows = np.arange(top, camera.height, dtype=np.float32)[:, None]
    depth = camera.focal * camera.eye / np.maximum(rows - camera.horizon, 0.3)
    columns = np.arange(camera.width, dtype=np.float32)[None]
    texels = np.float32(TEXELS_PER_METRE)
    middle = course.bow(depth) - course.offset
    across = ((columns - camera.centre) * (depth / camera.focal) - middle) * texels
    along = np.broadcast_to(depth * texels, across.shape)
    relief = cv2.remap(
        _stack_ground_materials(),
        np.mod(across, TILE_PIXELS).astype(np.float32),
        np.mod(along, TILE_PIXELS).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    covered = canvas.numbers[top:]
    gain = relief[..., 0]
    for label, number in numbers.items():
        channel = GROUND_MATERIALS.index(MATERIAL_OF_LABEL[label])
        if channel:
            gain = np.where(covered == number, relief[..., channel], gain)
    fade = np.clip(0.5 * camera.focal * camera.eye / depth**2, 0.06, 1.0)
    multiply(canvas.image[top:], 1.0 + (gain - 1.0) * fade)


def multiply(image: np.ndarray, gain: np.ndarray) -> None:
    """Multiply an image (H, W, 3) uint8 in place by a gain (H, W)."""
    layers = cv2.merge([gain.astype(np.float32)] * 3)
    image[...] = cv2.multiply(image, layers, dtype=cv2.CV_8U)


@dataclass(frozen=True)
class Solid:
    """A rough shape: a footprint (N, 2) of world x, z that reaches from `bottom` to `top` metres."""

    footprint: np.ndarray
    bottom: float
    top: float


def draw_shadows(canvas: Canvas, solids: list[Solid]) -> None:
    """Darken the ground where the sun is hidden, and softly below everything that stands on it."""
    camera, light = canvas.camera, canvas.light
    shift = np.array(light.shadow_shift)
    near = [solid for solid in solids if solid.footprint[0, 1] < SHADOW_FAR]
    casts = [np.concatenate([solid.footprint + shift * end for end in (solid.bottom, solid.top)]) for solid in near]
    contacts = [solid.footprint for solid in near if solid.bottom < 0.5 and solid.top < 5.0]
    cast = draw_footprints(camera, casts if light.sun > 0.05 else [])
    contact = draw_footprints(camera, contacts)
    top = min(camera.height - 1, max(0, round(camera.horizon)))
    contact = cv2.GaussianBlur(contact[top:], (0, 0), max(0.5, camera.height / 200))
    loss = np.maximum(cast[top:] * np.float32(light.sun / 255), contact * np.float32(0.5 / 255))
    multiply(canvas.image[top:], 1.0 - np.minimum(loss, 0.75))


def draw_footprints(camera: Camera, footprints: list[np.ndarray]) -> np.ndarray:
    """Draw the hulls of ground points (N, 2), as world x, z, into a mask (H, W) uint8."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    if not footprints:
        return mask
    points = np.concatenate(footprints)
    world = np.zeros((len(points), 3))
    world[:, ::2] = points
    pixels = (camera.project(world) * SUBPIXELS).astype(np.int32)
    stop = 0
    for footprint in footprints:
        start, stop = stop, stop + len(footprint)
        if footprint[:, 1].min() > NEAR:
            hull = cv2.convexHull(pixels[start:stop])
        else:
            order = cv2.convexHull(footprint.astype(np.float32), returnPoints=False)[:, 0]
            hull = (camera.project_polygon(world[start:stop][order]) * SUBPIXELS).astype(np.int32)
        if len(hull) >= 3:
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask
