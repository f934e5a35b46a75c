"""Image transforms, the only place that knows albumentations.

Source: paper, Sec. 5 (implementation details) and Appendix A.
"""

import os
from typing import Protocol

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import: it would look for updates online

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MAX_EVALUATION_SIZE = (1024, 2048)


class Transform(Protocol):
    """(H, W, 3) uint8 RGB image, (H, W) uint8 mask, seed -> (3, h, w) float32 normalised, (h', w') int64."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Transforms one pair."""


class TrainingTransform:
    """The paper's augmentation: crop, flip, colour jitter, blur, grayscale, normalise.

    The same image, mask and seed give the same result.

    Args:
        size: (height, width) of the crops.
        scale: Range of the crop's share of the image's area, before it is resized to `size`.
        blur_sigma: Range of the Gaussian blur's deviation in pixels; always applied, as in the authors' code.
    """

    def __init__(
        self,
        size: tuple[int, int] = (512, 512),
        scale: tuple[float, float] = (0.08, 1.0),
        blur_sigma: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        self._compose = A.Compose(
            [
                A.RandomResizedCrop(
                    size=tuple(size),
                    scale=tuple(scale),
                    ratio=(3 / 4, 4 / 3),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST,
                ),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(
                    brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.1, 0.1), p=0.5
                ),
                A.GaussianBlur(blur_limit=0, sigma_limit=tuple(blur_sigma), p=1.0),
                A.ToGray(p=0.1),
                A.Normalize(mean=MEAN, std=STD),
            ],
            seed=0,
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Augments one pair."""
        self._compose.set_random_seed(seed)
        augmented = self._compose(image=image, mask=mask)
        return _to_tensors(augmented["image"], augmented["mask"])


class EvaluationTransform:
    """Normalises; an image of more than 1024x2048 pixels is first resized to exactly that, as the protocol says.

    The mask keeps its size: predictions are scored there.
    """

    def __init__(self) -> None:
        self._normalize = A.Normalize(mean=MEAN, std=STD)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Transforms one pair."""
        height, width = MAX_EVALUATION_SIZE
        if image.shape[0] * image.shape[1] > height * width:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return _to_tensors(self._normalize(image=image)["image"], mask)


def _to_tensors(image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(mask.astype(np.int64))


def restore_colours(image: Tensor) -> np.ndarray:
    """Turns a (3, H, W) normalised image back into (H, W, 3) uint8 RGB."""
    values = image.float().cpu().numpy().transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)
    return np.nan_to_num(values * 255).round().clip(0, 255).astype(np.uint8)
