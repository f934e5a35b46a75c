"""Normalisation of images, and its inverse."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Normalisation of images: (value in [0, 1] - mean) / std per RGB channel. The default is ImageNet's."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # lists, too, so that equal normalisations compare equal
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def undo(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) normalised image to values in [0, 1]."""
        return image * per_channel(self.std, image) + per_channel(self.mean, image)

    def apply(self, image: Tensor) -> Tensor:
        """Maps (B, 3, H, W) values in [0, 1] to a normalised image."""
        return (image - per_channel(self.mean, image)) / per_channel(self.std, image)


IMAGENET = Normalization()


def per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """Returns the numbers of the three channels as a (3, 1, 1) tensor with another tensor's dtype and device."""
    return _make_per_channel(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _make_per_channel(values: tuple[float, float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes the tensor of `per_channel`; cached, because the host waits for each copy to a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
