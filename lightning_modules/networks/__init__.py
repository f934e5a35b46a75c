"""Networks: pure torch modules, (B, 3, H, W) normalised image -> (B, K, H, W) logits at input size."""

from lightning_modules.networks.deeplab_v1 import DeepLabV1

__all__ = ["DeepLabV1"]
