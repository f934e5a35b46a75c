"""What `experiments.benchmark` measures: networks with random weights, an image, our methods and their plain loops."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from experiments.benchmark.random_weights import CLASSES, choose_rate, imitate_training

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
METHODS = ("t-BN", "IaBN", "TTA", "Seg-TTT")


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
