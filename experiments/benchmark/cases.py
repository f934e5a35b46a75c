"""What `experiments.benchmark` measures: networks with random weights, an image, our methods and their plain loops."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.iabn import IaBN
from callbacks.method import Method
from callbacks.seg_ttt import DEFAULT_TRAINABLE, SegTTT, select_parameters
from callbacks.tta import TTA
from callbacks.views import Resampling
from datamodules import StreetScenesDataModule
from datamodules.transforms import EvaluationTransform
from experiments.benchmark.plain_loop import PlainLoop, PlainSettings
from lightning_modules.predictor import predict_logits

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
CLASSES = 19
METHODS = ("t-BN", "IaBN", "TTA", "Seg-TTT")
LOGITS_DEVIATION = 2.0  # about that of a trained network
FIRST_STEP = 0.01  # by about how much the first step of Seg-TTT lowers the loss
PART = (256, 512)  # of the image that is enough to choose a learning rate


@dataclass(frozen=True)
class Case:
    """What a row measures.

    Attributes:
        network: Name of its file in configs/model.
        size: (height, width) of the image.
        precision: As Lightning names it.
        method: One of `METHODS`.
        steps: Of Seg-TTT.
        trainable: What Seg-TTT moves.
    """

    network: str
    size: tuple[int, int]
    precision: str
    method: str
    steps: int | None = None
    trainable: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Subject:
    """A network and an image on the device that is measured.

    Attributes:
        network: In evaluation mode.
        pixels: (H, W, 3) uint8 RGB.
        image: (1, 3, H, W) float32, the same normalised.
        alpha: Of IaBN; None if the network has no BatchNorm.
        lr: Of Seg-TTT.
    """

    network: nn.Module
    pixels: np.ndarray
    image: Tensor
    alpha: float | None
    lr: float


def make_network(name: str, num_classes: int = CLASSES) -> nn.Module:
    """Makes a network of configs/model with random weights.

    Raises:
        FileNotFoundError: If there is no such file; lists those there are.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"there is no {path}: expected one of {known}")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))["network"]
    arguments = config.setdefault("init_args", {})
    if "weights" in arguments:
        arguments["weights"] = None
    if "network" not in arguments:  # a wrapper has the number of classes inside
        arguments["num_classes"] = num_classes
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate(parser.parse_object({"network": config})).network


def draw_image(size: tuple[int, int]) -> tuple[np.ndarray, Tensor]:
    """Draws a street scene: (H, W, 3) uint8 pixels, and (1, 3, H, W) normalised."""
    data = StreetScenesDataModule("dusk", *size, num_test=1, num_workers=0)
    dataset = data.make_dataset("test", EvaluationTransform("none"))
    return dataset.load_image(0), dataset[0]["image"][None]


def list_cases(name: str, network: nn.Module, size: tuple[int, int], options: argparse.Namespace) -> Iterator[Case]:
    """Lists what is measured on a network and a size."""
    moving = list_trainable(network, options)
    for method in options.methods:
        variants: list[tuple[int | None, tuple[str, ...] | None]] = [(None, None)]
        if method == "Seg-TTT":
            variants = [(steps, names) for names in moving for steps in options.steps]
        for steps, trainable in variants:
            for precision in options.precision:
                yield Case(name, size, precision, method, steps, trainable)


def list_trainable(network: nn.Module, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Lists what Seg-TTT moves by the choices of the command line; choices that name the same modules are one."""
    own = tuple(getattr(network, "adapted_layers", DEFAULT_TRAINABLE))
    named = [own if choice == "default" else tuple(choice.split(",")) for choice in options.trainable]
    return list(dict.fromkeys(named))


def make_method(case: Case, subject: Subject, options: argparse.Namespace, resampling: Resampling) -> Method | None:
    """Makes the method of a case; None is t-BN."""
    if case.method == "t-BN":
        return None
    if case.method == "IaBN":
        return IaBN(options.alpha)
    shared: dict[str, Any] = {"alpha": subject.alpha or 0.0, "scales": options.scales, "resampling": resampling}
    if case.method == "TTA":
        return TTA(**shared)
    assert case.steps is not None
    return SegTTT(psi=options.psi, lr=subject.lr, num_steps=case.steps, trainable=case.trainable, **shared)


def make_plain_loop(case: Case, subject: Subject, options: argparse.Namespace, checkpoint: Path) -> PlainLoop:
    """Makes the plain loop of a case."""
    settings = PlainSettings()
    if case.method != "t-BN":
        settings = replace(settings, alpha=subject.alpha)
    if case.method in ("TTA", "Seg-TTT"):
        settings = replace(settings, scales=options.scales)
    if case.trainable is not None:
        moving = select_parameters(subject.network, case.trainable)
        assert case.steps is not None
        settings = replace(settings, psi=options.psi, steps=case.steps, lr=subject.lr, moving=moving)
    return PlainLoop(subject.network, checkpoint, settings)


def make_subject(name: str, size: tuple[int, int], options: argparse.Namespace) -> Subject:
    """Makes a network and an image on the device of the command line, the same each time."""
    torch.manual_seed(0)
    pixels, image = draw_image(size)
    image = image.to(options.device)
    network = make_network(name).to(options.device)
    imitate_training(network, image)
    if options.channels_last != "auto":
        network.channels_last = options.channels_last == "true"
    adapts = any(isinstance(module, _BatchNorm) for module in network.modules())
    lr = choose_rate(network, image) if options.lr is None else options.lr
    return Subject(network, pixels, image, options.alpha if adapts else None, lr)


def imitate_training(network: nn.Module, image: Tensor) -> None:
    """Gives a network with random weights what training gives: fitting running statistics and some confidence.

    With the initial statistics (mean 0, variance 1) the features of a deep network grow without bounds. With equal
    probabilities rounding alone decides many labels, and all pixels are as confident as the best.

    Args:
        network: Left in evaluation mode. Its running statistics become those of the image and its mirror image; layers
            with an output per class are scaled.
        image: (1, 3, H, W) float, normalised.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.cat([image, image.flip(-1)]))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.eval()
        factor = LOGITS_DEVIATION / predict_logits(network, image).std(dim=(2, 3)).mean().item()
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == CLASSES:
                module.weight *= factor
                if module.bias is not None:
                    module.bias *= factor


def choose_rate(network: nn.Module, image: Tensor) -> float:
    """Chooses a learning rate for a network with random weights.

    Its gradients may be so large that the paper's rate leads to a chaos, in which rounding alone decides the labels.

    Args:
        network: In evaluation mode.
        image: (1, 3, H, W) float, normalised.

    Returns:
        The rate at which the first step on the network's own labels would lower the loss by about `FIRST_STEP`.
    """
    logits = predict_logits(network, image[..., : PART[0], : PART[1]])
    loss = F.cross_entropy(logits, logits.detach().argmax(dim=1))
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return FIRST_STEP / sum(float((gradient**2).sum()) for gradient in gradients if gradient is not None)
