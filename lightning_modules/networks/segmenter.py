"""Segmenter (Strudel et al., 2021) with the linear decoder: a vision transformer whose tokens are classified.

Source: Strudel et al. (2021), Sec. 3.1 and 3.2 (the linear decoder).
"""

import math
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks.base import SegmentationNetwork, Stage, make_classifier
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.pretrained import Renormalization, check_initial_weights, create_timm_model
from lightning_modules.networks.replacement import check_dropout

HEAD_CHANNELS = 64  # per head of attention, as in every standard vision transformer


class Segmenter(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size; a transformer without BatchNorm.

    Needs the optional extra of this project: ``pip install -e '.[timm]'``. There is no BatchNorm for IaBN to adapt: set
    alpha to 0 in Seg-TTT and TTA. Images are padded to whole patches at the right and the bottom, and logits cropped.

    Args:
        num_classes: Number of classes K.
        backbone: A vision transformer of timm, e.g. ``vit_tiny_patch16_224``; takes images of any size.
        weights: ``imagenet`` starts from timm's ImageNet weights (downloaded), None from random ones.
        width: Channels of the tokens, a multiple of 64; None uses the backbone's, as ImageNet weights require.
        depth: Number of blocks; None uses the backbone's, as ImageNet weights require.
        patch_size: Side of the patches in pixels; None uses the backbone's, as ImageNet weights require.
        norm: Only ``batch``, which changes nothing: there is no BatchNorm to replace.
        dropout: Dropout probability after the output layer of each attention and after every linear layer of each MLP.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: the last third of the blocks and all that follow.
    """

    channels_last = False  # a transformer has no convolutions that gain from it

    def __init__(
        self,
        num_classes: int,
        backbone: str = "vit_tiny_patch16_224",
        weights: Literal["imagenet"] | None = None,
        width: int | None = None,
        depth: int | None = None,
        patch_size: int | None = None,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        check_initial_weights(weights, "imagenet")
        if norm != "batch":
            raise ValueError(
                f"norm is {norm!r}, but a vision transformer has no BatchNorm to replace: expected 'batch'"
            )
        if not backbone.startswith("vit_"):
            raise ValueError(
                f"backbone is {backbone!r}: expected a vision transformer from timm, e.g. vit_tiny_patch16_224"
            )
        check_dropout(dropout)
        for name, value in (("width", width), ("depth", depth), ("patch_size", patch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: expected a positive number, or None for the backbone's own value")
            if value is not None and weights == "imagenet":
                raise ValueError(
                    f"{name} is {value}, but ImageNet weights fit only the backbone's own value: set it to None"
                )
        changes: dict[str, Any] = {"embed_dim": width, "depth": depth, "patch_size": patch_size}
        if width is not None:
            if width % HEAD_CHANNELS:
                raise ValueError(f"width is {width}: expected a multiple of {HEAD_CHANNELS}")
            changes["num_heads"] = width // HEAD_CHANNELS
        transformer: Any = create_timm_model(
            backbone,
            weights,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            dynamic_img_pad=True,
            proj_drop_rate=dropout,
            **{name: value for name, value in changes.items() if value is not None},
        )
        super().__init__(num_classes, output_stride=transformer.patch_embed.patch_size[0])
        self.renormalize = Renormalization(transformer)
        self.backbone = transformer
        self.head = make_classifier(transformer.embed_dim, num_classes)
        blocks = len(transformer.blocks)
        late = [f"backbone.blocks.{number}" for number in range(blocks - math.ceil(blocks / 3), blocks)]
        self.adapted_layers = (*late, "backbone.norm", "head")

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / P), ceil(W / P)) logits of its patches."""
        return [
            Stage((self.renormalize, self.backbone), self._compute_features),
            Stage((self.head,), self.head),
        ]

    def _compute_features(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to the (B, C, ceil(H / P), ceil(W / P)) tokens of its patches."""
        height, width = (math.ceil(side / self.output_stride) for side in image.shape[-2:])
        tokens = self.backbone.forward_features(self.renormalize(image))[:, self.backbone.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Upsamples logits from patches to pixels and crops the padding."""
        logits = F.interpolate(
            logits, scale_factor=self.output_stride, mode="bilinear", align_corners=self.align_corners
        )
        return logits[..., :height, :width]
