"""The seam of training: a method may change the images of a batch, look at features of the network, and add losses."""

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
    """What the losses of a training step are made of.

    Attributes:
        network: In training mode.
        images: (B, 3, H, W) float, normalised, as the network saw them.
        masks: (B, H, W) int64 train ids, 255 where ignored.
        logits: (B, K, H, W) float.
        features: Outputs of the modules that the method asks for, by name.
    """

    network: nn.Module
    images: Tensor
    masks: Tensor
    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingMethod(nn.Module):
    """A way to train for generalisation. Subclasses override what they need; this one adds nothing.

    It is part of the module while it trains: its parameters are trained with the network's, its buffers are in the
    checkpoint, so that a training that resumes goes on with them. Checkpoints load without it, and at test time nothing
    of it is left.

    Attributes:
        features: Names of modules of the network whose outputs the losses need, e.g. ``backbone.layer1``.
        normalization: Of the images.
    """

    features: Sequence[str] = ()
    normalization = IMAGENET

    def check_data(self, datamodule: Any) -> None:
        """Raises ValueError if the method was given what belongs to a target of the run; called before a training."""

    def check_length(self, epochs: int) -> None:
        """Warns if a training of so many epochs (-1 is endless) ends before the method begins."""

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Called once before a training, with the weights that it starts from, also before one that resumes.

        Raises:
            ValueError: If the method cannot train this network.
        """

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Called at the start of each epoch.

        Args:
            epoch: From 0 on.
            network: In training mode; to be left as it was.
            images: (B, 3, H, W) batches of the source on the network's device, read when they are asked for.
        """

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images and labels that the network is trained on, of the same shapes or with more images.

        Args:
            images: (B, 3, H, W) float, normalised.
            masks: (B, H, W) int64 train ids, 255 where ignored.
        """
        return images, masks

    def restore(self, images: Tensor) -> Tensor:
        """Returns (B, 3, H, W) normalised images as values in [0, 1]."""
        return self.normalization.undo(images).clamp(0, 1)

    def changing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Changes what modules of the network return within a ``with`` block, in which a batch is predicted."""
        return nullcontext()

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the losses to add to the cross-entropy, weighted, by name: () each."""
        return {}


def check_least(least: float, **values: float) -> None:
    """Raises ValueError if one of some arguments, given by name, is below what is expected at least."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")


def check_shares(**values: float) -> None:
    """Raises ValueError if one of some arguments, given by name, is outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: expected 0 to 1")


def find_module(network: nn.Module, name: str) -> nn.Module:
    """Returns a module of a network by its dotted name.

    Raises:
        ValueError: If there is none of that name; says which there are.
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
    """Gives a dict that holds the outputs of modules by name, once the network has run within the ``with`` block.

    Raises:
        ValueError: If the network has no module of a name.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            outputs[name] = output.clone()  # the next layer may write into it

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
    """The images of a training loader once more, as often as asked for, on a device.

    Args:
        loader: Of the training, of batches with ``image``.
        device: Of the network.
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
    """Changes a batch as a method wants, and predicts it.

    Args:
        method: Of the training.
        predict: From (B, 3, H, W) images to (B, K, H, W) logits of the network.
        network: In training mode.
        images: (B, 3, H, W) float, normalised.
        masks: (B, H, W) int64 train ids, 255 where ignored.
    """
    images, masks = method.change_batch(images, masks)
    with method.changing(network), record_outputs(network, method.features) as features:
        logits = predict(images)
    return Step(network, images, masks, logits, features)


def find_method_state(own: Mapping[str, Tensor], saved: Mapping[str, Any] | None, name: str) -> dict[str, Tensor]:
    """Returns the state of a method of training in a checkpoint.

    Args:
        own: The state of the method of this run.
        saved: The ``name`` and ``state`` of that of the checkpoint; None if it has none.
        name: Of the method of this run.

    Raises:
        ValueError: If the checkpoint was trained by another method, or by the same with other sizes.
    """
    found = "no method" if saved is None else saved["name"]
    state = {} if saved is None else saved["state"]
    shapes = [{key: value.shape for key, value in one.items()} for one in (own, state)]
    if found != name or shapes[0] != shapes[1]:
        raise ValueError(
            f"the checkpoint was trained by {found}{' with other sizes' * (found == name)}, this run trains by {name}: "
            "expected the same --training and its arguments to go on; to begin anew leave out --ckpt_path"
        )
    return dict(state)


def find_seed() -> int:
    """Returns the seed of the run, as `seed_everything` leaves it; 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Sets evaluation mode without gradients within a ``with`` block, and puts every module's mode back after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seeds torch's generators from numbers within a ``with`` block, and puts them back at its end."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        seed = 0
        for number in numbers:
            seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
        torch.manual_seed(seed)
        yield
