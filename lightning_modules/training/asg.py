"""ASG (Chen et al., 2020): training on synthetic images that keeps features classifiable by an ImageNet network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.training.features import name_stages
from lightning_modules.training.method import Step, TrainingMethod, check_least
from lightning_modules.training.teacher import describe, freeze, load_classifier


class ASG(TrainingMethod):
    """Adds the divergence between a frozen ImageNet classifier's predictions from frozen and from trained features.

    The authors' learned schedule of learning rates per layer is left out.

    Args:
        weight: Weight of the divergence.
        frozen_norms: Whether the backbone keeps its ImageNet BatchNorm statistics in training, as in the authors' code.

    Raises:
        ValueError: If the weight is negative.

    Source: Chen et al. (2020), Sec. 3.1, Eq. 1: weight 75.
    """

    _held: tuple[nn.Module, nn.Module]  # teacher and classifier

    def __init__(self, weight: float = 75.0, frozen_norms: bool = True) -> None:
        super().__init__()
        check_least(0, weight=weight)
        self.weight = weight
        self.frozen_norms = frozen_norms

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Copies the network as the teacher, and loads the classifier."""
        self.features = name_stages(network)[-1:]
        self._held = freeze(network), load_classifier(network)

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted KL divergence between the classifications of the frozen and the trained features."""
        teacher, classifier = self._held
        classifier.to(step.images.device)
        (frozen,) = describe(teacher, self.features, step.images).values()
        (trained,) = step.features.values()
        return {"divergence": self.weight * measure_divergence(classifier(frozen.float()), classifier(trained.float()))}


def measure_divergence(frozen: Tensor, trained: Tensor) -> Tensor:
    """Returns the () mean over images of KL(softmax frozen || softmax trained) for (B, K) logits, in nats."""
    frozen, trained = (logits if logits.dtype == torch.float64 else logits.float() for logits in (frozen, trained))
    with torch.autocast(frozen.device.type, enabled=False):
        return F.kl_div(trained.log_softmax(dim=1), frozen.log_softmax(dim=1), reduction="batchmean", log_target=True)
