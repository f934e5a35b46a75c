"""DeepLabv1 (Chen et al., 2015) without CRF: a dilated residual backbone and a 1x1 classifier.

Source: paper, Sec. 5, implementation details.
"""

from pathlib import Path

import torch
from torch import nn

from lightning_modules.networks.base import make_classifier
from lightning_modules.networks.checkpoints import find_difference
from lightning_modules.networks.fcn import FCN
from lightning_modules.networks.released import ReleasedWeights, read_released


class DeepLabV1(FCN):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 8: `FCN` with another head.

    The upsampling aligns corners, as the paper's released weights require.

    The arguments and attributes are those of `FCN`.
    """

    align_corners = True

    def make_head(self, num_classes: int) -> nn.Module:
        """Makes the classifier."""
        return make_classifier(self.backbone.channels, num_classes)

    @classmethod
    def from_released(cls, path: str | Path) -> "DeepLabV1":
        """Creates the network from a weights file of the paper's authors, in evaluation mode.

        Args:
            path: Path of the file, e.g. resnet50_gta_alpha_0.1.pth.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a file of the authors, or is of another network.
        """
        weights = read_released(path)
        with torch.device("meta"):  # skips the initialisation, which the file replaces
            network = cls(weights.backbone, weights.num_classes)
        network.to_empty(device="cpu")._take(weights)
        return network.eval()

    def load_released(self, path: str | Path) -> float | None:
        """Loads a weights file of the paper's authors, whose tensors must match exactly.

        Args:
            path: Path of the file, e.g. resnet50_gta_alpha_0.1.pth.

        Returns:
            IaBN's weight alpha, with which the file was released; None if it differs between layers.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a file of the authors, or has another backbone or number of classes.
        """
        weights = read_released(path)
        self._take(weights)
        return weights.alpha

    def _take(self, weights: ReleasedWeights) -> None:
        """Loads the tensors of a file."""
        if (weights.backbone, weights.num_classes) != (self.backbone.name, self.num_classes):
            raise ValueError(
                f"{weights.path} contains {weights.backbone} with {weights.num_classes} classes, the network is "
                f"{self.backbone.name} with {self.num_classes}: set the backbone and the data's num_classes to match"
            )
        difference = find_difference(self.state_dict(), weights.state)
        if difference is not None:
            raise ValueError(f"{weights.path} is not a file that the authors released: {difference}")
        self.load_state_dict(weights.state)
