"""DeepLabv1 (Chen et al., 2015) without CRF: a dilated residual backbone and a 1x1 classifier.

Source: paper, Sec. 5, implementation details.
"""

from pathlib import Path
from typing import Literal

import torch

from lightning_modules.networks.base import SegmentationNetwork, Stage, make_classifier
from lightning_modules.networks.checkpoints import find_difference
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.released import ReleasedWeights, read_released
from lightning_modules.networks.resnet import STAGES, ResNet


class DeepLabV1(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8.

    The upsampling aligns corners, as the released weights of the paper expect.

    Args:
        backbone: ``resnet10``, ``resnet18``, ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights, None from random ones.
        width: Channels of the backbone's first stage; 64 is the standard, smaller is for CPUs.
        norm: What takes the place of BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b``.
        dropout: Probability of a dropout behind every ReLU; 0 adds none.

    Attributes:
        adapted_layers: What Seg-TTT moves unless told otherwise: conv4_x, conv5_x and the head; for ResNet-101
            conv5_x and the head (paper, Appendix C).
    """

    align_corners = True

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        weights: Literal["imagenet"] | None = None,
        width: int = 64,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, output_stride=8)
        self.backbone_name = backbone
        self.backbone = ResNet(backbone, width, weights=weights)
        self.head = make_classifier(self.backbone.channels, num_classes)
        self.adapted_layers = (*self.backbone.late_stages, "head")
        self.change_layers(norm, dropout, STAGES)

    @classmethod
    def from_released(cls, path: str | Path) -> "DeepLabV1":
        """Makes the network that a file of the paper's authors holds, in evaluation mode.

        Args:
            path: E.g. of resnet50_gta_alpha_0.1.pth.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or not one of this network.
        """
        weights = read_released(path)
        with torch.device("meta"):  # no weights are drawn that the file replaces
            network = cls(weights.backbone, weights.num_classes)
        network.to_empty(device="cpu")._take(weights)
        return network.eval()

    def load_released(self, path: str | Path) -> float | None:
        """Loads a file of the paper's authors, strictly.

        Args:
            path: E.g. of resnet50_gta_alpha_0.1.pth.

        Returns:
            The weight of IaBN that the file was released with; None if it differs from layer to layer.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or one of another backbone or number of classes.
        """
        weights = read_released(path)
        self._take(weights)
        return weights.alpha

    def _take(self, weights: ReleasedWeights) -> None:
        """Takes over the tensors of a file."""
        if (weights.backbone, weights.num_classes) != (self.backbone_name, self.num_classes):
            raise ValueError(
                f"{weights.path} holds {weights.backbone} with {weights.num_classes} classes, the network is "
                f"{self.backbone_name} with {self.num_classes}: choose the backbone and the data's num_classes to fit"
            )
        difference = find_difference(self.state_dict(), weights.state)
        if difference is not None:
            raise ValueError(f"{weights.path} is no file as the authors released it: {difference}")
        self.load_state_dict(weights.state)

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 8), ceil(W / 8)) logits."""
        return [*self.backbone.list_stages(), Stage((self.head,), self.head)]
