"""The features of a network's stages: the names of the stages, and their outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_modules.networks.timm_deeplab import TimmDeepLab, list_stages


def name_stages(network: nn.Module, otherwise: str = "use such a network") -> list[str]:
    """Returns the names of the modules whose outputs are the features of a backbone's last four stages.

    Args:
        network: TimmDeepLab, or a network whose backbone names its stages as residual networks do.
        otherwise: Ends the error's message: what to do with another network.
    """
    if isinstance(network, TimmDeepLab):
        return [f"backbone.{name}" for name in list_stages(network.backbone)][-4:]
    present = {name for name, _ in network.named_modules()}
    for prefix in ("backbone.", ""):
        names = [f"{prefix}layer{number}" for number in range(1, 5)]
        if present.issuperset(names):
            return names
    raise ValueError(
        f"{type(network).__name__} has no backbone with stages layer1 to layer4: expected a network on a ResNet "
        f"(DeepLabV1, DeepLabV2, DeepLabV3Plus, FCN), or TimmDeepLab; {otherwise}"
    )


def count_channels(network: nn.Module, name: str) -> int:
    """Returns the number of output channels of a network's module: those of its last convolution."""
    return [layer for layer in network.get_submodule(name).modules() if isinstance(layer, nn.Conv2d)][-1].out_channels


def find_module(network: nn.Module, name: str) -> nn.Module:
    """Returns a module of a network by its dotted name; raises ValueError if there is none."""
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        places = (name.rpartition(".")[0], "")
        beside = [known for known, _ in network.named_modules() if known and known.rpartition(".")[0] in places]
        raise ValueError(
            f"{type(network).__name__} has no module {name!r}: expected one such as {', '.join(beside)}"
        ) from error


@contextmanager
def record_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yields a dict that collects the outputs of modules by name when the network runs within the ``with`` block."""
    outputs: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def record(name: str) -> None:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            outputs[name] = output.clone()  # the next layer may modify it in place

        handles.append(find_module(network, name).register_forward_hook(keep))

    try:
        for name in names:
            record(name)
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
