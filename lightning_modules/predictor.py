"""The one seam: (network, image) -> probabilities, its default, and a stopwatch for it."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.base import find_logits

Predictor = Callable[[nn.Module, Tensor], Tensor]


def describe_adaptations(predictor: Predictor, count: int) -> list[dict[str, Any] | None]:
    """Returns what a predictor has to say of each of so many images that it has just predicted, for JSON.

    A predictor that adapts has ``adaptations``, one per image; of others it is None.
    """
    adaptations = getattr(predictor, "adaptations", None)
    return [None] * count if adaptations is None else [adaptation.to_record() for adaptation in adaptations]


def predict_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Runs a network.

    Args:
        network: Any module (B, 3, H, W) -> (B, K, H, W) logits. Logits may also lie in a mapping, under ``out``
            (torchvision) or ``logits``, or be an attribute ``logits`` (transformers). Those of another size are resized
            bilinearly.
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
    """Returns a (B, 3, H, W) image in the memory layout that a network is fastest with.

    A network says so by an attribute ``channels_last`` that is true: its convolutions then run on features whose
    channels lie side by side, and no module of it may rely on their strides. Images in training stay as they come.
    """
    if getattr(network, "channels_last", False) and not network.training:
        return image.contiguous(memory_format=torch.channels_last)
    return image


def run_network(network: nn.Module, image: Tensor) -> Tensor:
    """Runs a network, and leaves its logits at the size that they have; otherwise as `predict_logits`."""
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
    """The default predictor: one forward and softmax, the network as it is (t-BN in evaluation mode).

    Args:
        network: Any module (B, 3, H, W) -> (B, K, H, W).
        image: (B, 3, H, W) float, normalised.

    Returns:
        (B, K, H, W) float32 probabilities.
    """
    with torch.no_grad():
        return predict_logits(network, image).float().softmax(dim=1)


class Stopwatch:
    """Times the work queued on a device within a ``with`` block: CUDA events on a GPU, the wall clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"

    def __enter__(self) -> "Stopwatch":
        """Starts."""
        if self._on_cuda:
            self._start = torch.cuda.Event(enable_timing=True)
            self._stop = torch.cuda.Event(enable_timing=True)
            self._start.record(torch.cuda.current_stream(self._device))
        else:
            self._start_time = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops, without waiting for the device."""
        if self._on_cuda:
            self._stop.record(torch.cuda.current_stream(self._device))
        else:
            self._stop_time = time.perf_counter()

    def milliseconds(self) -> float:
        """Returns the time between start and stop; waits for the device."""
        if not self._on_cuda:
            return 1000 * (self._stop_time - self._start_time)
        self._stop.synchronize()
        return self._start.elapsed_time(self._stop)
