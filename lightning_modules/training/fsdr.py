"""FSDR (Huang et al., 2021): randomises the frequency bands that carry the domain, and keeps the others."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.predictor import predict_logits
from lightning_modules.processes import average_over_processes
from lightning_modules.training.method import TrainingMethod, check_least, check_shares, in_evaluation, seeded
from lightning_modules.training.styles import Styles, match_histograms


class FSDR(TrainingMethod):
    """Matches the histograms of the frequency bands of an image that vary with the domain to those of a style image.

    First the lowest and the highest bands are taken to vary. From epoch `learn_from` on, each epoch asks which bands
    do, by the entropy of predictions: a band whose randomisation makes the network less sure of source images varies no
    longer, for it carries the scene.

    Args:
        bands: Into how many rings of equal width the spectrum is divided.
        low: How many of the lowest vary at first.
        high: How many of the highest vary at first.
        learn_from: The epoch from which the choice is learned; None keeps the first one.
        images: How many source images are looked at for that, at most, by each process.
        probability: Of changing an image at all.
        styles: Folder of style images; None takes photographs of installed packages and random textures.

    Raises:
        ValueError: If an argument is outside its range, or the folder holds too few images.
        FileNotFoundError: If there is no such folder.

    Source: Huang et al. (2021), Sec. 3.2 and 3.3 (details from memory of the paper).
    """

    def __init__(
        self,
        bands: int = 16,
        low: int = 1,
        high: int = 8,
        learn_from: int | None = 3,
        images: int = 64,
        probability: float = 0.5,
        styles: str | None = None,
    ) -> None:
        super().__init__()
        if bands < 2 or low < 0 or high < 0 or not 0 < low + high < bands:
            raise ValueError(f"bands is {bands}, low {low}, high {high}: expected some of two or more bands to vary")
        check_shares(probability=probability)
        check_least(1, images=images)
        self.learn_from = learn_from
        self.images = images
        self.probability = probability
        self.styles = Styles(styles)
        varying = torch.zeros(bands, dtype=torch.bool)
        varying[:low] = True
        varying[bands - high :] = True
        self.register_buffer("varying", varying)

    def check_data(self, datamodule: Any) -> None:
        """Refuses style images that belong to a target."""
        self.styles.check_apart(datamodule)

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Randomises the bands that vary, of each image with the probability asked for."""
        plain = self.restore(images)
        styles = self.styles.draw(len(plain)).to(plain)
        changed = randomize_bands(plain, styles, self.get_buffer("varying"))
        chosen = torch.rand(len(plain)).to(plain.device)[:, None, None, None] < self.probability
        return torch.where(chosen, self.normalization.apply(changed), images), masks

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Learns which bands vary with the domain, where that is asked for."""
        if self.learn_from is None or epoch < self.learn_from:
            return
        with in_evaluation(network), seeded(epoch):
            entropies = self._measure_entropies(network, images)
        found = choose_varying(entropies)
        self.get_buffer("varying").copy_(found)

    def _measure_entropies(self, network: nn.Module, images: Iterable[Tensor]) -> Tensor:
        """Returns the (bands,) mean entropy of predictions where each band alone is randomised."""
        bands = len(self.get_buffer("varying"))
        total, count = torch.zeros(bands, dtype=torch.float64), 0
        for batch in images:
            plain = self.restore(batch[: self.images - count])
            styles = self.styles.draw(len(plain)).to(plain)
            for band in range(bands):
                alone = torch.arange(bands, device=plain.device) == band
                logits = predict_logits(network, self.normalization.apply(randomize_bands(plain, styles, alone)))
                total[band] += measure_entropy(logits).double().cpu() * len(plain)
            count += len(plain)
            if count >= self.images:
                break
        if not count:
            raise ValueError("there are no source images to learn from which bands vary: expected one batch or more")
        device = self.get_buffer("varying").device
        return average_over_processes((total / count).to(device, torch.float32))


def keep_bands(images: Tensor, kept: Tensor) -> Tensor:
    """Returns the part of (B, C, H, W) images in the rings of their spectrum that a (bands,) bool mask keeps."""
    height, width = images.shape[-2:]
    vertical = torch.fft.fftfreq(height, device=images.device)[:, None]
    horizontal = torch.fft.rfftfreq(width, device=images.device)[None]
    radius = torch.hypot(vertical, horizontal) / (0.5 * 2**0.5)  # 0 to 1
    band = (radius * len(kept)).long().clamp_max(len(kept) - 1)
    return torch.fft.irfft2(torch.fft.rfft2(images.float()) * kept[band], s=(height, width)).to(images.dtype)


def randomize_bands(images: Tensor, styles: Tensor, varying: Tensor) -> Tensor:
    """Gives the bands that vary the histogram of the same bands of style images; keeps the others.

    Args:
        images: (B, 3, H, W) in [0, 1].
        styles: (B, 3, h, w) in [0, 1].
        varying: (bands,) bool.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    own = keep_bands(images, varying)
    matched = match_histograms(own, keep_bands(styles, varying))
    return (images - own + matched).clamp(0, 1)


def measure_entropy(logits: Tensor) -> Tensor:
    """Returns the () mean entropy over the pixels of (B, K, H, W) logits, in nats."""
    log = logits.float().log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1).mean()


def choose_varying(entropies: Sequence[float] | Tensor) -> Tensor:
    """Returns the (bands,) bool mask of the bands whose randomisation leaves predictions surer than the median does.

    Source: Huang et al. (2021), Sec. 3.3: bands of high entropy carry the scene and are kept.
    """
    values = torch.as_tensor(entropies)
    return values < values.median()
