"""What closes the view: the sky with its clouds, and hills and roofs far away."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .canvas import Canvas
from .domains import Colour, TrainId
from .textures import make_noise

CLOUD_TILE = 512


@dataclass(frozen=True)
class Sky:
    """A gradient with clouds.

    Attributes:
        zenith: Colour at the top.
        horizon: Colour at the horizon.
        cover: Share of the sky that clouds hide, 0 to 1.
        shift: Where in the cloud texture the view starts, two values in 0 to 1.
    """

    zenith: Colour
    horizon: Colour
    cover: float
    shift: tuple[float, float]

    def draw(self, canvas: Canvas) -> None:
        """Paint all rows above the horizon."""
        camera = canvas.camera
        rows = min(camera.height, round(camera.horizon) + 1)
        # Clouds are soft: half the size is enough.
        size = (-(-camera.width // 2), -(-rows // 2))
        share = np.linspace(0, 1, size[1], dtype=np.float32)[:, None, None]
        sky = np.array(self.zenith, np.float32) * (1 - share) + np.array(self.horizon, np.float32) * share
        left, top = (int(part * 0.4 * CLOUD_TILE) for part in self.shift)
        high = max(8, min(CLOUD_TILE - top, int(0.8 * CLOUD_TILE * rows / camera.width * 1.8)))
        texture = _get_clouds()[top : top + high, left : left + int(0.6 * CLOUD_TILE)]
        clouds = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)
        cloud = np.clip((clouds + 2.4 * self.cover - 1.6) * 0.6, 0.0, 0.85)[..., None]
        bright = np.array(self.horizon, np.float32) * 0.4 + 150.0
        picture = sky + cloud * (bright - 16 * clouds[..., None] - sky)
        canvas.image[:rows] = np.clip(cv2.resize(picture, (camera.width, rows)), 0, 255)


@lru_cache(maxsize=1)
def _get_clouds() -> np.ndarray:
    return make_noise(21, CLOUD_TILE, 4, 6, 0.5)


@dataclass(frozen=True)
class Skyline:
    """A silhouette at a distance: heights in metres at evenly spaced places from left to right.

    Attributes:
        label: What it is made of.
        depth: Distance in metres.
        heights: Heights above the ground.
        colour: Its colour.
        is_stepped: Whether the outline has steps, as of roofs, or is smooth, as of hills.
    """

    label: TrainId
    depth: float
    heights: tuple[float, ...]
    colour: Colour
    is_stepped: bool

    def draw(self, canvas: Canvas) -> None:
        """Paint the silhouette."""
        camera = canvas.camera
        heights = np.array(self.heights)
        columns = np.linspace(-2, camera.width + 2, len(heights) + self.is_stepped)
        if self.is_stepped:
            columns, heights = np.repeat(columns, 2)[1:-1], np.repeat(heights, 2)
        rows = camera.horizon + (camera.eye - heights) * camera.scale(self.depth)
        foot = camera.horizon + camera.eye * camera.scale(self.depth)
        outline = np.concatenate([np.stack([columns, rows], axis=1), [[columns[-1], foot], [columns[0], foot]]])
        canvas.fill(outline, self.colour, canvas.add_upright(self.label, self.depth))
