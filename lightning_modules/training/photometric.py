"""Random photometric changes of images on their device, drawn separately for each image."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class PhotometricChange:
    """Changes brightness, contrast, saturation and hue of each image, and blurs some.

    Args:
        brightness: Range b of the brightness factors, which are drawn from [1 - b, 1 + b].
        contrast: Range of the contrast factors, likewise.
        saturation: Range of the saturation factors, likewise.
        hue: Maximum shift of the hue as a fraction of the colour circle, at most 0.5.
        blur: Probability of a Gaussian blur with a standard deviation of 0.1 to 2 pixels.
        probability: Probability of changing the colours of an image.
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
