"""The base class of this project's networks: coarse logits, upsampled to the image's size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.norms import Norm
from lightning_modules.networks.replacement import add_dropout, replace_norms


class TooSmallError(ValueError):
    """An image, or a view of it, is too small for a network."""


class Stage(NamedTuple):
    """One of the consecutive parts of a network.

    A stage never modifies its input, and draws random numbers only in dropout modules. In training mode it updates the
    running statistics of each of its layers once, and no other state.

    Attributes:
        layers: All modules with parameters or buffers that the stage runs.
        run: Function from the previous stage's output (for the first stage, the image) to the next stage's input.
    """

    layers: tuple[nn.Module, ...]
    run: Callable[[Any], Any]


class SegmentationNetwork(nn.Module):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    A subclass builds its layers in `__init__`, loads weights, and then calls `change_layers`; `list_stages` defines
    their order. A method that only updates late layers runs the stages before them once per image.

    Every network raises ValueError if an argument is outside its range or contradicts another, FileNotFoundError if
    ImageNet weights are requested but can neither be found nor downloaded, and ModuleNotFoundError if it needs timm and
    timm is not installed.

    Args:
        num_classes: Number of classes K.
        output_stride: Stride of the coarse logits in pixels of the image.
        min_size: Minimum height and width of an image in pixels; None uses the output stride.

    Attributes:
        align_corners: Whether the bilinear upsampling to the image's size aligns corners.
        channels_last: Whether the network gets images in channels-last layout, see `lay_out`.
        adapted_layers: Names of the layers that Seg-TTT updates by default. If the authors' code updates others,
            ``released_layers`` names those.
    """

    align_corners = False
    channels_last = True
    adapted_layers: tuple[str, ...]
    released_layers: tuple[str, ...]

    def __init__(self, num_classes: int, output_stride: int, min_size: int | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: expected 2 or more")
        self.num_classes = num_classes
        self.output_stride = output_stride
        self.min_size = output_stride if min_size is None else min_size

    def change_layers(self, norm: Norm, dropout: float, stages: Sequence[str]) -> None:
        """Replaces BatchNorm by a norm, and adds dropout after every ReLU; stages are named from shallow to deep."""
        replace_norms(self, norm, stages)
        add_dropout(self, dropout)

    def list_stages(self) -> list[Stage]:
        """Lists the stages, with the current layers, from a (B, 3, H, W) image to (B, K, H', W') logits of any size.

        A subclass may override `compute_logits` instead; methods then run the whole network in every step.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither list_stages nor compute_logits: implement one")

    def compute_logits(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to (B, K, H', W') logits, before they are upsampled to the image's size."""
        state: Any = image
        for stage in self.list_stages():
            state = stage.run(state)
        return state

    def forward(self, image: Tensor) -> Tensor:
        """Predicts logits.

        Args:
            image: (B, 3, H, W) float, normalised; H and W at least ``min_size``.

        Returns:
            (B, K, H, W) logits, upsampled bilinearly.

        Raises:
            TooSmallError: If the image is too small.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.min_size:
            raise TooSmallError(
                f"the image is {height}x{width} pixels (HxW): {type(self).__name__} with an output stride of "
                f"{self.output_stride} expects {self.min_size} or more; use a larger image, or omit the smallest "
                "scale"
            )
        return self.upsample(self.compute_logits(image), height, width)

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Upsamples (B, K, H', W') logits to the image's size."""
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=self.align_corners)


def make_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Makes a 1x1 convolution with weights from N(0, 0.01) and bias 0.

    Source: paper, Appendix A (the initialisation follows the authors' code).
    """
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(layer.weight, mean=0.0, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def conv_bn_relu(inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> nn.Sequential:
    """Makes a size-preserving convolution without bias, followed by BatchNorm and ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def find_logits(output: Any) -> Any:
    """Extracts the logits from the output of a network of any library, which is returned itself if there are none.

    They are under ``out`` (torchvision) or ``logits`` of a mapping, or an attribute ``logits`` (transformers).
    """
    if isinstance(output, Mapping):
        return next((output[key] for key in ("out", "logits") if key in output), output)
    return getattr(output, "logits", output)
