"""Upright surfaces along the street: buildings with windows, and walls, fences and hedges in sections."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np

from .canvas import Canvas, Item, Point, Surface, mix_colours, shade, upright
from .domains import Colour, TrainId, palette
from .furniture import plan_garden
from .street import Side, Street, space
from .textures import TILE_METRES, get_material_at, get_panel, pick_level

LIT_GLASS: Colour = (255, 214, 140)
GLASSES = palette("3a4654 546476 2c323a 687c92")
BARRIER_LABELS = {"wall": TrainId.WALL, "fence": TrainId.FENCE, "hedge": TrainId.VEGETATION}
BARRIER_HEIGHTS = {"wall": (1.5, 2.8), "fence": (1.3, 2.3), "hedge": (1.1, 1.9), "open": (1.0, 1.0)}


class Facade:
    """The look of a building, drawn from a street's palettes; only high buildings have a shop. Lengths are metres."""

    def __init__(self, street: Street, height: float, has_shop: bool) -> None:
        dice, domain = street.dice, street.domain
        self.height = height
        self.colour = shade(dice.pick(domain.facades), dice.between(0.88, 1.1))
        self.window = dice.between(0.9, 1.5), dice.between(1.3, 1.9)  # width and height
        self.trim = mix_colours(self.colour, (236, 232, 224), dice.between(0.25, 0.85))  # frames, sills and cornice
        self.glass = dice.pick(GLASSES)  # unlit panes
        self.material = dice.pick(domain.materials)
        self.bay = self.window[0] + dice.between(0.9, 2.0)  # distance between windows
        self.floor = self.window[1] + dice.between(1.3, 1.7)  # height of a storey
        self.shop = dice.pick(domain.paints) if has_shop and height > 7 else None  # colour of the band above it
        self.seed = int(dice.integers(2**31))  # seed of what differs between windows

    def draw(self, canvas: Canvas, start: Point, end: Point, share: float, brightness: float) -> None:
        """Paints the visible part of a wall, between two ground points; it is a share of the wall's length."""
        camera = canvas.camera
        nearest, farthest = sorted((start[1], end[1]))
        top = min(self.height, camera.eye + 1.05 * camera.horizon * farthest / camera.focal)
        # The picture's left edge is the end that is never cut off: the far one.
        panel = stand_panel(canvas, TrainId.BUILDING, end, start, top, 0.8)
        if panel is None:
            return
        corners, surface = panel
        width = abs(corners[1, 0] - corners[0, 0])
        if width < 3.5:
            canvas.fill(corners, shade(self.colour, 0.85 * brightness), surface)
            return
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        density = quantise(1.3 * width / length), quantise(0.9 * camera.scale(nearest))
        picture = self.draw_front(canvas.light.lamps, length / share, (length, top), density)
        canvas.paste(cv2.convertScaleAbs(picture, alpha=brightness), corners, surface)

    def draw_front(self, lit: float, length: float, visible: Point, density: Point) -> np.ndarray:
        """Draws the visible length and height of a wall seen straight on, with a share `lit` of its windows lit.

        The density is in pixels per metre across and up; the bottom row is at the ground.
        """
        across, up = density
        columns, rows = max(2, round(visible[0] * across)), max(2, round(visible[1] * up))
        relief = get_material_at(self.material, max(2, round(TILE_METRES * across)), max(2, round(TILE_METRES * up)))
        tones = np.clip(np.arange(256)[:, None] / 128 * np.array(self.colour), 0, 255).astype(np.uint8)
        tile = np.take(tones, (128 * relief).astype(np.uint8), axis=0)
        image = np.tile(tile, (rows // len(tile) + 1, columns // tile.shape[1] + 1, 1))[:rows, :columns]

        def paint(left: float, right: float, bottom: float, top: float, colour: Colour) -> None:
            first, last = max(rows - round(top * up), 0), max(rows - round(bottom * up), 0)
            image[first:last, max(round(left * across), 0) : max(round(right * across), 0)] = colour

        width, height = self.window
        bays = max(1, int((length - 0.6) / self.bay))
        margin = 0.5 * (length - bays * self.bay)
        ground_floor = self.floor * (1.25 if self.shop else 1.0)
        floors = 1 + int((self.height - 0.8 - ground_floor) / self.floor)
        luck = np.random.default_rng(self.seed).random((floors, bays))
        is_fine = min(across, up) * width > 5
        for level in range(1 if self.shop else 0, floors):
            sill = 0.32 * self.floor + (ground_floor + (level - 1) * self.floor if level else 0.0)
            if sill > visible[1]:
                break
            for bay, fortune in enumerate(luck[level]):
                left = margin + (bay + 0.5) * self.bay - 0.5 * width
                if left > visible[0]:
                    break
                is_lit = fortune < lit
                glass = shade(LIT_GLASS, 0.8 + 0.4 * fortune) if is_lit else shade(self.glass, 0.75 + 0.6 * fortune)
                if is_fine:  # frame, upper sash, and bar
                    paint(left - 0.12, left + width + 0.12, sill - 0.16, sill + height + 0.1, self.trim)
                paint(left, left + width, sill, sill + height, glass)
                if is_fine:
                    paint(left, left + width, sill + 0.8 * height, sill + height, shade(glass, 0.72))
                    paint(left + 0.46 * width, left + 0.54 * width, sill, sill + height, self.trim)
        if self.shop:
            paint(0.0, length, 0.0, ground_floor - 0.9, shade(self.colour, 0.62))
            pane = LIT_GLASS if luck[0, 0] < lit else shade(self.glass, 1.15)
            for bay in range(bays):
                left = margin + bay * self.bay
                paint(left + 0.25, left + self.bay - 0.25, 0.45 * (bay % 3 != 1), ground_floor - 1.0, pane)
            paint(0.0, length, ground_floor - 0.9, ground_floor - 0.15, self.shop)
        else:
            paint(0.0, length, 0.0, 0.7, shade(self.colour, 0.7))
            door = margin + (int(luck[0, 0] * bays) + 0.5) * self.bay
            paint(door - 0.6, door + 0.6, 0.0, 2.2, shade(self.trim, 0.45))
        paint(0.0, length, self.height - 0.45, self.height, self.trim)
        paint(0.0, length, self.height - 0.65, self.height - 0.45, shade(self.colour, 0.6))
        return image


def stand_building(
    facade: Facade, near: Point, far: Point, breadth: float, shows_front: bool, rise: float, roof: Colour
) -> Item:
    """Returns a block with one facade along the street, between two corners, and one that faces the camera.

    The breadth is signed: in x, from the street to the back. `rise` is the ridge's height above the eaves.
    """
    (x, z), (far_x, far_z), height = near, far, facade.height
    side, ridge = float(np.sign(breadth)), np.array([0.5 * breadth, rise, 0.0])  # the ridge as seen from the eaves

    def draw(canvas: Canvas) -> None:
        camera, light = canvas.camera, canvas.light
        seen = max(z, 0.7 * abs(x) * camera.focal / camera.width, 1.0)  # depth at which it comes into view
        if far_z - seen > 0.3:
            share = (far_z - seen) / (far_z - z)
            start = far_x + share * (x - far_x)
            if rise:
                first, last = np.array([(start, height, seen), (far_x, height, far_z)])  # of the eaves
                slope = np.array([first, first + ridge, last + ridge, last])
                colour = shade(roof, light.on(-0.6 * side, 0.8, 0.0))
                canvas.fill(slope, colour, upright(TrainId.BUILDING, 0.5 * (seen + far_z)))
            facade.draw(canvas, (start, seen), far, share, light.on(-side, 0.0, 0.0))
        if shows_front and z > 1.5:
            brightness = light.on(0.0, 0.0, -1.0)
            if rise:
                corner = np.array([x, height, z])
                gable = np.array([corner, corner + ridge, (x + breadth, height, z)])
                canvas.fill(gable, shade(facade.colour, 0.94 * brightness), upright(TrainId.BUILDING, z))
            facade.draw(canvas, near, (x + breadth, z), 1.0, brightness)

    footprint = np.array([near, far, (far_x + breadth, far_z), (x + breadth, z)])
    return Item(footprint, height + 0.5 * rise, draw)


def quantise(density: float) -> float:
    """Rounds pixels per metre to powers of the square root of 2, so that few texture sizes need to be kept."""
    return float(2.0 ** (round(2.0 * np.log2(min(max(density, 1.0), 90.0))) / 2.0))


def stand_panel(
    canvas: Canvas, label: TrainId, start: Point, end: Point, height: float, least: float
) -> tuple[np.ndarray, Surface] | None:
    """Returns the corners (4, 2) in pixels, from the upper start on, and the surface of an upright panel.

    Returns None if the panel is out of view or narrower than `least` pixels.
    """
    (x, z), (end_x, end_z) = start, end
    corners = np.array([(x, height, z), (end_x, height, end_z), (end_x, 0.0, end_z), (x, 0.0, z)])
    pixels = canvas.camera.project(corners)
    first, last = pixels[:2, 0]
    if abs(last - first) < least or max(first, last) < 0 or min(first, last) > canvas.camera.width:
        return None
    per_column = (1 / end_z - 1 / z) / (last - first)
    return pixels, Surface(label, 1 / z - per_column * first, per_column)


def stand_barrier(kind: str, variant: int, start: Point, end: Point, height: float) -> Item:
    """Returns one section of a "wall", "fence" or "hedge" between two ground points, with a height in metres."""

    def draw(canvas: Canvas) -> None:
        panel = stand_panel(canvas, BARRIER_LABELS[kind], start, end, height, 1.0)
        if panel is None:
            return
        corners, surface = panel
        pixels = max(abs(corners[1, 0] - corners[0, 0]), height * canvas.camera.scale(start[1]))
        texture = pick_level(get_panel(kind, variant), max(4.0, 0.7 * pixels)).copy()
        brightness = canvas.light.on(1.0 if start[0] < 0 else -1.0, 0.0, 0.0)
        texture[..., :3] = cv2.convertScaleAbs(texture[..., :3], alpha=brightness)
        canvas.paste(texture, corners, surface)

    return Item(np.array([start, (end[0] + 0.08, end[1])]), height, draw)


def plan_buildings(street: Street, side: Side) -> Iterator[Item]:
    """Lines one side of the street with buildings and lots."""
    dice, kind, crossing, course = street.dice, street.kind, street.crossing, street.course
    is_set_back = side.setback > 2.0
    line = side.sign * (side.line + side.setback)
    along = -dice.between(0.0, 10.0)
    previous = 0.0  # height of the previous building, 0 if there is a gap
    while along < 105.0:
        length = dice.between(*kind.lengths)
        if crossing and crossing[0] - 6.0 < along < crossing[1] + 2.5:
            along, previous = crossing[1] + 2.5, 0.0
        if crossing and along < crossing[0] - 2.5 < along + length:
            length = crossing[0] - 2.5 - along
        height = dice.between(*kind.heights)
        is_house, is_lot = dice.chance(kind.houses), dice.chance(kind.lot)
        facade = Facade(street, height, dice.chance(0.5) and not is_house)
        roof = shade(dice.pick(street.domain.roofs), dice.between(0.85, 1.1))
        if length < 3.0:
            along += max(length, 0.5)
            continue
        if is_lot or is_set_back:
            yield from plan_barrier(street, side, along, along + length)
        gap = dice.between(2.0, 5.0) if not is_lot and (is_house or is_set_back) else 0.0
        if is_lot:
            yield from plan_garden(street, side, along, along + length)
        elif length - gap > 2.0:
            near, far = course.place(line, along), course.place(line, along + length - gap)
            breadth = side.sign * (dice.between(7.0, 10.0) if is_house else 14.0)
            rise = dice.between(2.2, 3.8) if is_house else 0.0
            shows_front = height > previous + 0.5 or is_set_back or course.bend * side.sign < -0.001
            yield stand_building(facade, near, far, breadth, shows_front, rise, roof)
        along += length
        previous = 0.0 if is_lot or gap else height


def plan_end(street: Street) -> Iterator[Item]:
    """Puts a building across the end of the street, or leaves it open."""
    dice = street.dice
    if dice.chance(street.kind.open_end):
        return
    x, z = street.course.place(0.0, dice.between(100.0, 125.0))
    height, width = dice.between(9.0, 18.0), dice.between(14.0, 40.0)
    left = x - 0.5 * width
    facade = Facade(street, height, has_shop=True)
    yield stand_building(facade, (left, z), (left, z + 10.0), width, True, 0.0, facade.trim)


def plan_barrier(street: Street, side: Side, near: float, far: float) -> Iterator[Item]:
    """Encloses a lot or garden with sections of a wall, fence or hedge, or leaves it open."""
    dice, place = street.dice, street.course.place
    kind = dice.pick_weighted({name: getattr(street.kind, name) for name in BARRIER_HEIGHTS})
    height, variant = dice.between(*BARRIER_HEIGHTS[kind]), int(dice.integers(8))
    across = side.sign * (side.line + 0.1)
    for start, end in pairwise(np.linspace(near, far, max(1, round((far - near) / 3.0)) + 1).tolist()):
        if kind in BARRIER_LABELS and end > 1.5 and start < 75.0 and not street.is_crossed(start, end):
            yield stand_barrier(kind, variant, place(across, max(start, 1.1)), place(across, end), height)


def plan_railing(street: Street, side: Side) -> Iterator[Item]:
    """Puts a low fence between the road and the sidewalk, or none."""
    dice, place = street.dice, street.course.place
    if not dice.chance(0.16):
        return
    near = dice.between(4.0, 16.0)
    variant = dice.pick((1, 2, 3, 5))
    across = side.sign * (side.edge + 0.3)
    for start in space(near, near + dice.between(9.0, 30.0), 2.5):
        if not street.is_crossed(start, start + 2.5, 5.0):
            yield stand_barrier("fence", variant, place(across, start), place(across, start + 2.4), 1.1)
