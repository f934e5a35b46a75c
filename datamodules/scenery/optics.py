"""The effects on an image between scene and file: air, lens, sensor, and compression."""

from functools import cache

import cv2
import numpy as np

from .domains import Look
from .street import Dice

NOISE_ROWS = 256  # sensor noise is drawn for an image this high and resized
NOISE_TILE = 1024
FARTHEST = 260.0  # metres of air in front of the sky
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
DRAWN = ("tint_strength", "haze", "exposure", "gamma", "contrast", "saturation", "blur", "noise", "jpeg")


class Photographer:
    """Turns painted colours into photographs, with parameters drawn once from the ranges of a `Look`."""

    def __init__(self, dice: Dice, look: Look) -> None:
        drawn = {name: dice.between(*getattr(look, name)) for name in DRAWN}
        self.haze, self.blur, self.noise, self.jpeg = (drawn[name] for name in ("haze", "blur", "noise", "jpeg"))
        self.gamma, self.contrast = drawn["gamma"], drawn["contrast"]
        self.air = np.array(look.air, np.float32)
        tint = np.array([1 + drawn["tint_strength"] * (gain - 1) for gain in look.tint], np.float32)
        saturation = drawn["saturation"]
        channels = saturation * np.eye(3, dtype=np.float32) + (1.0 - saturation) * GREY_WEIGHTS
        self.channels = channels * (drawn["exposure"] * tint)[:, None]
        self.noise_shift = dice.random(), dice.random()

    def develop(self, image: np.ndarray, nearness: np.ndarray) -> np.ndarray:
        """Turns painted colours (H, W, 3) uint8 into a photograph; nearness (H, W) is 1 / metres, 0 for the sky."""
        light = self.add_air(image, nearness)
        if self.blur * image.shape[0] > 0.2:
            light = cv2.GaussianBlur(light, (0, 0), self.blur * image.shape[0])
        light = cv2.transform(light, self.channels)
        mean = float(light.mean())
        levels = np.clip(mean + self.contrast * (np.arange(256) - mean), 0, 255) / 255.0
        graded = cv2.LUT(cv2.convertScaleAbs(light), np.rint(255.0 * levels**self.gamma).astype(np.uint8))
        noisy = cv2.add(graded, self.make_grain(image.shape[:2]), dtype=cv2.CV_8U)
        if self.jpeg >= 100:
            return noisy
        encoded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(self.jpeg)])[1]
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        if decoded is None:
            raise RuntimeError("OpenCV could not decode its own JPEG; check that it was built with JPEG support")
        return np.ascontiguousarray(decoded[..., ::-1])

    def add_air(self, image: np.ndarray, nearness: np.ndarray) -> np.ndarray:
        """Fades colours into the colour of the air with distance; returns float32."""
        share = cv2.exp(cv2.divide(-self.haze, cv2.max(nearness, 1.0 / FARTHEST)))
        # Haze hides the sky's own colour only in part.
        share[nearness <= 0] = 0.35 + 0.65 * np.exp(-self.haze * FARTHEST)
        kept = cv2.multiply(image, cv2.merge([share] * 3), dtype=cv2.CV_32F)
        air = self.air[:, None]
        return cv2.add(kept, cv2.transform(share, np.hstack([-air, air])))

    def make_grain(self, size: tuple[int, int]) -> np.ndarray:
        """Returns sensor noise (H, W, 3) float32 in grey levels, whose grain scales with the image."""
        rows, columns = NOISE_ROWS, min(NOISE_TILE, max(1, round(NOISE_ROWS * size[1] / size[0])))
        top = int(self.noise_shift[0] * (NOISE_TILE - rows))
        left = int(self.noise_shift[1] * (NOISE_TILE - columns))
        grain = _get_grain()[top : top + rows, left : left + columns] * np.float32(self.noise)
        return cv2.resize(grain, size[::-1], interpolation=cv2.INTER_AREA if size[0] < rows else cv2.INTER_LINEAR)


@cache
def _get_grain() -> np.ndarray:
    rng = np.random.default_rng(31)
    grey = rng.standard_normal((NOISE_TILE, NOISE_TILE, 1), dtype=np.float32)
    return 0.8 * grey + 0.5 * rng.standard_normal((NOISE_TILE, NOISE_TILE, 3), dtype=np.float32)
