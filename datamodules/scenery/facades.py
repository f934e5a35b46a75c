"""Upright surfaces along the street: buildings with windows, and walls, fences and hedges in sections."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import Canvas, shade
from .domains import Colour, TrainId
from .ground import Solid
from .textures import PANEL_PIXELS, TILE_METRES, get_material_at, get_panel

LIT_GLASS = (255, 214, 140)


@dataclass(frozen=True)
class FacadeStyle:
    """How a facade looks; lengths in metres.

    Attributes:
        colour: Colour of the wall.
        trim: Colour of frames, sills and cornice.
        glass: Colour of unlit panes.
        material: Name of the relief.
        bay: Distance between windows.
        floor: Height of a storey.
        window: Width and height of a window.
        shop: Colour of the shop front's band, or None for a plain ground floor.
        lit: Share of windows that are lit.
        seed: Seed of what differs from window to window.
    """

    colour: Colour
    trim: Colour
    glass: Colour
    material: str
    bay: float
    floor: float
    window: tuple[float, float]
    shop: Colour | None
    lit: float
    seed: int


def quantise(density: float) -> float:
    """Round pixels per metre to powers of the square root of 2, so that few texture sizes need to be kept."""
    return float(2.0 ** (round(2.0 * np.log2(min(max(density, 1.0), 90.0))) / 2.0))


def draw_facade(
    style: FacadeStyle, size: tuple[float, float], visible: tuple[float, float], density: tuple[float, float]
) -> np.ndarray:
    """Draw a facade seen straight on.

    Args:
        style: What it looks like.
        size: Its length and height in metres.
        visible: The length (from the left) and height (from the ground) that are drawn.
        density: Pixels per metre, across and up.

    Returns:
        RGB image uint8; its bottom row is the ground.
    """
    across, up = density
    columns, rows = max(2, round(visible[0] * across)), max(2, round(visible[1] * up))
    relief = get_material_at(style.material, max(2, round(TILE_METRES * across)), max(2, round(TILE_METRES * up)))
    tile = cv2.LUT(
        cv2.merge([np.clip(relief * 128, 0, 255).astype(np.uint8)] * 3),
        np.clip(np.arange(256)[:, None] / 128 * np.array(style.colour), 0, 255).astype(np.uint8)[None],
    )
    image = np.tile(tile, (-(-rows // tile.shape[0]), -(-columns // tile.shape[1]), 1))[:rows, :columns]

    def paint(left: float, right: float, bottom: float, top: float, colour: Colour) -> None:
        first, last = rows - round(top * up), rows - round(bottom * up)
        image[max(first, 0) : max(last, 0), max(round(left * across), 0) : max(round(right * across), 0)] = colour

    rng = np.random.default_rng(style.seed)
    width, height = style.window
    bays = max(1, int((size[0] - 0.6) / style.bay))
    margin = 0.5 * (size[0] - bays * style.bay)
    ground_floor = style.floor * (1.25 if style.shop else 1.0)
    floors = max(1, int((size[1] - 0.8 - ground_floor) / style.floor) + 1)
    luck = rng.random((floors, bays))
    fine = min(across, up) * width > 5
    for level in range(1 if style.shop else 0, floors):
        sill = 0.32 * style.floor + (ground_floor + (level - 1) * style.floor if level else 0.0)
        if sill > visible[1]:
            break
        for bay in range(bays):
            left = margin + (bay + 0.5) * style.bay - 0.5 * width
            if left > visible[0]:
                break
            fortune = luck[level, bay]
            is_lit = fortune < style.lit
            glass = shade(LIT_GLASS, 0.8 + 0.4 * fortune) if is_lit else shade(style.glass, 0.75 + 0.6 * fortune)
            if fine:
                paint(left - 0.12, left + width + 0.12, sill - 0.16, sill + height + 0.1, style.trim)
            paint(left, left + width, sill, sill + height, glass)
            if fine:
                paint(left, left + width, sill + 0.8 * height, sill + height, shade(glass, 0.72))
                paint(left + 0.46 * width, left + 0.54 * width, sill, sill + height, style.trim)
    if style.shop:
        paint(0.0, size[0], 0.0, ground_floor - 0.9, shade(style.colour, 0.62))
        pane = LIT_GLASS if luck[0, 0] < style.lit else shade(style.glass, 1.15)
        for bay in range(bays):
            left = margin + bay * style.bay
            paint(left + 0.25, left + style.bay - 0.25, 0.45 * (bay % 3 != 1), ground_floor - 1.0, pane)
        paint(0.0, size[0], ground_floor - 0.9, ground_floor - 0.15, style.shop)
    else:
        paint(0.0, size[0], 0.0, 0.7, shade(style.colour, 0.7))
        door = margin + (int(luck[0, 0] * bays) + 0.5) * style.bay
        paint(door - 0.6, door + 0.6, 0.0, 2.2, shade(style.trim, 0.45))
    paint(0.0, size[0], size[1] - 0.45, size[1], style.trim)
    paint(0.0, size[0], size[1] - 0.65, size[1] - 0.45, shade(style.colour, 0.6))
    return image


@dataclass(frozen=True)
class Building:
    """A block with one facade along the street and one that faces the camera.

    Attributes:
        near: World (x, z) of the corner at the street that is nearer to the camera.
        far: World (x, z) of the corner at the street that is farther away.
        breadth: Signed metres in x from the street's facade to the back.
        height: Height of the eaves in metres.
        rise: Height of a pitched roof above the eaves; 0 for a flat one.
        roof: Colour of a pitched roof.
        style: Look of the facades.
        shows_front: Whether the facade towards the camera can be seen.
    """

    near: tuple[float, float]
    far: tuple[float, float]
    breadth: float
    height: float
    rise: float
    roof: Colour
    style: FacadeStyle
    shows_front: bool

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        outward = np.array([self.breadth, 0.0])
        near, far = np.array(self.near), np.array(self.far)
        return Solid(np.stack([near, far, far + outward, near + outward]), 0.0, self.height + 0.5 * self.rise)

    def draw(self, canvas: Canvas) -> None:
        """Paint the facade along the street, the roof, and the facade towards the camera."""
        side = 1.0 if self.breadth > 0 else -1.0
        first = 0.7 * abs(self.near[0]) * canvas.camera.focal / canvas.camera.width
        near_depth = max(self.near[1], first, 1.0)
        if self.far[1] - near_depth > 0.3:
            share = (self.far[1] - near_depth) / (self.far[1] - self.near[1])
            near = (self.far[0] + share * (self.near[0] - self.far[0]), near_depth)
            if self.rise:
                self._draw_roof(canvas, near)
            self._draw_wall(canvas, near, self.far, share, canvas.light.on(-side, 0.0, 0.0))
        if self.shows_front and self.near[1] > 1.5:
            back = (self.near[0] + self.breadth, self.near[1])
            brightness = canvas.light.on(0.0, 0.0, -1.0)
            if self.rise:
                peak = (self.near[0] + 0.5 * self.breadth, self.height + self.rise, self.near[1])
                gable = np.array([(self.near[0], self.height, self.near[1]), peak, (back[0], self.height, back[1])])
                number = canvas.add_upright(TrainId.BUILDING, self.near[1])
                canvas.fill(canvas.camera.project(gable), shade(self.style.colour, 0.94 * brightness), number)
            self._draw_wall(canvas, self.near, back, 1.0, brightness)

    def _draw_roof(self, canvas: Canvas, near: tuple[float, float]) -> None:
        middle = 0.5 * self.breadth
        top = self.height + self.rise
        slope = np.array(
            [
                (near[0], self.height, near[1]),
                (near[0] + middle, top, near[1]),
                (self.far[0] + middle, top, self.far[1]),
                (self.far[0], self.height, self.far[1]),
            ]
        )
        number = canvas.add_upright(TrainId.BUILDING, 0.5 * (near[1] + self.far[1]))
        brightness = canvas.light.on(-0.6 if middle > 0 else 0.6, 0.8, 0.0)
        canvas.fill(canvas.camera.project(slope), shade(self.roof, brightness), number)

    def _draw_wall(
        self,
        canvas: Canvas,
        start: tuple[float, float],
        end: tuple[float, float],
        share: float,
        brightness: float,
    ) -> None:
        """Paint the wall between two ground points, of which only a share of the whole length is visible."""
        camera = canvas.camera
        ends = np.array([(start[0], 0.0, start[1]), (end[0], 0.0, end[1])])
        length = float(np.hypot(*(ends[1] - ends[0])[[0, 2]]))
        feet = camera.project(ends)
        if abs(feet[1, 0] - feet[0, 0]) < 0.8 or max(feet[:, 0]) < 0 or min(feet[:, 0]) > camera.width:
            return
        nearest, farthest = sorted((start[1], end[1]))
        reach = camera.eye + 1.05 * max(camera.horizon, 1.0) * farthest / camera.focal
        top = min(self.height, reach)
        density = quantise(1.3 * abs(feet[1, 0] - feet[0, 0]) / length), quantise(0.9 * camera.scale(nearest))
        per_column = (1 / end[1] - 1 / start[1]) / (feet[1, 0] - feet[0, 0])
        number = canvas.add_surface(TrainId.BUILDING, 1 / start[1] - per_column * feet[0, 0], per_column)
        # The picture's left edge is the end that is never cut off: the far one.
        heads = camera.project(ends + np.array([0.0, top, 0.0]))
        corners = np.array([heads[1], heads[0], feet[0], feet[1]])
        if abs(feet[1, 0] - feet[0, 0]) < 3.5:
            canvas.fill(corners, shade(self.style.colour, 0.85 * brightness), number)
            return
        picture = draw_facade(self.style, (length / share, self.height), (length, top), density)
        picture = cv2.convertScaleAbs(picture, alpha=brightness)
        canvas.paste(picture, corners, number)


BARRIER_LABELS = {"wall": TrainId.WALL, "fence": TrainId.FENCE, "hedge": TrainId.VEGETATION}


@dataclass(frozen=True)
class Barrier:
    """One section of a wall, fence or hedge between two ground points (x, z).

    Attributes:
        kind: "wall", "fence" or "hedge".
        variant: Which of the kind's textures.
        start: One end.
        end: The other end.
        height: Height in metres.
    """

    kind: str
    variant: int
    start: tuple[float, float]
    end: tuple[float, float]
    height: float

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(np.array([self.start, self.end]) + np.array([[0.0, 0.0], [0.08, 0.0]]), 0.0, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paint the section."""
        camera = canvas.camera
        ends = np.array([(self.start[0], 0.0, self.start[1]), (self.end[0], 0.0, self.end[1])])
        if ends[:, 2].min() < 1.0:
            return
        feet = camera.project(ends)
        width = abs(feet[1, 0] - feet[0, 0])
        if width < 1.0 or max(feet[:, 0]) < 0 or min(feet[:, 0]) > camera.width:
            return
        heads = camera.project(ends + np.array([0.0, self.height, 0.0]))
        pixels = max(4.0, 0.7 * max(width, self.height * camera.scale(min(self.start[1], self.end[1]))))
        levels = get_panel(self.kind, self.variant)
        texture = next((level for level in reversed(levels) if level.shape[0] >= min(pixels, PANEL_PIXELS)), levels[0])
        facing = 1.0 if self.start[0] < 0 else -1.0
        texture = texture.copy()
        texture[..., :3] = cv2.convertScaleAbs(texture[..., :3], alpha=canvas.light.on(facing, 0.0, 0.0))
        per_column = (1 / self.end[1] - 1 / self.start[1]) / (feet[1, 0] - feet[0, 0])
        number = canvas.add_surface(BARRIER_LABELS[self.kind], 1 / self.start[1] - per_column * feet[0, 0], per_column)
        canvas.paste(texture, np.array([heads[0], heads[1], feet[1], feet[0]]), number)
