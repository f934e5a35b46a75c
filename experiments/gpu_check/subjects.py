"""Images and networks with random weights for the checks, and comparisons of predictions."""

from collections.abc import Mapping
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
    """Device and sizes of the checks.

    Attributes:
        device: Device to check.
        tiny: Whether networks and images are as small as possible.
    """

    device: torch.device
    tiny: bool

    def make_network(self, backbone: str = "resnet50", dropout: float = 0.0) -> DeepLabV1:
        """Makes a network with random weights from seed 0, on the CPU."""
        torch.manual_seed(0)
        if self.tiny:
            return DeepLabV1("resnet10", CLASSES, width=8, dropout=dropout)
        return DeepLabV1(backbone, CLASSES, dropout=dropout)

    def make_subject(self, network: nn.Module, height: int, width: int, device: str | torch.device) -> Subject:
        """Makes a subject of a network and an image of this size, or a tiny one; see `benchmark.subject`."""
        return make_subject(type(network).__name__, network, (64, 128) if self.tiny else (height, width), device)

    def make_calm_subject(self, device: str | torch.device = "cpu", dropout: float = 0.0) -> Subject:
        """Makes a subject whose residual blocks each add little, as trained ones do.

        Otherwise a deep network with random weights amplifies bfloat16's rounding until a third of its labels change.
        """
        network = self.make_network(dropout=dropout)
        for block in network.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                nn.init.constant_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight, CALM)
        return self.make_subject(network, 512, 1024, device)


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies the state that a method must leave unchanged: parameters, buffers, train flags and requires_grad."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    needed = [parameter.requires_grad for parameter in network.parameters()]
    return {**state, "train flags": torch.tensor(flags), "requires_grad": torch.tensor(needed)}


def is_unchanged(network: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Returns whether a network is bit-identical to an earlier `copy_state`."""
    after = copy_state(network)
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def share_equal(probabilities: Tensor, reference: Tensor) -> float:
    """Returns the share of pixels labelled as in a (1, K, H, W) reference, among those not nearly tied there."""
    best = reference.cpu().topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > NEARLY_TIED
    equal = probabilities.cpu().argmax(dim=1) == reference.cpu().argmax(dim=1)
    return equal[clear].double().mean().item()
