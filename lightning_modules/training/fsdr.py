"""FSDR (Huang et al., 2021): randomises the frequency bands that carry the domain, and keeps the others."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_modules.predictor import predict_logits
from lightning_modules.processes import average_over_processes
from lightning_modules.training.method import TrainingMethod, check_least, check_shares, in_evaluation, seeded_by
from lightning_modules.training.styles import Styles


class FSDR(TrainingMethod):
    """Matches the histograms of an image's frequency bands that vary with the domain to those of a style image.

    At first, these are the lowest and the highest bands. From epoch `learn_from` on, they are selected anew in each
    epoch, by the entropy of predictions on source images: bands whose randomisation makes the network less certain
    carry the scene, and are kept.

    Args:
        bands: Number of rings of equal width into which the spectrum is divided.
        low: Number of lowest bands that are randomised at first.
        high: Number of highest bands that are randomised at first.
        learn_from: First epoch that selects the bands by entropy; None always keeps the initial bands.
        images: Maximum number of source images that each process uses for the selection.
        probability: Probability of changing an image.
        styles: Folder of style images; None uses photographs from installed packages and random textures.

    Raises:
        ValueError: If an argument is outside its range, or the folder holds too few images.
        FileNotFoundError: If there is no such folder.

    Source: Huang et al. (2021), Sec. 3.2 and 3.3 (details from memory of the paper).
    """

    styles: Styles
    varying: Tensor

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
            raise ValueError(
                f"bands is {bands}, low {low}, high {high}: expected low and high of 0 or more, with a sum from 1 to "
                "bands - 1"
            )
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

    def change_batch(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Randomises the selected bands of each image with the given probability."""
        plain = self.restore(images)
        styles = self.styles.draw(len(plain)).to(plain)
        changed = randomize_bands(plain, styles, self.varying)
        chosen = torch.rand(len(plain)).to(plain.device)[:, None, None, None] < self.probability
        return torch.where(chosen, self.normalization.apply(changed), images), masks

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Selects the bands that vary with the domain, from epoch `learn_from` on."""
        if self.learn_from is None or epoch < self.learn_from:
            return
        with torch.no_grad(), in_evaluation(network.modules()), seeded_by(epoch):
            self.varying.copy_(choose_varying(self._measure_entropies(network, images)))

    def _measure_entropies(self, network: nn.Module, images: Iterable[Tensor]) -> Tensor:
        """Measures the (bands,) mean entropies of predictions when only one band is randomised."""
        bands = len(self.varying)
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
            raise ValueError("there are no source images to learn which bands vary: expected one batch or more")
        return average_over_processes((total / count).to(self.varying.device, torch.float32))


def keep_bands(images: Tensor, kept: Tensor) -> Tensor:
    """Returns (B, C, H, W) images reduced to the frequency bands that a (bands,) bool mask keeps."""
    height, width = images.shape[-2:]
    vertical = torch.fft.fftfreq(height, device=images.device)[:, None]
    horizontal = torch.fft.rfftfreq(width, device=images.device)[None]
    radius = torch.hypot(vertical, horizontal) / (0.5 * 2**0.5)  # 0 to 1
    band = (radius * len(kept)).long().clamp_max(len(kept) - 1)
    return torch.fft.irfft2(torch.fft.rfft2(images.float()) * kept[band], s=(height, width)).to(images.dtype)


def randomize_bands(images: Tensor, styles: Tensor, varying: Tensor) -> Tensor:
    """Matches the histograms of the varying bands to those of the same bands of style images; keeps the others.

    Images are (B, 3, H, W) and styles (B, 3, h, w), both in [0, 1]; varying is (bands,) bool.
    """
    own = keep_bands(images, varying)
    matched = match_histograms(own, keep_bands(styles, varying))
    return (images - own + matched).clamp(0, 1)


def measure_entropy(logits: Tensor) -> Tensor:
    """Returns the () mean entropy over the pixels of (B, K, H, W) logits, in nats."""
    log = logits.float().log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1).mean()


def choose_varying(entropies: Tensor) -> Tensor:
    """Returns the (bands,) bool mask of the bands whose randomisation gives an entropy below the median.

    Source: Huang et al. (2021), Sec. 3.3: bands of high entropy carry the scene and are kept.
    """
    return entropies < entropies.median()


def match_histograms(images: Tensor, styles: Tensor) -> Tensor:
    """Gives each channel of (B, C, H, W) images the distribution of values of that of (B, C, h, w) style images."""
    values, wanted = images.flatten(2), styles.flatten(2).sort(dim=2).values
    rank = values.argsort(dim=2).argsort(dim=2).to(values.dtype)
    place = rank * ((wanted.shape[2] - 1) / max(values.shape[2] - 1, 1))
    low = place.floor().long().clamp(0, wanted.shape[2] - 1)
    high = (low + 1).clamp_max(wanted.shape[2] - 1)
    share = place - low
    return torch.lerp(wanted.gather(2, low), wanted.gather(2, high), share).reshape(images.shape)
