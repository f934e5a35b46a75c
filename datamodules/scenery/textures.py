"""Tileable textures and foliage sprites, made once per process from fixed seeds."""

from functools import cache, lru_cache

import cv2
import numpy as np

from .domains import palette

TILE_METRES = 8.0
TILE_PIXELS = 256
PANEL_PIXELS = 128
SPRITE_PIXELS = 256

FINE = (1, TILE_PIXELS, 32, 4)
BROAD = (2, TILE_PIXELS, 4, 4)
# The relief of facades and ground: bricks, stones or slabs (height and length in pixels, gain of the joints, seed,
# spread of their tones), and weighted noise on top (arguments of `make_noise`).
MATERIALS: dict[str, tuple[tuple[int, int, float, int, float] | None, tuple[tuple[float, tuple], ...]]] = {
    "brick": ((8, 16, 0.78, 3, 0.11), ((0.04, BROAD),)),
    "stone": ((16, 32, 0.74, 4, 0.1), ((0.05, FINE),)),
    "panels": ((64, 64, 0.7, 5, 0.03), ((0.02, BROAD),)),
    "paving": ((32, 32, 0.72, 8, 0.06), ((0.04, FINE),)),
    "concrete": (None, ((0.06, BROAD), (0.03, FINE))),
    "stucco": (None, ((0.1, (6, TILE_PIXELS, 4, 5)), (0.05, FINE))),
    "plaster": (None, ((0.03, BROAD), (0.02, FINE))),
    "asphalt": (None, ((0.07, (7, TILE_PIXELS, 64, 3)), (0.05, BROAD))),
    "grass": (None, ((0.17, (9, TILE_PIXELS, 32, 4, 0.9)), (0.08, BROAD))),
}
WALLS = tuple(zip(("stone", "concrete", "brick", "stucco"), palette("a8a094 b0b0ae 9e604e cebea0"), strict=True))
# Step and width of the slats, how much their tones vary, their tops in turn, height of their points, rows of the rails,
# and the colours of slats, rails and posts.
FENCES = {  # by variant; the third is wire mesh
    0: (14, 11, 0.08, (8, 11), 0, ((24, 32), (96, 104)), palette("a87c4e 7e5a36 46423e")),  # wooden boards
    1: (9, 3, 0.0, (4, 4), 0, ((10, 15), (110, 115)), palette("303638 282e30 46423e")),  # metal bars
    3: (16, 9, 0.0, (10, 10), 4, ((36, 44), (92, 100)), palette("e2e2dc ccccc8 cececa")),  # white pickets
}


@cache
def make_noise(seed: int, size: int, coarsest: int, octaves: int, persistence: float = 0.55) -> np.ndarray:
    """Makes tileable fractal noise (size, size) float32 with mean 0 and standard deviation 1; do not modify it.

    `coarsest` is the number of cells along a side in the first octave; each next octave has twice as many.
    """
    rng = np.random.default_rng([seed, size, coarsest, octaves])
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(coarsest << octave, size)
        grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        step = size // cells
        large = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += persistence**octave * large[2 * step : 2 * step + size, 2 * step : 2 * step + size]
    return (total - total.mean()) / total.std()


