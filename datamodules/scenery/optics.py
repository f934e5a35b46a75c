"""What happens to light between the scene and the file: air, lens, sensor, and compression."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .canvas import draw_between
from .domains import Colour, Look

NOISE_ROWS = 256  # sensor noise is drawn for an image this high and resized
NOISE_TILE = 1024
FARTHEST = 260.0  # metres of air in front of the sky
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Exposure:
    """One image's values from the ranges of a `Look`; the attributes mean the same."""

    haze: float
    air: Colour
    exposure: float
    gamma: float
    contrast: float
    saturation: float
    tint: tuple[float, float, float]
    blur: float
    noise: float
    jpeg: float
    noise_shift: tuple[float, float]


def draw_exposure(rng: np.random.Generator, look: Look) -> Exposure:
    """Draw one image's values."""
    strength = draw_between(rng, look.tint_strength)
    tint = (1 + strength * (look.tint[0] - 1), 1 + strength * (look.tint[1] - 1), 1 + strength * (look.tint[2] - 1))
    return Exposure(
        haze=draw_between(rng, look.haze),
        air=look.air,
        exposure=draw_between(rng, look.exposure),
        gamma=draw_between(rng, look.gamma),
        contrast=draw_between(rng, look.contrast),
        saturation=draw_between(rng, look.saturation),
        tint=tint,
        blur=draw_between(rng, look.blur),
        noise=draw_between(rng, look.noise),
        jpeg=draw_between(rng, look.jpeg),
        noise_shift=(float(rng.random()), float(rng.random())),
    )


def develop(image: np.ndarray, nearness: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Turn painted colours into a photograph.

    Args:
        image: Painted colours (H, W, 3) uint8.
        nearness: 1 / depth (H, W) in 1 / metres; 0 is the sky.
        exposure: The values of this image.

    Returns:
        The photograph (H, W, 3) uint8.
    """
    light = add_air(image, nearness, exposure)
    if exposure.blur * image.shape[0] > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), exposure.blur * image.shape[0])
    light = cv2.transform(light, mix_channels(exposure))
    mean = float(light.mean())
    graded = cv2.LUT(cv2.convertScaleAbs(light), make_curve(exposure, mean))
    noisy = cv2.add(graded, make_grain(image.shape[:2], exposure), dtype=cv2.CV_8U)
    return compress(noisy, exposure.jpeg)


def add_air(image: np.ndarray, nearness: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Fade colours into the colour of the air with distance; returns float32."""
    share = cv2.exp(cv2.divide(-exposure.haze, cv2.max(nearness, 1.0 / FARTHEST)))
    # The sky has a colour of its own, which haze hides only in part.
    share[nearness <= 0] = 0.35 + 0.65 * np.exp(-exposure.haze * FARTHEST)
    kept = cv2.multiply(image, cv2.merge([share] * 3), dtype=cv2.CV_32F)
    air = np.array(exposure.air, np.float32)[:, None]
    return cv2.add(kept, cv2.transform(share, np.hstack([-air, air])))


def mix_channels(exposure: Exposure) -> np.ndarray:
    """Return the matrix (3, 3) that applies saturation, tint and exposure."""
    rest = 1.0 - exposure.saturation
    matrix = exposure.saturation * np.eye(3, dtype=np.float32) + rest * GREY_WEIGHTS[None]
    return (matrix * (exposure.exposure * np.array(exposure.tint, np.float32))[:, None]).astype(np.float32)


def make_curve(exposure: Exposure, mean: float) -> np.ndarray:
    """Return the tone curve (256,) uint8: contrast around the mean, then gamma."""
    levels = np.clip(mean + exposure.contrast * (np.arange(256) - mean), 0, 255) / 255.0
    return np.rint(255.0 * levels**exposure.gamma).astype(np.uint8)


@lru_cache(maxsize=1)
def _get_grain() -> np.ndarray:
    rng = np.random.default_rng(31)
    grey = rng.standard_normal((NOISE_TILE, NOISE_TILE, 1), dtype=np.float32)
    return 0.8 * grey + 0.5 * rng.standard_normal((NOISE_TILE, NOISE_TILE, 3), dtype=np.float32)


def make_grain(size: tuple[int, int], exposure: Exposure) -> np.ndarray:
    """Return sensor noise (H, W, 3) float32 in grey levels, of a grain that does not depend on the size."""
    rows, columns = NOISE_ROWS, min(NOISE_TILE, max(1, round(NOISE_ROWS * size[1] / size[0])))
    top = int(exposure.noise_shift[0] * (NOISE_TILE - rows))
    left = int(exposure.noise_shift[1] * (NOISE_TILE - columns))
    grain = _get_grain()[top : top + rows, left : left + columns] * np.float32(exposure.noise)
    if grain.shape[:2] == size:
        return grain
    return cv2.resize(grain, size[::-1], interpolation=cv2.INTER_AREA if size[0] < rows else cv2.INTER_LINEAR)


def compress(image: np.ndarray, quality: float) -> np.ndarray:
    """Send an image through JPEG; a quality of 100 and above leaves it as it is."""
    if quality >= 100:
        return image
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if decoded is None:
        raise RuntimeError("OpenCV could not decode a JPEG that it encoded; check that it was built with JPEG support")
    return np.ascontiguousarray(decoded[..., ::-1])
