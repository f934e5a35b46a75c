"""Random photometric changes of images: alone, the fair baseline for all methods that change how images look."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_modules.training.method import TrainingMethod, check_shares


class PhotometricChange:
    """Changes brightness, contrast, saturation and hue of each image on its own, and blurs some.

    Args:
        brightness: Range b of the brightness factors, drawn from [1 - b, 1 + b]; contrast and saturation likewise.
        contrast: Range of the contrast factors.
        saturation: Range of the saturation factors.
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


class PhotometricRandomization(TrainingMethod):
    """Changes brightness, contrast, saturation and hue of every training image, blurs some and makes some gray.

    Args:
        strength: Strength of the colour changes: 1 draws factors from [0.2, 1.8] and shifts the hue by up to 0.3; 0
            changes nothing.
        blur: Probability of a Gaussian blur.
        gray: Probability of making an image gray.
        probability: Probability of changing the colours of an image.

    Raises:
        ValueError: If an argument is outside [0, 1].

    Source: Choi et al. (2021), Sec. 4 (the range of their photometric transformation).
    """

    def __init__(self, strength: float = 1.0, blur: float = 0.5, gray: float = 0.1, probability: float = 0.8) -> None:
        super().__init__()
        check_shares(strength=strength, blur=blur, gray=gray, probability=probability)
        most = 0.8 * strength
        self._change = PhotometricChange(most, most, most, 0.3 * strength, blur, probability)
        self._gray = gray

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Changes each image on its own."""
        changed = self._change(self.restore(images))
        gray = images.new_empty(len(images), 1, 1, 1).uniform_() < self._gray
        luma = (changed * changed.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
        return self.normalization.apply(changed.where(~gray, luma)), masks
