"""Photometric changes of images on their device, drawn anew for each image."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class PhotometricChange:
    """Changes brightness, contrast, saturation and hue of each image, and blurs some.

    Args:
        brightness: Factors are drawn from [1 - b, 1 + b].
        contrast: Likewise.
        saturation: Likewise.
        hue: Turned by up to this share of the circle, at most 0.5.
        blur: Probability of a Gaussian blur of a deviation of 0.1 to 2 pixels.
        probability: Of changing the colours of an image at all.
    """

    def __init__(
        self,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        blur: float = 0.0,
        probability: float = 1.0,
    ) -> None:
        self._jitter = v2.RandomApply([v2.ColorJitter(brightness, contrast, saturation, hue)], probability)
        self._blur = v2.RandomApply([v2.GaussianBlur(kernel_size=5, sigma=(0.1, 2.0))], blur)

    def __call__(self, images: Tensor) -> Tensor:
        """Changes (B, 3, H, W) images in [0, 1]; returns new ones in [0, 1]."""
        return torch.stack([self._blur(self._jitter(image)).clamp(0, 1) for image in images])
