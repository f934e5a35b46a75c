"""Fully convolutional networks (Long et al., 2015): on dilated residual backbones, and FCN-8s on VGG-16.

Source: Long et al. (2015), Sec. 4; paper, Appendix D (Table 9).
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights, WeightsEnum
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.vgg import cfgs, make_layers

from lightning_modules.networks.base import SegmentationNetwork, Stage, make_classifier
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.pretrained import check_backbone, check_initial_weights, fetch_imagenet_weights
from lightning_modules.networks.resnet import STAGES, ResNet

VGG_WEIGHTS: dict[str, WeightsEnum] = {
    "vgg16": VGG16_Weights.IMAGENET1K_V1,
    "vgg16_bn": VGG16_BN_Weights.IMAGENET1K_V1,
}


class FCN(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8.

    The head is torchvision's: a 3x3 layer, dropout, and the classifier.

    Args:
        backbone: ``resnet10``, ``resnet18``, ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights, None from random ones.
        width: Channels of the backbone's first stage; 64 is the standard, smaller is for CPUs.
        norm: Norm that replaces BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b`` or ``isw``.
        dropout: Dropout probability after every ReLU; 0 adds none.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: conv4_x, conv5_x and the head; for ResNet-101 only
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
        self.head = self.make_head(num_classes)
        self.adapted_layers = (*self.backbone.late_stages, "head")
        self.change_layers(norm, dropout, STAGES)

    def make_head(self, num_classes: int) -> nn.Module:
        """Makes the head, which follows the backbone."""
        head = FCNHead(self.backbone.channels, num_classes)
        head[-1] = make_classifier(self.backbone.channels // 4, num_classes)
        return head

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 8), ceil(W / 8)) logits."""
        return [*self.backbone.list_stages(), Stage((self.head,), self.head)]


class FCN8s(SegmentationNetwork):
    """FCN-8s on VGG-16: (B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    Scores of the last layer, of pool4 and of pool3 are added from coarse to fine. Instead of padding by 100 pixels and
    cropping, as in the paper, poolings round sizes up and fc6 is padded, so that any image size works. All upsampling
    is bilinear and fixed; Long et al. learn the two inner steps.

    Args:
        backbone: ``vgg16``, as in Long et al. (no BatchNorm: for Seg-TTT set alpha to 0), or ``vgg16_bn``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights (for fc6 and fc7, those of the classifier's
            first two layers), None from random ones.
        width: Channels of the first stage; 64 is the standard, smaller is for CPUs. fc6 and fc7 have 64 times as many.
        norm: Norm that replaces BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a`` or ``ibn_b``.
        dropout: Dropout probability after every ReLU; 0 adds none. fc6 and fc7 always have a dropout of 0.5.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: conv4, conv5 and all that follow, including the scores.

    Source: Long et al. (2015), Sec. 4.1-4.3.
    """

    adapted_layers = ("conv4", "conv5", "fc6", "fc7", "head", "score_pool4", "score_pool3")

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
        check_initial_weights(weights, "imagenet")
        check_backbone(backbone, VGG_WEIGHTS, width)
        channels = [entry if isinstance(entry, str) else entry * width // 64 for entry in cfgs["D"]]
        layers = make_layers(channels, batch_norm=backbone == "vgg16_bn")
        fc6 = nn.Conv2d(8 * width, 64 * width, kernel_size=7, padding=3)
        fc7 = nn.Conv2d(64 * width, 64 * width, kernel_size=1)
        if weights == "imagenet":
            load_vgg_weights(layers, fc6, fc7, backbone)
        else:
            for layer in (*layers, fc6, fc7):
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.conv1, self.conv2, self.conv3, self.conv4, self.conv5 = split_at_poolings(layers)
        self.fc6 = nn.Sequential(fc6, nn.ReLU(inplace=True), nn.Dropout())
        self.fc7 = nn.Sequential(fc7, nn.ReLU(inplace=True), nn.Dropout())
        self.head = make_classifier(64 * width, num_classes)
        self.score_pool4 = make_classifier(8 * width, num_classes)
        self.score_pool3 = make_classifier(4 * width, num_classes)
        self.change_layers(norm, dropout, ("conv1", "conv2", "conv3", "conv4", "conv5"))

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 8), ceil(W / 8)) logits."""
        return [
            *(Stage((layer,), layer) for layer in (self.conv1, self.conv2, self.conv3)),
            Stage((self.conv4,), lambda pool3: (pool3, self.conv4(pool3))),
            Stage((self.conv5,), lambda pools: (*pools, self.conv5(pools[-1]))),
            Stage((self.fc6,), lambda features: (*features[:2], self.fc6(features[2]))),
            Stage((self.fc7,), lambda features: (*features[:2], self.fc7(features[2]))),
            Stage((self.head, self.score_pool4, self.score_pool3), lambda features: self._score(*features)),
        ]

    def _score(self, pool3: Tensor, pool4: Tensor, features: Tensor) -> Tensor:
        """Adds the scores of three depths, from coarse to fine."""
        logits = self.head(features)
        for scores in (self.score_pool4(pool4), self.score_pool3(pool3)):
            logits = scores + F.interpolate(logits, size=scores.shape[-2:], mode="bilinear", align_corners=False)
        return logits


def split_at_poolings(layers: nn.Sequential) -> list[nn.Sequential]:
    """Splits a VGG's layers after each pooling, and makes the poolings round sizes up."""
    groups: list[list[nn.Module]] = [[]]
    for layer in layers:
        groups[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
            groups.append([])
    return [nn.Sequential(*group) for group in groups if group]


def load_vgg_weights(layers: nn.Sequential, fc6: nn.Conv2d, fc7: nn.Conv2d, name: str) -> None:
    """Loads torchvision's ImageNet weights into a VGG-16 of width 64; fc6 and fc7 become convolutions."""
    state = fetch_imagenet_weights(name, VGG_WEIGHTS, fc7.out_channels // 64)
    prefix = "features."
    layers.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    for layer, key in ((fc6, "classifier.0"), (fc7, "classifier.3")):
        weight = state[f"{key}.weight"].view(layer.weight.shape)
        layer.load_state_dict({"weight": weight, "bias": state[f"{key}.bias"]})
