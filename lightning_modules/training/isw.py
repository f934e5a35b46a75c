"""ISW, the loss of RobustNet (Choi et al., 2021): whitens feature covariances that photometric changes affect."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_modules.networks.base import conv_bn_relu, make_classifier
from lightning_modules.networks.norms import WhitenedNorm2d
from lightning_modules.processes import average_over_processes
from lightning_modules.recipe import compute_training_loss
from lightning_modules.semantics import Semantics, check_semantics
from lightning_modules.training.features import count_channels, name_stages, record_outputs
from lightning_modules.training.method import Step, TrainingMethod, check_least, in_evaluation, seeded_by
from lightning_modules.training.photometric import PhotometricChange

EPS = 1e-5  # added to the diagonal of covariances


class ISW(TrainingMethod):
    """Instance selective whitening: drives covariances between channels to 0 that photometric changes affect.

    It whitens the outputs of the weightless instance norms of networks with ``norm=isw``. The covariances to whiten are
    selected once, at the start of epoch `from_epoch`, from source images.

    Args:
        weight: Weight of the whitening loss.
        auxiliary: Weight of the cross-entropy of an auxiliary classifier on the features of the last stage but one,
            which is used in training only; 0 adds none.
        from_epoch: First epoch with whitening, counted from 0; earlier epochs train with cross-entropy losses only.
        clusters: Number of groups into which the variances of covariances are divided; all but the lowest group are
            whitened. The authors use 20 for MobileNet.
        images: Maximum number of source images that each process uses for the selection.
        trials: Number of photometric copies of these images; only covariances selected with all of them are whitened.
        semantics: ``paper`` groups the covariances above the diagonal; ``released`` groups all entries of the matrix,
            with zeros on and below the diagonal, as the authors' code does.

    Raises:
        ValueError: If an argument is outside its range.

    Source: Choi et al. (2021), Sec. 3.3, Eq. 9-14; auxiliary loss: Sec. 4.
    """

    def __init__(
        self,
        weight: float = 0.6,
        auxiliary: float = 0.4,
        from_epoch: int = 5,
        clusters: int = 3,
        images: int = 500,
        trials: int = 10,
        semantics: Semantics = "paper",
    ) -> None:
        super().__init__()
        check_least(0, weight=weight, auxiliary=auxiliary, from_epoch=from_epoch)
        check_least(1, images=images, trials=trials)
        check_least(2, clusters=clusters)
        check_semantics(semantics)
        self.weight = weight
        self.auxiliary = auxiliary
        self.from_epoch = from_epoch
        self.clusters = clusters
        self.images = images
        self.trials = trials
        self.semantics = semantics
        self._change = PhotometricChange(0.8, 0.8, 0.8, 0.3, blur=0.5)

    def check_length(self, epochs: int) -> None:
        """Warns if training ends before whitening starts."""
        if 0 < epochs <= self.from_epoch:
            rank_zero_warn(
                f"ISW whitens from epoch {self.from_epoch} on, counted from 0, but the training has {epochs}: nothing "
                "will be whitened. Set --training.from_epoch to a smaller number"
            )

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Finds the maps, and creates an empty mask for each and the auxiliary classifier."""
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, WhitenedNorm2d)}
        if not layers:
            raise ValueError(
                f"ISW whitens the outputs of instance norms, but {type(network).__name__} has none: expected a "
                "network with norm=isw, e.g. --model.network.init_args.norm=isw"
            )
        self.maps, self.features = list(layers), list(layers)
        if self.auxiliary:
            self._deep = name_stages(network, "or set --training.auxiliary=0, which needs no second classifier")[2]
            self.features.append(self._deep)
            channels = count_channels(network, self._deep)
            hidden = channels // 2
            self.classifier = nn.Sequential(
                conv_bn_relu(channels, hidden, kernel_size=3), nn.Dropout2d(0.1), make_classifier(hidden, num_classes)
            )
        for number, layer in enumerate(layers.values()):
            self.register_buffer(f"mask{number}", torch.zeros(layer.num_features, layer.num_features, dtype=torch.bool))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The (C, C) bool mask of whitened covariances for each map; all False before the selection."""
        return {name: self.get_buffer(f"mask{number}") for number, name in enumerate(self.maps)}

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Selects the covariances to whiten, in the first epoch with whitening."""
        if epoch < self.from_epoch or any(mask.any() for mask in self.masks.values()):
            return
        with torch.no_grad(), in_evaluation(network.modules()):
            for trial in range(self.trials):
                with seeded_by(epoch, trial):
                    variances = measure_variances(network, self.maps, self._copy(images))
                for mask, variance in zip(self.masks.values(), variances, strict=True):
                    chosen = choose_covariances(variance, self.clusters, self.semantics)
                    mask.copy_(chosen if trial == 0 else mask & chosen)
        shares = [
            f"{name} {mask.sum().item()} of {len(mask) * (len(mask) - 1) // 2}" for name, mask in self.masks.items()
        ]
        rank_zero_info(f"ISW whitens from epoch {epoch} on: {', '.join(shares)} covariances")

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the weighted whitening loss, the mean over maps, and the weighted auxiliary cross-entropy."""
        found = [measure_whitening(step.features[name], mask) for name, mask in self.masks.items() if mask.any()]
        losses = {"whitening": self.weight * torch.stack(found).mean()} if found else {}
        if self.auxiliary:
            logits = self.classifier(step.features[self._deep])
            logits = F.interpolate(logits, size=step.masks.shape[-2:], mode="bilinear", align_corners=False)
            losses["auxiliary"] = self.auxiliary * compute_training_loss(logits, step.masks)
        return losses

    def _copy(self, images: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of images, `images` in total at most, and their photometric copies, both normalised."""
        left = self.images
        for batch in images:
            kept = batch[:left]
            yield kept, self.normalization.apply(self._change(self.restore(kept)))
            left -= len(kept)
            if not left:
                return


