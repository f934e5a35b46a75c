"""One street scene: plan it, paint it back to front, photograph it."""

import zlib
from functools import partial

import cv2
import numpy as np

from .buildings import plan_buildings, plan_end, plan_railing
from .canvas import NEAR, SUBPIXEL_BITS, SUBPIXELS, Camera, Canvas, Item, Light, mix_colours, upright
from .domains import DOMAINS, SPLITS, Colour, TrainId
from .furniture import plan_posts, plan_signals, plan_trees
from .ground import Ground
from .optics import Photographer
from .people import plan_crossing_people, plan_people
from .street import FAR, Course, Dice, Street
from .textures import make_noise
from .vehicles import plan_parking, plan_traffic

SMALLEST = (32, 64)  # height and width that can still be drawn
CLOUD_TILE = 512
SHADOW_FAR = 60.0  # metres; shadows farther away are not drawn
OVERHANG = 0.8  # metres


def draw_scene(
    domain: str, split: str, index: int, seed: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a street scene with its labels; the same arguments always give the same pixels.

    Args:
        domain: A name in `DOMAINS`.
        split: One of `SPLITS`.
        index: Number of the scene within the split, 0 or more.
        seed: Seed of the world, 0 or more.
        height: Rows, at least 32.
        width: Columns, at least 64.

    Returns:
        The image (height, width, 3) RGB uint8 and the labels (height, width) uint8, Cityscapes train ids 0 to 18.
    """
    if domain not in DOMAINS or split not in SPLITS or height < SMALLEST[0] or width < SMALLEST[1]:
        raise ValueError(
            f"there is no scene {domain} {split} of {height}x{width} pixels: expected a domain ({', '.join(DOMAINS)}), "
            f"a split ({', '.join(SPLITS)}), and {SMALLEST[0]}x{SMALLEST[1]} pixels or more"
        )
    # The order of the random draws defines the world: another order gives other scenes.
    facts = DOMAINS[domain]
    dice = Dice(np.random.PCG64([zlib.crc32(domain.encode()), zlib.crc32(split.encode()), index, seed]))
    look = dice.pick(facts.looks)
    focal, horizon, centre, eye = dice.random(4)
    camera = Camera(
        height=height,
        width=width,
        focal=height * (1.05 + 0.5 * focal),
        centre=width * (0.42 + 0.16 * centre),
        horizon=height * (0.4 + 0.12 * horizon),
        eye=1.35 + 0.9 * eye,
    )
    azimuth, elevation = dice.between(0.0, 2 * np.pi), dice.between(0.5, 1.05)
    flat = np.cos(elevation)
    direction = (float(flat * np.sin(azimuth)), float(np.sin(elevation)), float(flat * np.cos(azimuth)))
    light = Light(direction, dice.between(*look.sun), dice.between(*look.lamps))
    photographer = Photographer(dice, look)
    canvas = Canvas(camera, light)
    draw_sky(canvas, dice.pick(facts.skies), dice.between(*facts.clouds), (dice.random(), dice.random()))
    street = Street(dice, facts, camera, light)
    ground = Ground(street)
    items = list(plan_crossing_people(street, ground.crosswalk))
    for side in street.sides:
        for plan in (plan_buildings, plan_trees, plan_posts, plan_parking, plan_people, plan_railing):
            items += plan(street, side)
    items += [*plan_signals(street), *plan_traffic(street), *plan_end(street)]
    draw_skylines(canvas, street, look.air)
    ground.draw(canvas)
    draw_shadows(canvas, items)
    for item in order_back_to_front(items, camera, street.course):
        item.draw(canvas)
    return photographer.develop(canvas.image, canvas.nearness()), canvas.labels()


def draw_sky(canvas: Canvas, colours: tuple[Colour, ...], cover: float, shift: tuple[float, float]) -> None:
    """Paints a gradient from the top to the horizon, with clouds over a share of it, placed by a shift (0 to 1)."""
    camera = canvas.camera
    rows = round(camera.horizon) + 1
    zenith, horizon = np.array(colours, np.float32)
    # Clouds are soft: half the size is enough.
    size = (-(-camera.width // 2), -(-rows // 2))
    share = np.linspace(0, 1, size[1], dtype=np.float32)[:, None, None]
    sky = zenith * (1 - share) + horizon * share
    left, top = (int(part * 0.4 * CLOUD_TILE) for part in shift)
    high = max(8, min(CLOUD_TILE - top, int(0.8 * CLOUD_TILE * rows / camera.width * 1.8)))
    texture = make_noise(21, CLOUD_TILE, 4, 6, 0.5)[top : top + high, left : left + int(0.6 * CLOUD_TILE)]
    clouds = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)[..., None]
    cloud = np.clip((clouds + 2.4 * cover - 1.6) * 0.6, 0.0, 0.85)
    picture = sky + cloud * (horizon * 0.4 + 150.0 - 16 * clouds - sky)
    canvas.image[:rows] = np.clip(cv2.resize(picture, (camera.width, rows)), 0, 255)


def draw_skylines(canvas: Canvas, street: Street, air: Colour) -> None:
    """Closes the view with hills, roofs and trees."""
    camera, dice, count = canvas.camera, street.dice, 24
    hills = np.maximum(7 + np.cumsum(dice.normal(0, 1.2, count)), 2.0)
    roofs = dice.uniform(4, 16 if dice.chance(1 - street.kind.open_end) else 9, count)
    trees = 3 + np.abs(dice.normal(0, 2.0, 3 * count)) * (dice.random(3 * count) < 0.6)
    facade, leaves = dice.pick(street.domain.facades), dice.pick(street.domain.foliage)
    for label, depth, heights, colour in (
        (TrainId.VEGETATION, 240.0, hills, mix_colours(street.grass, air, 0.5)),
        (TrainId.BUILDING, 180.0, roofs, mix_colours(facade, air, 0.3)),
        (TrainId.VEGETATION, FAR - 5.0, trees, mix_colours(leaves[0], leaves[1], 0.4)),
    ):
        columns = np.linspace(-2, camera.width + 2, len(heights) + (heights is roofs))
        if heights is roofs:  # steps instead of a smooth outline
            columns, heights = np.repeat(columns, 2)[1:-1], np.repeat(heights, 2)
        rows = camera.horizon + (camera.eye - heights) * camera.scale(depth)
        foot = camera.horizon + camera.eye * camera.scale(depth)
        outline = np.concatenate([np.stack([columns, rows], axis=1), [[columns[-1], foot], [columns[0], foot]]])
        canvas.fill(outline, colour, upright(label, depth))


def draw_shadows(canvas: Canvas, items: list[Item]) -> None:
    """Darkens the ground in cast shadows, and softly below everything that stands on it."""
    camera, light = canvas.camera, canvas.light
    # Metres (x, z) that the shadow of a point moves per metre of its height.
    shift = np.array([-light.direction[0] / light.direction[1], -light.direction[2] / light.direction[1]])
    near = [item for item in items if item.footprint[0, 1] < SHADOW_FAR]
    casts = [np.concatenate([item.footprint + shift * end for end in (item.bottom, item.top)]) for item in near]
    contacts = [item.footprint for item in near if item.bottom < 0.5 and item.top < 5.0]
    cast = draw_footprints(camera, casts if light.sun > 0.05 else [])
    contact = draw_footprints(camera, contacts)
    top = round(camera.horizon)
    contact = cv2.GaussianBlur(contact[top:], (0, 0), max(0.5, camera.height / 200))
    loss = np.maximum(cast[top:] * np.float32(light.sun / 255), contact * np.float32(0.5 / 255))
    canvas.multiply(top, 1.0 - np.minimum(loss, 0.75))


def draw_footprints(camera: Camera, footprints: list[np.ndarray]) -> np.ndarray:
    """Draws the hulls of ground points (N, 2), as world x, z, into a mask (H, W) uint8."""
    mask = np.zeros((camera.height, camera.width), np.uint8)
    for footprint in footprints:
        is_ahead = footprint[:, 1].min() > NEAR
        ground = footprint if is_ahead else clip_near(footprint)
        world = np.zeros((len(ground), 3))
        world[:, ::2] = ground
        pixels = (camera.project(world) * SUBPIXELS).astype(np.int32)
        hull = cv2.convexHull(pixels) if is_ahead else pixels
        if len(hull) >= 3:
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cuts the hull of ground points (N, 2), as world x, z, at the near plane (Sutherland-Hodgman)."""
    hull = points[cv2.convexHull(points.astype(np.float32), returnPoints=False)[:, 0]]
    kept: list[np.ndarray] = []
    for point, previous in zip(hull, np.roll(hull, 1, axis=0), strict=True):
        if (point[1] >= NEAR) != (previous[1] >= NEAR):
            share = (NEAR - previous[1]) / (point[1] - previous[1])
            kept.append(previous + share * (point - previous))
        if point[1] >= NEAR:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def order_back_to_front(items: list[Item], camera: Camera, course: Course) -> list[Item]:
    """Returns the items that may be in view, ordered so that each comes after those it hides.

    Of two items, the one whose points are all nearer is in front. If their depths overlap, it is the one on the
    camera's side of a line along the street between them; if there is no such line, the one that ends nearer.
    """
    starts = np.cumsum([0, *(len(item.footprint) for item in items[:-1])])
    x, z = np.concatenate([item.footprint for item in items]).T
    least, most = partial(np.minimum.reduceat, indices=starts), partial(np.maximum.reduceat, indices=starts)
    near, far = least(z), most(z)
    # Columns of the image, with a margin for parts that overhang the footprint.
    start = least((x - OVERHANG) / np.maximum(z, NEAR)) * camera.focal + camera.centre
    stop = most((x + OVERHANG) / np.maximum(z, NEAR)) * camera.focal + camera.centre
    # The core of each item across the street: crowns may hang over vehicles below.
    across = x - course.bow(z)
    left, right = least(across), most(across)
    core = 0.3 * (right - left)
    left, right = left + core, right - core
    visible = np.flatnonzero((stop > 0) & (start < camera.width) & (far > NEAR))
    left, near, right, far, start, stop = (values[visible] for values in (left, near, right, far, start, stop))

    is_nearer = far[:, None] <= near
    is_beside = ~(is_nearer | is_nearer.T)
    is_left, is_right = right[:, None] <= left, left[:, None] >= right
    is_inside = (is_left & (left >= 0) & (right > 0)[:, None]) | (is_right & (right <= 0) & (left < 0)[:, None])
    is_mixed = is_beside & ~is_left & ~is_right & (far[:, None] < far)
    meets = (start[:, None] < stop) & (stop[:, None] > start)
    in_front = meets & (is_nearer | is_beside & is_inside | is_mixed)

    # Of the items that hide no unpainted one, the farthest is painted next.
    waits_for = in_front.sum(axis=1)
    rank = far.copy()
    order: list[Item] = []
    for _ in range(len(visible)):
        following = int(np.argmax(rank - 1e6 * (waits_for > 0)))
        waits_for -= in_front[:, following]
        rank[following] = -np.inf
        order.append(items[visible[following]])
    return order
