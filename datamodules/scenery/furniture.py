"""Things that stand still: trees and bushes, lamps and poles, traffic lights, signs."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .canvas import Canvas, mix, rectangle, shade, upright
from .domains import Colour, TrainId
from .solids import Solid
from .textures import get_foliage, pick_level

BARK: Colour = (92, 72, 54)
RED, AMBER, GREEN = (236, 46, 36), (250, 186, 40), (46, 220, 110)
WHITE: Colour = (240, 240, 236)
BLACK: Colour = (40, 40, 40)
SIGN_RED: Colour = (204, 30, 36)
SIGN_BLUE: Colour = (28, 82, 176)
SIGN_GREEN: Colour = (20, 116, 74)
SIGN_YELLOW: Colour = (248, 202, 44)
UPWARDS = np.array([1.0, -1.0])  # metres to the right and up, as pixels to the right and down


def ring(angles: np.ndarray) -> np.ndarray:
    """Return points (N, 2) on the unit circle."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


ROUND = ring(np.linspace(0, 2 * np.pi, 21)[:-1])
OCTAGON = ring(np.arange(8) * np.pi / 4 + np.pi / 8)
TRIANGLE = np.array([(-1.0, -0.75), (0.0, 1.0), (1.0, -0.75)])
DIAMOND = np.array([(-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)])
SQUARE = rectangle(-0.85, 0.85, -0.85, 0.85)
BOARD = rectangle(-2.1, 2.1, -0.8, 0.8)
BAR = rectangle(-0.62, 0.62, -0.17, 0.17)
LINES = rectangle(-1.8, 0.9, -0.12, 0.12)
UPRIGHT_BAR = np.array([(-0.1, -0.3), (-0.13, 0.62), (0.13, 0.62), (0.1, -0.3)])
ARROW = np.array([(-0.1, -0.6), (-0.1, 0.1), (-0.36, 0.1), (0.0, 0.62), (0.36, 0.1), (0.1, 0.1), (0.1, -0.6)])
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
SMALL_SIGNS, BIG_SIGNS = tuple(SIGNS)[:-2], tuple(SIGNS)[-2:]

STEM = np.array([(-1.25, 0.0), (-0.8, 0.3), (-0.5, 1.0), (0.5, 1.0), (0.8, 0.3), (1.25, 0.0)])
STEM_IN_SHADE = np.array([(0.0, 0.0), (0.0, 1.0), *STEM[3:]])
LAMP_HEAD = np.array([(-0.45, 0.0), (-0.38, 0.16), (0.38, 0.16), (0.45, 0.0)])
LAMP_GLASS = np.array([(-0.34, -0.09), (-0.36, 0.02), (0.36, 0.02), (0.34, -0.09)])
SIGNAL_CASE = rectangle(-0.27, 0.27, -0.66, 0.66)
SIGNAL_LAMPS = np.array([(0.0, 0.41), (0.0, 0.0), (0.0, -0.41)])


