"""Things that stand still: trees and bushes, lamps and poles, traffic lights, signs."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .canvas import Canvas, mix, shade
from .domains import Colour, TrainId
from .ground import Solid
from .textures import get_foliage

STEEL: Colour = (118, 122, 126)
RED, AMBER, GREEN = (236, 46, 36), (250, 186, 40), (46, 220, 110)
WHITE: Colour = (240, 240, 236)
BLACK: Colour = (40, 40, 40)
SIGN_RED: Colour = (204, 30, 36)
SIGN_BLUE: Colour = (28, 82, 176)
SIGN_GREEN: Colour = (20, 116, 74)
SIGN_YELLOW: Colour = (248, 202, 44)
UPWARDS = np.array([1.0, -1.0])  # metres to the right and up, as pixels to the right and down

ROUND = np.stack([np.cos(np.linspace(0, 2 * np.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 21)[:-1])], axis=1)
TRIANGLE = np.array([(-1.0, -0.75), (0.0, 1.0), (1.0, -0.75)])
SQUARE = np.array([(-0.85, -0.85), (-0.85, 0.85), (0.85, 0.85), (0.85, -0.85)])
DIAMOND = np.array([(-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)])
OCTAGON = np.stack([np.cos(np.arange(8) * np.pi / 4 + np.pi / 8), np.sin(np.arange(8) * np.pi / 4 + np.pi / 8)], axis=1)
BOARD = np.array([(-2.1, -0.8), (-2.1, 0.8), (2.1, 0.8), (2.1, -0.8)])
BAR = np.array([(-0.62, -0.17), (-0.62, 0.17), (0.62, 0.17), (0.62, -0.17)])
UPRIGHT_BAR = np.array([(-0.1, -0.3), (-0.13, 0.62), (0.13, 0.62), (0.1, -0.3)])
ARROW = np.array([(-0.1, -0.6), (-0.1, 0.1), (-0.36, 0.1), (0.0, 0.62), (0.36, 0.1), (0.1, 0.1), (0.1, -0.6)])
LINES = np.array([(-1.8, -0.12), (-1.8, 0.12), (0.9, 0.12), (0.9, -0.12)])

STEM = np.array([(-1.25, 0.0), (-0.8, 0.3), (-0.5, 1.0), (0.5, 1.0), (0.8, 0.3), (1.25, 0.0)])
STEM_IN_SHADE = np.array([(0.0, 0.0), (0.0, 1.0), *STEM[3:]])
SHADED_HALF = np.array([0.5, 1.0])
LAMP_HEAD = np.array([(-0.45, 0.0), (-0.38, 0.16), (0.38, 0.16), (0.45, 0.0)])
LAMP_GLASS = np.array([(-0.34, -0.09), (-0.36, 0.02), (0.36, 0.02), (0.34, -0.09)])
SIGNAL_CASE = np.array([(-0.27, -0.66), (-0.27, 0.66), (0.27, 0.66), (0.27, -0.66)])
SIGNAL_LAMPS = np.array([(0.0, 0.41), (0.0, 0.0), (0.0, -0.41)])

# Each sign is a stack of (outline, scale, shift up, colour), the first being its plate.
SIGNS: dict[str, tuple[tuple[np.ndarray, float, float, Colour], ...]] = {
    "limit": ((ROUND, 1.0, 0.0, SIGN_RED), (ROUND, 0.74, 0.0, WHITE), (UPRIGHT_BAR, 0.7, -0.1, BLACK)),
    "no entry": ((ROUND, 1.0, 0.0, SIGN_RED), (BAR, 1.0, 0.0, WHITE)),
    "ahead": ((ROUND, 1.0, 0.0, SIGN_BLUE), (ARROW, 0.95, 0.0, WHITE)),
    "warning": ((TRIANGLE, 1.1, 0.0, SIGN_RED), (TRIANGLE, 0.72, -0.03, WHITE), (UPRIGHT_BAR, 0.5, -0.15, BLACK)),
    "stop": ((OCTAGON, 1.0, 0.0, WHITE), (OCTAGON, 0.92, 0.0, SIGN_RED), (BAR, 1.0, 0.0, WHITE)),
    "priority": ((DIAMOND, 1.1, 0.0, WHITE), (DIAMOND, 0.8, 0.0, SIGN_YELLOW)),
    "parking": ((SQUARE, 1.0, 0.0, SIGN_BLUE), (ROUND, 0.42, 0.2, WHITE), (UPRIGHT_BAR, 0.9, -0.2, WHITE)),
    "crossing": ((SQUARE, 1.0, 0.0, SIGN_BLUE), (TRIANGLE, 0.7, 0.0, WHITE), (UPRIGHT_BAR, 0.5, -0.1, BLACK)),
    "directions": (
        (BOARD, 1.0, 0.0, WHITE), (BOARD, 0.95, 0.0, SIGN_GREEN), (LINES, 1.0, 0.3, WHITE), (LINES, 0.8, -0.3, WHITE),
    ),
    "town": ((BOARD, 0.8, 0.0, BLACK), (BOARD, 0.76, 0.0, SIGN_YELLOW), (LINES, 0.7, 0.0, BLACK)),
}  # fmt: skip
BIG_SIGNS = ("directions", "town")
SMALL_SIGNS = tuple(name for name in SIGNS if name not in BIG_SIGNS)


@lru_cache(maxsize=512)
def make_ramp(dark: Colour, light: Colour) -> np.ndarray:
    """Return the colours (256, 3) uint8 from shade to light."""
    share = np.linspace(0.0, 1.0, 256)[:, None]
    return np.clip((1 - share) * np.array(dark) + share * np.array(light), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Plant:
    """A tree, or with no trunk a bush.

    Attributes:
        x: Metres to the right of the camera.
        z: Metres ahead of the camera.
        shape: Name for `textures.get_foliage`.
        variant: Which of its sprites.
        trunk: Height at which the crown starts.
        crown: Width and height of the crown.
        leaves: Colours in shade and in light.
    """

    x: float
    z: float
    shape: str
    variant: int
    trunk: float
    crown: tuple[float, float]
    leaves: tuple[Colour, Colour]

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        ring = np.array([(self.x, self.z)]) + 0.38 * self.crown[0] * ROUND[::2]
        return Solid(ring, self.trunk, self.trunk + 0.8 * self.crown[1])

    def draw(self, canvas: Canvas) -> None:
        """Paint the trunk and the crown."""
        half = 0.5 * self.crown[0]
        if self.z < 1.5 or not canvas.camera.sees(self.x - half, self.x + half, self.z):
            return
        number = canvas.add_upright(TrainId.VEGETATION, self.z)
        scale = canvas.camera.scale(self.z)
        foot = canvas.camera.stand(self.x, self.z)
        if self.trunk > 0:
            girth = 0.028 * self.crown[1] + 0.05
            height = self.trunk + 0.35 * self.crown[1]
            bark = mix((92, 72, 54), self.leaves[0], 0.25)
            shape = scale * np.array([girth, -height])
            canvas.fill(foot + shape * STEM, bark, number)
            canvas.fill(foot + shape * STEM_IN_SHADE, shade(bark, 0.72))
        top = foot[1] - scale * (self.trunk + self.crown[1])
        box = (foot[0] - scale * half, top, foot[0] + scale * half, foot[1] - scale * self.trunk)
        ramp = make_ramp(*(shade(leaf, 0.62 + 0.5 * canvas.light.on(0.0, 0.5, -0.6)) for leaf in self.leaves))
        canvas.stamp(get_foliage(self.shape, self.variant), ramp, box, number)


@dataclass(frozen=True)
class Post:
    """An upright pole with what hangs on it.

    Attributes:
        x: Metres to the right of the camera.
        z: Metres ahead of the camera.
        height: Height in metres.
        radius: Half the thickness in metres.
        colour: Colour of the pole.
        arm: Signed metres of a horizontal arm at the top; 0 for none.
        lamp: Whether a street lamp ends the arm, or the pole without one.
        signals: Where traffic lights hang: (metres across, height of the middle).
        state: Which lamp of the traffic lights is lit: 0 red, 1 amber, 2 green.
        is_averted: Whether the traffic lights show their backs.
        signs: What signs hang on it: (name, metres across, height of the middle, radius).
    """

    x: float
    z: float
    height: float
    radius: float = 0.07
    colour: Colour = STEEL
    arm: float = 0.0
    lamp: bool = False
    signals: tuple[tuple[float, float], ...] = ()
    state: int = 0
    is_averted: bool = False
    signs: tuple[tuple[str, float, float, float], ...] = ()

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(np.array([(self.x, self.z)]) + 0.9 * self.radius * ROUND[::5], 0.0, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paint the pole, then what hangs on it."""
        reach = abs(self.arm) + 2.5
        if self.z < 1.5 or not canvas.camera.sees(self.x - reach, self.x + reach, self.z):
            return
        self._fill_plate(canvas, np.array([(-1, 0), (-0.8, self.height), (0.8, self.height), (1, 0)]), TrainId.POLE)
        if self.arm:
            low, high = self.height - 0.14, self.height
            bar = np.array([(0.0, low), (0.0, high), (self.arm, high + 0.05), (self.arm, high - 0.06)])
            self._fill_plate(canvas, bar, TrainId.POLE, is_across=True)
        if self.lamp:
            self._draw_lamp(canvas)
        for across, up in self.signals:
            self._draw_signal(canvas, across, up)
        for name, across, up, radius in self.signs:
            self._draw_sign(canvas, name, across, up, radius)

    def _project(self, canvas: Canvas, shape: np.ndarray) -> np.ndarray:
        """Project points (N, 2), metres across and up in the plane of the pole."""
        return canvas.camera.stand(self.x, self.z) + canvas.camera.scale(self.z) * (shape * UPWARDS)

    def _fill_plate(self, canvas: Canvas, shape: np.ndarray, label: TrainId, is_across: bool = False) -> None:
        number = canvas.add_upright(label, self.z)
        least = 0.6 / canvas.camera.scale(self.z)
        width = 1.0 if is_across else max(self.radius, least)
        brightness = canvas.light.on(0.0, 0.2, -0.9)
        shape = shape * np.array([width, 1.0])
        canvas.fill(self._project(canvas, shape), shade(self.colour, brightness), number)
        if not is_across and canvas.camera.scale(self.z) * width > 1.5:
            dark = shape * SHADED_HALF + np.array([0.4 * width, 0.0])
            canvas.fill(self._project(canvas, dark), shade(self.colour, 0.7 * brightness))

    def _draw_lamp(self, canvas: Canvas) -> None:
        number = canvas.add_upright(TrainId.POLE, self.z)
        towards = np.sign(self.arm) if self.arm else 0.0
        middle = np.array([self.arm + 0.3 * towards, self.height - 0.04])
        canvas.fill(self._project(canvas, middle + LAMP_HEAD), shade(self.colour, 0.8), number)
        glow = (255, 232, 170) if canvas.light.lamps > 0.2 else (224, 224, 214)
        canvas.fill(self._project(canvas, middle + LAMP_GLASS), glow, number)

    def _draw_signal(self, canvas: Canvas, across: float, up: float) -> None:
        number = canvas.add_upright(TrainId.TRAFFIC_LIGHT, self.z)
        middle = np.array([across, up])
        canvas.fill(self._project(canvas, middle + SIGNAL_CASE), (30, 34, 34), number)
        if self.is_averted:
            canvas.fill(self._project(canvas, middle + 0.7 * SIGNAL_CASE), (52, 58, 58))
            return
        centres = self._project(canvas, middle + SIGNAL_LAMPS)
        radius = 0.17 * canvas.camera.scale(self.z)
        for index, (centre, colour) in enumerate(zip(centres, (RED, AMBER, GREEN), strict=True)):
            canvas.fill_circle(centre, radius, colour if index == self.state else mix(colour, BLACK, 0.8))

    def _draw_sign(self, canvas: Canvas, name: str, across: float, up: float, radius: float) -> None:
        number = canvas.add_upright(TrainId.TRAFFIC_SIGN, self.z)
        brightness = 0.5 + 0.5 * canvas.light.on(0.0, 0.0, -1.0)
        for layer, (outline, size, shift, colour) in enumerate(SIGNS[name]):
            shape = radius * (size * outline + np.array([0.0, shift])) + np.array([across, up])
            canvas.fill(self._project(canvas, shape), shade(colour, brightness), None if layer else number)
