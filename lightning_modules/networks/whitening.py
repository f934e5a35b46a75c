"""The instance norms of RobustNet, whose outputs ISW whitens; they have no weights, so checkpoints do not contain them.

Source: Choi et al. (2021), Sec. 4.1: in the stem, and on the outputs of the two shallowest stages.
"""

from typing import Any

from torch import Tensor, nn

from lightning_modules.networks.statistics import normalize_instances


class WhitenedNorm2d(nn.Module):
    """Instance norm without weight and bias.

    Args:
        num_features: Number of channels C.
        eps: Constant added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps

    @classmethod
    def from_batch_norm(cls, layer: nn.BatchNorm2d) -> "WhitenedNorm2d":
        """Makes a layer with the number of channels and the eps of a BatchNorm."""
        return cls(layer.num_features, layer.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) features."""
        return normalize_instances(x, self.eps).to(x.dtype)


def whiten_output(block: nn.Module) -> None:
    """Adds an instance norm to the output of a block, in place; the block's modules keep their names."""
    last = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)][-1]
    block.whitening = WhitenedNorm2d(last.out_channels)
    block.register_forward_hook(run_whitening)


def run_whitening(block: Any, _: object, output: Tensor) -> Tensor:
    """Runs the instance norm of a block on its output."""
    return block.whitening(output)
