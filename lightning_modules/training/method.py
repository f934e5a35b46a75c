"""The interface of training methods, which may change a batch's images, read the network's features, and add losses."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.normalization import IMAGENET


@dataclass(frozen=True)
class Step:
    """The data from which the losses of a training step are computed.

    Attributes:
        network: The network, in training mode.
        images: (B, 3, H, W) float, normalised, as the network saw them.
        masks: (B, H, W) int64 train ids, 255 where ignored.
        logits: (B, K, H, W) float.
        features: Outputs, by name, of the modules listed in the method's `features`.
    """

    network: nn.Module
    images: Tensor
    masks: Tensor
    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingMethod(nn.Module):
    """Base class of methods that train for domain generalisation. It adds nothing; subclasses override what they need.

    During training it is part of the module: its parameters are trained with the network's, and its state is saved in
    checkpoints, from which training can resume. Checkpoints also load without it, and it is not used at test time.

    Attributes:
        features: Names of modules of the network whose outputs the losses need, e.g. ``backbone.layer1``.
        normalization: Normalisation of the images.
    """

    features: Sequence[str] = ()
    normalization = IMAGENET

    def check_data(self, datamodule: Any) -> None:
        """Raises ValueError if the method uses data of one of the run's targets; called before training."""

    def check_length(self, epochs: int) -> None:
        """Warns if a training of this many epochs (-1: no limit) ends before the method starts."""

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Prepares the method for a network with its initial weights; called once, also when training resumes.

        Raises:
            ValueError: If the method cannot train this network.
        """

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Prepares the method for an epoch; called at the start of each.

        Args:
            epoch: Number of the epoch, from 0.
            network: The network, in training mode; must be unchanged afterwards.
            images: (B, 3, H, W) batches of the source on the network's device, loaded on demand.
        """

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images and labels that the network is trained on, of the same shapes or with more images.

        Args:
            images: (B, 3, H, W) float, normalised.
            masks: (B, H, W) int64 train ids, 255 where ignored.
        """
        return images, masks

    def restore(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) normalised images to values in [0, 1]."""
        return self.normalization.undo(images).clamp(0, 1)

    def changing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Modifies the outputs of the network's modules within a ``with`` block, in which a batch is predicted."""
        return nullcontext()

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted losses to add to the cross-entropy, by name; () each."""
        return {}


def check_least(least: float, **values: float) -> None:
    """Raises ValueError if one of the arguments, given by name, is below `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")


def check_shares(**values: float) -> None:
    """Raises ValueError if one of the arguments, given by name, is outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: expected 0 to 1")


def find_module(network: nn.Module, name: str) -> nn.Module:
    """Returns a module of a network by its dotted name.

    Raises:
        ValueError: If there is none of that name; the message lists the names that exist.
    """
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        parent = name.rpartition(".")[0]
        try:
            known = [f"{parent}.{child}".lstrip(".") for child, _ in network.get_submodule(parent).named_children()]
        except AttributeError:
            known = [child for child, _ in network.named_children()]
        raise ValueError(
            f"{type(network).__name__} has no module {name!r}: expected one such as {', '.join(known)}"
        ) from error


@contextmanager
def record_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yields a dict that collects the outputs of modules by name when the network runs within the ``with`` block.

    Raises:
        ValueError: If the network has no module of one of the names.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            outputs[name] = output.clone()  # the next layer may modify it in place

        handles.append(find_module(network, name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name in names:
            keep(name)
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class SourceImages:
    """The images of a training loader, on a device; can be iterated any number of times.

    Args:
        loader: Training loader, of batches with ``image``.
        device: Device of the network.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self._loader = DataLoader(
            loader.dataset, loader.batch_size, sampler=loader.sampler, collate_fn=loader.collate_fn, drop_last=False
        )
        self._device = device

    def __iter__(self) -> Iterator[Tensor]:
        """Yields (B, 3, H, W) batches."""
        for batch in self._loader:
            yield batch["image"].to(self._device)


def train_step(
    method: TrainingMethod,
    predict: Callable[[Tensor], Tensor],
    network: nn.Module,
    images: Tensor,
    masks: Tensor,
) -> Step:
    """Applies a method's changes to a batch and the network, and predicts the batch.

    Args:
        method: The training method.
        predict: Function from (B, 3, H, W) images to the network's (B, K, H, W) logits.
        network: The network, in training mode.
        images: (B, 3, H, W) float, normalised.
        masks: (B, H, W) int64 train ids, 255 where ignored.
    """
    images, masks = method.change_batch(images, masks)
    with method.changing(network), record_outputs(network, method.features) as features:
        logits = predict(images)
    return Step(network, images, masks, logits, features)


def find_method_state(own: Mapping[str, Tensor], saved: Mapping[str, Any] | None, name: str) -> dict[str, Tensor]:
    """Returns the state of the training method in a checkpoint.

    Args:
        own: State of this run's method.
        saved: ``name`` and ``state`` of the checkpoint's method; None if it was trained without one.
        name: Name of this run's method.

    Raises:
        ValueError: If the checkpoint was trained by another method, or by the same method with tensors of other shapes.
    """
    found = "no method" if saved is None else saved["name"]
    state = {} if saved is None else saved["state"]
    shapes = [{key: value.shape for key, value in one.items()} for one in (own, state)]
    if found != name or shapes[0] != shapes[1]:
        raise ValueError(
            f"the checkpoint was trained by {found}{' with different sizes' * (found == name)}, this run uses {name}: "
            "expected the same --training and arguments to continue; to start over, omit --ckpt_path"
        )
    return dict(state)


def find_seed() -> int:
    """Returns the seed that `seed_everything` has set for the run; 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Sets evaluation mode without gradients within a ``with`` block, and restores every module's mode after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded_by(*numbers: int) -> Iterator[None]:
    """Seeds torch's generators from numbers within a ``with`` block, and restores their states after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        seed = 0
        for number in numbers:
            seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
        torch.manual_seed(seed)
        yield
