"""The ground of a street: its layout, and how it is drawn."""

import cv2
import numpy as np

from .canvas import NEAR, Canvas, Surface, shade
from .domains import Colour, TrainId
from .street import FAR, LANE, Street, space
from .textures import TILE_PIXELS, get_material

MILESTONES = np.concatenate([[NEAR], np.geomspace(2.0, FAR, 22)])
TEXELS_PER_METRE = np.float32(64.0)
ROAD, SIDEWALK, GRASS = TrainId.ROAD, TrainId.SIDEWALK, TrainId.TERRAIN
MATERIALS = {ROAD: "asphalt", SIDEWALK: "paving", GRASS: "grass"}
WHITE: Colour = (226, 226, 220)
RAIL: Colour = (66, 60, 58)


class Ground:
    """Everything flat: outlines of world points (N, 3), painted one over the other.

    `crosswalk` is the distance in metres at which the crosswalk that people use starts, or None.
    """

    def __init__(self, street: Street) -> None:
        dice, course = street.dice, street.course
        grass, asphalt, pavement = street.grass, street.asphalt, street.pavement
        self.course = course
        has_lawn = dice.chance(street.kind.lawn * street.domain.rate("lawn"))
        self.base = (GRASS, grass) if has_lawn else (SIDEWALK, shade(pavement, 0.9))
        track = (GRASS, grass) if dice.chance(0.5) else (ROAD, shade(asphalt, 1.12))
        left, right = street.sides
        self.patches = [(course.strip(-left.kerb, right.kerb, MILESTONES), ROAD, asphalt)]
        for side in street.sides:
            border = GRASS if side.walk > side.edge else SIDEWALK
            for start, stop, label, colour in (
                (side.kerb, side.edge, *track),
                (side.edge, side.walk, GRASS, grass),
                (side.walk, side.line, SIDEWALK, pavement),
                (side.edge, side.edge + 0.12, border, shade(pavement, 0.66)),
                (side.edge + 0.12, side.edge + 0.34, SIDEWALK, shade(pavement, 1.14)),
            ):
                if stop > start:
                    left_edge, right_edge = sorted((side.sign * start, side.sign * stop))
                    self.patches.append((course.strip(left_edge, right_edge, MILESTONES), label, colour))
        if street.crossing:
            self.patches.append((course.strip(-FAR, FAR, np.array(street.crossing)), ROAD, asphalt))
        self.marks: list[tuple[np.ndarray, Colour]] = []
        self._paint_lanes(street)
        self.crosswalk = self._paint_crosswalks(street)

    def _paint(self, middle: float, half: float, near: float, far: float, colour: Colour = WHITE) -> None:
        """Paints a patch with a half width around a distance from the street's middle; it follows the street's bend."""
        along = np.linspace(near, far, max(2, int((far - near) / 6) + 1))
        self.marks.append((self.course.strip(middle - half, middle + half, along), colour))

    def _paint_lanes(self, street: Street) -> None:
        """Paints patches of newer asphalt, lane marks, lines at the edges, and rails."""
        dice, crossing, lanes = street.dice, street.crossing, street.lanes
        left, right = street.sides
        for _ in range(int(dice.integers(0, 4))):
            middle, near = dice.between(-left.kerb + 1, right.kerb - 1), dice.between(3, 30)
            tone = shade(street.asphalt, dice.between(0.8, 0.93))
            self._paint(middle, dice.between(0.4, 1.4), near, near + dice.between(1, 7), tone)
        is_double = dice.chance(0.3)
        for near, far in [(1.5, crossing[0] - 5.0), (crossing[1] + 5.0, 90.0)] if crossing else [(1.5, 90.0)]:
            for lane in range(-lanes + 1, lanes):
                if lane == 0 and is_double:
                    self._paint(-0.15, 0.07, near, far)
                    self._paint(0.15, 0.07, near, far)
                    continue
                for start in space(near + dice.between(0, 3), min(far, 70.0) - 3, 7.5):
                    self._paint(lane * LANE, 0.08, start, start + 3.2)
            for sign in (-1, 1):
                self._paint(sign * lanes * LANE, 0.07, near, far)
        for side in street.sides:
            if side.track is not None:
                for rail in (-0.72, 0.72):
                    self._paint(side.sign * side.track + rail, 0.06, 1.5, 110.0, RAIL)

    def _paint_crosswalks(self, street: Street) -> float | None:
        """Paints crosswalks and a stop line; returns the distance at which the first crosswalk starts, or None."""
        dice, crossing, (left, right) = street.dice, street.crossing, street.sides
        starts = [dice.between(9.0, 26.0)] if dice.chance(0.25) and not crossing else []
        if crossing and dice.chance(0.8):
            starts = [crossing[0] - 4.0, crossing[1] + 1.0]
        for near in starts:
            for at in space(-left.kerb + 0.4, right.kerb - 0.4, 1.1):
                self._paint(at + 0.275, 0.275, near, near + 3.0)
        if not starts:
            return None
        middle = 0.5 * (0.2 + street.lanes * LANE)
        self._paint(middle, middle - 0.2, starts[0] - 1.4, starts[0] - 1.0)
        return starts[0]

    def draw(self, canvas: Canvas) -> None:
        """Paints the ground below the horizon, with the relief of its materials, which fades with distance."""
        camera = canvas.camera
        per_row = 1.0 / (camera.focal * camera.eye)
        surfaces = {label: Surface(label, -camera.horizon * per_row, per_row=per_row) for label in MATERIALS}
        top = round(camera.horizon)
        label, colour = self.base
        canvas.image[top:] = np.rint(colour)
        canvas.numbers[top:] = canvas.number(surfaces[label])
        for outline, label, colour in self.patches:
            canvas.fill(outline, colour, surfaces[label])

        rows = np.arange(top, camera.height, dtype=np.float32)[:, None]
        columns = np.arange(camera.width, dtype=np.float32)[None]
        depth = camera.focal * camera.eye / np.maximum(rows - camera.horizon, 0.3)
        middle = self.course.bow(depth) - self.course.offset
        across = ((columns - camera.centre) * (depth / camera.focal) - middle) * TEXELS_PER_METRE
        along = np.broadcast_to(depth * TEXELS_PER_METRE, across.shape)
        columns, rows = (np.mod(at, TILE_PIXELS).astype(np.float32) for at in (across, along))
        tile = np.stack([get_material(name) for name in MATERIALS.values()], axis=-1)
        relief = cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        gain = relief[..., 0]
        for channel, label in ((1, SIDEWALK), (2, GRASS)):
            gain = np.where(canvas.numbers[top:] == canvas.number(surfaces[label]), relief[..., channel], gain)
        fade = np.clip(0.5 * camera.focal * camera.eye / depth**2, 0.06, 1.0)
        canvas.multiply(top, 1.0 + (gain - 1.0) * fade)

        for outline, colour in self.marks:
            canvas.fill(outline, colour)
