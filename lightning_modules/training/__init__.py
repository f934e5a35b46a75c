"""Training methods for domain generalisation: additions to the cross-entropy, one file each, with one interface."""

from lightning_modules.training.asg import ASG
from lightning_modules.training.csg import CSG
from lightning_modules.training.drpc import DRPC
from lightning_modules.training.frozen_norms import FrozenNorms
from lightning_modules.training.fsdr import FSDR
from lightning_modules.training.isw import ISW
from lightning_modules.training.method import TrainingMethod
from lightning_modules.training.mixstyle import MixStyle
from lightning_modules.training.photometric import PhotometricRandomization

__all__ = ["ASG", "CSG", "DRPC", "FSDR", "ISW", "FrozenNorms", "MixStyle", "PhotometricRandomization", "TrainingMethod"]
