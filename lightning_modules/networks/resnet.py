"""Residual backbones at output stride 8 or 16, dilated as the paper's released weights require.

Source: He et al. (2016) for the residual networks; Chen et al. (2015) for dilation in place of stride.
The blocks are torchvision's, and so are all parameter names: torchvision's ImageNet weights load unchanged.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights, WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_modules.networks.base import Stage
from lightning_modules.networks.pretrained import check_backbone, check_initial_weights, fetch_imagenet_weights

STAGES = ("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4")  # names in a network
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
    """A residual network without its classifier.

    At output stride 8, the first blocks of ``layer3`` and ``layer4`` have dilation 1, the later blocks 2 and 4. The
    paper's released weights require this; torchvision gives the first block of ``layer4`` dilation 2. At output stride
    16, ``layer3`` has stride 2, and all blocks of ``layer4`` but the first have dilation 2.

    Args:
        name: One of ``resnet10``, ``resnet18``, ``resnet50``, ``resnet101``.
        width: Channels of the first stage; the stages have ``width * (1, 2, 4, 8)``, times 4 with bottlenecks.
        output_stride: Stride of the features in pixels of the image, 8 or 16.
        weights: ``imagenet`` starts from torchvision's ImageNet-1k (V1) weights, None from random ones.

    Attributes:
        name: Name of the backbone.
        late_stages: Stages that the paper adapts: conv4_x and conv5_x; for ResNet-101 only conv5_x (paper, Appendix C).
        low_level_channels: Channels of the features of ``layer1``, at stride 4.
        channels: Channels of the features of ``layer4``.

    Raises:
        ValueError: If an argument is outside its range, or there are no ImageNet weights for the name and the width.
        FileNotFoundError: If ImageNet weights can neither be found nor downloaded.
    """

    def __init__(
        self, name: str, width: int = 64, output_stride: int = 8, weights: Literal["imagenet"] | None = None
    ) -> None:
        super().__init__()
        check_initial_weights(weights, "imagenet")
        check_backbone(name, BLOCKS, width)
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}: expected 8 or 16")
        self.name = name
        block, depths = BLOCKS[name]
        stride3, dilation3, dilation4 = (1, 2, 4) if output_stride == 8 else (2, 1, 2)
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, depths[0])
        self.layer2 = _stage(block, width * block.expansion, width * 2, depths[1], stride=2)
        self.layer3 = _stage(block, width * 2 * block.expansion, width * 4, depths[2], stride3, dilation3)
        self.layer4 = _stage(block, width * 4 * block.expansion, width * 8, depths[3], dilation=dilation4)
        self.late_stages = ("layer4",) if name == "resnet101" else ("layer3", "layer4")
        self.low_level_channels = width * block.expansion
        self.channels = width * 8 * block.expansion
        self.output_stride = output_stride
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if weights == "imagenet":
            state = fetch_imagenet_weights(name, IMAGENET_WEIGHTS, width)
            self.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})

    def forward(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to (B, channels, ceil(H / S), ceil(W / S)) features, S the output stride."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.run_stem(image)))))

    def run_stem(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to the input of ``layer1``, at stride 4."""
        return self.maxpool(self.relu(self.bn1(self.conv1(image))))

    def list_stages(self) -> list[Stage]:
        """Lists the stages of `forward`, in order."""
        stem = Stage((self.conv1, self.bn1, self.relu), self.run_stem)
        return [stem, *(Stage((layer,), layer) for layer in (self.layer1, self.layer2, self.layer3, self.layer4))]


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