@cache
def get_material(name: str) -> np.ndarray:
    """Returns the relief of one of `MATERIALS`: a gain (TILE_PIXELS, TILE_PIXELS) float32 around 1."""
    courses, layers = MATERIALS[name]
    relief: np.ndarray = np.ones((TILE_PIXELS, TILE_PIXELS), np.float32)
    if courses:
        course, length, joint, seed, spread = courses
        rng = np.random.default_rng([seed, course, length])
        tones = 1.0 + spread * rng.standard_normal((TILE_PIXELS // course, TILE_PIXELS // length))
        rows, columns = np.mgrid[:TILE_PIXELS, :TILE_PIXELS]
        shifted = (columns + (rows // course % 2) * (length // 2)) % TILE_PIXELS  # every other course by half a length
        gain = tones[rows // course, shifted // length]
        gain[(rows % course == 0) | (shifted % length == 0)] *= joint
        relief = gain.astype(np.float32)
    for weight, noise in layers:
        relief = relief + weight * make_noise(*noise)
    return np.clip(relief, 0.3, 1.7).astype(np.float32)


@lru_cache(maxsize=512)
def get_material_at(name: str, columns: int, rows: int) -> np.ndarray:
    """Returns a material whose tile is resized to the given numbers of pixels."""
    return cv2.resize(get_material(name), (columns, rows), interpolation=cv2.INTER_AREA)


def halve(image: np.ndarray, smallest: int) -> tuple[np.ndarray, ...]:
    """Returns a square image and its halvings down to `smallest` pixels, smallest first."""
    levels = [image]
    while levels[0].shape[0] > smallest:
        half = levels[0].shape[0] // 2
        levels.insert(0, cv2.resize(levels[0], (half, half), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def pick_level(levels: tuple[np.ndarray, ...], pixels: float) -> np.ndarray:
    """Returns the smallest level that has at least `pixels` pixels on a side, or else the largest."""
    return next((level for level in levels if level.shape[0] >= pixels), levels[-1])


@cache
def get_foliage(shape: str, variant: int) -> tuple[np.ndarray, ...]:
    """Returns a crown of leaves, "round", "tall", "cone", or "bush", as shade and cover with its halvings."""
    size = SPRITE_PIXELS
    rng = np.random.default_rng([11, variant, *shape.encode()])
    tone = np.zeros((size, size), np.float32)
    cover = np.zeros((size, size), np.uint8)
    clumps = []
    for _ in range(130):
        angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        if shape == "cone":
            y = rng.uniform(-1, 1)
            x *= 0.15 + 0.42 * (y + 1)
        elif shape == "tall":
            x *= 0.62
        elif shape == "bush":
            y = 0.25 + (0.75 if y < 0 else 0.7) * y
        clumps.append((x, y, rng.uniform(0.1, 0.24) * (0.6 if shape == "cone" else 1.0)))
    for x, y, radius in sorted(clumps, key=lambda clump: -clump[1] + 0.3 * clump[2]):
        (column, row), reach = (int(size * (0.5 + 0.39 * at)) for at in (x, y)), int(size * radius * 0.5)
        light = 0.5 - 0.28 * y - 0.1 * x + rng.normal(0, 0.09)
        cv2.circle(tone, (column, row), reach, light - 0.13, -1)
        cv2.circle(tone, (column - reach // 5, row - reach // 4), int(reach * 0.72), light + 0.06, -1)
        cv2.circle(cover, (column, row), reach, 255, -1)
    leaves = make_noise(12 + variant, size, 32, 3, 0.8)
    tone = cv2.GaussianBlur(tone, (0, 0), 2.5) + 0.12 * leaves
    edge = cv2.GaussianBlur(cover, (0, 0), 5.0).astype(np.float32) + 34 * leaves
    sprite = np.stack([np.clip(tone * 255, 0, 255), np.where(edge > 118, 255, 0)], axis=-1).astype(np.uint8)
    return halve(sprite, 8)


@cache
def get_panel(kind: str, variant: int) -> tuple[np.ndarray, ...]:
    """Returns one section of a "wall", "fence" or "hedge" as RGBA (PANEL_PIXELS square) uint8 with its halvings."""
    panel = np.zeros((PANEL_PIXELS, PANEL_PIXELS, 4), np.float32)
    {"wall": _paint_wall, "fence": _paint_fence, "hedge": _paint_hedge}[kind](panel, variant)
    return halve(np.clip(panel, 0, 255).astype(np.uint8), 4)


def _paint_wall(panel: np.ndarray, variant: int) -> None:
    size = PANEL_PIXELS
    (name, colour), offset = WALLS[variant % 4], 64 * (variant // 4 % 2)
    panel[..., :3] = get_material(name)[offset : offset + size, :size, None] * np.array(colour, np.float32)
    panel[..., 3] = 255
    panel[int(size * 0.85) :, :, :3] *= 0.82
    panel[: size // 10, :, :3] = np.array(colour, np.float32) * 1.18
    panel[size // 10 : size // 10 + 4, :, :3] *= 0.6
    if name == "concrete":
        panel[:, :5, :3] *= 0.62


def _paint_fence(panel: np.ndarray, variant: int) -> None:
    size = PANEL_PIXELS
    if variant % 4 == 2:  # wire mesh
        mesh = np.zeros((size, size), np.uint8)
        for offset in range(-size, size, 10):
            cv2.line(mesh, (offset, 0), (offset + size, size), 210, 1, cv2.LINE_AA)
            cv2.line(mesh, (offset + size, 0), (offset, size), 210, 1, cv2.LINE_AA)
        panel[..., :3] = (150, 158, 158)
        panel[..., 3] = mesh
        panel[:4] = (132, 140, 142, 255)
        panel[2:, :5] = (70, 66, 62, 255)
        return
    step, width, spread, tops, point, rails, (slat, rail, post) = FENCES[variant % 4]
    for index, left in enumerate(range(2, size, step)):
        top, tone = tops[index % 2], 1.0 + spread * np.sin(index * 2.3)
        panel[top:, left : left + width] = (*(tone * np.array(slat)), 255)
        panel[top - point : top, left + 2 : left + width - 2] = (*slat, 255)
    for first, last in rails:
        panel[first:last] = (*rail, 255)
    panel[2:, :5] = (*post, 255)


def _paint_hedge(panel: np.ndarray, variant: int) -> None:
    size = PANEL_PIXELS
    leaves = np.roll(make_noise(40 + variant % 3, size, 16, 4, 0.85), 13 * variant, axis=0)
    tone = np.clip(0.45 + 0.2 * leaves + np.linspace(0.18, -0.28, size)[:, None], 0, 1)[..., None]
    panel[..., :3] = (1 - tone) * np.array((26, 50, 24)) + tone * np.array((108, 146, 66))
    panel[..., 3] = np.where(np.arange(size)[:, None] > 10 + 5 * leaves[0], 255, 0)
