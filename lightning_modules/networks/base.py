"""The base of this project's networks: coarse logits, brought to the image's size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks.dropout import add_dropout
from lightning_modules.networks.norms import Norm, replace_norms


class TooSmallError(ValueError):
    """An image, or a view of it, has too few pixels for a network."""


class Stage(NamedTuple):
    """A part of a network, in order: a function of what the stage before it returned.

    A stage never writes to what it is given, and draws random numbers in dropout modules alone. In training mode it
    moves the running statistics of each of its layers once, and no other state.

    Attributes:
        layers: All modules with parameters or buffers that it runs.
        run: From what the stage before returned (the first stage: the image) to what the next one is given.
    """

    layers: tuple[nn.Module, ...]
    run: Callable[[Any], Any]


class SegmentationNetwork(nn.Module):
    """(B, 3, H, W) normalised image -> (B, K, H, W) logits at input size.

    A subclass builds its layers in `__init__`, loads weights, and then calls `change_layers`; `list_stages` says how
    they follow each other. A method that moves late layers alone runs the stages before them once per image.

    Every network raises ValueError if an argument is outside its range or contradicts another, FileNotFoundError if
    ImageNet weights are asked for and can neither be found nor downloaded, and ModuleNotFoundError if it needs timm and
    timm is not installed.

    Args:
        num_classes: Number of classes K.
        output_stride: How much coarser than the image the logits are at first.
        min_size: The smallest height and width in pixels; None is the output stride.

    Attributes:
        align_corners: Of the bilinear upsampling to the image's size.
        channels_last: Whether images are laid out with their channels side by side for it, see `lay_out`.
        adapted_layers: What Seg-TTT moves unless told otherwise. A network whose authors' code moves others names these
            in ``released_layers``.
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
        """Replaces norms and adds dropout, as the arguments of every network say.

        Args:
            norm: What takes the place of BatchNorm.
            dropout: Probability of a dropout behind every ReLU; 0 adds none.
            stages: Dotted names of the residual stages, shallow to deep.
        """
        replace_norms(self, norm, stages)
        add_dropout(self, dropout)

    def list_stages(self) -> list[Stage]:
        """Lists the stages from a (B, 3, H, W) image to (B, K, H', W') logits of any size, with the layers of now.

        A subclass may write `compute_logits` instead; a method then runs it whole in every step.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither list_stages nor compute_logits: write one")

    def compute_logits(self, image: Tensor) -> Tensor:
        """Maps a (B, 3, H, W) image to (B, K, H', W') logits, before they are brought to the image's size."""
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
                f"{self.output_stride} expects {self.min_size} or more; give a larger image, or leave out the smallest "
                "scale"
            )
        return self.upsample(self.compute_logits(image), height, width)

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Brings (B, K, H', W') logits to the image's size."""
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=self.align_corners)


def make_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Makes a 1x1 convolution with weights from N(0, 0.01) and bias 0.

    Source: paper, Appendix A (the initialisation is the authors' code's).
    """
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(layer.weight, mean=0.0, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def conv_bn_relu(inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> nn.Sequential:
    """Makes a convolution that keeps the size of its input, without bias, then BatchNorm and ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def find_logits(output: Any) -> Any:
    """Returns what a network of any library calls its logits.

    Args:
        output: The logits themselves; a mapping that has them under ``out`` (torchvision) or ``logits``; or an object
            with an attribute ``logits`` (transformers).

    Returns:
        The logits, or the output itself if there are none.
    """
    if isinstance(output, Mapping):
        return next((output[key] for key in ("out", "logits") if key in output), output)
    return getattr(output, "logits", output)
