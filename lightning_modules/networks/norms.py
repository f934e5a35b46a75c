"""Norms in place of BatchNorm at training time: Switchable Norm, Batch-Instance Norm, and the two of IBN-Net.

Source: Luo et al. (2019), Nam and Kim (2018), Pan et al. (2018); paper, Tables 2 and 4.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Norm = Literal["batch", "switchable", "batch_instance", "ibn_a", "ibn_b"]


class SwitchableNorm2d(nn.Module):
    """Switchable Norm: normalises with a trained mixture of instance, layer and batch statistics.

    Mean and variance are mixed separately, each by the softmax of three weights per layer, in the order instance,
    layer, batch; all start with equal shares. In evaluation mode the batch's are running averages with BatchNorm's
    momentum; their variance is the unbiased one, as in BatchNorm2d (Luo et al. average over batches after training).
    Statistics are computed in float32 or better. Under DDP those of the batch are each process's own.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        momentum: Of the running statistics.

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
        """Makes a layer that starts from the weight, the bias and the running statistics of another."""
        norm = cls(layer.num_features, layer.eps, get_momentum(layer))
        copy_affine(layer, norm)
        copy_statistics(layer, norm)
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
        return (normalized * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _move_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)

    def extra_repr(self) -> str:
        """Describes the layer."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchInstanceNorm2d(nn.Module):
    """Batch-Instance Norm: weight * (gate * BatchNorm(x) + (1 - gate) * InstanceNorm(x)) + bias, one gate per channel.

    Gates start at 1 (BatchNorm alone) and act within [0, 1]: what an update leaves outside is put back at the next
    forward in training mode. The BatchNorm is a real one, so that SyncBN and IaBN act on it. Here gates are trained as
    all parameters are; Nam and Kim train theirs with a larger learning rate and no weight decay.

    Args:
        num_features: Number of channels C.
        eps: Added to the variances.
        momentum: Of the running statistics.

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
        """Makes a layer that starts from the weight, the bias and the running statistics of another."""
        norm = cls(layer.num_features, layer.eps, get_momentum(layer))
        copy_affine(layer, norm)
        copy_statistics(layer, norm.batch_norm)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        if self.training and self.gate.requires_grad:  # a frozen gate is never written
            self.gate.data.clamp_(0, 1)  # .data, as autograd may hold the gate from a call before, of equal value
        # Clamped, but with the gradient of the gate itself: a clamp has none at its bounds, where gates start.
        gate = (self.gate - (self.gate - self.gate.clamp(0, 1)).detach())[:, None, None]
        mixed = gate * self.batch_norm(x) + (1 - gate) * normalize_instances(x, self.batch_norm.eps)
        return (mixed * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class InstanceNorm2d(nn.Module):
    """Instance norm with weight and bias, also of a single value per channel, whose norm is 0.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "InstanceNorm2d":
        """Makes a layer that starts from the weight and the bias of another."""
        norm = cls(layer.num_features, layer.eps)
        copy_affine(layer, norm)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return (normalize_instances(x, self.eps) * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class InstanceBatchNorm2d(nn.Module):
    """The norm of IBN-a: instance norm over the first half of the channels, BatchNorm over the rest.

    Args:
        num_features: Number of channels C, 2 or more; of an odd number the BatchNorm gets one more.
        eps: Added to the variances.
        momentum: Of the BatchNorm's running statistics.

    Raises:
        ValueError: If there are fewer than two channels.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(b).
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if num_features < 2:
            raise ValueError(f"IBN-a of {num_features} channel: expected 2 or more, half for each norm")
        self.boundary = num_features // 2
        self.instance_norm = InstanceNorm2d(self.boundary, eps)
        self.batch_norm = nn.BatchNorm2d(num_features - self.boundary, eps, momentum)

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "InstanceBatchNorm2d":
        """Makes a layer that starts from the weight, the bias and the running statistics of another."""
        norm = cls(layer.num_features, layer.eps, get_momentum(layer))
        copy_affine(layer, norm.instance_norm, slice(None, norm.boundary))
        copy_affine(layer, norm.batch_norm, slice(norm.boundary, None))
        copy_statistics(layer, norm.batch_norm, slice(norm.boundary, None))
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return torch.cat([self.instance_norm(x[:, : self.boundary]), self.batch_norm(x[:, self.boundary :])], dim=1)


class NormalizedSum(nn.Module):
    """A residual block of IBN-b: an instance norm behind the addition, before the last ReLU.

    Takes the place of a block of torchvision, whose layers and names it takes over.

    Args:
        block: ``torchvision.models.resnet.BasicBlock`` or ``Bottleneck``.

    Source: Pan et al. (2018), Sec. 3.2, Fig. 3(c).
    """

    relu: nn.Module
    downsample: nn.Module | None

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block._modules.items():
            self.add_module(name, child)
        if block.downsample is None:
            self.downsample = None
        self.depth = 3 if hasattr(block, "conv3") else 2
        self.instance_norm = InstanceNorm2d(block.get_submodule(f"conv{self.depth}").out_channels)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) features to the next."""
        identity = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.depth + 1):
            x = self._modules[f"bn{number}"](self._modules[f"conv{number}"](x))  # type: ignore[misc]
            if number < self.depth:
                x = self.relu(x)
        return self.relu(self.instance_norm(x + identity))


def normalize_instances(x: Tensor, eps: float) -> Tensor:
    """Normalises each channel of each sample of (B, C, H, W) features, in float32 or better."""
    values = x if x.dtype == torch.float64 else x.float()
    var, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)
    return (values - mean) * torch.rsqrt(var + eps)


def pool(means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of the union of equally large groups, which lie along one dimension.

    The mean of the groups' variances plus the variance of their means: a difference of squares would cancel where means
    are large.
    """
    var_of_means, mean = torch.var_mean(means, dim=dim, correction=0, keepdim=True)
    return mean, variances.mean(dim=dim, keepdim=True) + var_of_means


