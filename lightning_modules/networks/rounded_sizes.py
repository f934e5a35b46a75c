"""A wrapper for networks of other libraries that only accept certain image sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.base import find_logits


class RoundedSizes(nn.Module):
    """Resizes images to multiples of a number for a network, and its logits back to the size of the image.

    Many encoder-decoders, such as those of segmentation_models_pytorch, need this. Images are resized bilinearly, not
    padded: padding would distort the statistics that IaBN blends.

    Args:
        network: (B, 3, H, W) image -> (B, K, h, w) logits, alone or in an output that `find_logits` accepts.
        multiple: H and W are rounded up to multiples of this number; 1 does not change images.

    Attributes:
        adapted_layers: The wrapped network's, if it has them; likewise ``released_layers``.

    Raises:
        ValueError: If the multiple is not positive.
    """

    adapted_layers: tuple[str, ...]
    released_layers: tuple[str, ...]

    def __init__(self, network: nn.Module, multiple: int = 32) -> None:
        super().__init__()
        if multiple < 1:
            raise ValueError(f"multiple is {multiple}: expected a positive number, e.g. 32")
        self.network = network
        self.multiple = multiple
        for name in ("adapted_layers", "released_layers"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def forward(self, image: Tensor) -> Tensor:
        """Predicts (B, K, H, W) logits of a (B, 3, H, W) image of any size."""
        size = image.shape[-2:]
        rounded = torch.Size(-(-side // self.multiple) * self.multiple for side in size)
        logits = find_logits(self.network(resize(image, rounded)))
        return resize(logits, size)


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Resizes (B, C, h, w) bilinearly to (B, C, H, W), if it has another size."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
