"""The tools to paint a scene: a camera above a flat ground, light, and a canvas that stores each pixel's surface."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from .domains import Colour, TrainId

NEAR = 0.6  # metres; nothing closer is drawn
SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS

Point = tuple[float, float]  # on the ground: world x, z


class Camera(NamedTuple):
    """A camera that looks along +z; x points right, y up, the ground is y = 0, and verticals stay vertical."""

    height: int  # image rows
    width: int  # image columns
    focal: float  # focal length in pixels
    centre: float  # column of the vanishing point
    horizon: float  # row of the horizon
    eye: float  # metres above the ground

    def scale(self, depth: float) -> float:
        """Returns pixels per metre at a depth in metres."""
        return self.focal / depth

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects world points (..., 3) to pixels (..., 2); points closer than `NEAR` are moved to that depth."""
        scale = self.focal / np.maximum(points[..., 2], NEAR)
        pixels = np.empty((*points.shape[:-1], 2))  # faster than np.stack
        pixels[..., 0] = points[..., 0] * scale + self.centre
        pixels[..., 1] = (self.eye - points[..., 1]) * scale + self.horizon
        return pixels

    def project_upright(self, place: Point, points: np.ndarray) -> np.ndarray:
        """Projects points (N, 2), metres across and up in the upright plane that faces the camera at a place."""
        scale = self.scale(place[1])
        return points * (scale, -scale) + (self.centre + place[0] * scale, self.horizon + self.eye * scale)


