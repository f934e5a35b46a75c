"""DeepLabv1 (Chen et al., 2015) without CRF: a dilated residual backbone and a 1x1 classifier.

The paper's authors released weights for it, e.g. ``resnet50_gta_alpha_0.1.pth``: a flat state dict, in which every name
starts with ``module.``; every BatchNorm is wrapped (``bn1.batch_norm.weight``) and has its IaBN weight beside it
(``bn1.alpha``); the classifier is ``cls_head``; the ImageNet classifier ``fc`` is included, but unused.

Source: paper, Sec. 5, implementation details.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.networks.base import make_classifier
from lightning_modules.networks.checkpoints import find_difference, read_checkpoint
from lightning_modules.networks.fcn import FCN

DEPTHS = {6: "resnet50", 23: "resnet101"}  # by the number of blocks of layer3


class ReleasedWeights(NamedTuple):
    """The content of a released file."""

    backbone: str
    num_classes: int  # 19 from GTA, 16 from SYNTHIA
    alpha: float | None  # IaBN's, chosen for these weights; None if it differs between layers
    state: dict[str, Tensor]  # by the names in DeepLabV1


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
        """Creates the network from a weights file of the paper's authors, in evaluation mode; see `load_released`."""
        weights = read_released(path)
        with torch.device("meta"):  # skips the initialisation, which the file replaces
            network = cls(weights.backbone, weights.num_classes)
        network.to_empty(device="cpu")._take(weights, path)
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
        self._take(weights, path)
        return weights.alpha

    def _take(self, weights: ReleasedWeights, path: str | Path) -> None:
        if (weights.backbone, weights.num_classes) != (self.backbone.name, self.num_classes):
            raise ValueError(
                f"{path} contains {weights.backbone} with {weights.num_classes} classes, the network is "
                f"{self.backbone.name} with {self.num_classes}: set the backbone and the data's num_classes to match"
            )
        difference = find_difference(self.state_dict(), weights.state)
        if difference is not None:
            raise ValueError(f"{path} is not a file that the authors released: {difference}")
        self.load_state_dict(weights.state)


def read_released(path: str | Path) -> ReleasedWeights:
    """Reads a file that the authors released; see `DeepLabV1.load_released`."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the released weights {path} do not exist: expected a file such as resnet50_gta_alpha_0.1.pth, downloaded "
            "from the link in the authors' README"
        )
    saved = read_checkpoint(path)["state_dict"]
    state: dict[str, Tensor] = {}
    alphas: set[float] = set()
    for key, value in saved.items():
        name = key.removeprefix("module.").replace(".batch_norm.", ".")
        if name.endswith(".alpha"):
            alphas.add(round(float(value), 6))
        elif not name.startswith("backbone.fc."):
            state["head" + name.removeprefix("cls_head") if name.startswith("cls_head.") else name] = value
    blocks = {name.split(".")[2] for name in state if name.startswith("backbone.layer3.")}
    if "head.weight" not in state or len(blocks) not in DEPTHS:
        head = "a" if "head.weight" in state else "no"
        raise ValueError(
            f"{path} contains {len(saved)} tensors ({', '.join(list(saved)[:3])}, ...), with {len(blocks)} blocks in "
            f"layer3 and {head} cls_head: expected a released DeepLabv1 on ResNet-50 or ResNet-101"
        )
    alpha = alphas.pop() if len(alphas) == 1 else None
    return ReleasedWeights(DEPTHS[len(blocks)], len(state["head.weight"]), alpha, state)
