"""Strong photometric randomisation alone: the fair baseline for all methods that change how images look."""

from torch import Tensor

from lightning_modules.training.method import TrainingMethod, check_shares
from lightning_modules.training.photometric import PhotometricChange


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
