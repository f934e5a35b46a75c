"""IaBN: every BatchNorm blends its training statistics with those of the single test image.

Source: paper, Sec. 3, Eq. 1-4.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.adaptation.alpha import Alpha, is_blended, read_alpha, spread_alpha
from callbacks.adaptation.arguments import check_refine
from callbacks.adaptation.refinement import refine_edges
from callbacks.blended_norm import normalize_blended
from callbacks.method import Method
from lightning_modules.networks.norms import SwitchableNorm2d
from lightning_modules.predictor import predict_plainly


class InstanceAdaptiveBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that in evaluation mode normalises each sample with blended statistics.

    In training mode it behaves as BatchNorm2d. It has exactly the parameters and buffers of BatchNorm2d, so checkpoint
    keys do not change; alpha is not part of the state. A sample's statistics never depend on the rest of its batch.
    Gradients flow through the sample's statistics, which are computed in float32 or better.

    Args:
        num_features: Number of channels C.
        alpha: Weight of the sample's statistics in [0, 1]: 0 is t-BN, 1 is p-BN (instance statistics).
        **kwargs: Further arguments of BatchNorm2d.

    Attributes:
        pooled: Whether to use the statistics of the whole batch in place of each sample's.

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
        """Creates the adaptive twin of a layer; the two share parameters, buffers, hooks and train flag."""
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
        if mean is None or var is None:  # without running statistics, use the input's own
            mean, var, alpha = x.new_zeros(self.num_features), x.new_ones(self.num_features), 1.0
        return normalize_blended(x, mean, var, self.weight, self.bias, alpha, self.eps, self.pooled)

    def extra_repr(self) -> str:
        """Adds alpha to the layer's description."""
        return f"{super().extra_repr()}, alpha={self.alpha}"


class _AdaptiveInput(InstanceAdaptiveBatchNorm2d):
    """Adapts a BatchNorm2d subclass that does more than normalise (e.g. applies an activation) by changing its input.

    The input is shifted and scaled such that the layer's normalisation by its training statistics results in
    normalisation by the blended ones; the rest of the layer runs unchanged. In training mode it is the layer itself.
    """

    layer: tuple[_BatchNorm]  # in a tuple, so that it is not a submodule and state dict keys do not change

    @classmethod
    def from_batch_norm(cls, layer: _BatchNorm, alpha: float) -> "_AdaptiveInput":
        """Creates the adaptive twin; the two share parameters, buffers, hooks and submodules."""
        twin = super().from_batch_norm(layer, alpha)
        assert isinstance(twin, _AdaptiveInput)
        twin.layer = (layer,)
        return twin

    def train(self, mode: bool = True) -> "_AdaptiveInput":
        """Sets the mode of the twin and of its layer."""
        super().train(mode)
        self.layer[0].train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Runs the layer, whose class may have an `alpha` of its own, on (B, C, H, W) features."""
        (layer,) = self.layer
        mean, var = layer.running_mean, layer.running_var
        if not self.training and mean is not None and var is not None and self.alpha > 0:
            x = normalize_blended(x, mean, var, torch.sqrt(var + self.eps), mean, self.alpha, self.eps, self.pooled)
        return type(layer).forward(layer, x)


def convert_batch_norm(network: nn.Module, alpha: float | Mapping[str, float]) -> nn.Module:
    """Replaces every 2d BatchNorm of a network with its instance-adaptive twin; existing twins get the new alpha.

    Parameters, buffers and train flags are shared with the replaced layers. Convert to SyncBatchNorm before, never
    after: that conversion replaces every subclass of BatchNorm, twins included.

    Args:
        network: Any module; changed in place.
        alpha: Weight of the sample's statistics in [0, 1], for all layers or per layer.

    Returns:
        The network, or the twin if the network itself is a BatchNorm.

    Raises:
        ValueError: If alpha does not suit the network, see `check_batch_norm`.
    """
    check_batch_norm(network, alpha)
    if _is_batch_norm(network):
        return _make_twin(network, spread_alpha(alpha, [""])[""])
    _replace(network, alpha)
    return network


@contextmanager
def adaptive_batch_norm(network: nn.Module, alpha: float | Mapping[str, float], pooled: bool = False) -> Iterator[None]:
    """Converts the BatchNorm layers of a network within a ``with`` block and restores the originals after it.

    Args:
        network: Any module.
        alpha: Weight of the sample's statistics in [0, 1], for all layers or per layer.
        pooled: Whether to use the statistics of the whole batch in place of each sample's.

    Raises:
        ValueError: If alpha does not suit the network, see `check_batch_norm`.
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


def check_batch_norm(network: nn.Module, alpha: float | Mapping[str, float]) -> None:
    """Checks an alpha, for all layers or per layer, against a network.

    Raises:
        ValueError: If alpha is outside [0, 1] or does not match the network's layers, or is above 0 and there is no 2d
            BatchNorm.
    """
    read_alpha(alpha)
    if names := list_batch_norms(network):
        spread_alpha(alpha, names)
    elif is_blended(alpha) or isinstance(alpha, Mapping):
        switchable = any(isinstance(module, SwitchableNorm2d) for module in network.modules())
        reason = "; its Switchable Norms blend in the image's own statistics with trained weights" if switchable else ""
        raise ValueError(
            f"{type(network).__name__} has no 2d BatchNorm layer, so IaBN has nothing to adapt{reason}: use a network "
            "with BatchNorm, or alpha=0, which turns IaBN off"
        )


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network has a 2d BatchNorm layer, which IaBN can adapt."""
    return any(map(_is_batch_norm, network.modules()))


def list_batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Maps full names to the 2d BatchNorm layers of a network; a layer used twice is listed under its first name."""
    return {name: layer for name, layer in network.named_modules() if _is_batch_norm(layer)}


def _replace(network: nn.Module, alpha: float | Mapping[str, float]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replaces layers with twins (one twin per layer, also if used twice); returns (parent, name, original layer)."""
    layers = list_batch_norms(network)
    alphas = spread_alpha(alpha, layers)
    twins = {layer: _make_twin(layer, alphas[name]) for name, layer in layers.items()}
    places = [(parent, *child) for parent in network.modules() for child in parent._modules.items()]
    replaced = [(parent, name, layer) for parent, name, layer in places if layer in twins]
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
        alpha: Weight of the test image's statistics in [0, 1]: 0 is t-BN, on any network; 1 is p-BN. The paper chose
            0.1. For a weight per layer, a mapping from module names to weights, or a file written by
            `experiments.learn_alpha`.
        refine: Number of iterations that align the prediction with the image's edges, as `refine_edges` does; 0 is
            the paper's.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, alpha: Alpha = 0.1, refine: int = 0) -> None:
        super().__init__()
        check_refine(refine)
        self.alpha = read_alpha(alpha)
        self.refine = refine

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if alpha is above 0 and the network has no BatchNorm."""
        check_batch_norm(network, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts one image; see `Method.adapt`."""
        with adaptive_batch_norm(network, self.alpha):
            return refine_edges(predict_plainly(network, image), image, self.refine)
