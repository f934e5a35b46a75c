"""One street scene: plan it, paint it back to front, photograph it."""

import zlib
from collections.abc import Callable, Iterable

import numpy as np

from .backdrop import Sky
from .camera import Camera, Light
from .canvas import Canvas
from .dice import Dice
from .domains import DOMAINS, SPLITS, Look
from .ground import lay_ground
from .optics import Photographer
from .roadside import plan_buildings, plan_end, plan_posts, plan_railing, plan_signals, plan_skylines, plan_trees
from .solids import Item, draw_shadows, order_back_to_front
from .streets import Side, Street
from .traffic import plan_crossing_people, plan_parking, plan_people, plan_traffic

PLANS_OF_SIDES: tuple[Callable[[Street, Side], Iterable[Item]], ...] = (
    plan_buildings, plan_trees, plan_posts, plan_parking, plan_people, plan_railing,
)  # fmt: skip
SMALLEST = (32, 64)  # height and width that can still be drawn


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
    # The order in which dice are thrown is part of what the world looks like: another order draws other scenes.
    facts = DOMAINS[domain]
    dice = Dice(np.random.PCG64([zlib.crc32(domain.encode()), zlib.crc32(split.encode()), index, seed]))
    look = dice.pick(facts.looks)
    camera = draw_camera(dice, height, width)
    light = draw_light(dice, look)
    photographer = Photographer(dice, look)
    sky = Sky(*dice.pick(facts.skies), dice.between(*facts.clouds), (dice.random(), dice.random()))
    street = Street(dice, facts, light.lamps)
    ground, crosswalk = lay_ground(street)
    items: list[Item] = []
    if crosswalk is not None:
        items.extend(plan_crossing_people(street, crosswalk))
    for side in street.sides:
        for plan in PLANS_OF_SIDES:
            items.extend(plan(street, side))
    items.extend(plan_signals(street))
    items.extend(plan_traffic(street))
    items.extend(plan_end(street))
    skylines = plan_skylines(street, look.air)

    canvas = Canvas(camera, light)
    sky.draw(canvas)
    for skyline in skylines:
        skyline.draw(canvas)
    ground.draw(canvas)
    draw_shadows(canvas, items)
    for item in order_back_to_front(items, camera, street.course):
        item.draw(canvas)
    return photographer.develop(canvas.image, canvas.nearness()), canvas.labels()


def check_arguments(domain: str, split: str, index: int, seed: int, height: int, width: int) -> None:
    """Raise a ValueError that says which argument is outside its range."""
    for name, found, known in (("domain", domain, tuple(DOMAINS)), ("split", split, SPLITS)):
        if found not in known:
            raise ValueError(f"{name} is {found!r}, expected one of {', '.join(known)}; choose one of these")
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} is {value}, expected 0 or more; count scenes and seeds from 0")
    if height < SMALLEST[0] or width < SMALLEST[1]:
        raise ValueError(
            f"size is {height}x{width} (height x width), expected at least {SMALLEST[0]}x{SMALLEST[1]}; "
            "draw larger and resize"
        )


def draw_camera(dice: Dice, height: int, width: int) -> Camera:
    """Draw where the camera is mounted and how far it looks up."""
    focal, horizon, centre, eye = dice.random(4)
    return Camera(
        height=height,
        width=width,
        focal=height * (1.05 + 0.5 * focal),
        centre=width * (0.42 + 0.16 * centre),
        horizon=height * (0.4 + 0.12 * horizon),
        eye=1.35 + 0.9 * eye,
    )


def draw_light(dice: Dice, look: Look) -> Light:
    """Draw where the sun stands and how many lamps are lit."""
    azimuth, elevation = dice.between(0.0, 2 * np.pi), dice.between(0.5, 1.05)
    flat = np.cos(elevation)
    direction = (float(flat * np.sin(azimuth)), float(np.sin(elevation)), float(flat * np.cos(azimuth)))
    return Light(direction, dice.between(*look.sun), dice.between(*look.lamps))
