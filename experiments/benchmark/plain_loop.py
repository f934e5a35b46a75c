"""Straightforward implementation of the methods in a plain loop: the baseline of `experiments.benchmark`.

Written for that purpose, from the paper's text, and without any code of `callbacks`. Everything is done the obvious
way: float32, contiguous memory, views one by one through Pillow, all of them kept at full size, and the checkpoint read
from disk again for each image that is adapted to. Layers that are not trained are frozen, as in the authors' code.

Source: paper, Sec. 3 (Eq. 1-4) and Sec. 4 (Eq. 5-8).
"""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.predictor import predict_logits, predict_plainly

MEAN = (0.485, 0.456, 0.406)  # ImageNet's
STD = (0.229, 0.224, 0.225)
IGNORED = 255


class PlainLoop:
    """Predicts images one after another.

    Args:
        network: (1, 3, H, W) -> (1, K, H, W) logits; it is copied.
        checkpoint: File for the copy's weights, which are read again for each image that is adapted to.
        alpha: Weight of the image's statistics in [0, 1]; 0 leaves the network's BatchNorm as it is.
        scales: Scales of the views, each used once plain and once flipped and gray; empty for no views.
        psi: Confidence threshold of the pseudo labels.
        lr: Learning rate of SGD.
        num_steps: Number of SGD steps.
        trainable: Names of the modules to update, each matched anywhere in a parameter's path.

    Raises:
        ValueError: If alpha is above 0 and the network has no BatchNorm, or one that is no plain `nn.BatchNorm2d`.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: Path,
        alpha: float = 0.0,
        scales: Sequence[float] = (),
        psi: float = 0.7,
        lr: float = 0.05,
        num_steps: int = 0,
        trainable: Sequence[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.scales, self.psi, self.lr, self.num_steps = scales, psi, lr, num_steps
        self.network = copy.deepcopy(network).float().to(memory_format=torch.contiguous_format).eval()
        self.network.channels_last = False  # type: ignore[assignment]
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(any(f".{module}." in f".{name}." for module in trainable))
        if alpha > 0:
            adapt_batch_norm(self.network, alpha)
        torch.save(self.network.state_dict(), checkpoint)

    def predict(self, pixels: np.ndarray, image: Tensor) -> Tensor:
        """Predicts one image.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            image: (1, 3, H, W) float32, the normalised `pixels`, on the network's device.

        Returns:
            (1, K, H, W) float32 probabilities.
        """
        if self.scales and self.num_steps == 0:
            return self._average_views(pixels, image.device)
        if self.scales:
            self.network.load_state_dict(torch.load(self.checkpoint, map_location=image.device, weights_only=True))
            self._take_steps(image, label_confident(self._average_views(pixels, image.device), self.psi))
        return predict_plainly(self.network, image)

    def _average_views(self, pixels: np.ndarray, device: torch.device) -> Tensor:
        height, width = pixels.shape[:2]
        maps = []
        for scale in self.scales:
            for changed in (False, True):
                size = (int(scale * width), int(scale * height))
                picture = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
                if changed:
                    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L").convert("RGB")
                probabilities = predict_plainly(self.network, normalise(np.array(picture)).to(device))
                if changed:
                    probabilities = probabilities.flip(-1)
                maps.append(F.interpolate(probabilities, (height, width), mode="bilinear", align_corners=True))
        return torch.stack(maps).mean(dim=0)

    def _take_steps(self, image: Tensor, target: Tensor) -> None:
        if (target == IGNORED).all():
            return
        moving = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(moving, lr=self.lr)
        for _ in range(self.num_steps):
            self.network.zero_grad()
            loss = F.cross_entropy(predict_logits(self.network, image), target, ignore_index=IGNORED)
            loss.backward()
            optimizer.step()
        self.network.zero_grad()


def adapt_batch_norm(network: nn.Module, alpha: float) -> None:
    """Replaces the forward pass of every BatchNorm of a network with `normalise_features`."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    other = {type(layer).__name__ for layer in layers if type(layer).forward is not nn.BatchNorm2d.forward}
    if other or not layers:
        found = ", ".join(other) or "no BatchNorm"
        raise ValueError(f"{type(network).__name__} has {found}: expected nn.BatchNorm2d, or alpha 0 in the plain loop")
    for layer in layers:
        assert layer.running_mean is not None and layer.running_var is not None
        layer.forward = partial(  # type: ignore[method-assign]
            normalise_features,
            running_mean=layer.running_mean,
            running_var=layer.running_var,
            weight=layer.weight,
            bias=layer.bias,
            alpha=alpha,
            eps=layer.eps,
        )


def normalise_features(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, alpha: float, eps: float
) -> Tensor:
    """Normalises (B, C, H, W) features by the formula of instance-adaptive batch normalisation (Eq. 3-4)."""
    mean, var = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), unbiased=False, keepdim=True)
    mean = alpha * mean + (1 - alpha) * running_mean[:, None, None]
    var = alpha * var + (1 - alpha) * running_var[:, None, None]
    return (x - mean) / torch.sqrt(var + eps) * weight[:, None, None] + bias[:, None, None]


def label_confident(probabilities: Tensor, psi: float) -> Tensor:
    """Labels the confident pixels of (1, K, H, W) probabilities: (1, H, W) int64, 255 elsewhere (Eq. 6-8)."""
    thresholds = psi * probabilities.amax(dim=(2, 3))[0]
    confidence, labels = probabilities.max(dim=1)
    labels[confidence < thresholds[labels]] = IGNORED
    return labels


def normalise(pixels: np.ndarray) -> Tensor:
    """Converts (H, W, 3) uint8 RGB into a normalised (1, 3, H, W) float32 image."""
    values = (pixels.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
