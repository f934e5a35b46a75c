"""What the benchmark measures on: a network of configs/model with random weights, and a generated street scene."""

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from callbacks.seg_ttt import DEFAULT_TRAINABLE
from datamodules import StreetScenesDataModule
from datamodules.transforms import EvaluationTransform
from experiments.benchmark.subject import CLASSES, Subject, make_subject

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def make_network(name: str) -> nn.Module:
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
        arguments["num_classes"] = CLASSES
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate(parser.parse_object({"network": config})).network


def draw_image(size: tuple[int, int]) -> tuple[np.ndarray, Tensor]:
    """Draws a street scene: (H, W, 3) uint8 pixels, and (1, 3, H, W) normalised."""
    data = StreetScenesDataModule("dusk", *size, num_test=1, num_workers=0)
    dataset = data.make_dataset("test", EvaluationTransform("none"))
    return dataset.load_image(0), dataset[0]["image"][None]


def open_subject(name: str, size: tuple[int, int], options: argparse.Namespace) -> Subject:
    """Makes a network and an image on the device of the command line, the same each time."""
    torch.manual_seed(0)
    pixels, image = draw_image(size)
    network = make_network(name).to(options.device)
    if options.channels_last != "auto":
        network.channels_last = options.channels_last == "true"
    return make_subject(name, network, pixels, image.to(options.device), options.lr)


def resolve_trainable(network: nn.Module, choices: list[str]) -> list[str]:
    """Puts the network's own layers in place of ``default``; choices that name the same modules are one."""
    own = ",".join(getattr(network, "adapted_layers", DEFAULT_TRAINABLE))
    return list(dict.fromkeys(own if choice == "default" else choice for choice in choices))
