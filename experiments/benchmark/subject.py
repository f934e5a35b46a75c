"""A network with random weights that behaves like a trained one when it is measured, and an image for it."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.models.resnet import BasicBlock, Bottleneck

from experiments.benchmark.plain_loop import normalise
from lightning_modules.predictor import predict_logits

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
CLASSES = 19
CALM = 0.1  # weight of each residual block's output
LOGITS_DEVIATION = 2.0  # standard deviation, about that of a trained network
FIRST_STEP = 0.01  # about how much the first step of Seg-TTT lowers the loss
PART = (256, 512)  # of the image, which suffices to choose a learning rate


@dataclass(frozen=True)
class Subject:
    """A network and an image on the device to measure.

    Attributes:
        name: Name of the network.
        network: The network, in evaluation mode.
        pixels: (H, W, 3) uint8 RGB.
        image: (1, 3, H, W) float32, the normalised `pixels`.
        lr: Learning rate of Seg-TTT.
    """

    name: str
    network: nn.Module
    pixels: np.ndarray
    image: Tensor
    lr: float


def make_network(name: str, **arguments: Any) -> nn.Module:
    """Makes a network of configs/model with random weights, and with further arguments.

    Raises:
        FileNotFoundError: If there is no such file; the message lists the existing ones.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"{path} does not exist: expected one of {known}")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))["network"]
    given = config.get("init_args", {})
    if "weights" in given:
        given["weights"] = None
    if "network" not in given:  # in a wrapper, the inner network has the number of classes
        given["num_classes"] = CLASSES
    return make_object({**config, "init_args": given | arguments})


def make_object(config: dict[str, Any]) -> Any:
    """Makes the object of a `class_path` with `init_args`; unlike the command line, without jsonargparse."""
    module, _, name = config["class_path"].rpartition(".")
    arguments = config.get("init_args", {})
    if "network" in arguments:
        arguments = {**arguments, "network": make_object(arguments["network"])}
    return getattr(import_module(module), name)(**arguments)


def make_subject(
    name: str, size: tuple[int, int], device: str | torch.device, seed: int = 0, **arguments: Any
) -> Subject:
    """Makes a network that imitates a trained one, with further arguments, and an image of `size` (H, W)."""
    torch.manual_seed(seed)
    network, pixels = make_network(name, **arguments).to(device).eval(), draw_image(*size)
    image = normalise(pixels).to(device)
    imitate_training(network, image)
    return Subject(name, network, pixels, image, choose_rate(network, image))


def draw_image(height: int, width: int) -> np.ndarray:
    """Draws a (H, W, 3) uint8 RGB image that is smooth like a photograph, and the same each time."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 3, height, width)
    for divisor, weight in ((32, 1.0), (8, 0.4), (2, 0.1)):  # noise at three scales
        noise = torch.randn(1, 3, max(2, height // divisor), max(2, width // divisor), generator=generator)
        total += weight * F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    return (128 + 50 * total[0]).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


@torch.no_grad()
def imitate_training(network: nn.Module, image: Tensor) -> None:
    """Gives a network with random weights, in place, what training would, so that rounding alone decides few labels.

    Each residual block adds little: otherwise a deep network amplifies bfloat16's rounding until a third of its labels
    change. The running statistics are those of the image and its mirror image: otherwise the features grow without
    bounds. The logits vary, or every pixel would be confident, and nearly tied.

    Args:
        network: Changed in place.
        image: (1, 3, H, W) float, normalised.
    """
    for block in network.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            nn.init.constant_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight, CALM)
    update_bn([torch.cat([image, image.flip(-1)])], network)
    factor = LOGITS_DEVIATION / predict_logits(network, image).std(dim=(2, 3)).mean().item()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == CLASSES:
            module.weight *= factor
            if module.bias is not None:
                module.bias *= factor


def choose_rate(network: nn.Module, image: Tensor) -> float:
    """Returns the rate at which the first step on the network's own labels would lower the loss by `FIRST_STEP`.

    The gradients of random weights may be so large that SGD diverges at the paper's rate, and rounding alone decides
    the labels.
    """
    logits = predict_logits(network, image[..., : PART[0], : PART[1]])
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1))
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return FIRST_STEP / sum(float((gradient**2).sum()) for gradient in gradients if gradient is not None)
