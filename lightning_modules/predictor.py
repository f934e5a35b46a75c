"""The seam for adaptation methods: predictors (network, image) -> probabilities, the default one, and a stopwatch."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.base import find_logits

Predictor = Callable[[nn.Module, Tensor], Tensor]


def describe_adaptations(predictor: Predictor, count: int) -> list[dict[str, Any] | None]:
    """Returns the predictor's records, for JSON, of how it adapted to each image; None per image if it has none."""
    adaptations = getattr(predictor, "adaptations", None)
    return [None] * count if adaptations is None else [adaptation.to_record() for adaptation in adaptations]


def predict_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Runs a network and returns its logits at the size of the image, to which they are resized bilinearly.

    Args:
        network: Any module (B, 3, H, W) -> (B, K, h, w) logits, alone or in an output that `find_logits` accepts.
        image: (B, 3, H, W) float, normalised.

    Returns:
        (B, K, H, W) logits.

    Raises:
        TypeError: If the network returns no 4-dimensional tensor in one of these ways.
    """
    logits = run_network(network, image)
    if logits.shape[-2:] != image.shape[-2:]:
        logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return logits


def lay_out(network: nn.Module, image: Tensor) -> Tensor:
    """Returns a (B, 3, H, W) image in channels-last layout if the network has a true attribute ``channels_last``.

    None of its modules may rely on the strides of features. In training mode, images are not changed.
    """
    if getattr(network, "channels_last", False) and not network.training:
        return image.contiguous(memory_format=torch.channels_last)
    return image


def run_network(network: nn.Module, image: Tensor) -> Tensor:
    """Runs a network and returns its logits at their own size; otherwise like `predict_logits`."""
    output = network(lay_out(network, image))
    logits = find_logits(output)
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        found = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise TypeError(
            f"{type(network).__name__} returned {found}: expected one tensor of (B, K, H, W) logits, alone or as `out` "
            "or `logits`; wrap the network in a module that picks it out"
        )
    return logits


def predict_plainly(network: nn.Module, image: Tensor) -> Tensor:
    """Returns the (B, K, H, W) float32 probabilities of a (B, 3, H, W) normalised image, without adaptation.

    This is the default: one forward pass and a softmax (t-BN in evaluation mode).
    """
    with torch.no_grad():
        return predict_logits(network, image).float().softmax(dim=1)


class Stopwatch:
    """Times the work queued on a device within a ``with`` block: CUDA events on a GPU, the wall clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []  # CUDA events, or seconds

    def __enter__(self) -> "Stopwatch":
        self._mark()
        return self

    def __exit__(self, *exception: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self._device.type == "cuda":
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record(torch.cuda.current_stream(self._device))
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> float:
        """Returns the time between start and stop; waits for the device."""
        start, stop = self._marks
        if self._device.type != "cuda":
            return 1000 * (stop - start)
        stop.synchronize()
        return start.elapsed_time(stop)
