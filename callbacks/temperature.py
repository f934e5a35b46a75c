"""Fits one temperature to the development set, with the lowest negative log-likelihood, in one pass.

Source: Guo et al. (2017), Sec. 4.2, "Temperature scaling".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.adaptation.arguments import check_number
from callbacks.method import require_segmentation
from callbacks.search import log_result, refuse_run, sum_over_processes
from lightning_modules.metrics import IGNORED, quantize
from lightning_modules.probabilities import SMALLEST, check_temperature, resize_probabilities

TEMPERATURES = tuple(2 ** (step / 8) for step in range(-24, 25))  # 1/8 to 8, each 9 % above the one before


class TemperatureSearch(Callback):
    """Finds the best temperature for the predictions of a `validate` run, whatever the method.

    Logs ``val/best_temperature``, ``val/nll_best_temperature`` and ``val/nll_temperature_1`` (nats per pixel), and
    prints the argument to pass to `test`. Temperatures apply to the network's or method's own predictions: the effect
    of a ``model.temperature`` that is already set is undone first.

    Args:
        temperatures: Temperatures to try, each above 0; 1 is always added, and with it there must be three or more. A
            parabola over log T through the best one and its neighbours gives the result.
        max_pixels: Maximum number of labelled pixels per image, drawn at random with a fixed seed.

    Attributes:
        needs_every_image: Kinds of runs that must not skip images scored by an interrupted run.
        best_temperature: The latest result; None if no pixel was labelled.
        nll: The latest negative log-likelihood by temperature, in nats per pixel.

    Raises:
        ValueError: If there are too few temperatures, or one is not a finite number above 0; if max_pixels is below 1;
            if the run is not a `validate`.
    """

    needs_every_image = ("validate",)

    def __init__(self, temperatures: Sequence[float] = TEMPERATURES, max_pixels: int = 20_000) -> None:
        for temperature in temperatures:
            check_temperature(temperature)
        check_number("max_pixels", max_pixels, 1, expected="1 or more pixels per image, e.g. 20000", whole=True)
        self.temperatures = sorted({*temperatures, 1.0})
        if len(self.temperatures) < 3:
            raise ValueError(
                f"temperatures are {self.temperatures} including 1: expected three or more, e.g. [0.5, 1, 2, 4]"
            )
        self.max_pixels = max_pixels
        self.best_temperature: float | None = None
        self.nll: dict[float, float] = {}
        self._loss, self._pixels = torch.empty(0), torch.empty(0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError if the run is not a `validate`."""
        if stage != "validate":
            refuse_run(self, stage, "a temperature is fitted to a finished network on the development set")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the results and the sums."""
        self.best_temperature, self.nll = None, {}
        self._loss = torch.zeros(len(self.temperatures), dtype=torch.float64, device=pl_module.device)
        self._pixels = torch.zeros((), dtype=torch.int64, device=pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Mapping[str, Any], *_: Any
    ) -> None:
        """Scores the predictions of a batch at every temperature."""
        present = require_segmentation(pl_module).temperature
        for prediction, mask in zip(outputs["probabilities"], batch["mask"], strict=True):
            probabilities, target = sample_pixels(prediction, mask, self.max_pixels)
            logits = probabilities.clamp_min(SMALLEST).log() * present
            self._loss += sum_losses(logits, target, self.temperatures)
            self._pixels += target.numel()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the result, and prints how to use it."""
        loss, pixels = sum_over_processes(trainer, self._loss, self._pixels)
        losses = (loss / pixels).tolist()
        self.nll = dict(zip(self.temperatures, losses, strict=True))
        if not pixels:
            rank_zero_warn("TemperatureSearch: no pixel of the development set is labelled, so nothing was fitted")
            return
        self.best_temperature, nll = refine_minimum(self.temperatures, losses)
        values = {"best_temperature": self.best_temperature, "nll_best_temperature": nll}
        log_result(pl_module, {**values, "nll_temperature_1": self.nll[1.0]})
        rank_zero_info(
            f"Temperature with the lowest negative log-likelihood ({nll:.4f}; at temperature 1 {self.nll[1.0]:.4f}): "
            f"pass --model.temperature={self.best_temperature:.4g} to test and predict"
        )
        ends = {self.temperatures[0]: "smallest", self.temperatures[-1]: "largest"}
        if self.best_temperature in ends:
            rank_zero_warn(
                f"TemperatureSearch: the best temperature, {self.best_temperature:.4g}, is the "
                f"{ends[self.best_temperature]} one tried: the true optimum may be beyond it; set temperatures to a "
                "wider range"
            )


def sum_losses(logits: Tensor, target: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Sums the negative log-likelihood of (K, N) logits and (N,) int64 targets in nats, at each temperature.

    Each pixel's is rounded so that the order of summation does not matter.
    """
    logits = logits.double()
    own = logits.gather(0, target[None])[0]
    losses = [(logits / t).logsumexp(dim=0) - own / t for t in temperatures]
    return torch.stack([quantize(loss).sum() for loss in losses])


def sample_pixels(probabilities: Tensor, target: Tensor, max_pixels: int) -> tuple[Tensor, Tensor]:
    """Draws up to `max_pixels` labelled pixels of a (K, h, w) prediction, always the same for the same ground truth.

    Returns (K, N) float32 probabilities and (N,) int64 ground truth. The prediction is resized to the ground truth's
    (H, W) if that differs. Drawn pixels that are not finite are dropped.
    """
    places = (target != IGNORED).flatten().nonzero()[:, 0]
    if len(places) > max_pixels:
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
        places = places[order[:max_pixels].to(places.device)]
    drawn = resize_probabilities(probabilities[None], target.shape)[0].flatten(1)[:, places].float()
    finite = drawn.isfinite().all(dim=0)
    return drawn[:, finite], target.flatten()[places][finite]


def refine_minimum(temperatures: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Returns temperature and loss at the lowest point of the parabola over log T through the minimum's neighbours.

    If the first or last temperature has the lowest loss, returns that one.
    """
    best = min(range(len(losses)), key=lambda number: losses[number])
    if best in (0, len(losses) - 1):
        return temperatures[best], losses[best]
    middle, loss = math.log(temperatures[best]), losses[best]
    left, right = math.log(temperatures[best - 1]) - middle, math.log(temperatures[best + 1]) - middle
    rise_left, rise_right = losses[best - 1] - loss, losses[best + 1] - loss
    # rise(x) = curve x^2 + slope x goes through both neighbours
    curve = (rise_left / left - rise_right / right) / (left - right)
    slope = rise_left / left - curve * left
    return math.exp(middle - slope / (2 * curve)), loss - slope**2 / (4 * curve)
