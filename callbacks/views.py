"""Views of one image (scaled, flipped, grayscaled), and the inverse mapping for their predictions.

Source: paper, Sec. 4 (step 1-2 of the one-sample adaptation, Fig. 1) and Sec. 5.2 (which views). Autocontrast is not in
the paper (docs/beyond.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from callbacks.adaptation.arguments import check_choice
from lightning_modules.networks.base import TooSmallError
from lightning_modules.normalization import IMAGENET, Normalization, per_channel

CUTOFF = 1  # percent of a channel's darkest and brightest pixels that autocontrast saturates to 0 and 255
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # ITU-R 601 (0.299, 0.587, 0.114) in Pillow's fixed-point form

Resampling = Literal["device", "pillow"]


@dataclass(frozen=True)
class View:
    """One view of an image.

    Args:
        scale: Factor on height and width, above 0; sizes are int(scale * size).
        flip: Whether to mirror left and right.
        grayscale: Whether to replace the colours by their ITU-R 601 luma, repeated to three channels.
        autocontrast: Whether to stretch each channel from its 1st and 99th percentile to the full range (as Pillow's
            `ImageOps.autocontrast`), which removes much of haze, darkness and colour casts.

    Raises:
        ValueError: If the scale is not a positive, finite number.
    """

    scale: float = 1.0
    flip: bool = False
    grayscale: bool = False
    autocontrast: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"the scale of a view is {self.scale}: expected a positive number, e.g. 0.5")

    def apply(
        self, image: Tensor, normalization: Normalization = IMAGENET, resampling: Resampling = "device"
    ) -> Tensor:
        """Makes the view of an image.

        Args:
            image: (B, 3, H, W) float, normalised.
            normalization: Mean and standard deviation used to normalise the image; views are made on 8-bit levels.
            resampling: ``device`` resizes with torch's antialiased bilinear filter on the image's device, rounding to
                8-bit levels where Pillow does: at most one level off (before autocontrast). ``pillow`` converts to
                uint8 and uses Pillow on the CPU, exactly as the authors' code does. Either way, a plain view at scale
                1 is the image itself.

        Returns:
            (B, 3, int(scale * H), int(scale * W)) float, normalised.

        Raises:
            ValueError: If the view would have no pixels.
        """
        size = self._size(image.shape[-2:])
        if not (self.grayscale or self.autocontrast) and size == tuple(image.shape[-2:]):
            return image.flip(-1) if self.flip else image
        levels = _round(normalization.undo(image.float()) * 255)
        levels = self._draw_with_pillow(levels, size) if resampling == "pillow" else self._draw(levels, size)
        return normalization.apply(levels / 255).to(image.dtype)

    def invert(self, probabilities: Tensor, size: Sequence[int]) -> Tensor:
        """Maps predictions for the view back to the image: flips them back and resizes them.

        Args:
            probabilities: (B, K, h, w) probabilities for the view.
            size: The image's (H, W).

        Returns:
            (B, K, H, W) probabilities; bilinear with aligned corners, as in the authors' code.
        """
        if self.flip:
            probabilities = probabilities.flip(-1)
        if tuple(probabilities.shape[-2:]) == tuple(size):
            return probabilities
        return F.interpolate(probabilities, size=tuple(size), mode="bilinear", align_corners=True)

    def _size(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = int(self.scale * size[0]), int(self.scale * size[1])
        if height < 1 or width < 1:
            raise TooSmallError(
                f"a view at scale {self.scale} of an image of {size[0]}x{size[1]} pixels (HxW) has no pixels: "
                "remove this scale or use a larger image"
            )
        return height, width

    def _draw(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        for target in ((levels.shape[-2], size[1]), size):  # like Pillow: width first, rounding after each pass
            if target != tuple(levels.shape[-2:]):
                levels = _round(F.interpolate(levels, target, mode="bilinear", align_corners=False, antialias=True))
        if self.autocontrast:
            levels = _stretch(levels)
        if self.grayscale:
            luma = _round((levels * per_channel(LUMA, levels)).sum(dim=1, keepdim=True))
            levels = luma.expand_as(levels)
        return levels.flip(-1) if self.flip else levels

    def _draw_with_pillow(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        views = []
        for pixels in levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
            view = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            if self.autocontrast:
                view = ImageOps.autocontrast(view, CUTOFF)
            if self.flip:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self.grayscale:
                view = view.convert("L").convert("RGB")
            views.append(torch.from_numpy(np.array(view)))
        return torch.stack(views).permute(0, 3, 1, 2).to(levels).contiguous()


def check_resampling(resampling: str | None) -> None:
    """Raises ValueError for an unknown way to resize views; None, the method's default, is valid."""
    if resampling is not None:
        check_choice("resampling", resampling, get_args(Resampling))


def _round(levels: Tensor) -> Tensor:
    """Rounds halves up, like fixed-point arithmetic; torch.round would round them to even."""
    return (levels + 0.5).floor()


def _stretch(levels: Tensor) -> Tensor:
    """Stretches the contrast of each channel of (B, 3, H, W) 8-bit levels, see `View`; constant channels stay."""
    levels = levels.nan_to_num().clamp(0, 255)
    channels = levels.flatten(0, 1).flatten(1)
    places = channels.long() + 256 * torch.arange(len(channels), device=levels.device)[:, None]
    counts = places.new_zeros(256 * len(channels)).scatter_add_(0, places.flatten(), torch.ones_like(places).flatten())
    below = counts.view(-1, 256).cumsum(dim=1)  # number of pixels at or below each level
    cut = channels.shape[1] * CUTOFF // 100
    low, high = (below <= cut).sum(dim=1), (below < channels.shape[1] - cut).sum(dim=1)
    low, spread = (bound.view(*levels.shape[:2], 1, 1).to(levels) for bound in (low, high - low))
    return torch.where(spread > 0, ((levels - low) * 255 / spread).floor().clamp(0, 255), levels)


def make_views(scales: Sequence[float], flip: bool, grayscale: bool, autocontrast: bool = False) -> tuple[View, ...]:
    """Makes two views per scale: a plain one, and one with the changes that are on; only the plain one if none is.

    Raises:
        ValueError: If there is no scale, or one is not a positive, finite number.
    """
    if isinstance(scales, str | int | float):
        raise ValueError(f"scales is {scales!r}: expected a list of numbers, e.g. [0.25, 0.5, 0.75]")
    if len(scales) == 0:
        raise ValueError("scales is empty, so there are no views: expected one scale or more, e.g. [0.25, 0.5, 0.75]")
    views = [view for scale in scales for view in (View(scale), View(scale, flip, grayscale, autocontrast))]
    return tuple(views if flip or grayscale or autocontrast else views[::2])
