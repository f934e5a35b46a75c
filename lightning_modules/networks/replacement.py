"""Changes of a network's layers, in place: other norms in the place of BatchNorm, and dropout after every ReLU.

Source: Gal and Ghahramani (2016) for dropout; paper, Sec. 5.1, which leaves its kind and probability open.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, get_args

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_modules.networks.norms import (
    BatchInstanceNorm2d,
    InstanceBatchNorm2d,
    InstanceNorm2d,
    Norm,
    NormalizedSum,
    SwitchableNorm2d,
    WhitenedNorm2d,
    make_norm,
)

EVERYWHERE = {"switchable": SwitchableNorm2d, "batch_instance": BatchInstanceNorm2d}
IN_BLOCKS = {"ibn_a": InstanceBatchNorm2d, "ibn_b": InstanceNorm2d, "isw": WhitenedNorm2d}


def replace_modules(network: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replaces modules inside a network, in place; returns how many.

    `make` returns a module's replacement, or None to keep it. One that is used in several places gets one replacement.
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in replaced and (other := make(child)) is not None:
                replaced[child] = other
            parent._modules[name] = replaced.get(child, child)
    return len(replaced)


def add_dropout(network: nn.Module, probability: float) -> None:
    """Adds dropout of single values (not of whole channels), as Gal and Ghahramani's, after every ReLU, in place.

    A ReLU that is called several times, as in torchvision's residual blocks, gets one dropout that is called as often.
    The names of parameters and buffers do not change.

    Functional calls of ReLU are not found. The probability is in [0, 1); 0 changes nothing.

    Raises:
        ValueError: If the probability is outside [0, 1), or there is no ReLU.
    """
    check_dropout(probability)
    if probability == 0:
        return

    def add(module: nn.Module) -> nn.Module | None:
        return nn.Sequential(module, nn.Dropout(probability)) if isinstance(module, nn.ReLU | nn.ReLU6) else None

    if not replace_modules(network, add):
        raise ValueError(
            f"{type(network).__name__} has no ReLU module to add dropout after: set dropout to 0, or use another "
            "network"
        )


def check_dropout(probability: float) -> None:
    """Raises ValueError if a probability of dropout is outside [0, 1)."""
    if not 0 <= probability < 1:
        raise ValueError(f"dropout is {probability}: expected a probability of 0 or more and below 1")


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
    if norm == "batch":
        return
    if norm in EVERYWHERE:
        replace_all_norms(network, norm)
    elif norm in IN_BLOCKS:
        replace_norms_of_stages(network, norm, stages)
    else:
        raise ValueError(f"norm is {norm!r}: expected one of {', '.join(get_args(Norm))}")


def replace_all_norms(network: nn.Module, norm: Norm) -> None:
    """Replaces every 2d BatchNorm; raises ValueError if there is none."""

    def convert(module: nn.Module) -> nn.Module | None:
        return make_norm(EVERYWHERE[norm], module) if isinstance(module, nn.BatchNorm2d) else None

    if not replace_modules(network, convert):
        raise ValueError(
            f"norm is {norm!r}, but {type(network).__name__} has no 2d BatchNorm to replace: set it to batch"
        )


def replace_norms_of_stages(network: nn.Module, norm: Norm, stages: Sequence[str]) -> None:
    """Replaces or adds the norms that belong to certain places in a residual network, as `replace_norms` describes."""
    kind, title = IN_BLOCKS[norm], type(network).__name__
    blocks = {stage: list_blocks(network, stage) for stage in stages}
    within = tuple(f"{stage}." for stage in stages)
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    stem = [name for name in norms if not name.startswith(within)]  # and what follows the last stage
    if norm == "isw" and (len(stages) < 4 or not stem):
        raise ValueError(
            f"norm is 'isw', but {title} has no stem followed by four named stages: expected a network on ResNet or "
            "HRNet, or TimmDeepLab"
        )
    residual = [found for found in blocks.values() if found]
    if norm != "isw" and len(residual) < 3:
        raise ValueError(
            f"norm is {norm!r}, which is defined only for residual networks, and {title} has no stages of residual "
            "blocks as torchvision and timm build them: choose another norm, or a network on ResNet or HRNet"
        )
    if norm == "ibn_a":
        for block in chain.from_iterable(residual[:-1]):
            replace_norm(network, f"{block}.bn1", kind)
        return
    of_stem = norms[norms.index(f"{residual[0][0]}.bn1") - 1] if norm == "ibn_b" else stem[0]  # its last or its first
    replace_norm(network, of_stem, kind)
    for stage in stages[-4:-2]:
        last = {block.rpartition(".")[0]: block for block in blocks[stage]}  # of a stage, or of each of its branches
        for block in last.values():
            normalize_sum(network, block, kind)
        if not last:
            whiten_output(network.get_submodule(stage))


def list_blocks(network: nn.Module, stage: str) -> list[str]:
    """Lists the dotted names of the residual blocks in a stage, identified by torchvision's and timm's layer names."""
    parts = ("conv1", "bn1", "conv2", "bn2", "downsample")
    modules = network.get_submodule(stage).named_modules(prefix=stage)
    return [name for name, module in modules if all(hasattr(module, part) for part in parts)]


def replace_norm(network: nn.Module, name: str, kind: type[nn.Module]) -> None:
    """Replaces one BatchNorm, given by its dotted name, by a norm of another kind."""
    layer: Any = network.get_submodule(name)
    network.set_submodule(name, make_norm(kind, layer))


def normalize_sum(network: nn.Module, name: str, kind: Any) -> None:
    """Adds an instance norm after the addition of a residual block, given by its dotted name."""
    block: Any = network.get_submodule(name)
    if isinstance(block, BasicBlock | Bottleneck):
        network.set_submodule(name, NormalizedSum(block, kind))
        return
    last = "3" if hasattr(block, "act3") else "2"  # in timm's blocks, every activation is a separate module
    channels = block.get_submodule(f"conv{last}").out_channels
    setattr(block, f"act{last}", nn.Sequential(kind(channels), block.get_submodule(f"act{last}")))


def whiten_output(block: nn.Module) -> None:
    """Adds an instance norm to the output of a block, in place; the block's modules keep their names."""
    last = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)][-1]
    block.whitening = WhitenedNorm2d(last.out_channels)
    block.register_forward_hook(run_whitening)


def run_whitening(block: Any, _: object, output: Tensor) -> Tensor:
    """Runs the instance norm of a block on its output."""
    return block.whitening(output)
