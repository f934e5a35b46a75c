"""DeepLabv1 (Chen et al., 2015) without CRF: a dilated residual backbone and a 1x1 classifier.

Source: paper, Sec. 5, implementation details.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.resnet import ResNet, load_imagenet_weights


class DeepLabV1(nn.Module):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8.

    Args:
        backbone: ``resnet10``, ``resnet18``, ``resnet50`` or ``resnet101``.
        num_classes: Number of classes K.
        weights: ``imagenet`` starts from torchvision's ImageNet weights, None from random ones.
        width: Channels of the backbone's first stage; 64 is the standard, smaller is for CPUs.

    Attributes:
        adapted_layers: What Seg-TTT moves unless told otherwise: conv4_x, conv5_x and the head; for ResNet-101
            conv5_x and the head (paper, Appendix C).

    Raises:
        ValueError: If an argument is outside its range, or weights do not exist for the backbone.
        FileNotFoundError: If ImageNet weights are asked for and can neither be found nor downloaded.
    """

    def __init__(
        self, backbone: str, num_classes: int, weights: Literal["imagenet"] | None = None, width: int = 64
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: expected 2 or more")
        if weights not in (None, "imagenet"):
            raise ValueError(f"weights is {weights!r}: expected 'imagenet' or None")
        self.num_classes = num_classes
        self.backbone = ResNet(backbone, width)
        if weights == "imagenet":
            load_imagenet_weights(self.backbone, backbone)
        self.head = nn.Conv2d(self.backbone.channels, num_classes, kernel_size=1)
        nn.init.normal_(self.head.weight, mean=0.0, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.output_stride = self.backbone.output_stride
        self.adapted_layers = ("layer4", "head") if backbone == "resnet101" else ("layer3", "layer4", "head")

    def forward(self, image: Tensor) -> Tensor:
        """Predicts logits.

        Args:
            image: (B, 3, H, W) float, normalised; H and W at least the output stride.

        Returns:
            (B, K, H, W) logits. The upsampling aligns corners, as the released weights of the paper expect.

        Raises:
            ValueError: If the image is smaller than the output stride.
        """
        size = image.shape[-2:]
        if min(size) < self.output_stride:
            raise ValueError(
                f"the image is {size[0]}x{size[1]} pixels (HxW), smaller than the network's output stride of "
                f"{self.output_stride}: give a larger image, or leave out the smallest scale"
            )
        logits = self.head(self.backbone(image))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
