"""The base of all test-time methods: a callback that puts its own predictor at the module's seam."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from callbacks.stages import stage
from lightning_modules.predictor import lay_out, predict_plainly
from lightning_modules.segmentation import SegmentationModule

FITTING_SCALES = (0.84, 0.71, 0.59, 0.5, 0.35, 0.25)  # tried to find out which size of an image fits


@dataclass
class Adaptation:
    """The outcome of adapting to one image.

    Attributes:
        probabilities: (1, K, H, W) prediction.
        losses: Loss before each update step.
        note: Why adaptation was skipped or undone; None if all went well.
        fallback: Whether the prediction is the unadapted one.
    """

    probabilities: Tensor
    losses: Sequence[float] = ()
    note: str | None = None
    fallback: bool = False

    @property
    def steps(self) -> int:
        """Number of update steps taken."""
        return len(self.losses)

    @property
    def loss_first(self) -> float | None:
        """Loss before the first step, if there were steps."""
        return self.losses[0] if self.losses else None

    @property
    def loss_last(self) -> float | None:
        """Loss before the last step, if there were steps."""
        return self.losses[-1] if self.losses else None

    def to_record(self) -> dict[str, Any]:
        """Returns all but the prediction, for JSON."""
        names = ("steps", "loss_first", "loss_last", "note", "fallback")
        return {name: getattr(self, name) for name in names} | {"losses": list(self.losses)}


Report = Callable[[int, "Adaptation"], None]


class Method(Callback, ABC):
    """A test-time method. Subclasses say how to `adapt` to one image; the rest is done here.

    As a callback the method serves `trainer.test`, `validate`, `predict` and the validation inside `fit`. Outside of a
    trainer, `predict` is all there is.

    Attributes:
        adaptations: The outcome for each image of the latest batch.
        per_image: Whether each image is adapted to alone, so that no result depends on the batch it came in; a method
            that needs a batch of target images says no.
    """

    per_image = True

    def __init__(self) -> None:
        self.adaptations: list[Adaptation] = []
        self._warned: set[str] = set()

    @abstractmethod
    def adapt(self, network: nn.Module, image: Tensor) -> Tensor | Adaptation:
        """Predicts one image, or a batch of them at once if the method is not `per_image`.

        Called in evaluation mode, outside inference mode, without gradients; train flags and buffers of the network are
        put back by the caller, everything else is to be left as it was.

        Args:
            network: (B, 3, H, W) -> (B, K, H, W) logits.
            image: (1, 3, H, W) float, normalised, finite; (B, 3, H, W) if the method is not `per_image`.

        Returns:
            (1, K, H, W) or (B, K, H, W) float32 probabilities, alone or with an account of the adaptation.
        """

    def check_network(self, network: nn.Module) -> None:
        """Raises ValueError if the method cannot work on this network; called once before a run."""

    def predict(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predicts each image of a batch on its own (if `per_image`) and leaves the network bit-identical.

        An image that holds NaN or infinity, or whose adaptation ends in them, falls back to the prediction of the
        unadapted network (non-finite pixels count as 0, the mean colour); it is marked so in `adaptations`.

        Args:
            network: Any module (B, 3, H, W) -> (B, K, H, W) logits; not changed, also not on an exception.
            image: (B, 3, H, W) float, normalised.

        Returns:
            (B, K, H, W) float32 probabilities.

        Raises:
            ValueError: If the image is not (B, 3, H, W), or the network does not suit the method.
            TooLargeError: If the device's memory does not suffice; says which size would fit.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"the image is a tensor of shape {tuple(image.shape)} and type {image.dtype}: expected (B, 3, H, W), "
                "floating point, normalised"
            )
        self.adaptations = []
        with torch.inference_mode(False), torch.no_grad():
            image = image.clone()
            finite = image.isfinite().flatten(1).all(dim=1).tolist()
            sound = image if all(finite) else image[finite]
            groups = sound.split(1 if self.per_image else max(1, len(sound)))
            adapted = iter([account for group in groups for account in self._adapt(network, group)])
            for single, fine in zip(image.split(1), finite, strict=True):
                self.adaptations.append(
                    next(adapted) if fine else self._fall_back(network, single, "the image holds NaN or infinity")
                )
            return torch.cat([adaptation.probabilities for adaptation in self.adaptations])

    def predict_variants(
        self,
        network: nn.Module,
        image: Tensor,
        variants: Sequence["Method"],
        report: Callable[[int, int, Tensor], None],
    ) -> None:
        """Predicts each image of a batch with several settings of this method, each as it would alone.

        What the settings have in common is computed once where the result stays the same (`adapt_variants`).

        Args:
            network: As for `predict`.
            image: (B, 3, H, W) float, normalised.
            variants: Of this class. This method itself is none of them unless it is listed.
            report: Called once per variant and image with their numbers and the (1, K, H, W) float32 probabilities, in
                any order; these are not kept here.

        Raises:
            ValueError: As `predict`.
        """
        if not self.per_image:
            for number, variant in enumerate(variants):
                for place, probabilities in enumerate(variant.predict(network, image).split(1)):
                    report(number, place, probabilities)
            return
        for place, single in enumerate(image.split(1)):
            left = set(range(len(variants)))

            def conclude(number: int, adaptation: Adaptation, place: int = place, left: set[int] = left) -> None:
                if adaptation.probabilities.isfinite().all():
                    left.remove(number)
                    report(number, place, adaptation.probabilities)

            with torch.inference_mode(False), torch.no_grad():
                single = single.clone()
                if single.isfinite().all():
                    self._share(network, lay_out(network, single), variants, conclude)
            for number in sorted(left):  # these fall back, or share nothing
                report(number, place, variants[number].predict(network, single))

    def _share(self, network: nn.Module, image: Tensor, variants: Sequence["Method"], report: Report) -> None:
        """Adapts to an image with the variants that share something; without the memory for it, none does."""
        try:
            with evaluating(network):
                self.adapt_variants(network, image, variants, report)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    def adapt_variants(self, network: nn.Module, image: Tensor, variants: Sequence["Method"], report: Report) -> None:
        """Adapts to one image with several settings of this method that share work; here none do.

        Called as `adapt`. What is not reported is predicted by each variant alone.

        Args:
            network: (B, 3, H, W) -> (B, K, H, W) logits.
            image: (1, 3, H, W) float, normalised, finite.
            variants: Of this class.
            report: Called with the number of a variant and its outcome; the network is not to be run in it.
        """

    def _adapt(self, network: nn.Module, image: Tensor) -> list[Adaptation]:
        """Adapts to finite images at once; returns an account of each."""
        if len(image) == 0:
            return []
        image = lay_out(network, image)
        shortage: str | None = None
        try:
            with evaluating(network):
                outcome = self.adapt(network, image)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error).splitlines()[0]
        if shortage is not None:  # out of the except block, where the traceback would keep what the memory is full of
            raise TooLargeError(self._explain_shortage(network, image, shortage))
        adaptation = Adaptation(outcome) if isinstance(outcome, Tensor) else outcome
        if not adaptation.probabilities.isfinite().all():
            reason = "adaptation ended in NaN or infinity (a smaller lr may help)"
            return [self._fall_back(network, single, reason) for single in image.split(1)]
        if adaptation.note:
            self._warn(adaptation.note)
        return [replace(adaptation, probabilities=single) for single in adaptation.probabilities.split(1)]

    def _explain_shortage(self, network: nn.Module, image: Tensor, shortage: str) -> str:
        """Tries smaller images; returns a message that says which size would fit."""
        height, width = image.shape[-2:]
        found = (
            f"an image of {height}x{width} pixels (HxW) is too large for {describe_memory(image.device)}: {shortage}"
        )
        hint = (
            "Make images smaller (data.evaluation_resize), or lower the need: --trainer.precision=bf16-mixed, for "
            "SegTTT also fewer `trainable` layers, or on_out_of_memory=shrink"
        )
        for factor in FITTING_SCALES:
            smaller = F.interpolate(image, scale_factor=factor, mode="bilinear", antialias=True)
            try:
                with evaluating(network):
                    self.adapt(network, lay_out(network, smaller))
            except (RuntimeError, ValueError) as error:  # a ValueError: too small for the network or its views
                if not (isinstance(error, ValueError) or is_out_of_memory(error)):
                    raise
                continue
            size = "x".join(map(str, smaller.shape[-2:]))
            return f"{found}. With these settings {size} fits. {hint}"
        return f"{found}. Not even {FITTING_SCALES[-1]:g} of its height and width fits. {hint}"

    def _fall_back(self, network: nn.Module, image: Tensor, reason: str) -> Adaptation:
        self._warn(f"{reason}: falling back to the unadapted prediction")
        finite = image.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        with evaluating(network):
            return Adaptation(predict_plainly(network, finite), note=reason, fallback=True)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(f"{type(self).__name__}: {message}. Further images like this are counted in the results.")

    def settings(self) -> dict[str, Any]:
        """Returns the method's name and arguments, for reports."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {"name": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def vary(self, values: Mapping[str, Any]) -> Self:
        """Returns this method with other values of some arguments.

        Raises:
            ValueError: If an argument is unknown, or a value outside its range.
        """
        settings = self.settings()
        settings.pop("name")
        unknown = sorted(values.keys() - settings.keys())
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no argument {', '.join(unknown)}: expected one of {', '.join(settings)}"
            )
        return type(self)(**{**settings, **values})

    def _install(self, module: SegmentationModule) -> None:
        other = getattr(module.predictor, "__self__", None)
        if isinstance(other, Method) and other is not self:
            raise ValueError(
                f"{type(other).__name__} is installed already, {type(self).__name__} cannot be as well: "
                "expected one method per run"
            )
        self.check_network(module.network)
        module.predictor = self.predict

    def _remove(self, module: SegmentationModule) -> None:
        module.predictor = predict_plainly
        self._warned.clear()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the method, after the checkpoint is loaded."""
        self._install(require_segmentation(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the method."""
        self._install(require_segmentation(pl_module))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the method, after the checkpoint is loaded."""
        self._install(require_segmentation(pl_module))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the method out."""
        self._remove(require_segmentation(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the method out."""
        self._remove(require_segmentation(pl_module))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the method out."""
        self._remove(require_segmentation(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes the method out."""
        self._remove(require_segmentation(pl_module))


def require_segmentation(module: LightningModule) -> SegmentationModule:
    """Returns the module, which has the seam; raises TypeError for any other LightningModule."""
    if not isinstance(module, SegmentationModule):
        raise TypeError(
            f"{type(module).__name__} has no seam for a test-time method: expected a SegmentationModule around "
            "the network"
        )
    return module


class TooLargeError(ValueError):
    """An image needs more memory than the device has."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def describe_memory(device: torch.device) -> str:
    """Names a device and, where torch tells it, how much of its memory is free."""
    if device.type != "cuda":
        return f"the memory of the {device.type}"
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draws random numbers (of dropout) from a seed within a ``with`` block, so that no image depends on another."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Sets a network to evaluation mode; after the ``with`` block puts its flags and buffers back."""
    with stage("restore"):
        flags = [(module, module.training) for module in network.modules()]
        required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers() if not buffer.is_inference()]
    try:
        network.eval()
        yield
    finally:
        with stage("restore"):
            for module, training in flags:
                module.training = training
            for parameter, requires_grad in required:
                if parameter.requires_grad != requires_grad:
                    parameter.requires_grad_(requires_grad)
            for buffer, saved in buffers:
                buffer.copy_(saved)
