"""HRNetV2 (Wang et al., 2021b): parallel branches of four resolutions, all of which the head uses.

Source: Wang et al. (2021b), Sec. 3; paper, Appendix D (Table 8).
"""

import importlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.base import SegmentationNetwork, Stage, conv_bn_relu, make_classifier
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.pretrained import check_initial_weights, create_timm_model
from lightning_modules.networks.replacement import replace_modules


class HRNet(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size, output stride 4.

    The trunk is timm's (the optional extra: ``pip install -e '.[timm]'``), with two changes: branches are upsampled
    bilinearly, as in the segmentation networks of Wang et al., where timm repeats pixels; and they are upsampled to the
    size of the branch to which they are added, where timm uses a fixed factor, so that any image size works.

    Args:
        num_classes: Number of classes K.
        backbone: ``hrnet_w18``, ``hrnet_w48`` or another HRNet of timm; ``hrnet_w18_small`` is for CPUs.
        weights: ``imagenet`` starts from timm's ImageNet weights (downloaded), None from random ones.
        norm: Norm that replaces BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b`` or ``isw``.
        dropout: Dropout probability after every ReLU; 0 adds none.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: those with all four resolutions, and the head.
        released_layers: Layers that the authors' code updates: its list of frozen layers omits two early ones.
    """

    adapted_layers = ("backbone.transition3", "backbone.stage4", "neck", "head")
    released_layers = ("backbone.conv2", "backbone.bn2", "backbone.layer1", *adapted_layers)  # blocks have a conv2, too

    def __init__(
        self,
        num_classes: int,
        backbone: str = "hrnet_w18",
        weights: Literal["imagenet"] | None = None,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, output_stride=4)
        check_initial_weights(weights, "imagenet")
        if not backbone.startswith("hrnet"):
            raise ValueError(f"backbone is {backbone!r}: expected an HRNet from timm, e.g. hrnet_w18")
        # An empty feature_location leaves out timm's layers for classification behind the branches.
        trunk = create_timm_model(backbone, weights, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
        block = importlib.import_module("timm.models.hrnet").HighResolutionModule
        replace_modules(trunk, lambda module: BilinearFusion(module) if isinstance(module, block) else None)
        self.backbone = trunk
        channels = sum(trunk.feature_info.channels())  # type: ignore[operator, union-attr]
        self.neck = conv_bn_relu(channels, channels)
        self.head = make_classifier(channels, num_classes)
        self.change_layers(norm, dropout, [f"backbone.{stage}" for stage in ("layer1", "stage2", "stage3", "stage4")])

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / 4), ceil(W / 4)) logits."""
        trunk: Any = self.backbone
        stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.act1, trunk.conv2, trunk.bn2, trunk.act2)
        return [
            Stage((stem,), stem),
            Stage((trunk.layer1,), lambda features: [trunk.layer1(features)]),
            make_branch_stage(trunk.transition1, trunk.stage2),
            make_branch_stage(trunk.transition2, trunk.stage3),
            make_branch_stage(trunk.transition3, trunk.stage4),
            Stage((self.neck,), self._concatenate),
            Stage((self.head,), self.head),
        ]

    def _concatenate(self, branches: list[Tensor]) -> Tensor:
        """Upsamples all branches to the size of the finest, concatenates them, and runs the neck."""
        size = branches[0].shape[-2:]
        return self.neck(torch.cat([fit_size(branch, size) for branch in branches], dim=1))


def make_branch_stage(transition: nn.ModuleList, blocks: nn.Module) -> Stage:
    """Makes a stage that adds a branch, whose input is computed from the coarsest branch of the previous stage."""

    def run(branches: list[Tensor]) -> list[Tensor]:
        added = transition[len(branches) :]
        kept = [layer(branch) for layer, branch in zip(transition, branches, strict=False)]
        return blocks([*kept, *(layer(branches[-1]) for layer in added)])

    return Stage((transition, blocks), run)


class BilinearFusion(nn.Module):
    """A block of timm's HRNet that fuses branches of any size, with the layers and names of the block it replaces."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.branches = block.branches
        self.fuse_layers = block.fuse_layers
        self.fuse_act = block.fuse_act
        replace_modules(self, lambda module: nn.Identity() if isinstance(module, nn.Upsample) else None)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps the features of the branches, fine to coarse, to features of the same shapes."""
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]  # type: ignore[arg-type]
        fused = []
        for target, layers in zip(features, self.fuse_layers, strict=True):  # type: ignore[arg-type]
            terms = [fit_size(layer(x), target.shape[-2:]) for layer, x in zip(layers, features, strict=True)]
            fused.append(self.fuse_act(sum(terms[1:], start=terms[0])))  # type: ignore[operator]
        return fused


def fit_size(features: Tensor, size: torch.Size) -> Tensor:
    """Upsamples (B, C, h, w) features bilinearly to (B, C, H, W)."""
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=True)
