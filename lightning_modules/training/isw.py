"""ISW, the loss of RobustNet (Choi et al., 2021): whitens the covariances of features that photometric changes move."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_modules.networks.base import conv_bn_relu, make_classifier
from lightning_modules.networks.whitening import WhitenedNorm2d
from lightning_modules.recipe import compute_loss
from lightning_modules.semantics import Semantics, check_semantics
from lightning_modules.training.covariances import choose_covariances, measure_variances, measure_whitening
from lightning_modules.training.method import Step, TrainingMethod, check_least, in_evaluation, seeded
from lightning_modules.training.photometric import PhotometricChange
from lightning_modules.training.teacher import count_channels, name_deep_stages


class ISW(TrainingMethod):
    """Instance selective whitening: drives covariances between channels that photometric changes move to 0.

    The maps are the outputs of the instance norms without weights of ``norm=isw``. Which covariances count is found
    once, at the start of epoch `from_epoch`, from source images.

    Args:
        weight: Of the loss.
        auxiliary: Weight of the cross-entropy of a second classifier, on the features of the last stage but one, which
            trains the network alone; 0 has none.
        from_epoch: Epochs before it train with the cross-entropy alone.
        clusters: Into how many groups the variances of covariances are divided; all but the lowest are whitened. The
            authors take 20 for MobileNet.
        images: How many source images are looked at, at most, by each process.
        trials: How many photometric copies of these are looked at; what is whitened has to come out of all.
        semantics: ``paper`` divides the covariances above the diagonal into groups, ``released`` all entries of the
            matrix, with the zeros on and below it, as the authors' code does.

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
        """Warns of a training that ends before anything is whitened."""
        if 0 < epochs <= self.from_epoch:
            rank_zero_warn(
                f"ISW whitens from epoch {self.from_epoch} on, counted from 0, but the training has {epochs}: nothing "
                "will be whitened. Set --training.from_epoch to a smaller number"
            )

    def prepare(self, network: nn.Module, num_classes: int) -> None:
        """Finds the maps, and makes an empty mask for each; makes the second classifier."""
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, WhitenedNorm2d)}
        if not layers:
            raise ValueError(
                f"ISW whitens the maps of instance norms, of which {type(network).__name__} has none: expected a "
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
        """The (C, C) bool mask of each map: which covariances are whitened; all False before they are chosen."""
        return {name: self.get_buffer(f"mask{number}") for number, name in enumerate(self.maps)}

    def start_epoch(self, epoch: int, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Chooses the covariances, in the epoch when whitening starts."""
        if epoch < self.from_epoch or any(mask.any() for mask in self.masks.values()):
            return
        with in_evaluation(network):
            for trial in range(self.trials):
                with seeded(epoch, trial):
                    variances = measure_variances(network, self.maps, self._copy(images))
                for mask, variance in zip(self.masks.values(), variances, strict=True):
                    chosen = choose_covariances(variance, self.clusters, self.semantics)
                    mask.copy_(chosen if trial == 0 else mask & chosen)
        shares = [
            f"{name} {mask.sum().item()} of {len(mask) * (len(mask) - 1) // 2}" for name, mask in self.masks.items()
        ]
        rank_zero_info(f"ISW whitens from epoch {epoch} on: {', '.join(shares)} covariances")

    def compute_losses(self, step: Step) -> dict[str, Tensor]:
        """Returns the mean absolute covariance over what is whitened, over maps and images, and the second loss."""
        found = [measure_whitening(step.features[name], mask) for name, mask in self.masks.items() if mask.any()]
        losses = {"whitening": self.weight * torch.stack(found).mean()} if found else {}
        if self.auxiliary:
            logits = self.classifier(step.features[self._deep])
            logits = F.interpolate(logits, size=step.masks.shape[-2:], mode="bilinear", align_corners=False)
            losses["auxiliary"] = self.auxiliary * compute_loss(logits, step.masks)
        return losses

    def _copy(self, images: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of at most `images` images and their photometric copies, both normalised."""
        left = self.images
        for batch in images:
            kept = batch[:left]
            yield kept, self.normalization.apply(self._change(self.restore(kept)))
            left -= len(kept)
            if not left:
                return


def find_deep_stage(network: nn.Module) -> str:
    """Names the last stage but one; raises ValueError that says how to do without it."""
    try:
        return name_deep_stages(network)[0]
    except ValueError as error:
        raise ValueError(f"{error}; or --training.auxiliary=0, which does without the second classifier") from error
