"""MixStyle (Zhou et al., 2021): mixes the feature statistics of the images of a batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.training.features import find_module, name_stages
from lightning_modules.training.method import TrainingMethod, check_shares


class MixStyle(TrainingMethod):
    """Mixes the mean and standard deviation of each image's features with those of another image.

    Args:
        layers: Names of the modules whose outputs are mixed; None uses the stages of stride 4 and 8.
        alpha: Parameter of the Beta distribution from which the weights of the mixture are drawn.
        probability: Probability of mixing a batch.

    Raises:
        ValueError: If an argument is outside its range.

    Source: Zhou et al. (2021), Eq. 4-6: alpha 0.1, probability 0.5.
    """

    def __init__(self, layers: Sequence[str] | None = None, alpha: float = 0.1, probability: float = 0.5) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha is {alpha}: expected a number above 0")
        check_shares(probability=probability)
        self.layers = None if layers is None else list(layers)
        self.probability = probability
        self._names: Sequence[str] = ()
        self._beta = torch.distributions.Beta(alpha, alpha)

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Finds the layers whose outputs are mixed."""
        self._names = self.layers or name_stages(network, "or set layers to the names of those to be mixed")[:2]
        for name in self._names:
            find_module(network, name)

    @contextmanager
    def changing(self, network: nn.Module) -> Iterator[None]:
        """Mixes the outputs of the layers within a ``with`` block."""
        handles = [find_module(network, name).register_forward_hook(self._mix) for name in self._names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _mix(self, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        if len(output) < 2 or torch.rand(()).item() >= self.probability:
            return output
        return mix_statistics(output, torch.randperm(len(output)), self._beta.sample((len(output),)))


def mix_statistics(features: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Mixes the mean and standard deviation per channel of (B, C, H, W) features with those of other images.

    Partners are the (B,) numbers of the other images, shares the (B,) weights in [0, 1] of an image's own statistics.
    The mixed statistics are constants for the gradient.
    """
    variance, mean = torch.var_mean(features.detach(), dim=(2, 3), keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    share = shares.to(features)[:, None, None, None]
    mixed_mean = share * mean + (1 - share) * mean[partners]
    mixed_deviation = share * deviation + (1 - share) * deviation[partners]
    return (features - mean) / deviation * mixed_deviation + mixed_mean
