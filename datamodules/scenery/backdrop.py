"""What closes the view: the sky with its clouds, and hills and roofs far away."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Canvas, upright
from .domains import Colour, TrainId
from .textures import make_noise

CLOUD_TILE = 512


@dataclass(frozen=True)
class Sky:
    """A gradient with clouds."""

    zenith: Colour  # at the top
    horizon: Colour  # at the horizon
    cover: float  # share of the sky that clouds hide, 0 to 1
    shift: tuple[float, float]  # where in the cloud texture the view starts, each 0 to 1

    def draw(self, canvas: Canvas) -> None:
        """Paint all rows above the horizon."""
        camera = canvas.camera
        rows = min(camera.height, round(camera.horizon) + 1)
        zenith, horizon = np.array(self.zenith, np.float32), np.array(self.horizon, np.float32)
        # Clouds are soft: half the size is enough.
        size = (-(-camera.width // 2), -(-rows // 2))
        share = np.linspace(0, 1, size[1], dtype=np.float32)[:, None, None]
        sky = zenith * (1 - share) + horizon * share
        left, top = (int(part * 0.4 * CLOUD_TILE) for part in self.shift)
        high = max(8, min(CLOUD_TILE - top, int(0.8 * CLOUD_TILE * rows / camera.width * 1.8)))
        texture = make_noise(21, CLOUD_TILE, 4, 6, 0.5)[top : top + high, left : left + int(0.6 * CLOUD_TILE)]
        clouds = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)
        cloud = np.clip((clouds + 2.4 * self.cover - 1.6) * 0.6, 0.0, 0.85)[..., None]
        picture = sky + cloud * (horizon * 0.4 + 150.0 - 16 * clouds[..., None] - sky)
        canvas.image[:rows] = np.clip(cv2.resize(picture, (camera.width, rows)), 0, 255)


@dataclass(frozen=True)
class Skyline:
    """A silhouette at a distance."""

    label: TrainId
    depth: float  # metres
    heights: np.ndarray  # metres above the ground, at evenly spaced places from left to right
    colour: Colour
    is_stepped: bool = False  # steps, as of roofs, in place of a smooth outline, as of hills

    def draw(self, canvas: Canvas) -> None:
        """Paint the silhouette."""
        camera, heights = canvas.camera, self.heights
        columns = np.linspace(-2, camera.width + 2, len(heights) + self.is_stepped)
        if self.is_stepped:
            columns, heights = np.repeat(columns, 2)[1:-1], np.repeat(heights, 2)
        rows = camera.horizon + (camera.eye - heights) * camera.scale(self.depth)
        foot = camera.horizon + camera.eye * camera.scale(self.depth)
        outline = np.concatenate([np.stack([columns, rows], axis=1), [[columns[-1], foot], [columns[0], foot]]])
        canvas.fill(outline, self.colour, upright(self.label, self.depth))
