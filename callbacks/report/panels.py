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


def make_palette(num_classes: int, colours: Sequence[tuple[int, int, int]] | None = None) -> np.ndarray:
    """Returns the (256, 3) uint8 RGB colours of all labels: the given ones or hues, and black for other labels."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    if colours is None:
        hues = [colorsys.hsv_to_rgb(number / num_classes, 0.8, 0.9) for number in range(num_classes)]
        colours = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
    palette[:num_classes] = np.reshape(colours, (-1, 3))
    return palette


def find_palette(trainer: Trainer, module: LightningModule) -> np.ndarray:
    """Returns the palette of a run's data, see `make_palette`."""
    datamodule = getattr(trainer, "datamodule", None)
    return make_palette(require_segmentation(module).num_classes, getattr(datamodule, "colours", None))


def draw_panel(image: Tensor, maps: Sequence[Tensor], palette: np.ndarray) -> np.ndarray:
    """Draws a (3, H, W) normalised image and overlays of label maps (see `fit_labels`) side by side, as uint8 RGB."""
    photograph = restore_photograph(image)
    size = photograph.shape[:2]
    gap = np.full((size[0], GAP, 3), 255, dtype=np.uint8)
    tiles = [photograph]
    for labels in maps:
        tiles += [gap, draw_overlay(photograph, fit_labels(labels, size, size), palette)]
    return np.concatenate(tiles, axis=1)


def fit_labels(prediction: Tensor, resized: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Returns the labels for a picture of a given size as (height, width) uint8.

    Args:
        prediction: (K, h, w) probabilities or (h, w) labels.
        resized: Height and width to which probabilities are resized before the argmax.
        size: Height and width of the result, to which labels are resized by nearest neighbour.
    """
    if prediction.ndim == 3:
        prediction = resize_probabilities(prediction[None], (resized[0], resized[1]))[0].argmax(dim=0)
    labels = Image.fromarray(prediction.cpu().numpy().astype(np.uint8))
    return np.asarray(labels.resize((size[1], size[0]), Image.Resampling.NEAREST))


def restore_photograph(image: Tensor) -> np.ndarray:
    """Turns a (3, H, W) normalised image back into (H, W, 3) uint8 RGB; non-finite values become 0."""
    planes = image.float().cpu().numpy()
    scales = zip(planes, IMAGENET.mean, IMAGENET.std, strict=True)
    return cv2.merge(  # each 255 * (std * plane + mean), rounded and saturated
        [cv2.addWeighted(plane, 255 * std, plane, 0, 255 * mean, dtype=cv2.CV_8U) for plane, mean, std in scales]
    )


def draw_overlay(photograph: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Blends the colours of (H, W) uint8 labels into an (h, w, 3) uint8 RGB photograph, resized to the labels."""
    if photograph.shape[:2] != labels.shape:
        photograph = cv2.resize(photograph, labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.LUT(cv2.merge([labels] * 3), palette[None])
    return cv2.addWeighted(colours, OVERLAY, photograph, 1 - OVERLAY, 0)


def encode_png(values: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Encodes (H, W) or (H, W, 3) uint8 as PNG; (H, W) with a (256, 3) uint8 RGB palette as an indexed one."""
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette.tobytes())  # turns the values into indices
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes (H, W, 3) uint8 RGB as JPEG."""
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
