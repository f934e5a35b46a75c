"""Pictures: panels (image | truth | prediction) and overlays for people, label maps for programs."""

import colorsys
import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.method import require_segmentation
from callbacks.views import IMAGENET
from lightning_modules.probabilities import resize_probabilities

OVERLAY = 0.65
GAP = 4
PNG_LEVEL = 1  # higher levels are several times slower and hardly make label maps smaller
JPEG_QUALITY = 90

Colours = Sequence[tuple[int, int, int]]


def make_palette(num_classes: int, colours: Colours | None = None) -> np.ndarray:
    """Returns the (256, 3) uint8 RGB colours of all labels: the given ones or hues, and black for other labels."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    if colours is None:
        hues = [colorsys.hsv_to_rgb(number / num_classes, 0.8, 0.9) for number in range(num_classes)]
        colours = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
    if num_classes:
        palette[:num_classes] = colours
    return palette


def find_palette(trainer: Trainer, module: LightningModule) -> np.ndarray:
    """Returns the palette of a run's data, see `make_palette`."""
    datamodule = getattr(trainer, "datamodule", None)
    return make_palette(require_segmentation(module).num_classes, getattr(datamodule, "colours", None))


def draw_panel(
    image: Tensor,
    truth: Tensor | None,
    predictions: Sequence[Tensor],
    palette: np.ndarray,
) -> Image.Image:
    """Draws image | truth | one or more predictions, side by side at the image's size.

    Args:
        image: (3, H, W) float, normalised.
        truth: (H', W') int64 train ids, 255 where ignored (black); left out if None.
        predictions: Each either (K, h, w) probabilities or (h, w) labels.
        palette: (256, 3) uint8 RGB.
    """
    size = (image.shape[-2], image.shape[-1])
    photograph = restore_photograph(image)
    maps = [*([] if truth is None else [truth]), *predictions]
    tiles = [photograph, *(draw_overlay(photograph, fit_labels(labels, size, size), palette) for labels in maps)]
    gap = np.full((size[0], GAP, 3), 255, dtype=np.uint8)
    return Image.fromarray(np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1))


def fit_labels(prediction: Tensor, resized: tuple[int, int], size: Sequence[int]) -> np.ndarray:
    """Returns the labels for a picture of a given size as (height, width) uint8.

    Args:
        prediction: (K, h, w) probabilities or (h, w) labels.
        resized: Height and width to which probabilities are resized before the argmax.
        size: Height and width of the result, to which labels are resized by nearest neighbour.
    """
    if prediction.ndim == 3:
        prediction = resize_probabilities(prediction[None], resized)[0].argmax(dim=0)
    labels = prediction.cpu().numpy().astype(np.uint8)
    if labels.shape == tuple(size):
        return labels
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def restore_photograph(image: Tensor) -> np.ndarray:
    """Turns a (3, H, W) normalised image back into (H, W, 3) uint8 RGB; non-finite values become 0."""
    planes = image.float().cpu().numpy()
    return cv2.merge(
        [  # each a * plane + b, rounded and saturated
            cv2.addWeighted(plane, 255 * std, plane, 0, 255 * mean, dtype=cv2.CV_8U)
            for plane, mean, std in zip(planes, IMAGENET.mean, IMAGENET.std, strict=True)
        ]
    )


def draw_overlay(photograph: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Blends the colours of labels into a photograph.

    Args:
        photograph: (h, w, 3) uint8 RGB; resized to the size of the labels.
        labels: (H, W) uint8.
        palette: (256, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if photograph.shape[:2] != labels.shape:
        photograph = cv2.resize(photograph, labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.LUT(cv2.merge([labels] * 3), palette[None])
    return cv2.addWeighted(colours, OVERLAY, photograph, 1 - OVERLAY, 0)


def encode_png(values: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Encodes (H, W) uint8 values as a grayscale PNG, or as an indexed one with a (256, 3) uint8 RGB palette."""
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette.tobytes())  # turns the values into indices
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as JPEG."""
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
