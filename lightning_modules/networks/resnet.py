"""Residual backbones at output stride 8, dilated as the released weights of the paper need.

Source: He et al. (2016) for the residual networks; Chen et al. (2015) for dilation in place of stride.
The blocks are torchvision's, and so are all parameter names: torchvision's ImageNet weights load unchanged.
"""

from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights, WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck

BLOCKS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
IMAGENET_WEIGHTS: dict[str, WeightsEnum] = {
    "resnet18": ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": ResNet101_Weights.IMAGENET1K_V1,
}


class ResNet(nn.Module):
    """A residual network without its classifier, output stride 8.

    The first block of ``layer3`` and of ``layer4`` keeps dilation 1; the blocks behind it dilate by 2 and 4. This is
    what the released weights of the paper need; torchvision gives the first block of ``layer4`` dilation 2.

    Args:
        name: One of ``resnet10``, ``resnet18``, ``resnet50``, ``resnet101``.
        width: Channels of the first stage; the stages have ``width * (1, 2, 4, 8)``, times 4 with bottlenecks.

    Raises:
        ValueError: If the name is unknown or the width is not positive.
    """

    output_stride = 8

    def __init__(self, name: str, width: int = 64) -> None:
        super().__init__()
        if name not in BLOCKS:
            raise ValueError(f"unknown backbone {name!r}: expected one of {', '.join(BLOCKS)}")
        if width < 1:
            raise ValueError(f"backbone width is {width}: expected a positive number of channels, e.g. 64")
        block, depths = BLOCKS[name]
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, depths[0])
        self.layer2 = _stage(block, width * block.expansion, width * 2, depths[1], stride=2)
        self.layer3 = _stage(block, width * 2 * block.expansion, width * 4, depths[2], dilation=2)
        self.layer4 = _stage(block, width * 4 * block.expansion, width * 8, depths[3], dilation=4)
        self.channels = width * 8 * block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to (B, channels, ceil(H / 8), ceil(W / 8)) features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, depth: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Builds one residual stage; all blocks but the first have the given dilation."""
    outputs = planes * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    blocks = [block(inputs, planes, stride, downsample)]
    for _ in range(depth - 1):
        dilated = block(outputs, planes)
        for module in dilated.modules():  # BasicBlock takes no dilation argument, so it is set on the convolutions
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
        blocks.append(dilated)
    return nn.Sequential(*blocks)


def load_imagenet_weights(backbone: ResNet, name: str) -> None:
    """Loads torchvision's ImageNet-1k (V1) weights into a backbone of width 64; the unused classifier is left out.

    Raises:
        ValueError: If torchvision has no weights for this backbone, or its width is not torchvision's.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded; names the file and its place.
    """
    if name not in IMAGENET_WEIGHTS:
        known = ", ".join(IMAGENET_WEIGHTS)
        raise ValueError(
            f"there are no ImageNet weights for backbone {name!r}: expected one of {known}, or weights=None"
        )
    if backbone.conv1.out_channels != 64:
        raise ValueError(
            f"ImageNet weights need width=64, the backbone has width={backbone.conv1.out_channels}: "
            "set width=64, or weights=None to train from scratch"
        )
    weights = IMAGENET_WEIGHTS[name]
    try:
        state = OrderedDict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
        raise FileNotFoundError(
            f"ImageNet weights of {name} are not on this machine and could not be downloaded ({error}). "
            f"Download {weights.url} on a machine with a network and put the file at {place}, "
            "or set weights=None to train from scratch"
        ) from error
    state = OrderedDict((key, value) for key, value in state.items() if not key.startswith("fc."))
    backbone.load_state_dict(state, strict=True)