@lru_cache(maxsize=512)
def make_ramp(dark: Colour, light: Colour) -> np.ndarray:
    """Return the colours (256, 3) uint8 from shade to light."""
    share = np.linspace(0.0, 1.0, 256)[:, None]
    return np.clip((1 - share) * np.array(dark) + share * np.array(light), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Plant:
    """A tree, or with no trunk a bush."""

    x: float  # metres to the right of the camera
    z: float  # metres ahead of the camera
    shape: str  # for `textures.get_foliage`
    variant: int  # which of its sprites
    trunk: float  # height at which the crown starts
    crown: tuple[float, float]  # width and height
    leaves: tuple[Colour, Colour]  # in shade and in light

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        outline = np.array([(self.x, self.z)]) + 0.38 * self.crown[0] * ROUND[::2]
        return Solid(outline, self.trunk, self.trunk + 0.8 * self.crown[1])

    def draw(self, canvas: Canvas) -> None:
        """Paint the trunk and the crown."""
        half = 0.5 * self.crown[0]
        if not canvas.camera.sees(self.x, self.z, half):
            return
        surface = upright(TrainId.VEGETATION, self.z)
        scale = canvas.camera.scale(self.z)
        foot = canvas.camera.stand(self.x, self.z)
        if self.trunk > 0:
            girth = 0.028 * self.crown[1] + 0.05
            height = self.trunk + 0.35 * self.crown[1]
            bark = mix(BARK, self.leaves[0], 0.25)
            size = scale * np.array([girth, -height])
            canvas.fill(foot + size * STEM, bark, surface)
            canvas.fill(foot + size * STEM_IN_SHADE, shade(bark, 0.72))
        left, right = foot[0] - scale * half, foot[0] + scale * half
        top, bottom = foot[1] - scale * (self.trunk + self.crown[1]), foot[1] - scale * self.trunk
        sprite = pick_level(get_foliage(self.shape, self.variant), max(right - left, bottom - top))
        ramp = make_ramp(*(shade(leaf, 0.62 + 0.5 * canvas.light.on(0.0, 0.5, -0.6)) for leaf in self.leaves))
        canvas.stamp(sprite, ramp, (left, top, right, bottom), surface)


@dataclass(frozen=True)
class Post:
    """An upright pole with what hangs on it; "across" and "up" are metres from its foot."""

    x: float  # metres to the right of the camera
    z: float  # metres ahead of the camera
    height: float
    radius: float
    colour: Colour
    arm: float = 0.0  # signed length of a horizontal arm at the top; 0 for none
    lamp: bool = False  # whether a street lamp ends the arm, or the pole without one
    signals: tuple[tuple[float, float], ...] = ()  # middles (across, up) of traffic lights
    state: int | None = None  # which lamp of them is lit: 0 red, 1 amber, 2 green; None where they show their backs
    signs: tuple[tuple[str, float, float, float], ...] = ()  # (name, across, up, radius)

    @property
    def solid(self) -> Solid:
        """What casts its shadow."""
        return Solid(np.array([(self.x, self.z)]) + 0.9 * self.radius * ROUND[::5], 0.0, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paint the pole, then what hangs on it."""
        if not canvas.camera.sees(self.x, self.z, abs(self.arm) + 2.5):
            return
        self._draw_pole(canvas)
        if self.lamp:
            middle = np.array([self.arm + 0.3 * np.sign(self.arm), self.height - 0.04])
            glow = (255, 232, 170) if canvas.light.lamps > 0.2 else (224, 224, 214)
            self._fill(canvas, middle + LAMP_HEAD, shade(self.colour, 0.8), TrainId.POLE)
            self._fill(canvas, middle + LAMP_GLASS, glow, TrainId.POLE)
        for across, up in self.signals:
            self._draw_signal(canvas, np.array([across, up]))
        brightness = 0.5 + 0.5 * canvas.light.on(0.0, 0.0, -1.0)
        for name, across, up, radius in self.signs:
            for layer, (outline, size, shift, colour) in enumerate(SIGNS[name]):
                shape = radius * (size * outline + np.array([0.0, shift])) + np.array([across, up])
                self._fill(canvas, shape, shade(colour, brightness), None if layer else TrainId.TRAFFIC_SIGN)

    def _project(self, canvas: Canvas, shape: np.ndarray) -> np.ndarray:
        """Project points (N, 2), metres across and up in the plane of the pole."""
        return canvas.camera.stand(self.x, self.z) + canvas.camera.scale(self.z) * (shape * UPWARDS)

    def _fill(self, canvas: Canvas, shape: np.ndarray, colour: Colour, label: TrainId | None = None) -> None:
        surface = None if label is None else upright(label, self.z)
        canvas.fill(self._project(canvas, shape), colour, surface)

    def _draw_pole(self, canvas: Canvas) -> None:
        scale = canvas.camera.scale(self.z)
        brightness = canvas.light.on(0.0, 0.2, -0.9)
        lit = shade(self.colour, brightness)
        width = max(self.radius, 0.6 / scale)
        pole = np.array([(-1, 0), (-0.8, self.height), (0.8, self.height), (1, 0)]) * np.array([width, 1.0])
        self._fill(canvas, pole, lit, TrainId.POLE)
        if scale * width > 1.5:
            right_half = pole * np.array([0.5, 1.0]) + np.array([0.4 * width, 0.0])
            self._fill(canvas, right_half, shade(self.colour, 0.7 * brightness))
        if self.arm:
            low, high = self.height - 0.14, self.height
            bar = np.array([(0.0, low), (0.0, high), (self.arm, high + 0.05), (self.arm, high - 0.06)])
            self._fill(canvas, bar, lit, TrainId.POLE)

    def _draw_signal(self, canvas: Canvas, middle: np.ndarray) -> None:
        self._fill(canvas, middle + SIGNAL_CASE, (30, 34, 34), TrainId.TRAFFIC_LIGHT)
        if self.state is None:
            self._fill(canvas, middle + 0.7 * SIGNAL_CASE, (52, 58, 58))
            return
        centres = self._project(canvas, middle + SIGNAL_LAMPS)
        for index, (centre, colour) in enumerate(zip(centres, (RED, AMBER, GREEN), strict=True)):
            lamp = colour if index == self.state else mix(colour, BLACK, 0.8)
            canvas.fill_circle(centre, 0.17 * canvas.camera.scale(self.z), lamp)
