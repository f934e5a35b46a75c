"""Norms that replace BatchNorm in training: Switchable Norm, Batch-Instance Norm, and those of IBN-Net and RobustNet.

Each takes the number of channels, the constant that is added to variances, and the momentum of running statistics.

Source: Luo et al. (2019), Nam and Kim (2018), Pan et al. (2018), Choi et al. (2021); paper, Tables 2 and 4.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Norm = Literal["batch", "switchable", "batch_instance", "ibn_a", "ibn_b", "isw"]


class SwitchableNorm2d(nn.Module):
    """Switchable Norm: normalises with a trained mixture of instance, layer and batch statistics.

    Mean and variance are mixed separately, each by the softmax of three weights per layer, in the order instance,
    layer, batch; all weights start equal. In evaluation mode, the batch statistics are running averages with
    BatchNorm's momentum and the unbiased variance, as in BatchNorm2d (Luo et al. average over batches after training).
    Statistics are computed in float32 or better. Under DDP, each process uses its own batch statistics.

    Source: Luo et al. (2019), Eq. 3-5.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        values = x if x.dtype == torch.float64 else x.float()
        var_instance, mean_instance = torch.var_mean(values, dim=(2, 3), correction=0)  # (B, C)
        mean_layer, var_layer = pool(mean_instance, var_instance, dim=1)  # (B, 1)
        if self.training:
            mean_batch, var_batch = pool(mean_instance, var_instance, dim=0)  # (1, C)
            count = x.numel() // self.num_features
            unbiased = var_batch * (count / max(count - 1, 1))
            self.running_mean.lerp_(mean_batch[0].detach().to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased[0].detach().to(self.running_var), self.momentum)
        else:
            mean_batch, var_batch = self.running_mean[None], self.running_var[None]
        mean = mix(self.mean_weight, mean_instance, mean_layer, mean_batch)[:, :, None, None]
        var = mix(self.var_weight, var_instance, var_layer, var_batch)[:, :, None, None]
        normalized = (values - mean) * torch.rsqrt(var + self.eps)
        return scale_channels(normalized, self.weight, self.bias).to(x.dtype)


class BatchInstanceNorm2d(nn.Module):
    """Batch-Instance Norm: weight * (gate * BatchNorm(x) + (1 - gate) * InstanceNorm(x)) + bias, one gate per channel.

    Gates start at 1 (BatchNorm alone) and are clamped to [0, 1]: the next forward pass in training mode corrects values
    that an update moved outside. The BatchNorm is an ordinary module, so SyncBN and IaBN apply to it. Here, gates are
    trained like all parameters; Nam and Kim train theirs with a larger learning rate and no weight decay.

    Source: Nam and Kim (2018), Eq. 3 and 4.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(num_features, eps, momentum, affine=False)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.gate = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        if self.training and self.gate.requires_grad:  # a frozen gate is never modified
            self.gate.data.clamp_(0, 1)  # .data: autograd may hold the gate, of equal value, from an earlier call
        # Clamped, but with the gradient of the gate itself: a clamp has none at its bounds, where gates start.
        gate = (self.gate - (self.gate - self.gate.clamp(0, 1)).detach())[:, None, None]
        mixed = gate * self.batch_norm(x) + (1 - gate) * normalize_instances(x, self.batch_norm.eps)
        return scale_channels(mixed, self.weight, self.bias).to(x.dtype)


class InstanceNorm2d(nn.InstanceNorm2d):
    """Torch's instance norm with weight and bias; a single value per channel is accepted, too, and normalised to 0."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(num_features, eps, momentum, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        normalized = normalize_instances(x, self.eps)
        return (scale_channels(normalized, self.weight, self.bias) if self.affine else normalized).to(x.dtype)


