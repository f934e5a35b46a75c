"""Operations on class probabilities that are equivalent to operations on the logits behind them.

The logarithm of a softmax is the logits minus one number per pixel, the same for all classes. An operation f that is
linear in the logits therefore does not need them: softmax(f(log p)) equals softmax(f(logits)).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = torch.finfo(torch.float32).tiny


def resize_probabilities(probabilities: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes class probabilities as bilinear upsampling (align_corners=False) of the logits behind them would.

    Args:
        probabilities: (B, K, h, w) float in [0, 1].
        size: (H, W) of the result.

    Returns:
        (B, K, H, W) probabilities.
    """
    if tuple(probabilities.shape[-2:]) == tuple(size):
        return probabilities
    logs = probabilities.float().clamp_min(SMALLEST).log()
    return F.interpolate(logs, size=tuple(size), mode="bilinear", align_corners=False).softmax(dim=1)


def scale_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Divides the logits behind probabilities by a temperature: p^(1/T), normalised again.

    Above 1 makes predictions less confident, below 1 more. The order of the classes changes only by rounding.

    Args:
        probabilities: (B, K, H, W) float in [0, 1].
        temperature: T, above 0.

    Returns:
        (B, K, H, W) float32 probabilities; the input itself if T is 1.

    Raises:
        ValueError: If the temperature is not a finite number above 0.

    Source: Guo et al. (2017), Sec. 4.2, "Temperature scaling".
    """
    check_temperature(temperature)
    if temperature == 1:
        return probabilities
    return (probabilities.float().clamp_min(SMALLEST).log() / temperature).softmax(dim=1)


def check_temperature(temperature: float) -> None:
    """Raises ValueError if a temperature is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: expected a finite number above 0; 1 changes nothing")


def label_images(probabilities: Tensor, sizes: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Labels a batch of (B, K, h, w) probabilities on the host, each image at its own size (H, W).

    Returns:
        B labels (H, W) uint8, and B confidences (H, W) float32 in [0, 1], the probability of the label.
    """
    best = [resize_probabilities(one[None], size)[0].max(dim=0) for one, size in zip(probabilities, sizes, strict=True)]
    confidence = [values.float() for values, _ in best]
    labels = [indices.to(torch.uint8) for _, indices in best]
    fetched = copy_to_host([*confidence, *labels])
    return fetched[len(best) :], fetched[: len(best)]


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies tensors to the CPU in one transfer, so that the host waits for the device only once.

    They are on one device, of any sizes and dtypes; those with larger elements come first.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    data = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]).cpu()
    parts = data.split([tensor.numel() * tensor.element_size() for tensor in tensors])
    return [part.view(tensor.dtype).reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
