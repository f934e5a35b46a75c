"""Style images: photographs and textures whose statistics are given to synthetic scenes. They are never a target's."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZE = 256  # pixels; only statistics of styles are used, which need no more
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TEXTURES = 12  # number of random textures if no folder is given


class Styles:
    """Style images, all resized to one size.

    Args:
        folder: Folder that is searched recursively for photographs; None uses the photographs in scikit-image and
            scikit-learn, if they are installed, and random textures.
        least: Minimum number of style images.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds too few images, or one that cannot be read.
    """

    def __init__(self, folder: str | None = None, least: int = 2) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is None:
            images = [*(read_style(path) for path in list_packaged()), *(draw_texture(n) for n in range(TEXTURES))]
        else:
            if not self.folder.is_dir():
                raise FileNotFoundError(f"styles is {folder}, which is not a folder: expected one with photographs")
            paths = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
            images = [read_style(path) for path in paths]
        if len(images) < least:
            raise ValueError(f"{self.folder} contains {len(images)} images: expected {least} or more as styles")
        self.images = torch.stack(images)

    def check_apart(self, datamodule: Any) -> None:
        """Raises ValueError if the folder is inside that of one of the data module's targets, or contains it."""
        if self.folder is None:
            return
        own = self.folder.resolve()
        for target in getattr(datamodule, "targets", ()):
            place = target.find_root() if hasattr(target, "find_root") else getattr(target, "root", None)
            if place is None:
                continue
            other = Path(place).expanduser().resolve()
            if own.is_relative_to(other) or other.is_relative_to(own):
                raise ValueError(
                    f"styles is {self.folder}, but {place} is read as a target of this run: expected photographs from "
                    "elsewhere, as nothing may be learned from a target. Set --training.styles to another folder"
                )

    def draw(self, count: int) -> Tensor:
        """Returns (count, 3, 256, 256) style images in [0, 1], drawn with torch's generator."""
        return self.images[torch.randint(len(self.images), (count,))]


def read_style(path: Path) -> Tensor:
    """Reads a photograph as (3, 256, 256) float in [0, 1]; raises ValueError if it cannot be read."""
    import cv2  # not installed on every machine that runs the GPU check

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"the style {path} cannot be read: expected a photograph; delete it or unpack it again")
    resized = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(resized).permute(2, 0, 1).float() / 255


def list_packaged() -> list[Path]:
    """Lists the colour photographs in scikit-image and scikit-learn, if they are installed."""
    found = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            paths = sorted((Path(spec.origin).parent / inside).glob("*"))
            found += [path for path in paths if path.suffix in (".jpg", ".png") and is_colour(path)]
    return found


def is_colour(path: Path) -> bool:
    """Returns whether an image file has three channels or more."""
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels is not None and pixels.ndim == 3 and pixels.shape[2] >= 3


def draw_texture(seed: int) -> Tensor:
    """Draws a (3, 256, 256) texture in [0, 1]: noise with a spectrum like that of photographs, in random colours."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    falloff = np.maximum(frequency, 1 / SIZE) ** -random.uniform(0.8, 1.6)
    planes = [np.fft.irfft2(falloff * np.exp(2j * np.pi * random.random(frequency.shape)), s=(SIZE, SIZE))
              for _ in range(3)]  # fmt: skip
    noise = np.stack([plane / plane.std() for plane in planes])
    mixture = random.normal(size=(3, 3)) * 0.1 + np.eye(3) * random.uniform(0.05, 0.2) + 0.1
    colours = np.tensordot(mixture, noise, axes=1) + random.uniform(0.25, 0.75, size=(3, 1, 1))
    return torch.from_numpy(colours.clip(0, 1)).float()
