"""Frozen norms: a backbone keeps the BatchNorm statistics of its ImageNet weights while it is trained."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.training.method import TrainingMethod


class FrozenNorms(TrainingMethod):
    """Freezes the BatchNorm statistics of the backbone at their values before training.

    ImageNet statistics come from photographs; without freezing, those of a synthetic source would replace them. ASG and
    CSG do the same; this is their ablation without the losses.

    Source: the code of Chen et al. (2020, 2021), which freezes them; no paper reports the effect of this alone.
    """

    frozen_norms = True

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Raises ValueError if the network has no backbone with trained BatchNorm statistics."""
        backbone = getattr(network, "backbone", nn.Identity())
        norms = [layer for layer in backbone.modules() if isinstance(layer, _BatchNorm)]
        if not any(layer.running_mean is not None and layer.running_mean.any() for layer in norms):
            found = f"{len(norms)} BatchNorms that were never trained" if norms else "no backbone with BatchNorm"
            raise ValueError(
                f"{type(network).__name__} has {found}: expected the statistics of ImageNet weights, which are kept "
                "frozen. Set model.network.init_args.weights, or use configs/model/timm_efficientnet_lite0.yaml"
            )
