"""The base class of all test-time methods: a callback that sets itself as the module's predictor."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Self

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from callbacks.adaptation.memory import TooLargeError, explain_shortage, is_out_of_memory
from callbacks.adaptation.outcome import Adaptation
from callbacks.adaptation.steps import evaluating
from lightning_modules.predictor import lay_out, predict_plainly
from lightning_modules.segmentation import SegmentationModule

__all__ = ["Adaptation", "Method", "TooLargeError", "evaluating", "require_segmentation"]

COUNTED = ". Further images like this are counted in the results."
LARGEST = 160.0  # above the absolute values of images normalised by ImageNet's statistics, or by Caffe's means alone


class Method(Callback, ABC):
    """A test-time method. Subclasses implement `adapt` for one image; this class does the rest.

    As a callback the method works in `trainer.test`, `validate`, `predict` and the validation inside `fit`. Without a
    trainer, call `predict`.

    Attributes:
        adaptations: The outcome for each image of the latest batch.
        per_image: Whether the method adapts to each image alone, so that no result depends on the batch; False for a
            method that needs a batch of target images.
    """

    per_image = True

    def __init__(self) -> None:
        self.adaptations: list[Adaptation] = []
        self._warned: set[str] = set()

    @abstractmethod
    def adapt(self, network: nn.Module, image: Tensor) -> Tensor | Adaptation:
        """Predicts one image, or a batch of them at once if the method is not `per_image`.

        Called in evaluation mode, outside inference mode, without gradients. The caller restores the network's train
        flags and buffers; the method must restore everything else that it changes.

        Args:
            network: (B, 3, H, W) -> (B, K, H, W) logits.
            image: (1, 3, H, W) float, normalised, finite; (B, 3, H, W) if the method is not `per_image`.

        Returns:
            (1, K, H, W) or (B, K, H, W) float32 probabilities, as a tensor or within an `Adaptation`.
        """

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the method cannot be used with this network; called once before a run."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts each image of a batch on its own (if `per_image`) and leaves the network bit-identical.

        If an image or its adapted prediction has NaN or infinity, the unadapted network predicts instead (non-finite
        pixels become 0, the mean colour), and `adaptations` marks the image as a fallback.

        Args:
            network: Any module (B, 3, H, W) -> (B, K, H, W) logits; not changed, even if an exception is raised.
            image: (B, 3, H, W) float, normalised.

        Returns:
            (B, K, H, W) float32 probabilities.

        Raises:
            ValueError: If the image is not (B, 3, H, W), or the method cannot be used with the network.
            TooLargeError: If the device runs out of memory.
        """
        self.adaptations = []
        outcomes = {place: outcome for _, place, outcome in self.predict_variants(network, image, [self])}
        self.adaptations = [outcomes[place] for place in range(len(image))]
        return torch.cat([outcome.probabilities for outcome in self.adaptations])

    def __call__(self, network: nn.Module, image: Tensor) -> Tensor:
        """Calls `predict`, so that a method can be the predictor of a `SegmentationModule`."""
        return self.predict(network, image)

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict_variants(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Generator[tuple[int, int, Adaptation], None, None]:
        """Predicts each image of a batch with several settings of this method; results equal those of separate runs.

        Work that the settings share is done once if the results stay the same (`adapt_variants`). Between two results
        the network is in an adapted state and must not be run; it is restored when the iterator ends or is closed
        (`contextlib.closing`).

        Takes and raises the same as `predict`. The variants are methods of this class; this method itself only takes
        part if listed. Yields variant index, image index and outcome: once per variant and image, in any order.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"the image is a tensor of shape {tuple(image.shape)} and type {image.dtype}: expected (B, 3, H, W), "
                "floating point, normalised as in training; for one image use image[None]"
            )
        peaks = [0.0] * len(image)
        if image.numel():
            peaks = image.abs().flatten(1).amax(dim=1).tolist()  # NaN and infinity propagate
        finite = [math.isfinite(peak) for peak in peaks]
        if any(LARGEST < peak < math.inf for peak in peaks):
            self._warn(
                f"an image has absolute values above {LARGEST:g}: expected one normalised as in training, such "
                "as (value / 255 - mean) / std"
            )
        sound = [place for place, fine in enumerate(finite) if fine]
        groups = [[place] for place in sound] if self.per_image or not sound else [sound]
        for places in groups:
            together = lay_out(network, torch.cat([image[place : place + 1] for place in places]))
            undone = []
            for number, outcome in self._adapt(network, together, variants):
                if not outcome.is_finite():
                    undone.append(number)
                    continue
                if outcome.note:
                    self._warn(outcome.note + COUNTED)
                for place, single in zip(places, outcome.split(), strict=True):
                    yield number, place, single
            for number, place in product(undone, places):
                reason = "adaptation produced NaN or infinity (a smaller lr may help)"
                yield number, place, self._fall_back(network, image[place], reason)
        broken = [place for place, fine in enumerate(finite) if not fine]
        for number, place in product(range(len(variants)), broken):
            yield number, place, self._fall_back(network, image[place], "the image contains NaN or infinity")

    def adapt_variants(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Iterator[tuple[int, Adaptation]]:
        """Adapts to one image with several settings; yields the index and outcome of each.

        Called like `adapt`, except that it must enter `evaluating` itself. A subclass may override it to share work.
        """
        for number, variant in enumerate(variants):
            with evaluating(network):
                outcome = variant.adapt(network, image)
            yield number, outcome if isinstance(outcome, Adaptation) else Adaptation(outcome)

    def _adapt(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Iterator[tuple[int, Adaptation]]:
        """Yields from `adapt_variants`; turns an out-of-memory error into a TooLargeError."""
        try:
            yield from self.adapt_variants(network, image, variants)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error)
        raise explain_shortage(image, shortage)  # outside the except block, whose traceback keeps the tensors alive

    def _fall_back(self, network: nn.Module, image: Tensor, reason: str) -> Adaptation:
        """Predicts a (3, H, W) image without adaptation."""
        self._warn(f"{reason}: falling back to the unadapted prediction{COUNTED}")
        finite = image[None].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        with evaluating(network):
            return Adaptation(predict_plainly(network, finite), note=reason, fallback=True)

    def _warn(self, message: str) -> None:
        """Warns, once per message and run."""
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(f"{type(self).__name__}: {message}")

    def settings(self) -> dict[str, Any]:
        """Returns the method's class name and arguments, for reports.

        Raises:
            ValueError: If an argument is not stored under its name.
        """
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        if lost := [name for name in names if not hasattr(self, name)]:
            raise ValueError(
                f"{type(self).__name__} does not store its argument {lost[0]}: expected self.{lost[0]} = {lost[0]} in "
                "its constructor, as results and searches read the settings from there"
            )
        return {"name": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def vary(self, values: Mapping[str, Any]) -> Self:
        """Returns a new method with some arguments changed.

        Raises:
            ValueError: If an argument is unknown, or a value is outside its range.
        """
        settings = self.settings()
        settings.pop("name")
        if unknown := sorted(values.keys() - settings.keys()):
            raise ValueError(
                f"{type(self).__name__} has no argument {', '.join(unknown)}: expected one of {', '.join(settings)}"
            )
        return type(self)(**{**settings, **values})

    def _install(self, module: SegmentationModule) -> None:
        other = module.predictor
        if isinstance(other, Method) and other is not self:
            raise ValueError(
                f"{type(other).__name__} is already installed, so {type(self).__name__} cannot be: "
                "expected one method per run"
            )
        self.check_network(module.network)
        module.predictor = self

    def _remove(self, module: SegmentationModule) -> None:
        module.predictor = predict_plainly
        self._warned.clear()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the method as the module's predictor, after the checkpoint is loaded."""
        self._install(require_segmentation(pl_module))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the module's default predictor."""
        self._remove(require_segmentation(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the module's default predictor."""
        self._remove(require_segmentation(pl_module))

    on_validation_start = on_predict_start = on_test_start
    on_validation_end = on_predict_end = on_test_end


def require_segmentation(module: LightningModule) -> SegmentationModule:
    """Returns the module if it is a SegmentationModule; raises TypeError for any other LightningModule."""
    if not isinstance(module, SegmentationModule):
        raise TypeError(
            f"{type(module).__name__} does not support test-time methods: expected a SegmentationModule around "
            "the network"
        )
    return module