class WhitenedNorm2d(InstanceNorm2d):
    """The instance norm of RobustNet, whose outputs ISW whitens: without weight and bias, so checkpoints lack it.

    Source: Choi et al. (2021), Sec. 4.1.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum, affine=False)


class InstanceBatchNorm2d(nn.Module):
    """The norm of IBN-a: instance norm over the first half of the channels, BatchNorm over the rest.

    There must be two channels or more; if their number is odd, the BatchNorm gets one channel more.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(b).
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if num_features < 2:
            raise ValueError(f"IBN-a with {num_features} channel: expected 2 or more, half for each norm")
        self.boundary = num_features // 2
        self.instance_norm = InstanceNorm2d(self.boundary, eps)
        self.batch_norm = nn.BatchNorm2d(num_features - self.boundary, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return torch.cat([self.instance_norm(x[:, : self.boundary]), self.batch_norm(x[:, self.boundary :])], dim=1)


class NormalizedSum(nn.Module):
    """A residual block of IBN-b: an instance norm after the addition, before the last ReLU.

    It replaces a block of torchvision, whose layers and names it keeps.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(c).
    """

    relu: nn.Module
    downsample: nn.Module | None

    def __init__(self, block: BasicBlock | Bottleneck, kind: type[InstanceNorm2d] = InstanceNorm2d) -> None:
        super().__init__()
        for name, child in block.named_children():
            setattr(self, name, child)
        self.downsample = block.downsample
        self.depth = 3 if isinstance(block, Bottleneck) else 2
        last: Any = self.get_submodule(f"conv{self.depth}")
        self.instance_norm = kind(last.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) features to the block's output."""
        identity = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            if number < self.depth:
                x = self.relu(x)
        return self.relu(self.instance_norm(x + identity))


def make_norm(kind: type[nn.Module], layer: nn.BatchNorm2d) -> nn.Module:
    """Makes a norm with the weight, the bias and the running statistics of the BatchNorm it replaces.

    It is followed by the layer's dropout and activation if that is timm's BatchNormAct2d.

    Raises:
        ValueError: If the layer is an unknown kind of BatchNorm.
    """
    norm = kind(layer.num_features, layer.eps, 0.1 if layer.momentum is None else layer.momentum)
    saved, state = layer.state_dict(), {}
    for name, tensor in norm.state_dict().items():
        owner, _, own = name.rpartition(".")
        if own in saved and tensor.ndim:  # IBN-a has one part of the channels in each of its norms
            state[name] = saved[own][-len(tensor) :] if owner == "batch_norm" else saved[own][: len(tensor)]
    norm.load_state_dict(state, strict=False)
    if type(layer).forward is nn.BatchNorm2d.forward:
        return norm
    drop, act = getattr(layer, "drop", None), getattr(layer, "act", None)
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(norm, drop, act)
    raise ValueError(
        f"a {type(layer).__name__} differs from BatchNorm2d in an unknown way: expected BatchNorm2d or timm's "
        "BatchNormAct2d; set norm to batch"
    )


def normalize_instances(x: Tensor, eps: float) -> Tensor:
    """Normalises each channel of each sample of (B, C, H, W) features, in float32 or better."""
    values = x if x.dtype == torch.float64 else x.float()
    var, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)
    return (values - mean) * torch.rsqrt(var + eps)


def scale_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplies each channel of (B, C, H, W) features by its weight and adds its bias."""
    return x * weight[:, None, None] + bias[:, None, None]


def pool(means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Returns the mean and variance of the union of groups of equal size, which lie along one dimension.

    The variance is the mean of the groups' variances plus the variance of their means: a difference of squares would
    lose precision where means are large.
    """
    var_of_means, mean = torch.var_mean(means, dim=dim, correction=0, keepdim=True)
    return mean, variances.mean(dim=dim, keepdim=True) + var_of_means


def mix(weight: Tensor, *statistics: Tensor) -> Tensor:
    """Mixes three statistics by the softmax of three weights."""
    shares = weight.softmax(dim=0)
    return shares[0] * statistics[0] + shares[1] * statistics[1] + shares[2] * statistics[2]
