"""ASG (Chen et al., 2020): training on synthetic images that keeps features classifiable by an ImageNet network."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.training.method import Step, TrainingMethod, check_least
from lightning_modules.training.teacher import (
    ImageNetClassifier,
    Teacher,
    frozen_statistics,
    load_classifier,
    name_deep_stages,
)


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

    def __init__(self, weight: float = 75.0, frozen_norms: bool = True) -> None:
        super().__init__()
        check_least(0, weight=weight)
        self.weight = weight
        self.frozen_norms = frozen_norms
        self._held: tuple[Teacher, ImageNetClassifier] | None = None  # in a tuple: not a submodule

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Copies the network as the teacher, and loads the classifier."""
        self.features = name_deep_stages(network)[1:]
        self._held = Teacher(network, self.features), load_classifier(network)

    def changing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Freezes the backbone's BatchNorm statistics at the teacher's, if requested."""
        return frozen_statistics(network) if self.frozen_norms else nullcontext()

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted KL divergence between the classifications of the frozen and the trained features."""
        assert self._held is not None
        teacher, classifier = self._held
        classifier.to(step.images.device)
        name = self.features[0]
        frozen = classifier(teacher.describe(step.images)[name].float())
        return {"divergence": self.weight * measure_divergence(frozen, classifier(step.features[name].float()))}


def measure_divergence(frozen: Tensor, trained: Tensor) -> Tensor:
    """Returns the () mean over images of KL(softmax frozen || softmax trained) for (B, K) logits, in nats."""
    frozen, trained = (logits if logits.dtype == torch.float64 else logits.float() for logits in (frozen, trained))
    with torch.autocast(frozen.device.type, enabled=False):
        return F.kl_div(trained.log_softmax(dim=1), frozen.log_softmax(dim=1), reduction="batchmean", log_target=True)