def compute_covariances(features: Tensor) -> Tensor:
    """Returns the (B, C, C) covariances between the channels of (B, C, H, W) features whose means are 0, in float32.

    Source: Choi et al. (2021), Eq. 2.
    """
    values = features.flatten(2)
    values = values if values.dtype == torch.float64 else values.float()
    identity = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    return values @ values.mT / max(values.shape[2] - 1, 1) + EPS * identity


def measure_whitening(features: Tensor, mask: Tensor) -> Tensor:
    """Returns the () mean over images of the mean absolute covariance over a (C, C) bool mask.

    Source: Choi et al. (2021), Eq. 14.
    """
    with torch.autocast(features.device.type, enabled=False):
        covariances = compute_covariances(features)
        return (covariances.abs() * mask).sum(dim=(1, 2)).mean() / mask.sum().clamp_min(1)


def measure_variances(network: nn.Module, maps: Sequence[str], pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Measures, for each map, the (C, C) variances of its covariances between images and changed copies of them.

    Maps are the names of modules of the network, which is in evaluation mode; pairs are (B, 3, H, W) images and copies.

    Source: Choi et al. (2021), Sec. 3.3.
    """
    sums: list[Tensor] = []
    count = 0
    for versions in pairs:
        covariances = []
        for version in versions:
            with record_outputs(network, maps) as outputs:
                network(version)
            covariances.append([compute_covariances(outputs[name]) for name in maps])
        found = [((first - second) / 2).square().sum(dim=0) for first, second in zip(*covariances, strict=True)]
        sums = [total + one for total, one in zip(sums, found, strict=True)] if sums else found
        count += len(versions[0])
    if not count:
        raise ValueError("there are no source images to choose the covariances for ISW: expected one batch or more")
    return [average_over_processes(total / count) for total in sums]


def choose_covariances(variances: Tensor, clusters: int, semantics: Semantics = "paper") -> Tensor:
    """Returns the (C, C) mask of the covariances whose variances are not in the lowest of `clusters` groups.

    ``paper`` groups the entries above the diagonal; ``released`` all entries, with 0 for the others.

    Source: Choi et al. (2021), Eq. 12 and 13.
    """
    above = torch.ones_like(variances, dtype=torch.bool).triu(diagonal=1)
    values = variances[above] if semantics == "paper" else variances.triu(diagonal=1).flatten()
    groups = divide_into_groups(values.double().cpu().numpy(), clusters)
    high = torch.from_numpy(groups > 0).to(variances.device)
    if semantics == "released":
        return high.reshape(variances.shape) & above
    mask = torch.zeros_like(above)
    mask[above] = high
    return mask


def divide_into_groups(values: np.ndarray, count: int) -> np.ndarray:
    """Divides (N,) float64 numbers into groups by optimal k-means; returns their (N,) groups, the lowest as 0."""
    import kmeans1d  # not installed on every machine that runs the GPU check

    groups, _ = kmeans1d.cluster(values, min(count, len(np.unique(values))))
    return np.asarray(groups)
