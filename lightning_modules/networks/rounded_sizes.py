"""A wrapper for networks of other libraries that take only some image sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.base import find_logits


class RoundedSizes(nn.Module):
    """Gives a network images whose sides are multiples of a number, and its logits the size of the image.

    Many encoder-decoders, those of segmentation_models_pytorch among them, need this. Images are resized bilinearly,
    not padded: padding would enter the statistics that IaBN blends.

    Args:
        network: (B, 3, H, W) image -> (B, K, h, w) logits, alone or where `find_logits` finds them.
        multiple: What H and W have to be multiples of; 1 leaves images as they are.

    Attributes:
        adapted_layers: The network's own, if it has them; likewise ``released_layers``.

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
