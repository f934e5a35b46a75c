"""Views of one image: scaled, flipped, grayscaled; and the way back for what a network says about them.

Source: paper, Sec. 4 (step 1-2 of the one-sample adaptation, Fig. 1) and Sec. 5.2 (which views).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_modules.networks.base import TooSmallError

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # ITU-R 601 (0.299, 0.587, 0.114) in Pillow's fixed-point form

Resampling = Literal["device", "pillow"]


@dataclass(frozen=True)
class Normalization:
    """How images were normalised: (value in [0, 1] - mean) / std per RGB channel. The default is ImageNet's."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # of a list, too, so that equal ones are known as equal
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def undo(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) normalised image to values in [0, 1]."""
        return image * _per_channel(self.std, image) + _per_channel(self.mean, image)

    def apply(self, image: Tensor) -> Tensor:
        """Maps (B, 3, H, W) values in [0, 1] to a normalised image."""
        return (image - _per_channel(self.mean, image)) / _per_channel(self.std, image)


IMAGENET = Normalization()


@dataclass(frozen=True)
class View:
    """One view of an image.

    Args:
        scale: Factor on height and width, above 0; sizes are int(scale * size).
        flip: Whether to mirror left and right.
        grayscale: Whether to replace the colours by their ITU-R 601 luma, repeated to three channels.

    Raises:
        ValueError: If the scale is not a positive number.
    """

    scale: float = 1.0
    flip: bool = False
    grayscale: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"the scale of a view is {self.scale}: expected a positive number, e.g. 0.5")

    def apply(
        self, image: Tensor, normalization: Normalization = IMAGENET, resampling: Resampling = "device"
    ) -> Tensor:
        """Makes the view of an image.

        Args:
            image: (B, 3, H, W) float, normalised.
            normalization: How the image was normalised; grayscale needs colours, Pillow needs grey levels.
            resampling: ``device`` resizes with torch's antialiased bilinear filter where the image is, rounding to
                grey levels where Pillow does: at most one level off. ``pillow`` goes through uint8 and Pillow on the
                CPU, exactly as the authors' code does. A plain view at scale 1 is the image itself either way.

        Returns:
            (B, 3, int(scale * H), int(scale * W)) float, normalised.

        Raises:
            ValueError: If the view would have no pixels.
        """
        size = self._size(image.shape[-2:])
        if not self.grayscale and size == tuple(image.shape[-2:]):
            return image.flip(-1) if self.flip else image
        levels = _round(normalization.undo(image.float()) * 255)
        levels = self._draw_with_pillow(levels, size) if resampling == "pillow" else self._draw(levels, size)
        return normalization.apply(levels / 255).to(image.dtype)

    def invert(self, probabilities: Tensor, size: Sequence[int]) -> Tensor:
        """Brings what a network said about the view back to the image: flips back and upsamples.

        Args:
            probabilities: (B, K, h, w) of the view.
            size: (H, W) of the image.

        Returns:
            (B, K, H, W); bilinear, corners aligned (as the authors' code).
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
                "leave out this scale or give a larger image"
            )
        return height, width

    def _draw(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        for target in ((levels.shape[-2], size[1]), size):  # as Pillow: columns first, each pass rounded
            if target != tuple(levels.shape[-2:]):
                levels = _round(F.interpolate(levels, target, mode="bilinear", align_corners=False, antialias=True))
        if self.grayscale:
            luma = _round((levels * _per_channel(LUMA, levels)).sum(dim=1, keepdim=True))
            levels = luma.expand_as(levels)
        return levels.flip(-1) if self.flip else levels

    def _draw_with_pillow(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        views = []
        for pixels in levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
            view = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            if self.flip:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self.grayscale:
                view = view.convert("L").convert("RGB")
            views.append(torch.from_numpy(np.array(view)))
        return torch.stack(views).permute(0, 3, 1, 2).to(levels).contiguous()


def check_resampling(resampling: str | None) -> None:
    """Raises ValueError if there is no such way to resize views; None leaves the choice to the method."""
    if resampling is not None and resampling not in get_args(Resampling):
        raise ValueError(f"resampling is {resampling!r}: expected one of {', '.join(get_args(Resampling))}")


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """Returns (3, 1, 1) numbers, one per channel, of the type and on the device of another tensor."""
    return _make_per_channel(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _make_per_channel(values: tuple[float, float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes them once per device: the host waits for each copy to a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def _round(levels: Tensor) -> Tensor:
    """Rounds halves up, as fixed-point arithmetic does; torch.round would round them to even."""
    return (levels + 0.5).floor()


def make_views(scales: Sequence[float], flip: bool, grayscale: bool) -> tuple[View, ...]:
    """Lists the paper's views: each scale plain, and once more with the flip and the grayscale that are on.

    Args:
        scales: Factors on the image's size, each above 0.
        flip: Whether the second view of each scale is mirrored.
        grayscale: Whether the second view of each scale is gray.

    Raises:
        ValueError: If there is no scale, or one is not a positive number.
    """
    if isinstance(scales, str | int | float):
        raise ValueError(f"scales is {scales!r}: expected a list of numbers, e.g. [0.25, 0.5, 0.75]")
    if len(scales) == 0:
        raise ValueError("scales is empty, so there are no views: expected one scale or more, e.g. [0.25, 0.5, 0.75]")
    second = [View(scale, flip, grayscale) for scale in scales] if flip or grayscale else []
    plain = [View(scale) for scale in scales]
    return tuple(view for pair in zip(plain, second, strict=True) for view in pair) if second else tuple(plain)
