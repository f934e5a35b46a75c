"""Instance normalisation, shared by several norms."""

import torch
from torch import Tensor


def normalize_instances(x: Tensor, eps: float) -> Tensor:
    """Normalises each channel of each sample of (B, C, H, W) features, in float32 or better."""
    values = x if x.dtype == torch.float64 else x.float()
    var, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)
    return (values - mean) * torch.rsqrt(var + eps)
