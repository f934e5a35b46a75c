"""ISW, the loss of RobustNet (Choi et al., 2021): whitens feature covariances that photometric changes affect."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_modules.networks.base import conv_bn_relu, make_classifier
from lightning_modules.networks.whitening import WhitenedNorm2d
from lightning_modules.recipe import compute_training_loss
from lightning_modules.semantics import Semantics, check_semantics
from lightning_modules.training.covariances import choose_covariances, measure_variances, measure_whitening
from lightning_modules.training.method import Step, TrainingMethod, check_least, in_evaluation, seeded_by
from lightning_modules.training.photometric import PhotometricChange
from lightning_modules.training.teacher import count_channels, name_deep_stages


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
            self._deep = find_deep_stage(network)
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
        with in_evaluation(network):
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


def find_deep_stage(network: nn.Module) -> str:
    """Returns the name of the last stage but one; raises ValueError, with a way around, if it is unknown."""
    try:
        return name_deep_stages(network)[0]
    except ValueError as error:
        raise ValueError(f"{error}; or --training.auxiliary=0, which needs no second classifier") from error
