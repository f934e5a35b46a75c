"""The picture in progress: colours, and for every pixel the surface that it shows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from .camera import Camera, Light
from .domains import Colour, TrainId

SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS


class Surface(NamedTuple):
    """A plane with one label; its nearness (1 / metres) at a pixel is `constant + per_column * x + per_row * y`."""

    label: TrainId
    constant: float
    per_column: float = 0.0
    per_row: float = 0.0


def upright(label: TrainId, depth: float) -> Surface:
    """Return an upright surface that faces the camera at a depth in metres."""
    return Surface(label, 1.0 / max(depth, 0.1))


class Canvas:
    """An image (H, W, 3) uint8 and the number of the surface (H, W) uint16 at each pixel, painted back to front.

    What is painted without a surface is a detail: it keeps the surface below.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        self.image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.numbers = np.zeros((camera.height, camera.width), np.uint16)
        self.surfaces = {Surface(TrainId.SKY, 0.0): 0}

    def number(self, surface: Surface) -> int:
        """Return the number that stands for a surface."""
        return self.surfaces.setdefault(surface, len(self.surfaces))

    def fill(self, outline: np.ndarray, colour: Colour | None, surface: Surface | None = None) -> None:
        """Fill a polygon (N, 2) of pixels; without a colour it is seen through."""
        if len(outline) >= 3:
            self._draw(cv2.fillPoly, ([to_subpixels(outline)],), colour, surface)

    def fill_circle(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        """Fill a circle given in pixels."""
        shape = to_subpixels(centre).tolist(), max(1, round(radius * SUBPIXELS))
        self._draw(cv2.circle, shape, colour, None, -1)

    def trace(self, path: np.ndarray, colour: Colour, width: float, surface: Surface | None = None) -> None:
        """Draw an open path (N, 2) of pixels with a line width in pixels (at least one)."""
        self._draw(cv2.polylines, ([to_subpixels(path)], False), colour, surface, max(1, round(width)))

    def _draw(
        self, draw: Callable, shape: tuple[Any, ...], colour: Colour | None, surface: Surface | None, *thickness: int
    ) -> None:
        if surface is not None:
            draw(self.numbers, *shape, self.number(surface), *thickness, cv2.LINE_8, SUBPIXEL_BITS)
        if colour is not None:
            draw(self.image, *shape, colour, *thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def paste(self, texture: np.ndarray, corners: np.ndarray, surface: Surface) -> None:
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
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillConvexPoly(mask, to_subpixels(corners - low), 255, cv2.LINE_8, SUBPIXEL_BITS)
        window = slice(low[1], high[1]), slice(low[0], high[0])
        if texture.shape[2] == 4:
            share = cv2.min(patch[..., 3], mask).astype(np.float32) / 255.0
            self.image[window] = cv2.blendLinear(patch[..., :3].copy(), self.image[window].copy(), share, 1.0 - share)
        else:
            cv2.copyTo(patch, mask, self.image[window])
        self.numbers[window][mask > 0] = self.number(surface)

    def stamp(
        self, sprite: np.ndarray, ramp: np.ndarray, box: tuple[float, float, float, float], surface: Surface
    ) -> None:
        """Paint a sprite of shade and cover (h, w, 2) into a box (left, top, right, bottom) of pixels.

        Its shades are coloured by a ramp (256, 3).
        """
        left, top, right, bottom = box
        low = max(int(left), 0), max(int(top), 0)
        high = min(int(np.ceil(right)), self.camera.width), min(int(np.ceil(bottom)), self.camera.height)
        if high[0] <= low[0] or high[1] <= low[1]:
            return
        across, down = (right - left) / sprite.shape[1], (bottom - top) / sprite.shape[0]
        transform = np.array([[across, 0, left - low[0]], [0, down, top - low[1]]])
        patch = cv2.warpAffine(sprite, transform, (high[0] - low[0], high[1] - low[1]), flags=cv2.INTER_LINEAR)
        mask = patch[..., 1] > 127
        window = slice(low[1], high[1]), slice(low[0], high[0])
        self.image[window][mask] = ramp[patch[..., 0][mask]]
        self.numbers[window][mask] = self.number(surface)

    def multiply(self, top: int, gain: np.ndarray) -> None:
        """Multiply the image from row `top` on by a gain (H - top, W)."""
        layers = cv2.merge([gain.astype(np.float32)] * 3)
        self.image[top:] = cv2.multiply(self.image[top:], layers, dtype=cv2.CV_8U)

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


def to_subpixels(points: np.ndarray) -> np.ndarray:
    """Return pixels as the whole numbers of subpixels that OpenCV draws with."""
    return np.rint(points * SUBPIXELS).astype(np.int32)


def rectangle(left: float, right: float, low: float, high: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle as (across, up)."""
    return np.array([(left, low), (left, high), (right, high), (right, low)])


def shade(colour: Colour, factor: float) -> Colour:
    """Scale a colour, up to white."""
    red, green, blue = colour
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; a share of 0 is the first, 1 the second."""
    return tuple(one * (1.0 - share) + other * share for one, other in zip(first, second, strict=True))
