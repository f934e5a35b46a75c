"""Networks: pure torch modules, (B, 3, H, W) normalised image -> (B, K, H, W) logits at input size."""

from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.networks.timm_deeplab import TimmDeepLab

__all__ = ["DeepLabV1", "TimmDeepLab"]
