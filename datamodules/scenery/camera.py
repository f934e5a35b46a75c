"""A pinhole camera above a flat ground: world metres to image pixels."""

from dataclasses import dataclass

import numpy as np

NEAR = 0.6  # metres; nothing closer is drawn


@dataclass(frozen=True)
class Camera:
    """A camera that looks along +z; x points right, y up, the ground is y = 0, and verticals stay vertical.

    Attributes:
        height: Image rows.
        width: Image columns.
        focal: Focal length in pixels.
        centre: Column of the vanishing point.
        horizon: Row of the horizon.
        eye: Height above the ground in metres.
    """

    height: int
    width: int
    focal: float
    centre: float
    horizon: float
    eye: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points (..., 3) to pixels (..., 2); points behind `NEAR` are taken as lying on it."""
        scale = self.focal / np.maximum(points[..., 2], NEAR)
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = points[..., 0] * scale + self.centre
        pixels[..., 1] = (self.eye - points[..., 1]) * scale + self.horizon
        return pixels

    def project_polygon(self, points: np.ndarray) -> np.ndarray:
        """Cut a world polygon (N, 3) at the near plane and project the rest; fewer than 3 points mean: out of sight."""
        return self.project(clip_near(points))

    def scale(self, depth: float) -> float:
        """Return pixels per metre at a depth in metres."""
        return self.focal / max(depth, NEAR)

    def stand(self, x: float, z: float) -> np.ndarray:
        """Return the pixel (2,) of a point on the ground."""
        scale = self.scale(z)
        return np.array([self.centre + x * scale, self.horizon + self.eye * scale])

    def sees(self, left: float, right: float, depth: float) -> bool:
        """Tell whether any of the world interval [left, right] at a depth falls between the image's sides."""
        scale = self.scale(depth)
        return self.centre + right * scale > 0 and self.centre + left * scale < self.width


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cut a polygon (N, 3) at the near plane (Sutherland-Hodgman with a single plane)."""
    inside = points[:, 2] >= NEAR
    if inside.all():
        return points
    kept: list[np.ndarray] = []
    for index, point in enumerate(points):
        previous = points[index - 1]
        if inside[index] != inside[index - 1]:
            share = (NEAR - previous[2]) / (point[2] - previous[2])
            kept.append(previous + share * (point - previous))
        if inside[index]:
            kept.append(point)
    return np.array(kept).reshape(-1, 3)
