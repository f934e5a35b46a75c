"""Norms that replace BatchNorm in training: Switchable Norm, Batch-Instance Norm, and the two of IBN-Net.

Source: Luo et al. (2019), Nam and Kim (2018), Pan et al. (2018); paper, Tables 2 and 4.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_modules.networks.replacement import replace_modules
from lightning_modules.networks.statistics import normalize_instances
from lightning_modules.networks.whitening import WhitenedNorm2d, whiten_output

Norm = Literal["batch", "switchable", "batch_instance", "ibn_a", "ibn_b", "isw"]


class SwitchableNorm2d(nn.Module):
    """Switchable Norm: normalises with a trained mixture of instance, layer and batch statistics.

    Mean and variance are mixed separately, each by the softmax of three weights per layer, in the order instance,
    layer, batch; all weights start equal. In evaluation mode, the batch statistics are running averages with
    BatchNorm's momentum and the unbiased variance, as in BatchNorm2d (Luo et al. average over batches after training).
    Statistics are computed in float32 or better. Under DDP, each process uses its own batch statistics.

    Args:
        num_features: Number of channels C.
        eps: Constant added to the variance.
        momentum: Momentum of the running statistics.

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

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "SwitchableNorm2d":
        """Makes a layer with the weight, the bias and the running statistics of a BatchNorm."""
        norm = cls(layer.num_features, layer.eps, find_momentum(layer))
        take_over(norm, layer)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        values = x if x.dtype == torch.float64 else x.float()
        var_instance, mean_instance = torch.var_mean(values, dim=(2, 3), correction=0)  # (B, C)
        mean_layer, var_layer = pool(mean_instance, var_instance, dim=1)  # (B, 1)
        if self.training:
            mean_batch, var_batch = pool(mean_instance, var_instance, dim=0)  # (1, C)
            self._move_statistics(mean_batch[0].detach(), var_batch[0].detach(), x.numel() // self.num_features)
        else:
            mean_batch, var_batch = self.running_mean[None], self.running_var[None]
        mean = mix(self.mean_weight, mean_instance, mean_layer, mean_batch)[:, :, None, None]
        var = mix(self.var_weight, var_instance, var_layer, var_batch)[:, :, None, None]
        normalized = (values - mean) * torch.rsqrt(var + self.eps)
        return scale_channels(normalized, self.weight, self.bias).to(x.dtype)

    def _move_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)

    def extra_repr(self) -> str:
        """Describes the layer in the printed network."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchInstanceNorm2d(nn.Module):
    """Batch-Instance Norm: weight * (gate * BatchNorm(x) + (1 - gate) * InstanceNorm(x)) + bias, one gate per channel.

    Gates start at 1 (BatchNorm alone) and are clamped to [0, 1]: the next forward pass in training mode corrects values
    that an update moved outside. The BatchNorm is an ordinary module, so SyncBN and IaBN apply to it. Here, gates are
    trained like all parameters; Nam and Kim train theirs with a larger learning rate and no weight decay.

    Args:
        num_features: Number of channels C.
        eps: Constant added to the variances.
        momentum: Momentum of the running statistics.

    Source: Nam and Kim (2018), Eq. 3 and 4.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm2d(num_features, eps, momentum, affine=False)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.gate = nn.Parameter(torch.ones(num_features))

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "BatchInstanceNorm2d":
        """Makes a layer with the weight, the bias and the running statistics of a BatchNorm."""
        norm = cls(layer.num_features, layer.eps, find_momentum(layer))
        take_over(norm, layer)
        take_over(norm.batch_norm, layer)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        if self.training and self.gate.requires_grad:  # a frozen gate is never modified
            self.gate.data.clamp_(0, 1)  # .data: autograd may hold the gate, of equal value, from an earlier call
        # Clamped, but with the gradient of the gate itself: a clamp has none at its bounds, where gates start.
        gate = (self.gate - (self.gate - self.gate.clamp(0, 1)).detach())[:, None, None]
        mixed = gate * self.batch_norm(x) + (1 - gate) * normalize_instances(x, self.batch_norm.eps)
        return scale_channels(mixed, self.weight, self.bias).to(x.dtype)


