"""The frozen ImageNet network with which ASG and CSG regularise training.

Methods hold it in a tuple, so that it is no part of the trained module: checkpoints do not contain it, and DDP does not
synchronise it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.networks.pretrained import fetch_imagenet_weights
from lightning_modules.networks.resnet import IMAGENET_WEIGHTS, ResNet
from lightning_modules.networks.timm_deeplab import TimmDeepLab, read_packaged_weights
from lightning_modules.training.features import record_outputs


def freeze(network: nn.Module) -> nn.Module:
    """Returns a frozen copy of a network, in evaluation mode."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def describe(teacher: nn.Module, features: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Returns the outputs of a teacher's modules for (B, 3, H, W) normalised images, by name."""
    with record_outputs(teacher.to(images.device), features) as outputs:
        teacher(images)
    return outputs


def load_classifier(network: nn.Module) -> nn.Module:
    """Loads the frozen classifier of a backbone's ImageNet weights: (B, C, H, W) features -> (B, 1000) logits.

    Raises:
        ValueError: If there is none for this backbone.
        FileNotFoundError: If torchvision's weights are not on disk and cannot be downloaded.
    """
    project: list[nn.Module] = []
    if isinstance(network, TimmDeepLab):
        saved = read_packaged_weights()
        weight, fc = saved["_conv_head.weight"], "_fc"
        outputs, inputs = weight.shape[:2]
        convolution, norm = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)
        convolution.load_state_dict({"weight": weight})
        norm.load_state_dict({key.removeprefix("_bn1."): saved[key] for key in saved if key.startswith("_bn1.")})
        project = [convolution, norm, nn.ReLU6()]
    else:
        backbone: Any = getattr(network, "backbone", network)
        if not isinstance(backbone, ResNet):
            raise ValueError(f"there is no ImageNet classifier for {type(backbone).__name__}: expected a ResNet")
        saved, fc = fetch_imagenet_weights(backbone.name, IMAGENET_WEIGHTS, backbone.conv1.out_channels), "fc"
    classes, channels = saved[f"{fc}.weight"].shape
    linear = nn.Linear(channels, classes)
    linear.load_state_dict({name: saved[f"{fc}.{name}"] for name in ("weight", "bias")})
    classifier = nn.Sequential(*project, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    return classifier.eval().requires_grad_(False)
