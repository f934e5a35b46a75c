"""Training for generalisation: what others add to the cross-entropy, one file each, at one seam."""

from lightning_modules.training.method import TrainingMethod
from lightning_modules.training.mixstyle import MixStyle
from lightning_modules.training.randomization import PhotometricRandomization

__all__ = ["MixStyle", "PhotometricRandomization", "TrainingMethod"]
