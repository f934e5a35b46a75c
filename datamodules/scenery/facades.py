"""Upright surfaces along the street: buildings with windows, and walls, fences and hedges in sections."""

from dataclasses import dataclass

import cv2
import numpy as np

from .camera import Camera
from .canvas import Canvas, Surface, shade, upright
from .domains import Colour, TrainId
from .solids import Solid
from .textures import TILE_METRES, get_material_at, get_panel, pick_level

LIT_GLASS = (255, 214, 140)
BARRIER_LABELS = {"wall": TrainId.WALL, "fence": TrainId.FENCE, "hedge": TrainId.VEGETATION}

Point = tuple[float, float]  # world x, z


@dataclass(frozen=True)
class FacadeStyle:
    """How a facade looks; lengths in metres."""

    colour: Colour  # of the wall
    trim: Colour  # of frames, sills and cornice
    glass: Colour  # of unlit panes
    material: str  # see `textures.MATERIALS`
    bay: float  # distance between windows
    floor: float  # height of a storey
    window: tuple[float, float]  # width and height
    shop: Colour | None  # of the shop front's band, or None for a plain ground floor
    seed: int  # of what differs from window to window


def draw_facade(style: FacadeStyle, lit: float, size: Point, visible: Point, density: Point) -> np.ndarray:
    """Draw a facade seen straight on.

    Args:
        style: What it looks like.
        lit: Share of windows that are lit.
        size: Its length and height in metres.
        visible: The length (from the left) and height (from the ground) that are drawn.
        density: Pixels per metre, across and up.

    Returns:
        RGB image uint8; its bottom row is the ground.
    """
    across, up = density
    columns, rows = max(2, round(visible[0] * across)), max(2, round(visible[1] * up))
    relief = get_material_at(style.material, max(2, round(TILE_METRES * across)), max(2, round(TILE_METRES * up)))
    tones = np.clip(np.arange(256)[:, None] / 128 * np.array(style.colour), 0, 255).astype(np.uint8)
    tile = cv2.LUT(cv2.merge([np.clip(relief * 128, 0, 255).astype(np.uint8)] * 3), tones[None])
    image = np.tile(tile, (-(-rows // tile.shape[0]), -(-columns // tile.shape[1]), 1))[:rows, :columns]

    def paint(left: float, right: float, bottom: float, top: float, colour: Colour) -> None:
        first, last = max(rows - round(top * up), 0), max(rows - round(bottom * up), 0)
        image[first:last, max(round(left * across), 0) : max(round(right * across), 0)] = colour

    width, height = style.window
    bays = max(1, int((size[0] - 0.6) / style.bay))
    margin = 0.5 * (size[0] - bays * style.bay)
    ground_floor = style.floor * (1.25 if style.shop else 1.0)
    floors = max(1, int((size[1] - 0.8 - ground_floor) / style.floor) + 1)
    luck = np.random.default_rng(style.seed).random((floors, bays))
    is_fine = min(across, up) * width > 5
    for level in range(1 if style.shop else 0, floors):
        sill = 0.32 * style.floor + (ground_floor + (level - 1) * style.floor if level else 0.0)
        if sill > visible[1]:
            break
        for bay in range(bays):
            left = margin + (bay + 0.5) * style.bay - 0.5 * width
            if left > visible[0]:
                break
            fortune = luck[level, bay]
            is_lit = fortune < lit
            glass = shade(LIT_GLASS, 0.8 + 0.4 * fortune) if is_lit else shade(style.glass, 0.75 + 0.6 * fortune)
            if is_fine:  # frame, upper sash, and bar
                paint(left - 0.12, left + width + 0.12, sill - 0.16, sill + height + 0.1, style.trim)
            paint(left, left + width, sill, sill + height, glass)
            if is_fine:
                paint(left, left + width, sill + 0.8 * height, sill + height, shade(glass, 0.72))
                paint(left + 0.46 * width, left + 0.54 * width, sill, sill + height, style.trim)
    if style.shop:
        paint(0.0, size[0], 0.0, ground_floor - 0.9, shade(style.colour, 0.62))
        pane = LIT_GLASS if luck[0, 0] < lit else shade(style.glass, 1.15)
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


def stand_panel(
    camera: Camera, label: TrainId, start: Point, end: Point, height: float, least: float
) -> tuple[np.ndarray, np.ndarray, Surface] | None:
    """Stand an upright panel on the line between two ground points.

    Returns:
        Pixels (2, 2) of its lower and of its upper corners, start before end, and its surface; or None if it is out of
        view or narrower than `least` pixels.
    """
    ends = np.array([(start[0], 0.0, start[1]), (end[0], 0.0, end[1])])
    feet = camera.project(ends)
    columns = feet[:, 0]
    if abs(columns[1] - columns[0]) < least or max(columns) < 0 or min(columns) > camera.width:
        return None
    per_column = (1 / end[1] - 1 / start[1]) / (columns[1] - columns[0])
    heads = camera.project(ends + np.array([0.0, height, 0.0]))
    return feet, heads, Surface(label, 1 / start[1] - per_column * columns[0], per_column)


@dataclass(frozen=True)
class Building:
    """A block with one facade along the street and one that faces the camera."""

    near: Point  # corner at the street that is nearer to the camera
    far: Point  # corner at the street that is farther away
    breadth: float  # signed metres in x from the street's facade to the back
    height: float  # of the eaves in metres
    rise: float  # of a pitched roof above the eaves; 0 for a flat one
    roof: Colour  # of a pitched roof
    style: FacadeStyle
    shows_front: bool  # whether the facade towards the camera can be seen

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
            brightness = canvas.light.on(0.0, 0.0, -1.0)
            if self.rise:
                self._draw_gable(canvas, shade(self.style.colour, 0.94 * brightness))
            self._draw_wall(canvas, self.near, (self.near[0] + self.breadth, self.near[1]), 1.0, brightness)

    def _draw_roof(self, canvas: Canvas, near: Point) -> None:
        """Paint the slope towards the street."""
        middle, top = 0.5 * self.breadth, self.height + self.rise
        (x, z), (far_x, far_z) = near, self.far
        slope = np.array(
            [(x, self.height, z), (x + middle, top, z), (far_x + middle, top, far_z), (far_x, self.height, far_z)]
        )
        brightness = canvas.light.on(-0.6 if middle > 0 else 0.6, 0.8, 0.0)
        surface = upright(TrainId.BUILDING, 0.5 * (z + far_z))
        canvas.fill(canvas.camera.project(slope), shade(self.roof, brightness), surface)

    def _draw_gable(self, canvas: Canvas, colour: Colour) -> None:
        """Paint the triangle between the facade towards the camera and the roof."""
        (x, z), top = self.near, self.height + self.rise
        gable = np.array([(x, self.height, z), (x + 0.5 * self.breadth, top, z), (x + self.breadth, self.height, z)])
        canvas.fill(canvas.camera.project(gable), colour, upright(TrainId.BUILDING, z))

    def _draw_wall(self, canvas: Canvas, start: Point, end: Point, share: float, brightness: float) -> None:
        """Paint the wall between two ground points, of which only a share of the whole length is visible."""
        camera = canvas.camera
        nearest, farthest = sorted((start[1], end[1]))
        top = min(self.height, camera.eye + 1.05 * max(camera.horizon, 1.0) * farthest / camera.focal)
        panel = stand_panel(camera, TrainId.BUILDING, start, end, top, 0.8)
        if panel is None:
            return
        feet, heads, surface = panel
        # The picture's left edge is the end that is never cut off: the far one.
        corners = np.array([heads[1], heads[0], feet[0], feet[1]])
        width = abs(feet[1, 0] - feet[0, 0])
        if width < 3.5:
            canvas.fill(corners, shade(self.style.colour, 0.85 * brightness), surface)
            return
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        density = quantise(1.3 * width / length), quantise(0.9 * camera.scale(nearest))
        picture = draw_facade(self.style, canvas.light.lamps, (length / share, self.height), (length, top), density)
        canvas.paste(cv2.convertScaleAbs(picture, alpha=brightness), corners, surface)


def quantise(density: float) -> float:
    """Round pixels per metre to powers of the square root of 2, so that few texture sizes need to be kept."""
    return float(2.0 ** (round(2.0 * np.log2(min(max(density, 1.0), 90.0))) / 2.0))


@dataclass(frozen=True)
class Barrier:
    """One section of a wall, fence or hedge between two ground points."""

    kind: str  # a key of `BARRIER_LABELS`
    variant: int  # which of the kind's textures
    start: Point
    end: Point
    height: float  # in metres

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(np.array([self.start, self.end]) + np.array([[0.0, 0.0], [0.08, 0.0]]), 0.0, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paint the section."""
        nearest = min(self.start[1], self.end[1])
        panel = stand_panel(canvas.camera, BARRIER_LABELS[self.kind], self.start, self.end, self.height, 1.0)
        if nearest < 1.0 or panel is None:
            return
        feet, heads, surface = panel
        pixels = max(abs(feet[1, 0] - feet[0, 0]), self.height * canvas.camera.scale(nearest))
        texture = pick_level(get_panel(self.kind, self.variant), max(4.0, 0.7 * pixels)).copy()
        brightness = canvas.light.on(1.0 if self.start[0] < 0 else -1.0, 0.0, 0.0)
        texture[..., :3] = cv2.convertScaleAbs(texture[..., :3], alpha=brightness)
        canvas.paste(texture, np.array([heads[0], heads[1], feet[1], feet[0]]), surface)
