"""The ground: carriageway, sidewalks, verges, and marks, with the relief of what they are made of."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from .camera import NEAR
from .canvas import Canvas, Surface
from .domains import Colour, TrainId
from .streets import FAR, Course
from .textures import TILE_PIXELS, get_material

MILESTONES = np.concatenate([[NEAR], np.geomspace(2.0, FAR, 22)])
TEXELS_PER_METRE = np.float32(64.0)
MATERIALS = {TrainId.ROAD: "asphalt", TrainId.SIDEWALK: "paving", TrainId.TERRAIN: "grass"}


class Strip(NamedTuple):
    """A band of ground along the street, from `left` to `right` metres across."""

    left: float
    right: float
    label: TrainId
    colour: Colour


class Mark(NamedTuple):
    """A painted patch on the ground; `outline` holds world points (N, 3)."""

    outline: np.ndarray
    colour: Colour


@dataclass(frozen=True)
class Ground:
    """All that lies flat."""

    course: Course
    base: Strip  # what lies under all the rest
    strips: list[Strip]
    crossing: tuple[float, float] | None  # metres along between which another street crosses
    asphalt: Colour
    marks: list[Mark]

    def draw(self, canvas: Canvas) -> None:
        """Paint the ground below the horizon."""
        camera = canvas.camera
        per_row = 1.0 / (camera.focal * camera.eye)
        surfaces = {label: Surface(label, -camera.horizon * per_row, per_row=per_row) for label in MATERIALS}
        top = min(camera.height, round(camera.horizon))
        canvas.image[top:] = np.rint(self.base.colour)
        canvas.numbers[top:] = canvas.number(surfaces[self.base.label])
        for strip in self.strips:
            outline = self.course.strip(strip.left, strip.right, MILESTONES)
            canvas.fill(camera.project(outline), strip.colour, surfaces[strip.label])
        if self.crossing:
            outline = self.course.strip(-FAR, FAR, np.array(self.crossing))
            canvas.fill(camera.project_polygon(outline), self.asphalt, surfaces[TrainId.ROAD])
        self._add_relief(canvas, top, [canvas.number(surface) for surface in surfaces.values()])
        for mark in self.marks:
            canvas.fill(camera.project_polygon(mark.outline), mark.colour)

    def _add_relief(self, canvas: Canvas, top: int, numbers: list[int]) -> None:
        """Multiply rows from `top` on by the relief of their materials; it fades where pixels cover much ground."""
        camera, course = canvas.camera, self.course
        rows = np.arange(top, camera.height, dtype=np.float32)[:, None]
        depth = camera.focal * camera.eye / np.maximum(rows - camera.horizon, 0.3)
        columns = np.arange(camera.width, dtype=np.float32)[None]
        middle = course.bow(depth) - course.offset
        across = ((columns - camera.centre) * (depth / camera.focal) - middle) * TEXELS_PER_METRE
        along = np.broadcast_to(depth * TEXELS_PER_METRE, across.shape)
        texels = (np.mod(at, TILE_PIXELS).astype(np.float32) for at in (across, along))
        relief = cv2.remap(_stack_materials(), *texels, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        gain = relief[..., 0]
        for channel in (1, 2):
            gain = np.where(canvas.numbers[top:] == numbers[channel], relief[..., channel], gain)
        fade = np.clip(0.5 * camera.focal * camera.eye / depth**2, 0.06, 1.0)
        canvas.multiply(top, 1.0 + (gain - 1.0) * fade)


@cache
def _stack_materials() -> np.ndarray:
    return np.stack([get_material(name) for name in MATERIALS.values()], axis=-1)
