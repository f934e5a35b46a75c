"""The loss of Seg-TTT's steps on one image, at one of two resolutions, and whether there is a next step."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from callbacks.pseudo_labels import IGNORED, sample_labels
from callbacks.stopping import Convergence
from callbacks.upsampled_loss import upsampled_cross_entropy

LossResolution = Literal["image", "output"]


class PseudoLabelLoss:
    """Compares the predictions of one image with its pseudo labels, from step to step.

    Args:
        target: (B, H, W) int64 pseudo labels, 255 where ignored; some are not.
        resolution: ``image`` upsamples the logits to the labels, ``output`` takes the labels at the logits' places.
        convergence: What ends the steps early.

    Attributes:
        nothing_left: Whether none of the logits' places has a label.
    """

    def __init__(self, target: Tensor, resolution: LossResolution, convergence: Convergence) -> None:
        self.target = target
        self.resolution = resolution
        self.convergence = convergence
        self.nothing_left = False
        self._places: Tensor | None = None

    @property
    def may_end(self) -> bool:
        """Whether there may be no next step."""
        return self.convergence.is_watching or self.resolution == "output"

    def compare(self, logits: Tensor, align_corners: bool) -> Tensor | None:
        """Computes the loss; waits for the device only if there may be no next step.

        Args:
            logits: (B, K, h, w), coarse or at image size.
            align_corners: Of the upsampling that brings them to image size.

        Returns:
            () mean cross-entropy over the labelled pixels (Eq. 8), or None if no further step is to be taken.
        """
        if not self.may_end:
            return compute_loss(logits, self.target, align_corners)
        if self._places is None:
            self._places = sample_labels(self.target, logits.shape[-2:], align_corners)
            self.nothing_left = self.resolution == "output" and not bool((self._places != IGNORED).any())
        if self.nothing_left or (self.convergence.is_watching and self.convergence.is_reached(logits, self._places)):
            return None
        return compute_loss(logits, self._places if self.resolution == "output" else self.target, align_corners)


def compute_loss(logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
    """Computes the mean cross-entropy of (B, K, h, w) logits, upsampled if need be, against (B, H, W) labels."""
    if logits.shape[-2:] == target.shape[-2:]:
        return F.cross_entropy(logits.float(), target, ignore_index=IGNORED)
    return upsampled_cross_entropy(logits, target, align_corners, IGNORED)
