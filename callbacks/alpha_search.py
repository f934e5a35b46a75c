"""Validates several alphas of IaBN in one pass over the development set: one decode, several forwards.

Source: paper, Sec. 5.1 and Appendix B (alpha is chosen in steps of 0.1 on the development set).
"""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.iabn import IaBN, adaptive_batch_norm, check_alpha
from callbacks.method import require_segmentation
from lightning_modules.metrics import SegmentationScores, score_image

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class AlphaSearch(Callback):
    """Logs ``val/miou_alpha_0.1``, ... for every alpha, ``val/best_alpha`` and ``val/miou_best_alpha`` (in percent).

    Works in `fit` and in `validate`. A ModelCheckpoint may monitor any of these.

    Args:
        alphas: Weights of the image's statistics in [0, 1].
        from_epoch: First epoch of `fit` to search in; the authors' code begins at 40 of 50.

    Attributes:
        needs_every_image: The runs that may not leave out what an interrupted run has scored already.
        miou: The latest mean IoU in percent by alpha.
        best_alpha: The latest best alpha; the smallest of equals.

    Raises:
        ValueError: If there is no alpha, or one is outside [0, 1].
    """

    needs_every_image = ("validate",)

    def __init__(self, alphas: Sequence[float] = ALPHAS, from_epoch: int = 0) -> None:
        if not alphas:
            raise ValueError("alphas is empty: expected one or more values in [0, 1]")
        for alpha in alphas:
            check_alpha(alpha)
        self.alphas = sorted(set(alphas))
        self.from_epoch = from_epoch
        self.miou: dict[float, float] = {}
        self.best_alpha: float | None = None
        self._methods: dict[float, IaBN] = {}
        self._scores: dict[float, SegmentationScores] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes one set of sums per alpha."""
        self._methods, self._scores = {}, {}
        if trainer.sanity_checking or (trainer.state.fn == "fit" and trainer.current_epoch < self.from_epoch):
            return
        module = require_segmentation(pl_module)
        with adaptive_batch_norm(module.network, alpha=0.0):
            pass  # a network without BatchNorm is an error before the first image, not at it
        self._methods = {alpha: IaBN(alpha) for alpha in self.alphas}
        self._scores = {alpha: SegmentationScores(module.num_classes).to(pl_module.device) for alpha in self.alphas}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Predicts and scores a batch with every alpha."""
        network = require_segmentation(pl_module).network
        for alpha, method in self._methods.items():
            with trainer.precision_plugin.forward_context(), torch.no_grad():
                probabilities = method.predict(network, batch["image"])
            for prediction, mask in zip(probabilities, batch["mask"], strict=True):
                self._scores[alpha].update(score_image(prediction, mask))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what came out."""
        if not self._scores:
            return
        self.miou = {alpha: 100 * scores.compute()["miou"] for alpha, scores in self._scores.items()}
        self.best_alpha = max(self.alphas, key=lambda alpha: self.miou[alpha])
        values = {f"val/miou_alpha_{alpha:g}": miou for alpha, miou in self.miou.items()}
        values |= {"val/best_alpha": self.best_alpha, "val/miou_best_alpha": self.miou[self.best_alpha]}
        pl_module.log_dict(values, sync_dist=True)  # the same on all processes
