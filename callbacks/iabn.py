"""IaBN: every BatchNorm blends its training statistics with those of the one test image.

Source: paper, Sec. 3, Eq. 1-4.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.adaptation.alpha import Alpha, is_blended, read_alpha, spread_alpha
from callbacks.blended_norm import normalize_blended
from callbacks.method import Method
from lightning_modules.networks.norms import SwitchableNorm2d
from lightning_modules.predictor import predict_plainly


class InstanceAdaptiveBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that in evaluation mode normalises each sample with blended statistics.

    In training mode it is BatchNorm2d. It has the parameters and buffers of BatchNorm2d and no more, so checkpoint keys
    do not change; alpha is no part of the state. The statistics of a sample never depend on the rest of its batch.
    Gradients flow through the statistics of the sample. Statistics are computed in float32 or better.

    Args:
        num_features: Number of channels C.
        alpha: Weight of the sample's statistics in [0, 1]: 0 is t-BN, 1 is p-BN (instance statistics).
        **kwargs: As for BatchNorm2d.

    Attributes:
        pooled: Whether statistics are the whole batch's in place of each sample's.

    Raises:
        ValueError: If alpha is outside [0, 1].
    """

    pooled = False

    def __init__(self, num_features: int, alpha: float = 0.1, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        read_alpha(alpha)
        self.alpha = alpha

    @classmethod
    def from_batch_norm(cls, layer: _BatchNorm, alpha: float) -> "InstanceAdaptiveBatchNorm2d":
        """Makes the adaptive twin of a layer; the two share parameters, buffers, hooks and train flag."""
        read_alpha(alpha)
        twin = cls.__new__(cls)
        twin.__dict__.update(layer.__dict__)
        twin.alpha = alpha
        return twin

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        if self.training:
            return super().forward(x)
        self._check_input_dim(x)
        mean, var, alpha = self.running_mean, self.running_var, self.alpha
        if mean is None or var is None:  # with no running statistics, the input's own are all there are
            mean, var, alpha = x.new_zeros(self.num_features), x.new_ones(self.num_features), 1.0
        return normalize_blended(x, mean, var, self.weight, self.bias, alpha, self.eps, self.pooled)

    def extra_repr(self) -> str:
        """Adds alpha to the layer's description."""
        return f"{super().extra_repr()}, alpha={self.alpha}"


class _AdaptiveInput(InstanceAdaptiveBatchNorm2d):
    """Adapts a BatchNorm2d subclass that does more than normalise (an activation, say) through its input.

    The input is moved so that the layer's own normalisation by its training statistics yields the blended one; whatever
    else the layer does stays its own business. While training it is the layer itself.
    """

    layer: tuple[_BatchNorm]  # in a tuple, so that it is no submodule and state keys stay

    @classmethod
    def from_batch_norm(cls, layer: _BatchNorm, alpha: float) -> "_AdaptiveInput":
        """Makes the adaptive twin; the two share parameters, buffers, hooks and submodules."""
        twin = super().from_batch_norm(layer, alpha)
        assert isinstance(twin, _AdaptiveInput)
        twin.layer = (layer,)
        return twin

    def train(self, mode: bool = True) -> "_AdaptiveInput":
        """Sets the mode of the twin and of the layer behind it."""
        super().train(mode)
        self.layer[0].train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features, then does what else the layer does."""
        (layer,) = self.layer
        if not self.training and layer.running_mean is not None and layer.running_var is not None and self.alpha > 0:
            mean, var = layer.running_mean, layer.running_var
            x = normalize_blended(x, mean, var, torch.sqrt(var + self.eps), mean, self.alpha, self.eps, self.pooled)
        return type(layer).forward(layer, x)


def convert_batch_norm(network: nn.Module, alpha: float | Mapping[str, float]) -> nn.Module:
    """Replaces every 2d BatchNorm of a network by its instance-adaptive twin; existing twins get the new alpha.

    Parameters, buffers and train flags are shared with the layers replaced. Convert to SyncBatchNorm before, never
    after: that conversion takes every subclass of BatchNorm with it.

    Args:
        network: Any module; changed in place.
        alpha: Weight of the sample's statistics in [0, 1], of all layers or by layer.

    Returns:
        The network, or the twin if the network itself is a BatchNorm.

    Raises:
        ValueError: If alpha is outside [0, 1], or the network has no 2d BatchNorm.
    """
    check_batch_norm(network, alpha, required=True)
    if _is_batch_norm(network):
        return _make_twin(network, spread_alpha(alpha, [""])[""])
    _replace(network, alpha)
    return network


@contextmanager
def adaptive_batch_norm(network: nn.Module, alpha: float | Mapping[str, float], pooled: bool = False) -> Iterator[None]:
    """Converts the BatchNorm layers of a network within a ``with`` block and puts the originals back after it.

    Args:
        network: Any module.
        alpha: Weight of the sample's statistics in [0, 1], of all layers or by layer.
        pooled: Whether statistics are the whole batch's in place of each sample's.

    Raises:
        ValueError: As `check_batch_norm`.
    """
    check_batch_norm(network, alpha)
    twins = [layer for layer in network.modules() if isinstance(layer, InstanceAdaptiveBatchNorm2d)]
    old_alphas = [twin.alpha for twin in twins]
    replaced = _replace(network, alpha)
    for parent, name, _ in replaced:
        parent.get_submodule(name).pooled = pooled  # type: ignore[assignment]
    try:
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)
        for twin, old_alpha in zip(twins, old_alphas, strict=True):
            twin.alpha, twin.pooled = old_alpha, False


def check_batch_norm(network: nn.Module, alpha: float | Mapping[str, float], required: bool = False) -> None:
    """Raises ValueError if alpha does not suit a network: it is outside [0, 1], or there is no 2d BatchNorm.

    Args:
        network: Any module.
        alpha: Weight of the sample's statistics in [0, 1], of all layers or by layer.
        required: Whether a network without BatchNorm is an error at alpha 0, too.
    """
    read_alpha(alpha)
    if names := list_batch_norms(network):
        spread_alpha(alpha, names)
        return
    if not (required or is_blended(alpha)):
        return
    switchable = any(isinstance(module, SwitchableNorm2d) for module in network.modules())
    reason = ", as its Switchable Norms mix in the image's own statistics by trained weights" if switchable else ""
    raise ValueError(
        f"{type(network).__name__} has no 2d BatchNorm layer, so IaBN has nothing to adapt{reason}: use a network "
        "with BatchNorm, or a method without IaBN (alpha=0 in TTA, Seg-TTT, MC dropout and ensembles)"
    )


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network has a 2d BatchNorm, which IaBN adapts."""
    return any(map(_is_batch_norm, network.modules()))


def list_batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Returns the 2d BatchNorm layers of a network by their full names; one that is used twice has its first."""
    return {name: layer for name, layer in network.named_modules() if _is_batch_norm(layer)}


def _replace(network: nn.Module, alpha: float | Mapping[str, float]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Puts twins in the places of layers; a layer that is used twice keeps being one. Returns what was where."""
    layers = list_batch_norms(network)
    alphas = spread_alpha(alpha, layers)
    twins = {layer: _make_twin(layer, alphas[name]) for name, layer in layers.items()}
    replaced = []
    for parent in list(network.modules()):
        for name, layer in parent._modules.items():
            if layer in twins:
                replaced.append((parent, name, layer))
    for parent, name, layer in replaced:
        setattr(parent, name, twins[layer])
    return replaced


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def _make_twin(layer: nn.Module, alpha: float) -> nn.Module:
    assert isinstance(layer, _BatchNorm)
    if isinstance(layer, InstanceAdaptiveBatchNorm2d):
        layer.alpha = alpha
        return layer
    plain = type(layer).forward in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
    return (InstanceAdaptiveBatchNorm2d if plain else _AdaptiveInput).from_batch_norm(layer, alpha)


class IaBN(Method):
    """Predicts with instance-adaptive batch normalisation.

    Args:
        alpha: Weight of the test image's statistics in [0, 1]: 0 is t-BN, 1 is p-BN. The paper chose 0.1. By layer: a
            mapping from names of modules, or a file of `experiments.learn_alpha`.

    Raises:
        ValueError: If alpha is outside [0, 1].
    """

    def __init__(self, alpha: Alpha = 0.1) -> None:
        super().__init__()
        self.alpha = read_alpha(alpha)

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the network has no BatchNorm."""
        check_batch_norm(network, self.alpha, required=True)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts one image; see `Method.adapt`."""
        self.check_network(network)
        with adaptive_batch_norm(network, self.alpha):
            return predict_plainly(network, image)