def mix(weight: Tensor, *statistics: Tensor) -> Tensor:
    """Mixes three statistics by the softmax of three weights."""
    shares = weight.softmax(dim=0)
    return shares[0] * statistics[0] + shares[1] * statistics[1] + shares[2] * statistics[2]


def replace_norms(network: nn.Module, norm: Norm, stages: Sequence[str]) -> None:
    """Replaces BatchNorm by another norm, in place; weights, biases and running statistics are taken over.

    ``switchable`` and ``batch_instance`` replace every 2d BatchNorm. ``ibn_a`` replaces the first one of each residual
    block in all stages but the deepest. ``ibn_b`` replaces the stem's by an instance norm, and adds one behind the last
    addition of the two shallowest stages.

    Args:
        network: Any module.
        norm: What to put in place; ``batch`` changes nothing.
        stages: Dotted names of the residual stages, shallow to deep; only the two of IBN-Net need them.

    Raises:
        ValueError: If there is no such norm, nothing to replace, or a BatchNorm that does more than can be kept.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}: expected one of {', '.join(get_args(Norm))}")
    if norm == "batch":
        return
    if norm in ("ibn_a", "ibn_b"):
        blocks = {stage: names for stage in stages if (names := list_blocks(network, stage))}
        if len(blocks) < 3:
            raise ValueError(
                f"norm is {norm!r}, which is defined for residual networks alone, and {type(network).__name__} has "
                "no stages of residual blocks as torchvision and timm build them: choose another norm, or a network on "
                "ResNet or HRNet"
            )
        replace_for_ibn(network, norm, blocks)
        return
    kind = SwitchableNorm2d if norm == "switchable" else BatchInstanceNorm2d
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.BatchNorm2d):
                if child not in replaced:
                    replaced[child] = keep_activation(child, kind.from_batch_norm(child))
                parent._modules[name] = replaced[child]
    if not replaced:
        raise ValueError(
            f"norm is {norm!r}, but {type(network).__name__} has no 2d BatchNorm to replace: set it to batch"
        )


def replace_for_ibn(network: nn.Module, norm: Norm, stages: Mapping[str, list[str]]) -> None:
    """Replaces norms as IBN-Net does.

    Args:
        network: Any module.
        norm: ``ibn_a`` or ``ibn_b``.
        stages: Dotted names of the residual stages, shallow to deep, and of the residual blocks of each.
    """
    blocks = list(stages.values())
    if norm == "ibn_a":
        for name in chain.from_iterable(blocks[:-1]):
            block = network.get_submodule(name)
            block.bn1 = keep_activation(block.bn1, InstanceBatchNorm2d.from_batch_norm(block.bn1))  # type: ignore[arg-type]
        return
    stem = find_stem_norm(network, next(iter(stages)))
    layer = network.get_submodule(stem)
    assert isinstance(layer, nn.BatchNorm2d)
    network.set_submodule(stem, keep_activation(layer, InstanceNorm2d.from_batch_norm(layer)))
    for name in chain.from_iterable(map(list_last_blocks, blocks[:2])):
        block = network.get_submodule(name)
        last = "act3" if hasattr(block, "act3") else "act2"
        if hasattr(block, last):  # timm: every activation is a module of its own
            channels = block.get_submodule(last.replace("act", "conv")).out_channels
            setattr(block, last, nn.Sequential(InstanceNorm2d(channels), getattr(block, last)))  # type: ignore[arg-type]
        else:  # torchvision: one activation is called several times
            network.set_submodule(name, NormalizedSum(block))


def list_blocks(network: nn.Module, stage: str) -> list[str]:
    """Lists the dotted names of the residual blocks in a stage, which have the parts of torchvision's and timm's."""
    parts = ("conv1", "bn1", "conv2", "bn2", "downsample")
    modules = network.get_submodule(stage).named_modules(prefix=stage)
    return [name for name, module in modules if all(hasattr(module, part) for part in parts)]


def list_last_blocks(names: Sequence[str]) -> list[str]:
    """Keeps the last of the blocks that lie in the same sequence (a stage, or a branch of one)."""
    last = {name.rpartition(".")[0]: name for name in names}
    return list(last.values())


def find_stem_norm(network: nn.Module, first_stage: str) -> str:
    """Returns the name of the last BatchNorm before the first stage, which is the stem's."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    before = names[: next(number for number, name in enumerate(names) if name.startswith(f"{first_stage}."))]
    return before[-1]


