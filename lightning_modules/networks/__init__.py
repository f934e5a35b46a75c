"""Networks: plain PyTorch modules, (B, 3, H, W) normalised image -> (B, K, H, W) logits at input size."""

from lightning_modules.networks.base import SegmentationNetwork
from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.networks.deeplab_v2 import DeepLabV2
from lightning_modules.networks.deeplab_v3_plus import DeepLabV3Plus
from lightning_modules.networks.fcn import FCN, FCN8s
from lightning_modules.networks.hrnet import HRNet
from lightning_modules.networks.rounded_sizes import RoundedSizes
from lightning_modules.networks.segmenter import Segmenter
from lightning_modules.networks.timm_deeplab import TimmDeepLab

__all__ = [
    "FCN",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3Plus",
    "FCN8s",
    "HRNet",
    "RoundedSizes",
    "SegmentationNetwork",
    "Segmenter",
    "TimmDeepLab",
]
