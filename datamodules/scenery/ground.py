"""The ground of a street: how it is laid, and how it is drawn."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from .camera import NEAR
from .canvas import Canvas, Surface, shade
from .domains import Colour, TrainId
from .streets import FAR, LANE, Course, Street, space
from .textures import TILE_PIXELS, get_material

MILESTONES = np.concatenate([[NEAR], np.geomspace(2.0, FAR, 22)])
TEXELS_PER_METRE = np.float32(64.0)
ROAD, SIDEWALK, GRASS = TrainId.ROAD, TrainId.SIDEWALK, TrainId.TERRAIN
MATERIALS = {ROAD: "asphalt", SIDEWALK: "paving", GRASS: "grass"}
WHITE: Colour = (226, 226, 220)
RAIL: Colour = (66, 60, 58)

Mark = tuple[np.ndarray, Colour]  # world points (N, 3) of what is painted on the ground


class Patch(NamedTuple):
    """A piece of ground; `outline` holds world points (N, 3)."""

    outline: np.ndarray
    colour: Colour
    label: TrainId


@dataclass(frozen=True)
class Ground:
    """All that lies flat."""

    course: Course
    label: TrainId  # of what lies under all the rest
    colour: Colour
    patches: list[Patch]
    marks: list[Mark]

    def draw(self, canvas: Canvas) -> None:
        """Paint the ground below the horizon."""
        camera = canvas.camera
        per_row = 1.0 / (camera.focal * camera.eye)
        surfaces = {label: Surface(label, -camera.horizon * per_row, per_row=per_row) for label in MATERIALS}
        top = min(camera.height, round(camera.horizon))
        canvas.image[top:] = np.rint(self.colour)
        canvas.numbers[top:] = canvas.number(surfaces[self.label])
        for outline, colour, label in self.patches:
            canvas.fill(camera.project_polygon(outline), colour, surfaces[label])
        self._add_relief(canvas, top, [canvas.number(surface) for surface in surfaces.values()])
        for outline, colour in self.marks:
            canvas.fill(camera.project_polygon(outline), colour)

    def _add_relief(self, canvas: Canvas, top: int, numbers: list[int]) -> None:
        """Multiply rows from `top` on by the relief of their materials; it fades where pixels cover much ground."""
        camera, course = canvas.camera, self.course
        rows = np.arange(top, camera.height, dtype=np.float32)[:, None]
        depth = camera.focal * camera.eye / np.maximum(rows - camera.horizon, 0.3)
        columns = np.arange(camera.width, dtype=np.float32)[None]
        middle = course.bow(depth) - course.offset
        across = ((columns - camera.centre) * (depth / camera.focal) - middle) * TEXELS_PER_METRE
        along = np.broadcast_to(depth * TEXELS_PER_METRE, across.shape)
        columns, rows = (np.mod(at, TILE_PIXELS).astype(np.float32) for at in (across, along))
        relief = cv2.remap(_stack_materials(), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        gain = relief[..., 0]
        for channel in (1, 2):
            gain = np.where(canvas.numbers[top:] == numbers[channel], relief[..., channel], gain)
        fade = np.clip(0.5 * camera.focal * camera.eye / depth**2, 0.06, 1.0)
        canvas.multiply(top, 1.0 + (gain - 1.0) * fade)


@cache
def _stack_materials() -> np.ndarray:
    return np.stack([get_material(name) for name in MATERIALS.values()], axis=-1)


def lay_ground(street: Street) -> tuple[Ground, float | None]:
    """Return the ground of a street, and how far ahead a crosswalk starts that people walk over."""
    has_lawn = street.dice.chance(street.kind.lawn * street.domain.rate("lawn"))
    base = (GRASS, street.grass) if has_lawn else (SIDEWALK, shade(street.pavement, 0.9))
    patches = lay_strips(street)
    marks, crosswalk = paint_marks(street)
    return Ground(street.course, *base, patches, marks), crosswalk


def lay_strips(street: Street) -> list[Patch]:
    """Lay the carriageway, on both sides a tram track, a verge, the sidewalk and the kerb, and the crossing street."""
    grass, asphalt, pavement = street.grass, street.asphalt, street.pavement
    track = (GRASS, grass) if street.dice.chance(0.5) else (ROAD, shade(asphalt, 1.12))
    patches: list[Patch] = []

    def lay(start: float, stop: float, label: TrainId, colour: Colour) -> None:
        outline = street.course.strip(min(start, stop), max(start, stop), MILESTONES)
        patches.append(Patch(outline, colour, label))

    left, right = street.sides
    lay(-left.kerb, right.kerb, ROAD, asphalt)
    for side in street.sides:
        sign, edge = side.sign, side.edge
        if side.track is not None:
            lay(sign * side.kerb, sign * edge, *track)
        if side.walk > edge:
            lay(sign * edge, sign * side.walk, GRASS, grass)
        lay(sign * side.walk, sign * side.line, SIDEWALK, pavement)
        lay(sign * edge, sign * (edge + 0.12), GRASS if side.walk > edge else SIDEWALK, shade(pavement, 0.66))
        lay(sign * (edge + 0.12), sign * (edge + 0.34), SIDEWALK, shade(pavement, 1.14))
    if street.crossing:
        patches.append(Patch(street.course.strip(-FAR, FAR, np.array(street.crossing)), asphalt, ROAD))
    return patches


def paint_marks(street: Street) -> tuple[list[Mark], float | None]:
    """Paint patches of newer asphalt, lane marks, kerb lines, rails, crosswalks; return the start of a crosswalk."""
    dice, crossing, lanes = street.dice, street.crossing, street.lanes
    left, right = street.sides
    marks: list[Mark] = []

    def paint(start: float, stop: float, near: float, far: float, colour: Colour = WHITE) -> None:
        """Paint a patch between two places across the street; where it is long it follows the bend."""
        along = np.linspace(near, far, max(2, int((far - near) / 6) + 1))
        marks.append((street.course.strip(start, stop, along), colour))

    for _ in range(int(dice.integers(0, 4))):
        middle, near = dice.between(-left.kerb + 1, right.kerb - 1), dice.between(3, 30)
        tone = shade(street.asphalt, dice.between(0.8, 0.93))
        width = dice.between(0.4, 1.4)
        paint(middle - width, middle + width, near, near + dice.between(1, 7), tone)
    is_double = dice.chance(0.3)
    pieces = [(1.5, crossing[0] - 5.0), (crossing[1] + 5.0, 90.0)] if crossing else [(1.5, 90.0)]
    for near, far in pieces:
        for lane in range(-lanes + 1, lanes):
            if lane == 0 and is_double:
                paint(-0.22, -0.08, near, far)
                paint(0.08, 0.22, near, far)
                continue
            for start in space(near + dice.between(0, 3), min(far, 70.0) - 3, 7.5):
                paint(lane * LANE - 0.08, lane * LANE + 0.08, start, start + 3.2)
        for side in street.sides:
            edge = side.sign * lanes * LANE
            paint(edge - 0.07, edge + 0.07, near, far)
    for side in street.sides:
        if side.track is not None:
            for at in (side.sign * side.track - 0.72, side.sign * side.track + 0.72):
                paint(at - 0.06, at + 0.06, 1.5, 110.0, RAIL)
    crosswalks = [dice.between(9.0, 26.0)] if dice.chance(0.25) and not crossing else []
    if crossing and dice.chance(0.8):
        crosswalks = [crossing[0] - 4.0, crossing[1] + 1.0]
    for near in crosswalks:
        for at in space(-left.kerb + 0.4, right.kerb - 0.4, 1.1):
            paint(at, at + 0.55, near, near + 3.0)
    if not crosswalks:
        return marks, None
    paint(0.2, lanes * LANE, crosswalks[0] - 1.4, crosswalks[0] - 1.0)
    return marks, crosswalks[0]