def keep_activation(layer: nn.BatchNorm2d, norm: nn.Module) -> nn.Module:
    """Returns a norm followed by what else the layer it replaces does: the dropout and activation of timm's.

    Raises:
        ValueError: If the layer is a BatchNorm of a kind that is not known here.
    """
    if type(layer).forward is nn.BatchNorm2d.forward:
        return norm
    drop, act = getattr(layer, "drop", None), getattr(layer, "act", None)
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(norm, drop, act)
    raise ValueError(
        f"a {type(layer).__name__} does more than a BatchNorm2d, and what is not known: expected BatchNorm2d or timm's "
        "BatchNormAct2d; set norm to batch"
    )


def copy_affine(source: nn.BatchNorm2d, target: nn.Module, channels: slice = slice(None)) -> None:
    """Copies weight and bias, if there are any."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            value = getattr(source, name)
            if value is not None:
                getattr(target, name).copy_(value[channels])


def copy_statistics(source: nn.BatchNorm2d, target: nn.Module, channels: slice = slice(None)) -> None:
    """Copies the running statistics, if there are any."""
    with torch.no_grad():
        for name in ("running_mean", "running_var"):
            value = getattr(source, name)
            if value is not None:
                getattr(target, name).copy_(value[channels])


def get_momentum(layer: nn.BatchNorm2d) -> float:
    """Returns the momentum of a layer; where it averages over all batches, BatchNorm's default."""
    return 0.1 if layer.momentum is None else layer.momentum
