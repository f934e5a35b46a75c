"""The interface of training methods, which may change a batch's images, read the network's features, and add losses."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from lightning_modules.normalization import IMAGENET
from lightning_modules.training.features import record_outputs
from lightning_modules.training.styles import Styles


@dataclass(frozen=True)
class Step:
    """The data from which the losses of a training step are computed.

    Attributes:
        images: (B, 3, H, W) float, normalised, as the network saw them.
        masks: (B, H, W) int64 train ids, 255 where ignored.
        logits: (B, K, H, W) float.
        features: Outputs, by name, of the modules listed in the method's `features`.
    """

    images: Tensor
    masks: Tensor
    logits: Tensor
    features: Mapping[str, Tensor]


class TrainingMethod(nn.Module):
    """Base class of methods that train for domain generalisation. It adds nothing; subclasses override what they need.

    During training it is part of the module: its parameters are trained with the network's, and its state is saved in
    checkpoints, from which training can resume. Checkpoints also load without it, and it is not used at test time.

    Attributes:
        features: Names of modules of the network whose outputs the losses need, e.g. ``backbone.layer1``.
        frozen_norms: Whether the backbone's BatchNorm statistics are neither of the batch nor updated in training.
        normalization: Normalisation of the images.
        styles: Style images, if the method uses any.
    """

    features: Sequence[str] = ()
    frozen_norms = False
    normalization = IMAGENET
    styles: Styles | None = None

    def check_data(self, datamodule: Any) -> None:
        """Raises ValueError if the method uses images of one of the run's targets; called before training."""
        if self.styles is not None:
            self.styles.check_apart(datamodule)

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
        """Modifies the network's modules within a ``with`` block, in which a batch is predicted."""
        if not self.frozen_norms:
            return nullcontext()
        backbone = getattr(network, "backbone", network)
        return in_evaluation(layer for layer in backbone.modules() if isinstance(layer, _BatchNorm))

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted losses to add to the cross-entropy, by name; () each."""
        return {}

    def run_step(self, predict: Callable[[Tensor], Tensor], network: nn.Module, images: Tensor, masks: Tensor) -> Step:
        """Changes a batch and the network, and predicts the batch: `predict` returns the logits of images."""
        images, masks = self.change_batch(images, masks)
        with self.changing(network), record_outputs(network, self.features) as features:
            logits = predict(images)
        return Step(images, masks, logits, features)


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


class SourceImages:
    """The (B, 3, H, W) images of a training loader's batches, on a device; can be iterated any number of times."""

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self._loader = DataLoader(
            loader.dataset, loader.batch_size, sampler=loader.sampler, collate_fn=loader.collate_fn, drop_last=False
        )
        self._device = device

    def __iter__(self) -> Iterator[Tensor]:
        return (batch["image"].to(self._device) for batch in self._loader)


@contextmanager
def in_evaluation(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Sets modules to evaluation mode, each alone, within a ``with`` block, and restores every mode after it."""
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.training = False
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
