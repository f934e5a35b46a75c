"""ImageNet weights of torchvision and backbones of timm, with errors that say what to do without internet access."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check_initial_weights(weights: object, *known: str) -> None:
    """Raises ValueError if the name of weights is neither None nor a known one."""
    if weights is not None and weights not in known:
        raise ValueError(f"weights is {weights!r}: expected {', '.join(map(repr, known))} or None")


def check_backbone(name: str, known: Iterable[str], width: int) -> None:
    """Raises ValueError if a backbone or its width does not exist."""
    if name not in known:
        raise ValueError(f"unknown backbone {name!r}: expected one of {', '.join(known)}")
    if width < 1:
        raise ValueError(f"backbone width is {width}: expected a positive number of channels, e.g. 64")


def fetch_imagenet_weights(name: str, known: Mapping[str, WeightsEnum], width: int) -> Mapping[str, Tensor]:
    """Returns torchvision's state dict of an ImageNet-1k (V1) classifier, by its backbone, from disk or downloaded.

    Raises:
        ValueError: If there are no weights for this backbone, or not for its width.
        FileNotFoundError: If the weights are not on disk and cannot be downloaded; the message names file and folder.
    """
    if name not in known:
        raise ValueError(
            f"there are no ImageNet weights for backbone {name!r}: expected one of {', '.join(known)}, or weights=None"
        )
    if width != 64:
        raise ValueError(
            f"ImageNet weights need width=64, the backbone has width={width}: set width=64, or weights=None to train "
            "from scratch"
        )
    try:
        return known[name].get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        url = known[name].url
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        raise FileNotFoundError(
            f"ImageNet weights of {name} are not on this machine and could not be downloaded ({error}). Download {url} "
            f"on a machine with internet access and put the file at {place}, or set weights=None to train from scratch"
        ) from error


def create_timm_model(name: str, weights: Literal["imagenet"] | None, **arguments: Any) -> nn.Module:
    """Creates a timm model by its name there, with further arguments of ``timm.create_model``.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If timm does not know the model.
        FileNotFoundError: If the weights are not on this machine and cannot be downloaded.
    """
    timm = import_extra("timm")
    if not timm.is_model(name):
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}: expected a name that timm.list_models() lists"
        )
    try:
        return timm.create_model(name, pretrained=weights == "imagenet", **arguments)
    except OSError as error:
        raise FileNotFoundError(
            f"ImageNet weights of {name} are not on this machine and could not be downloaded ({error}). Create the "
            "network once on a machine with internet access and copy timm's cache (the folder set by HF_HOME), "
            "or set weights=None to train from scratch"
        ) from error


def import_extra(name: str) -> Any:
    """Imports a package of the extra ``timm``; raises ModuleNotFoundError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: networks with timm backbones need the optional extra, "
            "pip install -e '.[timm]'"
        ) from error


class Renormalization(nn.Module):
    """Converts images from ImageNet's normalisation to the one that a timm model was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        cfg: Any = model.default_cfg
        mean, std, given_mean, given_std = (
            torch.tensor(values)[:, None, None] for values in (cfg["mean"], cfg["std"], IMAGENET_MEAN, IMAGENET_STD)
        )
        self.register_buffer("scale", given_std / std, persistent=False)  # not in checkpoints
        self.register_buffer("shift", (given_mean - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Renormalises a (B, 3, H, W) image."""
        return image * self.scale + self.shift
