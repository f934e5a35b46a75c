"""DRPC (Yue et al., 2019): domain randomisation, and features that are consistent across the styles of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.training.features import name_stages
from lightning_modules.training.method import Step, TrainingMethod, check_least
from lightning_modules.training.styles import Styles

LEVELS = (1, 2, 4, 8)  # cells per side of the pyramid's levels


class DRPC(TrainingMethod):
    """Trains on each image in its own and in several other styles, and pulls their pooled features together.

    Yue et al. make their copies offline, with an image-to-image translation network for each of 15 ImageNet classes.
    Here, a copy gets the colour statistics of a style image during training, so that nothing has to be stored and each
    crop can appear in all styles.

    Args:
        copies: Number of styles in which each image is seen, besides its own.
        weight: Weight of the consistency loss between the copies of an image.
        styles: Folder of style images; None uses photographs from installed packages and random textures.
        layer: Name of the module whose outputs are pooled; None uses the backbone's last stage.

    Raises:
        ValueError: If an argument is outside its range, or the folder holds too few images.
        FileNotFoundError: If there is no such folder.

    Source: Yue et al. (2019), Sec. 3.2 and 3.3, Eq. 2-4 (from memory of the paper; no code was published).
    """

    styles: Styles

    def __init__(
        self, copies: int = 2, weight: float = 1.0, styles: str | None = None, layer: str | None = None
    ) -> None:
        super().__init__()
        check_least(1, copies=copies)
        check_least(0, weight=weight)
        self.copies = copies
        self.weight = weight
        self.layer = layer
        self.styles = Styles(styles, least=copies)

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Selects the module whose features are pooled."""
        self.features = [self.layer or name_stages(network, "or set layer")[3]]

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images in their own and in other styles: all images, then all first copies, and so on."""
        plain = self.restore(images).repeat(self.copies, 1, 1, 1)
        styles = self.styles.draw(len(plain)).to(plain)
        changed = self.normalization.apply(transfer_colours(plain, styles))
        return torch.cat([images, changed]), masks.repeat(self.copies + 1, 1, 1)

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted distance of the pooled features of an image's versions from their mean."""
        return {"consistency": self.weight * measure_consistency(step.features[self.features[0]], self.copies + 1)}


def measure_consistency(features: Tensor, versions: int) -> Tensor:
    """Returns the () mean distance (L1) of pyramid-pooled features from their mean over the versions of an image.

    Features are (V * B, C, H, W): all images in the first version, then all in the second, and so on.
    """
    values = features if features.dtype == torch.float64 else features.float()
    distances = []
    for level in LEVELS:
        if level > min(values.shape[-2:]):
            break
        pooled = F.adaptive_avg_pool2d(values, level).unflatten(0, (versions, -1))
        distances.append((pooled - pooled.mean(dim=0, keepdim=True)).abs().mean())
    return torch.stack(distances).mean()


def transfer_colours(images: Tensor, styles: Tensor) -> Tensor:
    """Gives (B, 3, H, W) images in [0, 1] the mean and the covariance of the colours of (B, 3, h, w) style images."""
    with torch.autocast(images.device.type, enabled=False):
        own_mean, own_root = describe_colours(images)
        mean, root = describe_colours(styles)
        centred = images.flatten(2) - own_mean
        moved = root @ torch.linalg.solve(own_root, centred) + mean
    return moved.reshape(images.shape).clamp(0, 1)


def describe_colours(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the (B, 3, 1) mean of the colours of (B, 3, H, W) images, and the (B, 3, 3) root of their covariance."""
    values = images.flatten(2)
    mean = values.mean(dim=2, keepdim=True)
    covariance = (values - mean) @ (values - mean).mT / values.shape[2]
    scales, axes = torch.linalg.eigh(covariance + 1e-4 * torch.eye(3, device=images.device, dtype=images.dtype))
    return mean, axes @ torch.diag_embed(scales.clamp_min(0).sqrt()) @ axes.mT
