"""Image transforms; the only module that imports albumentations.

Source: paper, Sec. 5 (implementation details) and Appendix A.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MAX_EVALUATION_SIZE = (1024, 2048)

Policy = Literal["protocol", "keep_aspect", "none"]
Resize = Policy | tuple[int, int]


class Transform(Protocol):
    """Maps (H, W, 3) uint8 RGB image, (H, W) uint8 mask and seed to (3, h, w) float32 normalised, (h', w') int64."""

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Transforms one pair."""


class TrainingTransform:
    """The paper's augmentation: crop, flip, colour jitter, blur, grayscale, normalise.

    The same image, mask and seed give the same result.

    Args:
        size: (height, width) of the crops.
        scale: Range of the crop area as a fraction of the image area, before the crop is resized to `size`.
        blur_sigma: Range of the Gaussian blur's standard deviation in pixels; always applied, as in the authors' code.

    Raises:
        ValueError: If an argument is outside its range; the message uses its name in the datamodule.
    """

    def __init__(
        self,
        size: tuple[int, int] = (512, 512),
        scale: tuple[float, float] = (0.08, 1.0),
        blur_sigma: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"crop_size is {tuple(size)}: expected (height, width), 1 or more pixels each")
        if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
            raise ValueError(f"crop_scale is {tuple(scale)}: expected a range of shares of the image area in [0, 1]")
        if len(blur_sigma) != 2 or not 0 <= blur_sigma[0] <= blur_sigma[1] < math.inf or not blur_sigma[1]:
            raise ValueError(f"blur_sigma is {tuple(blur_sigma)}: expected a range of pixels from 0 or more to above 0")
        self.size = tuple(size)
        self.scale = tuple(scale)
        self.blur_sigma = tuple(blur_sigma)
        self._compose: Any = None

    def prepare(self) -> None:
        """Builds the augmentation, else the first call does. This imports albumentations, which takes a second."""
        if self._compose is not None:
            return
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for updates online
        import albumentations as A

        self._compose = A.Compose(
            [
                A.RandomResizedCrop(
                    size=self.size,
                    scale=self.scale,
                    ratio=(3 / 4, 4 / 3),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST shifts labels by half a pixel
                ),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(
                    brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.1, 0.1), p=0.5
                ),
                A.GaussianBlur(blur_limit=0, sigma_limit=self.blur_sigma, p=1.0),
                A.ToGray(p=0.1),
                A.Normalize(mean=MEAN, std=STD),
            ],
            seed=0,
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Augments one pair."""
        self.prepare()
        self._compose.set_random_seed(seed)
        augmented = self._compose(image=image, mask=mask)
        pixels = np.ascontiguousarray(augmented["image"].transpose(2, 0, 1))
        return torch.from_numpy(pixels), torch.from_numpy(augmented["mask"].astype(np.int64))


class EvaluationTransform:
    """Normalises images and shrinks large ones; masks keep their size, at which predictions are scored.

    Args:
        resize: How to resize an image of more than 1024x2048 pixels. ``protocol`` resizes it to exactly that size, as
            the authors do; ``keep_aspect`` to that number of pixels with its own aspect ratio; ``none`` not at all. A
            (height, width) sets another limit on the number of pixels, with ``keep_aspect``: for a network trained on
            small images.

    Attributes:
        most: Number of pixels above which an image is resized.

    Raises:
        ValueError: If the policy is unknown, or a side is below 1.
    """

    def __init__(self, resize: Resize = "protocol") -> None:
        if isinstance(resize, str):
            fine, most = resize in get_args(Policy), MAX_EVALUATION_SIZE
        else:
            fine = isinstance(resize, tuple | list) and len(resize) == 2 and all(type(side) is int for side in resize)
            most = (resize[0], resize[1]) if fine else (0, 0)
        if not fine or min(most) < 1:
            raise ValueError(
                f"evaluation_resize is {resize!r}: expected one of {', '.join(get_args(Policy))}, or (height, width)"
            )
        self.resize = resize
        self.most = most[0] * most[1]
        levels = np.arange(256, dtype=np.float64) / 255
        self._tables = [((levels - mean) / std).astype(np.float32) for mean, std in zip(MEAN, STD, strict=True)]

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Transforms one pair."""
        return self.transform_image(image), torch.from_numpy(mask.astype(np.int64))

    def transform_image(self, image: np.ndarray) -> Tensor:
        """Converts an (H, W, 3) uint8 RGB image to (3, h, w) float32, normalised."""
        size = self.fit(image.shape[:2])
        if size != image.shape[:2]:  # with Pillow, which antialiases
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        pixels = np.empty((3, *image.shape[:2]), dtype=np.float32)
        for plane, levels, table in zip(pixels, cv2.split(image), self._tables, strict=True):
            cv2.LUT(levels, table, dst=plane)
        return torch.from_numpy(pixels)

    def fit(self, size: Sequence[int]) -> tuple[int, int]:
        """Returns the (height, width) at which the network sees an image of the given (height, width)."""
        height, width = size
        if height * width <= self.most or self.resize == "none":
            return height, width
        if self.resize == "protocol":
            return MAX_EVALUATION_SIZE
        factor = math.sqrt(self.most / (height * width))
        return max(1, int(height * factor)), max(1, int(width * factor))