class InstanceNorm2d(nn.Module):
    """Instance norm with weight and bias; it accepts a single value per channel, too, and normalises it to 0.

    Args:
        num_features: Number of channels C.
        eps: Constant added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "InstanceNorm2d":
        """Makes a layer with the weight and the bias of a BatchNorm."""
        norm = cls(layer.num_features, layer.eps)
        take_over(norm, layer)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return scale_channels(normalize_instances(x, self.eps), self.weight, self.bias).to(x.dtype)


class InstanceBatchNorm2d(nn.Module):
    """The norm of IBN-a: instance norm over the first half of the channels, BatchNorm over the rest.

    Args:
        num_features: Number of channels C, 2 or more; if it is odd, the BatchNorm gets one channel more.
        eps: Constant added to the variances.
        momentum: Momentum of the BatchNorm's running statistics.

    Raises:
        ValueError: If there are fewer than two channels.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(b).
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if num_features < 2:
            raise ValueError(f"IBN-a with {num_features} channel: expected 2 or more, half for each norm")
        self.boundary = num_features // 2
        self.instance_norm = InstanceNorm2d(self.boundary, eps)
        self.batch_norm = nn.BatchNorm2d(num_features - self.boundary, eps, momentum)

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "InstanceBatchNorm2d":
        """Makes a layer with the weight, the bias and the running statistics of a BatchNorm."""
        norm = cls(layer.num_features, layer.eps, find_momentum(layer))
        take_over(norm.instance_norm, layer, slice(None, norm.boundary))
        take_over(norm.batch_norm, layer, slice(norm.boundary, None))
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return torch.cat([self.instance_norm(x[:, : self.boundary]), self.batch_norm(x[:, self.boundary :])], dim=1)


class NormalizedSum(nn.Module):
    """A residual block of IBN-b: an instance norm after the addition, before the last ReLU.

    It replaces a block of torchvision, whose layers and names it keeps.

    Args:
        block: The torchvision block to replace.
        kind: Class of the instance norm.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(c).
    """

    relu: nn.Module
    downsample: nn.Module | None

    def __init__(
        self, block: BasicBlock | Bottleneck, kind: "type[InstanceNorm2d] | type[WhitenedNorm2d]" = InstanceNorm2d
    ) -> None:
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


