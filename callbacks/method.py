"""The base of all test-time methods: a callback that puts its own predictor at the module's seam."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from callbacks.stages import stage
from lightning_modules.predictor import lay_out, predict_plainly
from lightning_modules.segmentation import SegmentationModule


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

    def is_finite(self) -> bool:
        """Returns whether no probability is NaN or infinite: their sum would be, too."""
        return bool(self.probabilities.sum().isfinite())

    def to_record(self) -> dict[str, Any]:
        """Returns all but the prediction, for JSON."""
        names = ("steps", "loss_first", "loss_last", "note", "fallback")
        return {name: getattr(self, name) for name in names} | {"losses": list(self.losses)}


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
            TooLargeError: If the device's memory does not suffice.
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

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict_variants(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Generator[tuple[int, int, Tensor], None, None]:
        """Predicts each image of a batch with several settings of this method, each as it would alone.

        What the settings have in common is computed once where the result stays the same (`adapt_variants`). Between
        two results the network is adapted: it is not to be run, and is put back when the iterator ends or is closed
        (`contextlib.closing`).

        Args:
            network: As for `predict`.
            image: (B, 3, H, W) float, normalised.
            variants: Of this class. This method itself is none of them unless it is listed.

        Yields:
            Once per variant and image, in any order, their numbers and the (1, K, H, W) float32 probabilities.

        Raises:
            ValueError: As `predict`.
        """
        if not self.per_image:
            for number, variant in enumerate(variants):
                for place, probabilities in enumerate(variant.predict(network, image).split(1)):
                    yield number, place, probabilities
            return
        for place, single in enumerate(image.clone().split(1)):
            left = dict(enumerate(variants))
            if single.isfinite().all():
                laid_out = lay_out(network, single)
                with evaluating(network):
                    for number, adaptation in self._share(network, laid_out, variants):
                        if adaptation.is_finite():
                            del left[number]
                            yield number, place, adaptation.probabilities
            for number, variant in left.items():  # these fall back, or share nothing
                yield number, place, variant.predict(network, single)

    def _share(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Iterator[tuple[int, Adaptation]]:
        """Yields what `adapt_variants` does; says what did not fit into memory."""
        shortage: str | None = None
        try:
            yield from self.adapt_variants(network, image, variants)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error)
        if shortage is not None:
            raise explain_shortage(image, shortage)

    def adapt_variants(
        self, network: nn.Module, image: Tensor, variants: Sequence["Method"]
    ) -> Iterator[tuple[int, Adaptation]]:
        """Adapts to one image with several settings of this method that share work; here none do.

        Called as `adapt`. What is not yielded is predicted by each variant alone.

        Args:
            network: (B, 3, H, W) -> (B, K, H, W) logits.
            image: (1, 3, H, W) float, normalised, finite.
            variants: Of this class.

        Yields:
            The number of a variant and its outcome.
        """
        yield from ()

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
            shortage = str(error)
        if shortage is not None:  # out of the except block, where the traceback would keep what the memory is full of
            raise explain_shortage(image, shortage)
        adaptation = Adaptation(outcome) if isinstance(outcome, Tensor) else outcome
        if not adaptation.is_finite():
            reason = "adaptation ended in NaN or infinity (a smaller lr may help)"
            return [self._fall_back(network, single, reason) for single in image.split(1)]
        if adaptation.note:
            self._warn(adaptation.note)
        return [replace(adaptation, probabilities=single) for single in adaptation.probabilities.split(1)]

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


def explain_shortage(image: Tensor, error: str) -> TooLargeError:
    """Makes the error that says what did not fit into memory, and what to do, of what torch says."""
    height, width = image.shape[-2:]
    return TooLargeError(
        f"an image of {height}x{width} pixels (HxW) is too large for {describe_memory(image.device)}: "
        f"{error.splitlines()[0]}. Make images smaller (data.evaluation_resize), or lower the need: "
        "--trainer.precision=bf16-mixed, for SegTTT also fewer `trainable` layers"
    )


def group_variants(
    numbered: Iterable[tuple[int, Any]], describe: Callable[[int, Any], Any]
) -> list[list[tuple[int, Any]]]:
    """Groups numbered settings of a method whose descriptions are equal, in the order they come."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for number, variant in numbered:
        groups.setdefault(describe(number, variant), []).append((number, variant))
    return list(groups.values())


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
