"""Methods and settings to measure, for the benchmark and the GPU check."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.iabn import IaBN
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT
from callbacks.tta import TTA
from experiments.benchmark.cost import autocast
from lightning_modules.predictor import predict_plainly

METHODS: dict[str, type[Method] | None] = {"t-BN": None, "IaBN": IaBN, "TTA": TTA, "Seg-TTT": SegTTT}
SCALES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Case:
    """A method and its settings that vary.

    Attributes:
        method: One of `METHODS`; t-BN is the plain forward pass.
        steps: Number of steps of Seg-TTT.
        trainable: Names of the modules that Seg-TTT updates, joined by commas.
    """

    method: str
    steps: int | None = None
    trainable: str | None = None

    @property
    def has_views(self) -> bool:
        """Whether the method averages over views."""
        return self.method in ("TTA", "Seg-TTT")

    def list_settings(self, alpha: float, lr: float, psi: float = 0.7) -> dict[str, Any]:
        """Returns the arguments of the method, which the plain loop takes under the same names."""
        settings: dict[str, Any] = {} if self.method == "t-BN" else {"alpha": alpha}
        if self.has_views:
            settings["scales"] = SCALES
        if self.trainable is not None:
            settings |= {"psi": psi, "lr": lr, "num_steps": self.steps, "trainable": self.trainable.split(",")}
        return settings

    def make_method(self, settings: Mapping[str, Any], resampling: str = "device") -> Method | None:
        """Makes the method; None is the plain forward pass."""
        method = METHODS[self.method]
        if self.has_views:
            settings = {**settings, "resampling": resampling}
        return None if method is None else method(**settings)


def list_cases(methods: Iterable[str], steps: Sequence[int], trainable: Sequence[str]) -> list[Case]:
    """Lists one case per method, but for Seg-TTT one per choice of trainable modules and number of steps."""
    cases: list[Case] = []
    for method in methods:
        if method == "Seg-TTT":
            cases += [Case(method, count, names) for names in trainable for count in steps]
        else:
            cases.append(Case(method))
    return cases


def make_call(method: Method | None, network: nn.Module, image: Tensor, precision: str) -> Callable[[], Tensor]:
    """Returns a call that predicts an image by a method as `trainer.test` does; None is the plain forward pass."""
    predict = predict_plainly if method is None else method.predict

    def call() -> Tensor:
        with torch.inference_mode(), autocast(image.device, precision):
            return predict(network, image)

    return call
