"""Cross-entropy of bilinearly upsampled logits, a few rows of the image at a time.

Upsampled to the image, the logits, their softmax and the gradient of it are three maps of K values per pixel (478 MB
for 19 classes at 1024x2048). Both passes need only some rows at once, so that no full-size map is ever held.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**22  # logits in the rows that are worked on at once
SMALLEST_LOG = -80.0  # e^-80 is 0 beside 1; the subnormal numbers below it slow a CPU down tenfold


def upsampled_cross_entropy(logits: Tensor, target: Tensor, align_corners: bool, ignored: int = 255) -> Tensor:
    """Computes `cross_entropy(interpolate(logits, target's size, mode="bilinear"), target)`.

    Args:
        logits: (B, K, h, w), coarse; computed with in float32 or better.
        target: (B, H, W) int64 labels.
        align_corners: Of the upsampling.
        ignored: The label that does not count.

    Returns:
        () mean over the labelled pixels, NaN if there are none. It can be differentiated once.
    """
    with torch.autocast(logits.device.type, enabled=False):
        precise = logits if logits.dtype == torch.float64 else logits.float()
        wide = F.interpolate(
            precise, size=(logits.shape[-2], target.shape[-1]), mode="bilinear", align_corners=align_corners
        )
        return _RowwiseCrossEntropy.apply(wide, target, align_corners, ignored)


@lru_cache(maxsize=16)
def interpolation_matrix(
    size: int, source: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Makes the (size, source) matrix that upsamples a column of source values linearly to size values."""
    places = torch.arange(size, dtype=torch.float64)
    if align_corners:
        places = places * ((source - 1) / max(size - 1, 1))
    else:
        places = ((places + 0.5) * (source / size) - 0.5).clamp_min(0)
    low = places.floor().long().clamp_max(source - 1)
    share = places - low
    matrix = torch.zeros(size, source, dtype=torch.float64)
    matrix[torch.arange(size), low] += 1 - share
    matrix[torch.arange(size), (low + 1).clamp_max(source - 1)] += share
    return matrix.to(dtype).to(device)


class _RowwiseCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of (B, K, h, W) logits that are upsampled to the (B, H, W) target along the rows."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, target: Tensor, align_corners: bool, ignored: int) -> Tensor:
        batch, classes, source, width = wide.shape
        height = target.shape[1]
        matrix = interpolation_matrix(height, source, align_corners, wide.dtype, wide.device)
        needed = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(wide) if needed else None
        total = wide.new_zeros(())
        rows = max(1, CHUNK // (batch * classes * width))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            # The rows of the source that these rows lie between, with one to spare.
            first = max(0, int((top - 1) * source / height) - 1)
            last = min(source, int((bottom + 1) * source / height) + 3)
            part = matrix[top:bottom, first:last]
            labels = target[:, top:bottom]
            log_probabilities = (part @ wide[:, :, first:last]).log_softmax(dim=1)
            kept = labels != ignored
            safe = torch.where(kept, labels, 0)[:, None]
            total -= (log_probabilities.gather(1, safe)[:, 0] * kept).sum()
            if gradient is not None:
                slope = log_probabilities.clamp_min_(SMALLEST_LOG).exp_()
                slope.scatter_add_(1, safe, torch.full_like(slope[:, :1], -1.0)).mul_(kept[:, None])
                gradient[:, :, first:last] += part.T @ slope
        count = (target != ignored).sum()
        ctx.save_for_backward(*(() if gradient is None else (gradient.div_(count),)))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None
