"""One street scene: plan it, paint it back to front, photograph it."""

import zlib

import numpy as np

from .backdrop import Sky
from .camera import NEAR, Camera
from .canvas import Canvas, Light, draw_between
from .domains import DOMAINS, SPLITS, Look
from .ground import Course, draw_shadows
from .layout import Item, Planner, draw_kind, pick
from .optics import develop, draw_exposure

MIN_HEIGHT, MIN_WIDTH = 32, 64


def draw_scene(
    domain: str, split: str, index: int, seed: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a street scene with its labels; the same arguments always give the same pixels.

    Args:
        domain: A name in `DOMAINS`.
        split: One of `SPLITS`.
        index: Number of the scene within the split, 0 or more.
        seed: Seed of the world, 0 or more.
        height: Rows, at least 32.
        width: Columns, at least 64.

    Returns:
        The image (height, width, 3) RGB uint8 and the labels (height, width) uint8, Cityscapes train ids 0 to 18.

    Raises:
        ValueError: If an argument is outside what is listed above.
    """
    check_arguments(domain, split, index, seed, height, width)
    facts = DOMAINS[domain]
    rng = np.random.default_rng([zlib.crc32(domain.encode()), zlib.crc32(split.encode()), index, seed])
    look = pick(rng, facts.looks)
    camera = draw_camera(rng, height, width)
    light = draw_light(rng, look)
    exposure = draw_exposure(rng, look)
    zenith, horizon = pick(rng, facts.skies)
    sky = Sky(zenith, horizon, draw_between(rng, facts.clouds), (float(rng.random()), float(rng.random())))

    planner = Planner(rng, facts, draw_kind(rng), light.lamps)
    ground = planner.plan_ground()
    for side in planner.sides:
        planner.plan_side(side)
        planner.plan_trees(side)
        planner.plan_posts(side)
        planner.plan_parking(side)
        planner.plan_people(side)
        planner.plan_railing(side)
    planner.plan_signals()
    planner.plan_traffic()
    planner.plan_end()
    skylines = planner.plan_skylines(look.air)

    canvas = Canvas(camera, light)
    sky.draw(canvas)
    for skyline in skylines:
        skyline.draw(canvas)
    ground.draw(canvas)
    draw_shadows(canvas, [item.solid for item in planner.items])
    for item in order_back_to_front(planner.items, camera, ground.course):
        item.draw(canvas)
    return develop(canvas.image, canvas.nearness(), exposure), canvas.labels()


def check_arguments(domain: str, split: str, index: int, seed: int, height: int, width: int) -> None:
    """Raise a ValueError that says which argument is outside its range."""
    if domain not in DOMAINS:
        raise ValueError(f"domain is {domain!r}, expected one of {', '.join(DOMAINS)}; choose one of these")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}; choose one of these")
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} is {value}, expected 0 or more; count scenes and seeds from 0")
    if height < MIN_HEIGHT or width < MIN_WIDTH:
        raise ValueError(
            f"size is {height}x{width} (height x width), expected at least {MIN_HEIGHT}x{MIN_WIDTH}; "
            "draw larger and resize"
        )


def draw_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """Draw where the camera is mounted and how far it looks up."""
    focal, horizon, centre, eye = rng.random(4)
    return Camera(
        height=height,
        width=width,
        focal=height * (1.05 + 0.5 * focal),
        centre=width * (0.42 + 0.16 * centre),
        horizon=height * (0.4 + 0.12 * horizon),
        eye=1.35 + 0.9 * eye,
    )


def draw_light(rng: np.random.Generator, look: Look) -> Light:
    """Draw where the sun stands and how many lamps are lit."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.05)
    flat = np.cos(elevation)
    direction = (float(flat * np.sin(azimuth)), float(np.sin(elevation)), float(flat * np.cos(azimuth)))
    return Light(direction, draw_between(rng, look.sun), draw_between(rng, look.lamps))


def order_back_to_front(items: list[Item], camera: Camera, course: Course) -> list[Item]:
    """Return the items that may be in view such that each comes after those it hides.

    Of two items, the one that is nearer in every point is in front; if their depths overlap, it is the one on the
    camera's side of a line along the street between them. Where no line parts them, the one that reaches less far is.
    Items on either side of the camera do not hide each other.
    """
    footprints = [item.solid.footprint for item in items]
    starts = np.cumsum([0, *(len(footprint) for footprint in footprints[:-1])])
    points = np.concatenate(footprints)
    depth = np.maximum(points[:, 1], NEAR)
    margin = 0.8  # metres of what hangs over the footprint
    start = np.minimum.reduceat((points[:, 0] - margin) / depth, starts) * camera.focal + camera.centre
    stop = np.maximum.reduceat((points[:, 0] + margin) / depth, starts) * camera.focal + camera.centre
    across = points[:, 0] - course.bow(points[:, 1])
    left, right = np.minimum.reduceat(across, starts), np.maximum.reduceat(across, starts)
    core = 0.3 * (right - left)  # crowns may hang over what drives below
    left, right = left + core, right - core
    near, far = np.minimum.reduceat(points[:, 1], starts), np.maximum.reduceat(points[:, 1], starts)
    visible = np.flatnonzero((stop > 0) & (start < camera.width) & (far > NEAR))
    left, near, right, far, start, stop = (values[visible] for values in (left, near, right, far, start, stop))

    is_nearer = far[:, None] <= near[None]
    is_beside = ~(is_nearer | is_nearer.T)
    is_left, is_right = right[:, None] <= left[None], left[:, None] >= right[None]
    is_inside = (is_left & (left[None] >= 0) & (right > 0)[:, None]) | (
        is_right & (right[None] <= 0) & (left < 0)[:, None]
    )
    is_mixed = is_beside & ~is_left & ~is_right & (far[:, None] < far[None])
    meets = (start[:, None] < stop[None]) & (stop[:, None] > start[None])
    in_front = meets & (is_nearer | is_beside & is_inside | is_mixed)

    waits_for = in_front.sum(axis=1)
    rank = far.copy()
    order: list[Item] = []
    for _ in range(len(visible)):
        following = int(np.argmax(rank - 1e6 * (waits_for > 0)))
        waits_for -= in_front[:, following]
        rank[following] = -np.inf
        order.append(items[visible[following]])
    return order
