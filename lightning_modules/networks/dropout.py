"""Dropout after every ReLU, for MC dropout at test time.

Source: Gal and Ghahramani (2016); paper, Sec. 5.1, Table 1(b) and 5(b), which leave the kind and the probability open.
"""

from torch import nn

from lightning_modules.networks.replacement import replace_modules

RECTIFIERS = (nn.ReLU, nn.ReLU6)


def add_dropout(network: nn.Module, probability: float) -> None:
    """Adds dropout of single values (not of whole channels), as Gal and Ghahramani's, after every ReLU, in place.

    A ReLU that is called several times, as in torchvision's residual blocks, gets one dropout that is called as often.
    The names of parameters and buffers do not change.

    Args:
        network: Any module with `nn.ReLU` or `nn.ReLU6`; functional calls of ReLU are not found.
        probability: Probability of dropping a value, in [0, 1); 0 changes nothing.

    Raises:
        ValueError: If the probability is outside [0, 1), or there is no ReLU.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout is {probability}: expected a probability of 0 or more and below 1")
    if probability == 0:
        return

    def add(module: nn.Module) -> nn.Module | None:
        return nn.Sequential(module, nn.Dropout(probability)) if isinstance(module, RECTIFIERS) else None

    if not replace_modules(network, add):
        raise ValueError(
            f"{type(network).__name__} has no ReLU module to add dropout after: set dropout to 0, or use another "
            "network"
        )
