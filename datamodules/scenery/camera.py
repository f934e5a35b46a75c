"""What a scene is seen with: a pinhole camera above a flat ground, places in front of it, and the light."""

from dataclasses import dataclass

import numpy as np

NEAR = 0.6  # metres; nothing closer is drawn


@dataclass(frozen=True)
class Camera:
    """A camera that looks along +z; x points right, y up, the ground is y = 0, and verticals stay vertical."""

    height: int  # image rows
    width: int  # image columns
    focal: float  # focal length in pixels
    centre: float  # column of the vanishing point
    horizon: float  # row of the horizon
    eye: float  # metres above the ground

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

    def project_polygons(self, points: np.ndarray) -> list[np.ndarray]:
        """Do the same with several polygons (M, N, 3)."""
        if points[..., 2].min() >= NEAR:
            return list(self.project(points))
        return [self.project_polygon(polygon) for polygon in points]

    def scale(self, depth: float) -> float:
        """Return pixels per metre at a depth in metres."""
        return self.focal / max(depth, NEAR)

    def stand(self, x: float, z: float) -> np.ndarray:
        """Return the pixel (2,) of a point on the ground."""
        scale = self.scale(z)
        return np.array([self.centre + x * scale, self.horizon + self.eye * scale])

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Tell whether anything within `reach` metres to the left and right of a point falls into the image."""
        scale = self.scale(z)
        return z >= 1.5 and self.centre + (x + reach) * scale > 0 and self.centre + (x - reach) * scale < self.width


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


@dataclass(frozen=True)
class Pose:
    """A place on the ground and a direction."""

    x: float  # metres to the right of the camera
    z: float  # metres ahead of the camera
    heading: float  # radians clockwise from straight ahead; at 0 the rear is seen

    def place(self, along: np.ndarray, up: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Turn metres ahead of, above and to the right of the place into world points (..., 3)."""
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        points = np.empty((*along.shape, 3))
        points[..., 0] = self.x + along * sine + side * cosine
        points[..., 1] = up
        points[..., 2] = self.z + along * cosine - side * sine
        return points

    def footprint(self, length: float, width: float) -> np.ndarray:
        """Return the corners (4, 2), as world x, z, of a rectangle around the place."""
        along, side = 0.5 * length * np.array([-1.0, -1.0, 1.0, 1.0]), 0.5 * width * np.array([-1.0, 1.0, 1.0, -1.0])
        return self.place(along, np.zeros(4), side)[:, [0, 2]]


@dataclass(frozen=True)
class Light:
    """The sun, the sky, and the lamps."""

    direction: tuple[float, float, float]  # unit vector towards the sun (x, y, z)
    sun: float  # share of the light that comes from the sun, 0 to 1
    lamps: float  # share of lamps and windows that are lit, 0 to 1

    def on(self, x: float, y: float, z: float) -> float:
        """Return the brightness factor of a face with the normal (x, y, z)."""
        sunlit = max(0.0, x * self.direction[0] + y * self.direction[1] + z * self.direction[2])
        return (1.0 - self.sun) * (0.86 + 0.14 * y) + self.sun * (0.45 + 0.85 * sunlit)
