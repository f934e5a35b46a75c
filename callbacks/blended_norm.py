"""IaBN's arithmetic in few passes over memory: sample statistics, blended normalisation, and its gradient.

Written as plain tensor operations, the forward pass reads or writes the features nine times and keeps three copies for
the backward pass. Torch's own kernels need three reads and one write, and only the features are kept.

Source: paper, Sec. 3, Eq. 3-4.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024  # pixels summed sequentially
CHANNELS = 1024  # number of channels at which torch's kernel is fastest
CANCELLING = 4.0  # |mean * scale| above which the one-pass formula loses digits (5e-7 from rounding the product)

_served: dict[str, str] = {}  # per device, dtype and layout: "fast", or why the plain formula is used


def blend(sample: Tensor, source: Tensor, alpha: float | Tensor) -> Tensor:
    """Blends statistics: alpha * sample + (1 - alpha) * source (Eq. 4)."""
    return torch.lerp(source, sample, alpha)


def fast_path_report() -> dict[str, str]:
    """Returns, per device, dtype and layout used so far, ``fast`` or the reason for using the plain formula."""
    return dict(_served)


def has_kernels(x: Tensor) -> bool:
    """Returns whether to use torch's BatchNorm kernels on these (B, C, H, W) features; not when compiling.

    Once per process, device, dtype and layout they are compared with the plain formula on a small input, forward and
    backward. If they raise or disagree, the plain formula is used instead, with a warning.
    """
    if x.device.type not in ("cpu", "cuda") or torch.compiler.is_compiling():
        return False
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    key = f"{x.device} {x.dtype} {'contiguous' if x.is_contiguous() else 'channels_last'}"
    if key not in _served:
        _served[key] = _find_fault(x.device, x.dtype, layout) or "fast"
        if _served[key] != "fast":
            rank_zero_warn(
                f"IaBN uses its plain formula on {key} with torch {torch.__version__}, which is slower: the fast "
                f"kernels failed their check ({_served[key]})"
            )
    return _served[key] == "fast"


def _find_fault(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> str | None:
    """Compares the kernels with the plain formula on a small input; returns the first fault, or None."""
    generator = torch.Generator().manual_seed(0)
    features, gradient = (
        torch.randn(1, 5, 6, 7, generator=generator, device="cpu").to(device, dtype).contiguous(memory_format=layout)
        for _ in range(2)
    )
    features[:, 0] = 2.0  # a channel with zero variance, as after global pooling
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    mean, weight, bias, deviation = torch.randn(4, 5, generator=generator, device="cpu").to(device, kind)
    var = deviation.abs() + 0.5
    results = []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for normalize in (_BlendedNorm.apply, _normalize_plainly):
            inputs = [value.clone().requires_grad_() for value in (features, weight, bias)]
            try:
                output = normalize(inputs[0], mean, var, inputs[1], inputs[2], 0.3, 1e-5)
                results.append([output.detach(), *torch.autograd.grad(output, inputs, gradient)])
            except (RuntimeError, NotImplementedError, AssertionError) as error:
                return (str(error).strip() or type(error).__name__).splitlines()[0]
    tolerance = 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-4
    names = ("output", "gradient", "gradient of the weight", "gradient of the bias")
    for name, fast, plain in zip(names, *results, strict=True):
        if not torch.allclose(fast.double(), plain.double(), rtol=tolerance, atol=tolerance * 4):
            return f"the {name} differs by {(fast.double() - plain.double()).abs().max().item():.2g}"
    return None


def measure_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean and the biased variance of features per channel, over all samples.

    In channels_last layout torch's CPU kernel sums all pixels sequentially: in float32, a 512x1024 map loses four
    digits of its variance, and all of them where the mean is many standard deviations from 0. So this measures blocks,
    several at once by treating them as channels, and merges them in float64. Not differentiable.
    """
    if x.device.type != "cpu" or x.dtype == torch.float64 or x.is_contiguous() or x.numel() <= BLOCK * x.shape[1]:
        return _measure_block(x)
    channels, width = x.shape[1], x.shape[3]
    at_once = math.gcd(width, 1 << (max(1, CHANNELS // channels).bit_length() - 1))  # blocks, filled in turn
    parts = [part for sample in x.split(1) for part in sample.split(max(1, BLOCK * at_once // width), dim=2)]
    folded = [part.permute(0, 2, 3, 1).reshape(1, -1, 1, at_once * channels).permute(0, 3, 1, 2) for part in parts]
    found = zip(*map(_measure_block, folded), strict=True)
    means, variances = (torch.stack(values).double().view(-1, at_once, channels) for values in found)
    shares = means.new_tensor([part.shape[2] for part in parts])[:, None, None] / (len(x) * x.shape[2] * at_once)
    mean = (shares * means).sum(dim=(0, 1))
    var = (shares * (variances + (means - mean).square())).sum(dim=(0, 1))
    return mean.float(), var.float()


def _measure_block(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the (C,) mean and (C,) biased variance of (B, C, H, W) features, by torch's own kernel."""
    if x.device.type == "cuda":
        mean, invstd = torch.batch_norm_stats(x, 0.0)
        return mean, recover_variance(invstd)
    scratch = None
    if x.dtype in (torch.bfloat16, torch.float16):  # the result takes the dtype of the running statistics
        scratch = x.new_zeros(x.shape[1], dtype=torch.float32)
    return torch.batch_norm_update_stats(x, scratch, None if scratch is None else torch.zeros_like(scratch), 0.0)


def recover_variance(invstd: Tensor) -> Tensor:
    """Returns the variance from the var^(-1/2) of torch's CUDA kernel at eps 0, which is 0 where the variance is 0."""
    return invstd.square().reciprocal().masked_fill(invstd == 0, 0.0)


def normalize_blended(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: float | Tensor,
    eps: float,
    pooled: bool = False,
) -> Tensor:
    """Normalises features with blended statistics; gradients flow through the sample's statistics.

    Args:
        x: (B, C, H, W), any floating dtype, which the result has, too.
        running_mean: (C,) training mean.
        running_var: (C,) training variance.
        weight: (C,) scale, or None.
        bias: (C,) shift, or None.
        alpha: Weight of the sample's statistics in [0, 1]; a () tensor gets a gradient, too.
        eps: Added to the variance.
        pooled: Whether to use the statistics of the whole batch in place of each sample's.
    """
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    running_mean, running_var = running_mean.to(kind), running_var.to(kind)
    weight = torch.ones_like(running_mean) if weight is None else weight.to(kind)
    bias = torch.zeros_like(running_mean) if bias is None else bias.to(kind)
    fast = has_kernels(x) and not isinstance(alpha, Tensor)
    normalize: Callable[..., Tensor] = _BlendedNorm.apply if fast else _normalize_plainly
    if pooled or len(x) == 1 or alpha == 0:
        return normalize(x, running_mean, running_var, weight, bias, alpha, eps)
    # Samples cannot be folded into channels in channels_last; on a CPU, each needs its own choice in `_apply`.
    if x.is_contiguous() and x.device.type != "cpu":
        each = [values.repeat(len(x)) for values in (running_mean, running_var, weight, bias)]
        return normalize(x.view(1, -1, *x.shape[2:]), *each, alpha, eps).view(x.shape)
    return torch.cat([normalize(one, running_mean, running_var, weight, bias, alpha, eps) for one in x.split(1)])


def _normalize_plainly(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    alpha: float | Tensor,
    eps: float,
) -> Tensor:
    """Applies the formula in differentiable operations: for compilers, to learn alpha, and where kernels fail."""
    mean, var = running_mean, running_var
    if alpha > 0:
        values = x if x.dtype == torch.float64 else x.float()
        sample_var, sample_mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        mean, var = blend(sample_mean, mean, alpha), blend(sample_var, var, alpha)
    scale = weight * torch.rsqrt(var + eps)
    shift = bias - mean * scale
    return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def _apply(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalises (B, C, H, W) features by (C,) statistics in one pass, or in two where one pass would lose digits.

    On a CPU torch's kernel computes x * scale + (bias - mean * scale), which cancels where the mean is many standard
    deviations from 0; on CUDA it subtracts the mean first.
    """
    if x.device.type == "cuda":
        return torch.batch_norm_elemt(x, weight, bias, mean, torch.rsqrt(var + eps), eps)
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        scale = weight / torch.sqrt(var + eps)
        if (mean * scale).abs().amax() > CANCELLING:
            centred = x - mean[:, None, None]
            return torch.addcmul(bias[:, None, None], centred, scale[:, None, None], out=centred)
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


class _BlendedNorm(torch.autograd.Function):
    """With m = alpha * mean(x) + ..., v = alpha * var(x) + ... and s = (v + eps)^(-1/2): (x - m) * s * weight + bias.

    Backward, with n values per channel: the gradient at fixed m and v, plus the gradient through m and v,
    alpha / n * (dm + 2 * (x - mean(x)) * dv), where dm = -s * weight * sum(g) and dv = -1/2 * s^3 * weight *
    sum(g * (x - m)). The gradients of bias and weight contain the same two sums.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, *more: float
    ) -> Tensor:
        alpha, eps = more
        sample_mean, sample_var = measure_statistics(x) if alpha > 0 else (running_mean, running_var)
        mean, var = blend(sample_mean, running_mean, alpha), blend(sample_var, running_var, alpha)
        ctx.save_for_backward(x, weight, sample_mean, mean, var)
        ctx.alpha, ctx.eps = alpha, eps
        return _apply(x, mean, var, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, sample_mean, mean, var = ctx.saved_tensors
        if x.device.type == "cuda":
            gradient, grad_weight, grad_bias = _differentiate_on_cuda(
                gradients[0], x, weight, sample_mean, mean, torch.rsqrt(var + ctx.eps), ctx.alpha
            )
            return gradient, None, None, grad_weight, grad_bias, None, None
        gradient, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0] and ctx.alpha > 0:
            share = ctx.alpha * x.shape[1] / x.numel()
            scale = torch.rsqrt(var + ctx.eps) * weight
            slope = -share * scale * torch.rsqrt(var + ctx.eps) * grad_weight
            offset = -share * scale * grad_bias - slope * sample_mean
            slope, offset = (value.to(x.dtype)[:, None, None] for value in (slope, offset))
            gradient = gradient.addcmul_(x, slope).add_(offset)
        return gradient, None, None, grad_weight, grad_bias, None, None


def _differentiate_on_cuda(
    gradient: Tensor, x: Tensor, weight: Tensor, sample_mean: Tensor, mean: Tensor, invstd: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of features, weight and bias with the two kernels of torch's SyncBatchNorm.

    The second kernel computes (g - a / n - (x - m) * s^2 * b / n) * s * weight. With D = sum(g * (x - m)), this equals
    the gradient of `_BlendedNorm` for b = alpha * D and a = alpha * sum(g) + (m - mean(x)) * s^2 * b.
    """
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    gradient = gradient.contiguous(memory_format=layout)  # both kernels need the same layout for both tensors
    sum_dy, sum_dy_xmu, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
        gradient, x, mean, invstd, weight, True, True, True
    )
    moved_xmu = alpha * sum_dy_xmu
    moved_dy = alpha * sum_dy + (mean - sample_mean) * invstd.square() * moved_xmu
    count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.int32, device=x.device)
    gradient = torch.batch_norm_backward_elemt(gradient, x, mean, invstd, weight, moved_dy, moved_xmu, count)
    return gradient, grad_weight, grad_bias
