"""Pictures: image | truth | prediction for people, label maps for programs."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from callbacks.views import IMAGENET, Normalization
from lightning_modules.metrics import resize_probabilities

OVERLAY = 0.65
GAP = 4

Colours = Sequence[tuple[int, int, int]]


def make_palette(num_classes: int, colours: Colours | None = None) -> np.ndarray:
    """Returns the (256, 3) uint8 RGB colour of each label; hues if no colours are given, black for what is no class."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    if colours is None:
        hues = [colorsys.hsv_to_rgb(number / num_classes, 0.8, 0.9) for number in range(num_classes)]
        colours = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
    palette[:num_classes] = colours
    return palette


def draw_panel(
    image: Tensor,
    truth: Tensor | None,
    predictions: Sequence[Tensor],
    palette: np.ndarray,
    normalization: Normalization = IMAGENET,
) -> Image.Image:
    """Draws image | truth | one prediction or more, side by side at the image's size.

    Args:
        image: (3, H, W) float, normalised.
        truth: (H', W') int64 train ids, 255 where ignored (black); left out if None.
        predictions: (K, h, w) probabilities, or (h, w) labels, each.
        palette: (256, 3) uint8 RGB.
        normalization: How the image was normalised.
    """
    size = (image.shape[-2], image.shape[-1])
    pixels = normalization.undo(image[None].float().cpu())[0].nan_to_num().clamp(0, 1).mul(255).round()
    photograph = pixels.to(torch.uint8).permute(1, 2, 0).numpy()
    tiles = [photograph]
    for labels in ([] if truth is None else [truth]) + [_label(prediction, size) for prediction in predictions]:
        fitted = Image.fromarray(labels.cpu().numpy().astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        mixed = OVERLAY * palette[np.asarray(fitted)] + (1 - OVERLAY) * photograph
        tiles.append(mixed.round().astype(np.uint8))
    gap = np.full((size[0], GAP, 3), 255, dtype=np.uint8)
    return Image.fromarray(np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1))


def write_label_map(path: Path, labels: Tensor, palette: np.ndarray) -> None:
    """Writes (H, W) labels as an indexed PNG: the values are the labels, the palette their colours."""
    picture = Image.fromarray(labels.cpu().numpy().astype(np.uint8), mode="P")
    picture.putpalette(palette.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _label(prediction: Tensor, size: tuple[int, int]) -> Tensor:
    if prediction.ndim == 2:
        return prediction
    return resize_probabilities(prediction[None], size)[0].argmax(dim=0)
