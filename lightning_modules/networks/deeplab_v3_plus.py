"""DeepLabv3+ (Chen et al., 2018b): atrous spatial pyramid pooling, and a decoder that also uses low-level features.

Source: Chen et al. (2018b), Sec. 3; paper, Appendix D (Tables 8 and 9).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from lightning_modules.networks.base import SegmentationNetwork, Stage, conv_bn_relu, make_classifier
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.resnet import STAGES, ResNet

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # dilations of the pyramid, by output stride


class DeepLabV3Plus(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    The pyramid is torchvision's, which has DeepLabv3 but no DeepLabv3+. segmentation_models_pytorch has one, but only
    accepts images whose sides are multiples of the stride. Scaled views of real images are not (0.75 * 1914 = 1435),
    and padding would distort the statistics that IaBN blends.

    Args:
        backbone: ``resnet10``, ``resnet18``, ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights, None from random ones.
        width: Channels of the backbone's first stage; 64 is the standard, smaller is for CPUs. Pyramid and decoder
            scale with it: they have 4 times as many.
        output_stride: Stride of the backbone's features and the pyramid, 8 or 16.
        norm: Norm that replaces BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b`` or ``isw``.
        dropout: Dropout probability after every ReLU; 0 adds none.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: conv4_x, conv5_x, pyramid, decoder and head; for
            ResNet-101 without conv4_x (paper, Appendix C).
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        weights: Literal["imagenet"] | None = None,
        width: int = 64,
        output_stride: int = 8,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, output_stride)
        self.backbone = ResNet(backbone, width, output_stride, weights)
        channels, reduced = 4 * width, max(1, 3 * width // 4)  # 256 and 48 at the standard width
        self.aspp = ASPP(self.backbone.channels, RATES[output_stride], channels)
        self.reduction = conv_bn_relu(self.backbone.low_level_channels, reduced)
        self.decoder = nn.Sequential(
            conv_bn_relu(channels + reduced, channels, kernel_size=3), conv_bn_relu(channels, channels, kernel_size=3)
        )
        self.head = make_classifier(channels, num_classes)
        self.adapted_layers = (*self.backbone.late_stages, "aspp", "reduction", "decoder", "head")
        self.change_layers(norm, dropout, STAGES)

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 4), ceil(W / 4)) logits."""
        stem, layer1, layer2, *late = self.backbone.list_stages()
        return [
            stem,
            layer1,
            Stage(layer2.layers, lambda low_level: (low_level, layer2.run(low_level))),
            *map(beside_low_level, late),
            Stage((self.aspp, self.reduction), lambda pair: (self.reduction(pair[0]), self.aspp(pair[1]))),
            Stage((self.decoder,), lambda pair: self._decode(*pair)),
            Stage((self.head,), self.head),
        ]

    def _decode(self, low_level: Tensor, pyramid: Tensor) -> Tensor:
        """Upsamples the pyramid to the low-level features, concatenates the two, and runs the decoder."""
        pyramid = F.interpolate(pyramid, size=low_level.shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat([pyramid, low_level], dim=1))


def beside_low_level(stage: Stage) -> Stage:
    """Makes a stage that runs another on the second of a pair and passes on the first, the low-level features."""
    return Stage(stage.layers, lambda pair: (pair[0], stage.run(pair[1])))