class Pose(NamedTuple):
    """A place on the ground and a direction."""

    x: float  # metres to the right of the camera
    z: float  # metres ahead of the camera
    heading: float  # radians clockwise from straight ahead; at 0 the rear is seen

    def place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turns metres ahead of, above and to the right of the place into world points (..., 3)."""
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        points = np.empty((*np.broadcast(along, up, side).shape, 3))
        points[..., 0] = self.x + along * sine + side * cosine
        points[..., 1] = up
        points[..., 2] = self.z + along * cosine - side * sine
        return points

    def footprint(self, length: float, width: float) -> np.ndarray:
        """Returns the corners (4, 2), as world x, z, of a rectangle around the place."""
        along, side = (rectangle(-0.5, 0.5, -0.5, 0.5) * (length, width)).T
        return self.place(along, np.zeros(1), side)[:, [0, 2]]


class Light(NamedTuple):
    """The sun, the sky, and the lamps."""

    direction: tuple[float, float, float]  # unit vector towards the sun (x, y, z)
    sun: float  # share of the light that comes from the sun, 0 to 1
    lamps: float  # share of lamps and windows that are lit, 0 to 1

    def on(self, x: float, y: float, z: float) -> float:
        """Returns the brightness factor of a face with the normal (x, y, z)."""
        sunlit = max(0.0, x * self.direction[0] + y * self.direction[1] + z * self.direction[2])
        return (1.0 - self.sun) * (0.86 + 0.14 * y) + self.sun * (0.45 + 0.85 * sunlit)


class Surface(NamedTuple):
    """A plane with one label; its nearness (1 / metres) at a pixel is `constant + per_column * x + per_row * y`."""

    label: TrainId
    constant: float
    per_column: float = 0.0
    per_row: float = 0.0


def upright(label: TrainId, depth: float) -> Surface:
    """Returns an upright surface that faces the camera at a depth in metres."""
    return Surface(label, 1.0 / depth)


class Canvas:
    """An image (H, W, 3) uint8 and the number of the surface (H, W) uint16 at each pixel, painted back to front.

    Anything painted without a surface is a detail: it keeps the surface below.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        self.image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.numbers = np.zeros((camera.height, camera.width), np.uint16)
        self.surfaces = {Surface(TrainId.SKY, 0.0): 0}

    def number(self, surface: Surface) -> int:
        """Returns the number that stands for a surface."""
        return self.surfaces.setdefault(surface, len(self.surfaces))

    def fill(self, outline: np.ndarray, colour: Colour | None, surface: Surface | None = None) -> None:
        """Fills a polygon of pixels (N, 2) or world points (N, 3); without a colour it is transparent."""
        pixels = outline if outline.shape[1] == 2 else self.camera.project(outline)
        shape = [to_subpixels(pixels)]
        if surface is not None:
            cv2.fillPoly(self.numbers, shape, self.number(surface), cv2.LINE_8, SUBPIXEL_BITS)
        if colour is not None:
            cv2.fillPoly(self.image, shape, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def fill_circle(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Fills a circle given in pixels."""
        reach = max(1, round(radius * SUBPIXELS))
        cv2.circle(self.image, to_subpixels(centre).tolist(), reach, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)

    def trace(self, path: np.ndarray, colour: Colour, width: float, surface: Surface | None = None) -> None:
        """Draws an open path (N, 2) of pixels with a line width in pixels (at least one)."""
        shape, thickness = [to_subpixels(path)], max(1, round(width))
        if surface is not None:
            cv2.polylines(self.numbers, shape, False, self.number(surface), thickness, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.polylines(self.image, shape, False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def paste(self, texture: np.ndarray, corners: np.ndarray, surface: Surface) -> None:
        """Maps a texture (h, w, 3 or 4) onto a convex quad of pixels, from the top left clockwise.

        The surface covers the whole quad, also where a fourth channel lets the background show through.
        """
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, (self.camera.width, self.camera.height))
        if (high <= low).any():
            return
        rows, columns = texture.shape[:2]
        frame = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32) - 0.5
        transform = cv2.getPerspectiveTransform(frame, (corners - low).astype(np.float32))
        patch = cv2.warpPerspective(texture, transform, (high - low).tolist(), borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, to_subpixels(corners - low), 255, cv2.LINE_8, SUBPIXEL_BITS)
        image = self.image[low[1] : high[1], low[0] : high[0]]
        if texture.shape[2] == 4:
            share = cv2.min(patch[..., 3], mask).astype(np.float32) / 255.0
            image[:] = cv2.blendLinear(patch[..., :3].copy(), image.copy(), share, 1.0 - share)
        else:
            cv2.copyTo(patch, mask, image)
        self.numbers[low[1] : high[1], low[0] : high[0]][mask > 0] = self.number(surface)

    def stamp(self, sprite: np.ndarray, ramp: np.ndarray, corners: np.ndarray, surface: Surface) -> None:
        """Paints a sprite of shade and cover (h, w, 2), coloured by a ramp (256, 3), between two corners (2, 2)."""
        low = np.maximum(corners[0].astype(int), 0)
        high = np.minimum(np.ceil(corners[1]).astype(int), (self.camera.width, self.camera.height))
        if (high <= low).any():
            return
        size = (corners[1] - corners[0]) / sprite.shape[1::-1]
        transform = np.column_stack([np.diag(size), corners[0] - low])
        patch = cv2.warpAffine(sprite, transform, (high - low).tolist())
        mask = patch[..., 1] > 127
        self.image[low[1] : high[1], low[0] : high[0]][mask] = ramp[patch[..., 0][mask]]
        self.numbers[low[1] : high[1], low[0] : high[0]][mask] = self.number(surface)

    def multiply(self, top: int, gain: np.ndarray) -> None:
        """Multiplies the image from row `top` on by a gain (H - top, W)."""
        layers = cv2.merge([gain.astype(np.float32)] * 3)
        self.image[top:] = cv2.multiply(self.image[top:], layers, dtype=cv2.CV_8U)

    def labels(self) -> np.ndarray:
        """Returns the label (H, W) uint8 of each pixel."""
        return np.take(np.array([surface.label for surface in self.surfaces], np.uint8), self.numbers)

    def nearness(self) -> np.ndarray:
        """Returns 1 / depth (H, W) float32 of each pixel in 1 / metres; the sky is 0."""
        planes = np.array([surface[1:] for surface in self.surfaces], np.float32).T.copy()
        columns = np.arange(self.camera.width, dtype=np.float32)
        rows = np.arange(self.camera.height, dtype=np.float32)[:, None]
        constant, per_column, per_row = (np.take(plane, self.numbers) for plane in planes)
        return np.maximum(constant + per_column * columns + per_row * rows, 0.0)


class Item(NamedTuple):
    """Something that stands on the ground."""

    footprint: np.ndarray  # the ground it covers: (N, 2) of world x, z
    top: float  # metres; height up to which it casts a shadow
    draw: Callable[[Canvas], None]
    bottom: float = 0.0  # metres; height from which it casts a shadow


def to_subpixels(points: np.ndarray) -> np.ndarray:
    """Converts pixels to the int32 subpixels that OpenCV draws with."""
    return np.rint(points * SUBPIXELS).astype(np.int32)


def rectangle(left: float, right: float, low: float, high: float) -> np.ndarray:
    """Returns the corners (4, 2) of a rectangle as (across, up)."""
    return np.array([(left, low), (left, high), (right, high), (right, low)])


def ring(count: int, start: float = 0.0) -> np.ndarray:
    """Returns points (count, 2) on the unit circle, the first one at an angle in radians."""
    angles = start + np.linspace(0, 2 * np.pi, count + 1)[:-1]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def shade(colour: Colour, factor: float) -> Colour:
    """Scales a colour; channels are clipped at 255."""
    red, green, blue = colour
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


def mix_colours(first: Colour, second: Colour, share: float) -> Colour:
    """Blends two colours; a share of 0 is the first, 1 the second."""
    return tuple(one * (1.0 - share) + other * share for one, other in zip(first, second, strict=True))
