"""Validates several alphas of IaBN in one pass over the development set: each image is decoded once.

Source: paper, Sec. 5.1 and Appendix B (alpha is chosen in steps of 0.1 on the development set).
"""

import math
from collections.abc import Sequence

from pytorch_lightning import LightningModule, Trainer

from callbacks.iabn import IaBN, has_batch_norm
from callbacks.method import require_segmentation
from callbacks.method_search import MethodSearch
from callbacks.search import log_result

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class AlphaSearch(MethodSearch):
    """Logs ``val/miou_alpha_0.1``, ... for every alpha, ``val/best_alpha`` and ``val/miou_best_alpha`` (in percent).

    Works in `fit` and in `validate`. A ModelCheckpoint may monitor any of these; `val/miou_best_alpha` is NaN in epochs
    without a search.

    Args:
        alphas: Values to try: weights of the image's statistics in [0, 1].
        from_epoch: First epoch of `fit` with a search; a value in (0, 1) is a fraction of all epochs. The authors' code
            starts at epoch 40 of 50.
        required: Whether a network without BatchNorm is an error. If not, only alpha 0 (t-BN) is tried on it.

    Attributes:
        alphas: The alphas to try, in ascending order.

    Raises:
        ValueError: If there is no alpha, one is outside [0, 1], or from_epoch is negative.
    """

    def __init__(self, alphas: Sequence[float] = ALPHAS, from_epoch: float = 0, required: bool = True) -> None:
        if not alphas:
            raise ValueError("alphas is empty: expected one or more values in [0, 1]")
        if from_epoch < 0:
            raise ValueError(f"from_epoch is {from_epoch}: expected an epoch, or a fraction of all epochs in (0, 1)")
        self.alphas = sorted(set(alphas))
        super().__init__(IaBN(), {"alpha": self.alphas})
        self.from_epoch = from_epoch
        self.required = required

    @property
    def best_alpha(self) -> float | None:
        """The best alpha of the latest search, the smallest in a tie; None before the first."""
        return None if self.best is None else self.best["alpha"]

    @property
    def miou_by_alpha(self) -> dict[float, float]:
        """The mean IoU in percent per alpha of the latest search."""
        return dict(zip(self.alphas, self.miou, strict=True)) if self.miou else {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reduces the grid to alpha 0 if the network has no BatchNorm. Unlike other searches, allowed in any run."""
        if not self.required and not has_batch_norm(require_segmentation(pl_module).network):
            self.alphas = [0.0]
            self.set_grid({"alpha": self.alphas})

    def is_due(self, trainer: Trainer) -> bool:
        """Returns whether the validation that starts includes a search; in `fit`, not before `from_epoch`."""
        first = self.from_epoch
        if 0 < first < 1:  # rounded down, so the last epoch always has a search
            first = math.floor(first * (trainer.max_epochs or 0) + 1e-9)
        early = trainer.state.fn == "fit" and trainer.current_epoch < first
        return super().is_due(trainer) and not early

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the result; NaN in an epoch of `fit` without a search."""
        super().on_validation_epoch_end(trainer, pl_module)
        if not self.miou and trainer.state.fn == "fit" and not trainer.sanity_checking:
            log_result(pl_module, {"miou_best_alpha": math.nan})

    def _log(self, trainer: Trainer, module: LightningModule, best: float) -> None:
        """Logs the mean IoU of every alpha, so that a checkpoint may monitor it."""
        values = {f"miou_alpha_{alpha:g}": miou for alpha, miou in self.miou_by_alpha.items()}
        log_result(module, {**values, "best_alpha": self.best_alpha, "miou_best_alpha": best})
