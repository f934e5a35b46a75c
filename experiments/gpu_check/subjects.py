"""Networks with random weights and images for the checks, and comparisons of predictions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from experiments.benchmark.subject import CLASSES, Subject, make_subject
from lightning_modules.networks.deeplab_v1 import DeepLabV1

CALM = 0.1  # weight of each residual block's output
NEARLY_TIED = 0.05  # difference of a pixel's two highest probabilities, below which rounding decides its label


@dataclass(frozen=True)
class Setup:
    """Device to check, and whether networks and images are tiny."""

    device: torch.device
    tiny: bool

    def make_network(self, dropout: float = 0.0, seed: int = 0) -> DeepLabV1:
        """Makes a network with random weights on the CPU, whose residual blocks each add little, as trained ones do.

        Otherwise a deep network with random weights amplifies bfloat16's rounding until a third of its labels change.
        """
        torch.manual_seed(seed)
        backbone, width = ("resnet10", 8) if self.tiny else ("resnet50", 64)
        network = DeepLabV1(backbone, CLASSES, width=width, dropout=dropout)
        for block in network.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                nn.init.constant_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight, CALM)
        return network

    def make_subject(self, device: str | torch.device = "cpu", dropout: float = 0.0, seed: int = 0) -> Subject:
        """Makes a subject of such a network."""
        return make_subject(
            "DeepLabV1", self.make_network(dropout, seed), (64, 128) if self.tiny else (512, 1024), device
        )


def copy_state(network: nn.Module) -> list[Tensor]:
    """Copies the state that a method must leave unchanged: parameters, buffers, train flags and requires_grad."""
    flags = [module.training for module in network.modules()]
    flags += [parameter.requires_grad for parameter in network.parameters()]
    return [*(tensor.detach().clone() for tensor in network.state_dict().values()), torch.tensor(flags)]


def is_unchanged(network: nn.Module, before: list[Tensor]) -> bool:
    """Returns whether a network is bit-identical to an earlier `copy_state`."""
    return all(torch.equal(*pair) for pair in zip(copy_state(network), before, strict=True))


def share_equal(probabilities: Tensor, reference: Tensor) -> float:
    """Returns the share of pixels labelled as in a (1, K, H, W) reference, among those not nearly tied there."""
    best = reference.cpu().topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > NEARLY_TIED
    equal = probabilities.cpu().argmax(dim=1) == reference.cpu().argmax(dim=1)
    return equal[clear].double().mean().item()
