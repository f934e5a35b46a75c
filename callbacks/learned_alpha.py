"""Learns IaBN's alpha for each layer from source images alone; the network does not change.

Photometric augmentation of source images simulates the gap between domains. Statistics are computed per image, as at
test time, and only the alphas are trained, by the cross-entropy with the images' own labels.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.adaptation.steps import evaluating, seeded
from callbacks.iabn import adaptive_batch_norm, check_batch_norm, list_batch_norms
from lightning_modules.normalization import IMAGENET, Normalization
from lightning_modules.predictor import predict_logits
from lightning_modules.recipe import compute_training_loss
from lightning_modules.training.photometric import PhotometricChange

START = 0.1  # the paper's alpha


def learn_alpha(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    per_step: int = 1,
    lr: float = 0.05,
    normalization: Normalization = IMAGENET,
) -> dict[str, float]:
    """Learns one weight of the image's statistics per BatchNorm layer with Adam.

    Args:
        network: (B, 3, H, W) -> (B, K, H, W) logits, with BatchNorm; not changed.
        batches: (B, 3, H, W) normalised source images on the network's device, and their (B, H', W') int64 labels, 255
            where ignored. Batches may differ in size.
        per_step: Number of batches per optimizer step.
        lr: Adam's learning rate, for the logits of the weights.
        normalization: Normalisation of the images.

    Returns:
        The weight in [0, 1] of each layer, by its full name.

    Raises:
        ValueError: If the network has no BatchNorm with running statistics, there are no batches, or alpha becomes NaN.
    """
    check_batch_norm(network, START)
    if all(layer.running_mean is None for layer in list_batch_norms(network).values()):
        raise ValueError(
            f"no BatchNorm of {type(network).__name__} has running statistics, so only the image's own are available: "
            "expected a network with track_running_stats"
        )
    device, seen = next(network.parameters()).device, 0
    blended = adaptive_batch_norm(network, START)
    with torch.inference_mode(False), evaluating(network), blended, torch.enable_grad():
        layers: dict[str, Any] = list_batch_norms(network)
        logits = torch.full((len(layers),), START, device=device).logit().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=lr)
        network.requires_grad_(False)
        for images, masks in batches:
            images, masks = images.clone(), masks.clone()  # they may be inference tensors
            with seeded(device, seen):
                changed = normalization.apply(change_strongly(normalization.undo(images).clamp(0, 1)))
            for layer, alpha in zip(layers.values(), logits.sigmoid(), strict=True):
                layer.alpha = alpha
            predicted = predict_logits(network, changed)
            predicted = F.interpolate(predicted, size=masks.shape[-2:], mode="bilinear", align_corners=False)
            (compute_training_loss(predicted, masks) / per_step).backward()
            seen += 1
            if seen % per_step == 0:
                optimizer.step()
                optimizer.zero_grad()
    if not seen:
        raise ValueError("there are no source images to learn alpha from: expected one batch or more")
    if not logits.isfinite().all():
        raise ValueError("alpha became NaN or infinite: expected finite source images; try a smaller learning rate")
    learned = zip(layers.items(), logits.detach().sigmoid().tolist(), strict=True)
    return {name: 1.0 if layer.running_mean is None else alpha for (name, layer), alpha in learned}


_jitter = PhotometricChange(0.6, 0.6, 0.6, 0.1, blur=0.5)


def change_strongly(images: Tensor) -> Tensor:
    """Augments (B, 3, H, W) images in [0, 1] photometrically: returns new ones in [0, 1].

    Changes brightness, contrast and saturation by factors of 0.4 to 1.6, shifts the hue, blurs, applies a gamma of 0.6
    to 1.65, scales each channel by up to 20 %, blends in a uniform colour by up to 50 %, and adds noise with a standard
    deviation of up to 0.05.
    """

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(len(images), channels, 1, 1).uniform_(low, high).to(images)

    changed = _jitter(images) ** draw(-0.5, 0.5).exp()
    changed = changed * draw(0.8, 1.2, channels=3)
    changed = torch.lerp(changed, draw(0.3, 1.0, channels=3), draw(0.0, 0.5))
    noise = torch.randn(images.shape).to(images) * draw(0.0, 0.05)
    return (changed + noise).clamp(0, 1)
