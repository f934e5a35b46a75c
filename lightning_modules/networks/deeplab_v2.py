"""DeepLabv2 (Chen et al., 2018a): a dilated residual trunk, and an atrous spatial pyramid whose branches are summed.

Source: Chen et al. (2018a), Sec. 3.2, Fig. 7 (ASPP-L); paper, Table 4 (the network of ASG and CSG).
"""

from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.networks.base import SegmentationNetwork, Stage
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.resnet import STAGES, ResNet

RATES = (6, 12, 18, 24)


class SummedPyramid(nn.Module):
    """(B, C, H, W) features -> (B, K, H, W) logits: the sum of 3x3 classifiers of several dilations."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, num_classes, kernel_size=3, padding=rate, dilation=rate) for rate in RATES
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, mean=0.0, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Sums the logits of all branches."""
        return reduce(torch.add, [branch(features) for branch in self.branches])


class DeepLabV2(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8.

    Args:
        backbone: ``resnet10``, ``resnet18``, ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights, None from random ones.
        width: Channels of the backbone's first stage; 64 is the standard, smaller is for CPUs.
        norm: What takes the place of BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b``, ``isw``.
        dropout: Probability of a dropout behind every ReLU; 0 adds none.

    Attributes:
        adapted_layers: What Seg-TTT moves unless told otherwise: conv4_x, conv5_x and the head; for ResNet-101
            conv5_x and the head (paper, Appendix C).
    """

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
        self.backbone = ResNet(backbone, width, weights=weights)
        self.head = SummedPyramid(self.backbone.channels, num_classes)
        self.adapted_layers = (*self.backbone.late_stages, "head")
        self.change_layers(norm, dropout, STAGES)

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 8), ceil(W / 8)) logits."""
        return [*self.backbone.list_stages(), Stage((self.head,), self.head)]
