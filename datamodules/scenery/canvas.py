"""The picture in progress: colours, and for every pixel the surface that it shows."""

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from .camera import Camera
from .domains import Colour, Range, TrainId
from .textures import Sprite

SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS


class Surface(NamedTuple):
    """A plane with one label; its nearness (1 / metres) at a pixel is `constant + per_column * x + per_row * y`."""

    label: TrainId
    constant: float
    per_column: float = 0.0
    per_row: float = 0.0


def shade(colour: Colour, factor: float) -> Colour:
    """Scale a colour, up to white."""
    return (min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; a share of 0 is the first, 1 the second."""
    rest = 1.0 - share
    return (
        first[0] * rest + second[0] * share,
        first[1] * rest + second[1] * share,
        first[2] * rest + second[2] * share,
    )


@dataclass(frozen=True)
class Light:
    """The sun, the sky, and the lamps.

    Attributes:
        direction: Unit vector towards the sun (x, y, z).
        sun: Share of the light that comes from the sun, 0 to 1.
        lamps: Share of lamps and windows that are lit, 0 to 1.
    """

    direction: tuple[float, float, float]
    sun: float
    lamps: float

    def on(self, x: float, y: float, z: float) -> float:
        """Return the brightness factor of a face with the normal (x, y, z)."""
        sunlit = max(0.0, x * self.direction[0] + y * self.direction[1] + z * self.direction[2])
        return (1.0 - self.sun) * (0.86 + 0.14 * y) + self.sun * (0.45 + 0.85 * sunlit)

    @property
    def shadow_shift(self) -> tuple[float, float]:
        """Metres (x, z) that the shadow of a point moves per metre of its height."""
        return -self.direction[0] / self.direction[1], -self.direction[2] / self.direction[1]


@dataclass
class Canvas:
    """An image (H, W, 3) uint8 and the number of the surface (H, W) uint16 at each pixel, painted back to front."""

    camera: Camera
    light: Light
    image: np.ndarray = field(init=False)
    numbers: np.ndarray = field(init=False)
    surfaces: list[Surface] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with an empty sky, surface 0."""
        size = (self.camera.height, self.camera.width)
        self.image = np.zeros((*size, 3), np.uint8)
        self.numbers = np.zeros(size, np.uint16)
        self.add_surface(TrainId.SKY, 0.0)

    def add_surface(self, label: TrainId, constant: float, per_column: float = 0.0, per_row: float = 0.0) -> int:
        """Register a surface and return its number."""
        self.surfaces.append(Surface(label, constant, per_column, per_row))
        return len(self.surfaces) - 1

    def add_upright(self, label: TrainId, depth: float) -> int:
        """Register an upright surface that faces the camera at a depth in metres."""
        return self.add_surface(label, 1.0 / max(depth, 0.1))

    def fill(self, outline: np.ndarray, colour: Colour | None, number: int | None = None) -> None:
        """Fill a polygon (N, 2) of pixels; without a number it is a detail that keeps the surface below."""
        if len(outline) < 3:
            return
        points = [np.rint(outline * SUBPIXELS).astype(np.int32)]
        if number is not None:
            cv2.fillPoly(self.numbers, points, number, cv2.LINE_8, SUBPIXEL_BITS)
        if colour is not None:
            cv2.fillPoly(self.image, points, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def trace(self, path: np.ndarray, colour: Colour, width: float, number: int | None = None) -> None:
        """Draw an open path (N, 2) of pixels with a line width in pixels (at least one)."""
        points = [np.rint(path * SUBPIXELS).astype(np.int32)]
        thickness = max(1, round(width))
        if number is not None:
            cv2.polylines(self.numbers, points, False, number, thickness, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.polylines(self.image, points, False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def fill_circle(self, centre: np.ndarray, radius: float, colour: Colour, number: int | None = None) -> None:
        """Fill a circle given in pixels."""
        middle = (round(float(centre[0]) * SUBPIXELS), round(float(centre[1]) * SUBPIXELS))
        size = max(1, round(radius * SUBPIXELS))
        if number is not None:
            cv2.circle(self.numbers, middle, size, number, -1, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.circle(self.image, middle, size, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    def paste(self, texture: np.ndarray, corners: np.ndarray, number: int) -> None:
        """Map a texture (h, w, 3 or 4) onto a convex quad (top left, top right, bottom right, bottom left) of pixels.

        The surface covers the whole quad, also where a fourth channel lets the background show through.
        """
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, (self.camera.width, self.camera.height))
        if (high <= low).any():
            return
        rows, columns = texture.shape[:2]
        frame = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32) - 0.5
        transform = cv2.getPerspectiveTransform(frame, (corners - low).astype(np.float32))
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        patch = cv2.warpPerspective(texture, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        outline = np.rint((corners - low) * SUBPIXELS).astype(np.int32)
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillConvexPoly(mask, outline, 255, cv2.LINE_8, SUBPIXEL_BITS)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        if texture.shape[2] == 4:
            share = cv2.min(patch[..., 3], mask).astype(np.float32) / 255.0
            self.image[window] = cv2.blendLinear(patch[..., :3].copy(), self.image[window].copy(), share, 1.0 - share)
        else:
            cv2.copyTo(patch, mask, self.image[window])
        self.numbers[window][mask > 0] = number

    def stamp(self, sprite: Sprite, ramp: np.ndarray, box: tuple[float, float, float, float], number: int) -> None:
        """Paint a sprite into a box (left, top, right, bottom) of pixels, its shades coloured by a ramp (256, 3)."""
        left, top, right, bottom = box
        low = max(int(left), 0), max(int(top), 0)
        high = min(int(np.ceil(right)), self.camera.width), min(int(np.ceil(bottom)), self.camera.height)
        if high[0] <= low[0] or high[1] <= low[1]:
            return
        source = sprite.at_size(max(right - left, bottom - top))
        across, down = (right - left) / source.shape[1], (bottom - top) / source.shape[0]
        transform = np.array([[across, 0, left - low[0]], [0, down, top - low[1]]])
        patch = cv2.warpAffine(source, transform, (high[0] - low[0], high[1] - low[1]), flags=cv2.INTER_LINEAR)
        mask = patch[..., 1] > 127
        window = slice(low[1], high[1]), slice(low[0], high[0])
        self.image[window][mask] = ramp[patch[..., 0][mask]]
        self.numbers[window][mask] = number

    def labels(self) -> np.ndarray:
        """Return the label (H, W) uint8 of each pixel."""
        return np.take(np.array([surface.label for surface in self.surfaces], np.uint8), self.numbers)

    def nearness(self) -> np.ndarray:
        """Return 1 / depth (H, W) float32 of each pixel in 1 / metres; the sky is 0."""
        planes = np.array([surface[1:] for surface in self.surfaces], np.float32).T.copy()
        columns = np.arange(self.camera.width, dtype=np.float32)
        rows = np.arange(self.camera.height, dtype=np.float32)[:, None]
        constant, per_column, per_row = (np.take(plane, self.numbers) for plane in planes)
        return np.maximum(constant + per_column * columns + per_row * rows, 0.0)


def draw_between(rng: np.random.Generator, bounds: Range) -> float:
    """Draw a number uniformly from a range."""
    return bounds[0] + (bounds[1] - bounds[0]) * float(rng.random())
