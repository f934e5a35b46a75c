"""Cross-entropy of bilinearly upsampled logits, a few rows of the image at a time.

Upsampled to the image size, the logits, their softmax and its gradient are three maps of K values per pixel (478 MB for
19 classes at 1024x2048). Forward and backward pass work on a few rows at a time, so no full-size map is ever in memory.
Upsampling is a matrix product per axis, because `F.interpolate`'s backward pass on a GPU sums in no fixed order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.metrics import IGNORED

CHUNK = 2**22  # number of logits in a block of rows on a CPU: about the size of its caches
CUDA_CHUNK = 2**27  # the same on a GPU, where each block needs fourteen kernel launches: 0.5 GB per map
SMALLEST_LOG = -80.0  # e^-80 is negligible beside 1; smaller, subnormal numbers make a CPU ten times slower


def upsampled_cross_entropy(logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
    """Computes `cross_entropy(interpolate(logits, target's size, mode="bilinear"), target)` (Eq. 8).

    Args:
        logits: (B, K, h, w); the computation uses float32 or better.
        target: (B, H, W) int64 labels, 255 where ignored.
        align_corners: Whether upsampling aligns the corner pixels, see `F.interpolate`.

    Returns:
        () mean over the labelled pixels in nats, NaN if there are none. Differentiable once.
    """
    if logits.shape[-2:] == target.shape[-2:]:
        return F.cross_entropy(logits.float(), target, ignore_index=IGNORED)
    with torch.autocast(logits.device.type, enabled=False), exact_products():  # the backward pass has no products
        precise = logits if logits.dtype == torch.float64 else logits.float()
        return _RowwiseCrossEntropy.apply(precise.contiguous(), target, align_corners)


@lru_cache(maxsize=16)
def interpolation_matrix(
    size: int, source: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Returns the (size, source) matrix that linearly upsamples a vector of length source to length size."""
    places = torch.arange(size, dtype=torch.float64, device="cpu")
    if align_corners:
        places = places * ((source - 1) / max(size - 1, 1))
    else:
        places = ((places + 0.5) * (source / size) - 0.5).clamp_min(0)
    low = places.floor().long().clamp_max(source - 1)
    share = places - low
    rows = torch.arange(size, device="cpu")
    matrix = torch.zeros(size, source, dtype=torch.float64, device="cpu")
    matrix[rows, low] += 1 - share
    matrix[rows, (low + 1).clamp_max(source - 1)] += share
    return matrix.to(dtype).to(device)


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiplies float32 matrices in float32 within a ``with`` block, not in TF32 or bfloat16."""
    put: Callable[[str], None] = torch.set_float32_matmul_precision
    exact = "highest"
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's newer precision settings are in use, which the older functions reject
        matmul = torch.backends.cuda.matmul
        before, exact, put = matmul.fp32_precision, "ieee", partial(setattr, matmul, "fp32_precision")
    if before != exact:
        put(exact)
    try:
        yield
    finally:
        if before != exact:
            put(before)


class _RowwiseCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of (B, K, h, w) logits upsampled to the (B, H, W) target, one block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
        batch, classes, source, _ = logits.shape
        height, width = target.shape[1:]
        down = interpolation_matrix(height, source, align_corners, logits.dtype, logits.device)
        across = interpolation_matrix(width, logits.shape[3], align_corners, logits.dtype, logits.device)
        wide = logits @ across.T
        gradient = torch.zeros_like(wide)
        total = wide.new_zeros(())
        chunk = CHUNK if logits.device.type == "cpu" else CUDA_CHUNK
        rows = max(1, chunk // (batch * classes * width))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            # The source rows that these rows are interpolated from, with a margin of one.
            first = max(0, int((top - 1) * source / height) - 1)
            last = min(source, int((bottom + 1) * source / height) + 3)
            part = down[top:bottom, first:last]
            labels = target[:, top:bottom]
            log_probabilities = (part @ wide[:, :, first:last]).log_softmax(dim=1)
            kept = labels != IGNORED
            safe = torch.where(kept, labels, 0)[:, None]
            total -= (log_probabilities.gather(1, safe)[:, 0] * kept).sum()
            slope = log_probabilities.clamp_min_(SMALLEST_LOG).exp_()
            slope.scatter_add_(1, safe, torch.full_like(slope[:, :1], -1.0)).mul_(kept[:, None])
            gradient[:, :, first:last] += part.T @ slope
        count = (target != IGNORED).sum()
        ctx.save_for_backward((gradient @ across).div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None
