"""MC dropout: the mean softmax over forward passes with active dropout.

Source: Gal and Ghahramani (2016); paper, Sec. 5.1, Table 1(b) and 5(b).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from callbacks.adaptation.alpha import Alpha, read_alpha
from callbacks.adaptation.arguments import check_number
from callbacks.adaptation.steps import seeded
from callbacks.iabn import adaptive_batch_norm, check_batch_norm
from callbacks.method import Method
from lightning_modules.predictor import predict_plainly


class MCDropout(Method):
    """Monte-Carlo dropout, with or without IaBN.

    Only Dropout modules are active; BatchNorm and everything else stay in evaluation mode. The network must have been
    trained with dropout: the argument `dropout` of this project's networks adds one after every ReLU.

    Args:
        passes: Number of forward passes, 1 or more, each with its own dropout masks.
        alpha: Weight of the test image's statistics in [0, 1]; 0 turns IaBN off and accepts any network with dropout.
        seed: Seed of the dropout masks. They are the same for every image, so no result depends on earlier images.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, passes: int = 10, alpha: Alpha = 0.0, seed: int = 0) -> None:
        super().__init__()
        check_number("passes", passes, 1, expected="one forward pass or more, e.g. 10", whole=True)
        self.passes = passes
        self.alpha = read_alpha(alpha)
        self.seed = seed

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the network has no dropout, or if alpha is above 0 and it has no BatchNorm."""
        if not find_dropout(network):
            raise ValueError(
                f"{type(network).__name__} has no Dropout module with a probability above 0, so every pass would be "
                "the same: train a network with dropout, e.g. --model.network.init_args.dropout=0.1, and test that one"
            )
        check_batch_norm(network, self.alpha)

    def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts one image; see `Method.adapt`."""
        for layer in find_dropout(network):
            layer.train()
        total: Any = 0
        with adaptive_batch_norm(network, self.alpha), seeded(image.device, self.seed):
            for _ in range(self.passes):
                total += predict_plainly(network, image)
        return total.div_(self.passes)


def find_dropout(network: nn.Module) -> list[nn.Module]:
    """Lists the Dropout modules with a probability above 0."""
    return [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
