"""Validates several alphas of IaBN in one pass over the development set: one decode, several forwards.

Source: paper, Sec. 5.1 and Appendix B (alpha is chosen in steps of 0.1 on the development set).
"""

import math
from collections.abc import Sequence

from pytorch_lightning import LightningModule, Trainer

from callbacks.iabn import IaBN, has_batch_norm
from callbacks.method import require_segmentation
from callbacks.method_search import MethodSearch
from callbacks.search import log_result
from callbacks.tta import TTA

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class AlphaSearch(MethodSearch):
    """Logs ``val/miou_alpha_0.1``, ... for every alpha, ``val/best_alpha`` and ``val/miou_best_alpha`` (in percent).

    Works in `fit` and in `validate`. A ModelCheckpoint may monitor any of these; `val/miou_best_alpha` is NaN in epochs
    that are not searched.

    Args:
        alphas: Weights of the image's statistics in [0, 1].
        from_epoch: First epoch of `fit` to search in, or in (0, 1) the share of all epochs before it; the authors' code
            begins at 40 of 50.
        required: Whether a network without BatchNorm is an error. If not, alpha 0, which is t-BN, is all that is tried.

    Raises:
        ValueError: If there is no alpha, or one is outside [0, 1].
    """

    def __init__(self, alphas: Sequence[float] = ALPHAS, from_epoch: float = 0, required: bool = True) -> None:
        if not alphas:
            raise ValueError("alphas is empty: expected one or more values in [0, 1]")
        if from_epoch < 0:
            raise ValueError(f"from_epoch is {from_epoch}: expected an epoch, or a share of all epochs in (0, 1)")
        super().__init__(IaBN(), {"alpha": sorted(set(alphas))})
        self.from_epoch = from_epoch
        self.required = required

    @property
    def alphas(self) -> list[float]:
        """The alphas that are tried, rising."""
        return self.grid["alpha"]

    @property
    def best_alpha(self) -> float | None:
        """The latest best alpha; the smallest of equals."""
        return None if self.best is None else self.best["alpha"]

    @property
    def miou_by_alpha(self) -> dict[float, float]:
        """The latest mean IoU in percent by alpha."""
        return dict(zip(self.alphas, self.miou, strict=True)) if self.miou else {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fits the grid to the network. In `test` and `predict` there is no search, and nothing is said of it."""
        if not self.required and not has_batch_norm(require_segmentation(pl_module).network):
            self.set_grid(TTA(0.0, scales=[1.0], flip=False, grayscale=False), {"alpha": [0.0]})  # a plain forward

    def is_due(self, trainer: Trainer) -> bool:
        """Returns whether the validation that begins is searched: in `fit` not in the first epochs."""
        early = trainer.state.fn == "fit" and trainer.current_epoch < self._first_epoch(trainer)
        return super().is_due(trainer) and not early

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what came out."""
        super().on_validation_epoch_end(trainer, pl_module)
        if not self.miou and trainer.state.fn == "fit" and not trainer.sanity_checking:
            log_result(pl_module, {"miou_best_alpha": math.nan})

    def _first_epoch(self, trainer: Trainer) -> float:
        """The first epoch that is searched; of a share rounded down, so that the last epoch is searched in any case."""
        share = 0 < self.from_epoch < 1
        return math.floor(self.from_epoch * (trainer.max_epochs or 0) + 1e-9) if share else self.from_epoch

    def _log(self, trainer: Trainer, module: LightningModule, best: float) -> None:
        """Logs every alpha, so that a checkpoint may monitor it."""
        assert self.best_alpha is not None
        values = {f"miou_alpha_{alpha:g}": miou for alpha, miou in self.miou_by_alpha.items()}
        log_result(module, {**values, "best_alpha": self.best_alpha, "miou_best_alpha": best})
