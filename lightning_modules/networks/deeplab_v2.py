"""DeepLabv2 (Chen et al., 2018a): a dilated residual trunk, and an atrous spatial pyramid whose branches are summed.

Source: Chen et al. (2018a), Sec. 3.2, Fig. 7 (ASPP-L); paper, Table 4 (the network of ASG and CSG).
"""

from functools import reduce

import torch
from torch import Tensor, nn

from lightning_modules.networks.fcn import FCN

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


class DeepLabV2(FCN):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8: `FCN` with another head.

    The arguments and attributes are those of `FCN`.
    """

    def make_head(self, num_classes: int) -> nn.Module:
        """Makes the pyramid."""
        return SummedPyramid(self.backbone.channels, num_classes)
