"""Things that stand still: trees and bushes, lamps and poles, traffic lights, signs. Lengths are metres."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from .canvas import Canvas, Item, Point, mix_colours, rectangle, ring, shade, upright
from .domains import Colour, TrainId, palette
from .street import Side, Street, space
from .textures import get_foliage, pick_level

BARK: Colour = (92, 72, 54)
POLES = palette("707478 4e5454 8e908e 3c4a42")
LAMPS = palette("ec2e24 faba28 2edc6e")  # red, amber, green
WHITE, BLACK, SIGN_RED, SIGN_BLUE, SIGN_GREEN, SIGN_YELLOW = palette("f0f0ec 282828 cc1e24 1c52b0 14744a f8ca2c")
ROUND = ring(20)
OCTAGON = ring(8, np.pi / 8)
TRIANGLE = np.array([(-1.0, -0.75), (0.0, 1.0), (1.0, -0.75)])
DIAMOND = np.array([(-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)])
SQUARE = rectangle(-0.85, 0.85, -0.85, 0.85)
BOARD = rectangle(-2.1, 2.1, -0.8, 0.8)
BAR = rectangle(-0.62, 0.62, -0.17, 0.17)
LINES = rectangle(-1.8, 0.9, -0.12, 0.12)
UPRIGHT_BAR = np.array([(-0.1, -0.3), (-0.13, 0.62), (0.13, 0.62), (0.1, -0.3)])
ARROW = np.array([(-0.1, -0.6), (-0.1, 0.1), (-0.36, 0.1), (0.0, 0.62), (0.36, 0.1), (0.1, 0.1), (0.1, -0.6)])
Sign = tuple[tuple[np.ndarray, float, float, Colour], ...]  # a stack of (outline, scale, shift up, colour), plate first
SMALL_SIGNS: tuple[Sign, ...] = (
    ((ROUND, 1.0, 0.0, SIGN_RED), (ROUND, 0.74, 0.0, WHITE), (UPRIGHT_BAR, 0.7, -0.1, BLACK)),  # speed limit
    ((ROUND, 1.0, 0.0, SIGN_RED), (BAR, 1.0, 0.0, WHITE)),  # no entry
    ((ROUND, 1.0, 0.0, SIGN_BLUE), (ARROW, 0.95, 0.0, WHITE)),  # ahead only
    ((TRIANGLE, 1.1, 0.0, SIGN_RED), (TRIANGLE, 0.72, -0.03, WHITE), (UPRIGHT_BAR, 0.5, -0.15, BLACK)),  # warning
    ((OCTAGON, 1.0, 0.0, WHITE), (OCTAGON, 0.92, 0.0, SIGN_RED), (BAR, 1.0, 0.0, WHITE)),  # stop
    ((DIAMOND, 1.1, 0.0, WHITE), (DIAMOND, 0.8, 0.0, SIGN_YELLOW)),  # priority road
    ((SQUARE, 1.0, 0.0, SIGN_BLUE), (ROUND, 0.42, 0.2, WHITE), (UPRIGHT_BAR, 0.9, -0.2, WHITE)),  # parking
    ((SQUARE, 1.0, 0.0, SIGN_BLUE), (TRIANGLE, 0.7, 0.0, WHITE), (UPRIGHT_BAR, 0.5, -0.1, BLACK)),  # crosswalk
)
BIG_SIGNS: tuple[Sign, ...] = (
    ((BOARD, 1.0, 0.0, WHITE), (BOARD, 0.95, 0.0, SIGN_GREEN), (LINES, 1.0, 0.3, WHITE), (LINES, 0.8, -0.3, WHITE)),
    ((BOARD, 0.8, 0.0, BLACK), (BOARD, 0.76, 0.0, SIGN_YELLOW), (LINES, 0.7, 0.0, BLACK)),  # town
)
STEM = np.array([(-1.25, 0.0), (-0.8, 0.3), (-0.5, 1.0), (0.5, 1.0), (0.8, 0.3), (1.25, 0.0)])
STEM_IN_SHADE = np.array([(0.0, 0.0), (0.0, 1.0), *STEM[3:]])
LAMP_HEAD = np.array([(-0.45, 0.0), (-0.38, 0.16), (0.38, 0.16), (0.45, 0.0)])
LAMP_GLASS = np.array([(-0.34, -0.09), (-0.36, 0.02), (0.36, 0.02), (0.34, -0.09)])
SIGNAL_CASE = rectangle(-0.27, 0.27, -0.66, 0.66)
SIGNAL_LAMPS = np.array([[(0.0, 0.41)], [(0.0, 0.0)], [(0.0, -0.41)]])
# Width and height of a crown at size 0; their increase up to size 1; and the height at which it starts, if fixed.
CROWNS = {
    "bush": ((1.2, 1.0), (1.4, 1.0), -0.1),
    "round": ((3.4, 3.2), (2.6, 2.6), None),
    "tall": ((3.4, 4.6), (1.6, 3.0), None),
    "cone": ((3.0, 5.0), (1.0, 3.0), 0.5),
}
LEVELS = np.linspace(0.0, 1.0, 256)[:, None]  # from shade to light


class Layer(NamedTuple):
    """A shape in an upright plane that faces the camera; (across, up) are metres from a point on the ground."""

    outline: np.ndarray  # (N, 2) as (across, up); a single point is the middle of a traffic light's lamp
    colour: Colour
    label: TrainId | None = None  # without one it is a detail


def draw_layers(place: Point, layers: list[Layer], canvas: Canvas) -> None:
    """Paints layers that stand at a place, one over the other."""
    for outline, colour, label in layers:
        pixels = canvas.camera.project_upright(place, outline)
        if len(pixels) == 1:
            canvas.fill_circle(pixels[0], 0.17 * canvas.camera.scale(place[1]), colour)
        else:
            canvas.fill(pixels, colour, None if label is None else upright(label, place[1]))


def grow_plant(street: Street, across: float, along: float, is_bush: bool) -> Item:
    """Grows a tree or a bush at a place."""
    dice = street.dice
    foliage, gain = dice.pick(street.domain.foliage), dice.between(0.85, 1.15)
    leaves = tuple(shade(leaf, gain) for leaf in foliage)
    variant, size = int(dice.integers(5)), dice.random()
    shape = "bush" if is_bush else dice.pick_weighted({"round": 0.6, "tall": 0.25, "cone": 0.15})
    least, growth, start = CROWNS[shape]
    crown = np.array(least) + size * np.array(growth)
    trunk = 1.7 + 0.9 * dice.random() if start is None else start
    place = street.course.place(across, along)
    stem, bark = np.array([0.028 * crown[1] + 0.05, trunk + 0.35 * crown[1]]), mix_colours(BARK, leaves[0], 0.25)
    layers = [Layer(STEM * stem, bark, TrainId.VEGETATION), Layer(STEM_IN_SHADE * stem, shade(bark, 0.72))]
    box = np.array([(-0.5 * crown[0], trunk + crown[1]), (0.5 * crown[0], trunk)])
    brightness = 0.62 + 0.5 * street.light.on(0.0, 0.5, -0.6)

    def draw(canvas: Canvas) -> None:
        if trunk > 0:
            draw_layers(place, layers, canvas)
        corners = canvas.camera.project_upright(place, box)
        sprite = pick_level(get_foliage(shape, variant), np.ptp(corners, axis=0).max())
        dark, light = (np.array(shade(leaf, brightness)) for leaf in leaves)
        ramp = np.clip((1 - LEVELS) * dark + LEVELS * light, 0, 255).astype(np.uint8)
        canvas.stamp(sprite, ramp, corners, upright(TrainId.VEGETATION, along))

    footprint = np.array(place) + 0.38 * crown[0] * ROUND[::2]
    return Item(footprint, trunk + 0.8 * crown[1], draw, bottom=trunk)


def plan_garden(street: Street, side: Side, near: float, far: float) -> Iterator[Item]:
    """Grows trees and bushes on a lot."""
    dice = street.dice
    for along in space(near + 1.5, far - 1.0, 4.5):
        if along > 3.0 and dice.chance(0.75 * street.domain.rate("tree")):
            across = side.sign * (side.line + dice.between(1.5, 7.0))
            yield grow_plant(street, across, along, dice.chance(0.3))


def plan_trees(street: Street, side: Side) -> Iterator[Item]:
    """Plants a row of trees along the kerb."""
    dice = street.dice
    if not dice.chance(street.kind.trees * street.domain.rate("tree")):
        return
    along = dice.between(5.0, 14.0)
    across = side.edge + min(0.8, 0.5 * max(side.walk - side.edge, 1.6))
    while along < 80.0:
        if not street.is_crossed(along, along, 3.0):
            yield grow_plant(street, side.sign * across, along, dice.chance(0.12))
        along += dice.between(*street.kind.tree_gap)


def stand_post(
    street: Street, across: float, along: float, height: float, radius: float, colour: Colour, arm: float, *hung: Layer
) -> Item:
    """Returns an upright pole with layers hung on it, and at its top a horizontal arm of a signed length, or 0."""
    place = street.course.place(across, along)
    scale, brightness = street.camera.scale(along), street.light.on(0.0, 0.2, -0.9)
    width, lit = max(radius, 0.6 / scale), shade(colour, brightness)
    pole = np.array([(-1, 0), (-0.8, height), (0.8, height), (1, 0)]) * (width, 1.0)
    layers = [Layer(pole, lit, TrainId.POLE)]
    if scale * width > 1.5:
        layers.append(Layer(pole * (0.5, 1.0) + (0.4 * width, 0.0), shade(colour, 0.7 * brightness)))
    if arm:
        bar = np.array([(0.0, height - 0.14), (0.0, height), (arm, height + 0.05), (arm, height - 0.06)])
        layers.append(Layer(bar, lit, TrainId.POLE))
    footprint = np.array(place) + 0.9 * radius * ROUND[::5]
    return Item(footprint, height, partial(draw_layers, place, [*layers, *hung]))


def hang_signal(across: float, up: float, state: int | None) -> list[Layer]:
    """Returns a traffic light with one lit lamp (0 red, 1 amber, 2 green), or seen from behind (None)."""
    middle = across, up
    case = Layer(middle + SIGNAL_CASE, (30, 34, 34), TrainId.TRAFFIC_LIGHT)
    if state is None:
        return [case, Layer(middle + 0.7 * SIGNAL_CASE, (52, 58, 58))]
    lamps = [colour if index == state else mix_colours(colour, BLACK, 0.8) for index, colour in enumerate(LAMPS)]
    return [case, *map(Layer, middle + SIGNAL_LAMPS, lamps)]


def hang_sign(street: Street, sign: Sign, across: float, up: float, radius: float) -> list[Layer]:
    """Returns a traffic sign."""
    brightness = 0.5 + 0.5 * street.light.on(0.0, 0.0, -1.0)
    layers: list[Layer] = []
    for outline, size, shift, colour in sign:
        shape = radius * (size * outline + (0.0, shift)) + (across, up)
        layers.append(Layer(shape, shade(colour, brightness), None if layers else TrainId.TRAFFIC_SIGN))
    return layers


def plan_posts(street: Street, side: Side) -> Iterator[Item]:
    """Sets street lamps, small signs, big signs, and bollards."""
    dice = street.dice
    pole = dice.pick(POLES)
    across = side.sign * (side.edge + 0.45)
    height, arm = dice.between(5.0, 8.5), -side.sign * 1.6 if dice.chance(0.7) else 0.0
    middle = arm + 0.3 * np.sign(arm), height - 0.04
    glow = (255, 232, 170) if street.light.lamps > 0.2 else (224, 224, 214)
    head = Layer(middle + LAMP_HEAD, shade(pole, 0.8), TrainId.POLE)
    lamp = Layer(middle + LAMP_GLASS, glow, TrainId.POLE)
    if dice.chance(0.75):
        for along in space(dice.between(7.0, 20.0), 75.0, 19.0):
            if not street.is_crossed(along, along):
                yield stand_post(street, across, along, height, 0.085, pole, arm, head, lamp)
    for _ in range(int(dice.integers(0, 4))):
        along, sign, radius = dice.between(6.0, 32.0), dice.pick(SMALL_SIGNS), dice.between(0.42, 0.56)
        hung = hang_sign(street, sign, 0.0, 2.75, radius)
        if dice.chance(0.25):
            hung += hang_sign(street, dice.pick(SMALL_SIGNS), 0.0, 1.75, 0.8 * radius)
        yield stand_post(street, across + 0.1 * side.sign, along, 2.7, 0.05, pole, 0.0, *hung)
    if dice.chance(0.22):
        along, sign, radius = dice.between(12.0, 34.0), dice.pick(BIG_SIGNS), dice.between(0.75, 1.05)
        if side.sign > 0 and dice.chance(0.5):
            hung = hang_sign(street, sign, -3.4, 5.5, radius)
            yield stand_post(street, across, along, 5.6, 0.12, pole, -4.6, *hung)
        else:
            yield stand_post(street, across, along, 3.6, 0.09, pole, 0.0, *hang_sign(street, sign, 0.0, 3.2, radius))
    if dice.chance(0.2):
        near = dice.between(6.0, 18.0)
        for along in space(near, near + 12.0, 1.9):
            yield stand_post(street, across, along, 0.95, 0.08, pole, 0.0)


def plan_signals(street: Street) -> Iterator[Item]:
    """Sets traffic lights at the crossing, or at a crosswalk without one."""
    dice, crossing = street.dice, street.crossing
    if crossing and dice.chance(0.85):
        places = [crossing[0] - 1.0, crossing[1] + 1.0]
    elif dice.chance(0.25):
        places = [dice.between(10.0, 28.0)]
    else:
        return
    state = int(dice.integers(3))
    pole = dice.pick(POLES)
    has_arm = dice.chance(0.4)
    for along in places:
        for side in street.sides:
            across = side.sign * (side.edge + 0.5)
            is_averted = side.sign < 0 and dice.chance(0.35)
            hung = hang_signal(0.0, 3.0, None if is_averted else state)
            if has_arm and side.sign > 0:
                yield stand_post(street, across, along, 5.6, 0.1, pole, -4.2, *hung, *hang_signal(-3.9, 5.2, state))
            else:
                yield stand_post(street, across, along, 3.5, 0.08, pole, 0.0, *hung)