def replace_norms(network: nn.Module, norm: Norm, stages: Sequence[str]) -> None:
    """Replaces BatchNorm by another norm, in place; weights, biases and running statistics are kept.

    ``switchable`` and ``batch_instance`` replace every 2d BatchNorm. ``ibn_a`` replaces the first one of each residual
    block in all stages but the deepest. ``ibn_b`` replaces the stem's by an instance norm, and adds one after the last
    addition of each of the two shallowest stages. ``isw`` does the same with instance norms without weights
    (RobustNet); in networks without residual blocks, it adds them after the stages of stride 4 and 8.

    Args:
        network: Any module.
        norm: Norm that replaces BatchNorm; ``batch`` changes nothing.
        stages: Dotted names of the stages, shallow to deep; only ``ibn_a``, ``ibn_b`` and ``isw`` need them.

    Raises:
        ValueError: If the norm is unknown or does not suit the network, or a BatchNorm does more than can be kept.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}: expected one of {', '.join(get_args(Norm))}")
    if norm == "batch":
        return
    if norm == "isw":
        add_whitening(network, stages)
        return
    if norm in ("ibn_a", "ibn_b"):
        blocks = [names for stage in stages if (names := list_blocks(network, stage))]
        if len(blocks) < 3:
            raise ValueError(
                f"norm is {norm!r}, which is defined only for residual networks, and {type(network).__name__} has "
                "no stages of residual blocks as torchvision and timm build them: choose another norm, or a network on "
                "ResNet or HRNet"
            )
        if norm == "ibn_a":
            for name in chain.from_iterable(blocks[:-1]):
                replace_norm(network, f"{name}.bn1", InstanceBatchNorm2d)
        else:
            replace_norm(network, find_stem_norm(network, blocks[0][0]), InstanceNorm2d)
            for name in chain.from_iterable(map(list_last_blocks, blocks[:2])):
                normalize_sum(network, name, InstanceNorm2d)
        return
    kind = SwitchableNorm2d if norm == "switchable" else BatchInstanceNorm2d

    def convert(module: nn.Module) -> nn.Module | None:
        return keep_activation(module, kind.from_batch_norm(module)) if isinstance(module, nn.BatchNorm2d) else None

    if not replace_modules(network, convert):
        raise ValueError(
            f"norm is {norm!r}, but {type(network).__name__} has no 2d BatchNorm to replace: set it to batch"
        )


def replace_norm(network: nn.Module, name: str, kind: Any) -> None:
    """Replaces one BatchNorm, given by its dotted name, by a norm of another kind."""
    layer: Any = network.get_submodule(name)
    network.set_submodule(name, keep_activation(layer, kind.from_batch_norm(layer)))


def add_whitening(network: nn.Module, stages: Sequence[str]) -> None:
    """Adds the instance norms of RobustNet to a network, in place.

    Raises:
        ValueError: If the network has no stem followed by four named stages.
    """
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    before = [name for name in norms if not name.startswith(tuple(f"{stage}." for stage in stages))]
    if len(stages) < 4 or not before:
        raise ValueError(
            f"norm is 'isw', but {type(network).__name__} has no stem followed by four named stages: expected a "
            "network on ResNet or HRNet, or TimmDeepLab"
        )
    replace_norm(network, before[0], WhitenedNorm2d)
    for stage in stages[-4:][:2]:
        blocks = list_last_blocks(list_blocks(network, stage))
        for name in blocks:
            normalize_sum(network, name, WhitenedNorm2d)
        if not blocks:
            whiten_output(network.get_submodule(stage))


def normalize_sum(network: nn.Module, name: str, kind: type[InstanceNorm2d] | type[WhitenedNorm2d]) -> None:
    """Adds an instance norm after the addition of a residual block, given by its dotted name."""
    block: Any = network.get_submodule(name)
    if isinstance(block, BasicBlock | Bottleneck):
        network.set_submodule(name, NormalizedSum(block, kind))
        return
    last = "3" if hasattr(block, "act3") else "2"  # in timm's blocks, every activation is a separate module
    channels = block.get_submodule(f"conv{last}").out_channels
    setattr(block, f"act{last}", nn.Sequential(kind(channels), block.get_submodule(f"act{last}")))


def list_blocks(network: nn.Module, stage: str) -> list[str]:
    """Lists the dotted names of the residual blocks in a stage, identified by torchvision's and timm's layer names."""
    parts = ("conv1", "bn1", "conv2", "bn2", "downsample")
    modules = network.get_submodule(stage).named_modules(prefix=stage)
    return [name for name, module in modules if all(hasattr(module, part) for part in parts)]


def list_last_blocks(names: Sequence[str]) -> list[str]:
    """Returns the names of the last block in each sequence of blocks (a stage, or a branch of one)."""
    last = {name.rpartition(".")[0]: name for name in names}
    return list(last.values())


def find_stem_norm(network: nn.Module, first_block: str) -> str:
    """Returns the name of the last BatchNorm before the first residual block, which is the stem's."""
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return norms[norms.index(f"{first_block}.bn1") - 1]


def keep_activation(layer: nn.BatchNorm2d, norm: nn.Module) -> nn.Module:
    """Returns a norm, followed by the dropout and activation of the layer it replaces if that is timm's.

    Raises:
        ValueError: If the layer is an unknown kind of BatchNorm.
    """
    if type(layer).forward is nn.BatchNorm2d.forward:
        return norm
    drop, act = getattr(layer, "drop", None), getattr(layer, "act", None)
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(norm, drop, act)
    raise ValueError(
        f"a {type(layer).__name__} differs from BatchNorm2d in an unknown way: expected BatchNorm2d or timm's "
        "BatchNormAct2d; set norm to batch"
    )


def take_over(norm: nn.Module, layer: nn.BatchNorm2d, channels: slice = slice(None)) -> None:
    """Copies weight, bias and running statistics from a BatchNorm to a norm, as far as both have them."""
    names = {name for name, _ in chain(norm.named_parameters(), norm.named_buffers())}
    state = {name: value[channels] for name, value in layer.state_dict().items() if name in names and value.ndim}
    norm.load_state_dict(state, strict=False)


def find_momentum(layer: nn.BatchNorm2d) -> float:
    """Returns the momentum of a layer; if it averages over all batches, BatchNorm's default."""
    return 0.1 if layer.momentum is None else layer.momentum
