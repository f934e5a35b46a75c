"""The LightningModule: trains on the source domain, and scores the predictions of the installed predictor."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lightning_modules.checkpoints import check_method_state, check_origin, describe_origin
from lightning_modules.compilation import Compilation, compile_network
from lightning_modules.loaders import check_batch, check_not_targets, may_skip, name_classes, name_domains, name_images
from lightning_modules.metrics import Scores, SegmentationScores, fetch_scores, name_scores, score_image
from lightning_modules.networks.base import TooSmallError
from lightning_modules.networks.checkpoints import fit_weights
from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.normalization import Normalization
from lightning_modules.predictor import Predictor, Stopwatch, describe_adaptations, predict_plainly
from lightning_modules.probabilities import check_temperature, label_images, scale_temperature
from lightning_modules.recipe import (
    check_finite,
    compute_training_loss,
    continue_schedule,
    predict_in_training,
    warn_of_slow_bf16,
)
from lightning_modules.training.method import SourceImages, TrainingMethod, seeded_by


class SegmentationModule(LightningModule):
    """Semantic segmentation with the paper's training recipe.

    Batches are dicts with ``image`` (B, 3, H, W) float, normalised; ``mask`` (B, H', W') int64, train ids or 255; and
    ``name``, B strings (images without one are numbered). Scores are computed at the mask's size.

    Args:
        network: Any module (B, 3, H, W) -> (B, K, H, W) logits.
        num_classes: Number of classes K.
        class_names: Names of the K classes, for reports; None uses numbers.
        lr: Initial learning rate.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        power: Exponent of the learning rate's polynomial decay to 0, which is applied every step.
        released: Path of a weights file released by the paper's authors, for `DeepLabV1`.
        temperature: Divides the logits of every prediction in validation, test and predict, for all methods; above 0;
            1 changes nothing. `TemperatureSearch` fits it. The training loss does not use it.
        compile: How torch compiles the network, for each image size: ``none``, ``default``, or ``reduce-overhead``,
            which replays CUDA graphs. If compilation fails, the network runs uncompiled, with a warning.
        channels_last: Whether the network gets images in channels-last layout, which is faster on a GPU. None leaves
            the choice to the network (this project's convolutional networks use it, others do not) and does not
            change images in training, as in all measured recipes: rounding depends on the layout.
        other_classes: Whether a checkpoint's class names may differ from the data's.

    Attributes:
        origin: Class path and arguments of the network, as far as they are known; saved in checkpoints.
        predictor: The seam: (network, image) -> (B, K, H, W) probabilities. Methods install their own here.
        training_method: The training method, which may add losses to the cross-entropy; to be set before `fit`.

    Source: paper, Sec. 5 (implementation details) and Appendix A.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 19,
        class_names: Sequence[str] | None = None,
        lr: float = 0.005,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        power: float = 0.9,
        released: str | None = None,
        temperature: float = 1.0,
        compile: Compilation = "none",
        channels_last: bool | None = None,
        other_classes: bool = False,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.class_names = name_classes(num_classes, class_names)
        if released is not None:
            if not isinstance(network, DeepLabV1):
                raise ValueError(
                    f"there are no released weights for {type(network).__name__} ({released}): expected DeepLabV1 on "
                    "ResNet-50 or ResNet-101"
                )
            alpha = network.load_released(released)
            rank_zero_info(f"Released weights: {released}, chosen for IaBN with --method.alpha={alpha}")
        if channels_last is not None:
            network.channels_last = channels_last  # type: ignore[assignment]
        if compile != "none":
            compile_network(network, compile)
        self.network = network
        self.channels_last = channels_last
        self.other_classes = other_classes
        self.released = released
        self.num_classes = num_classes
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.power = power
        self.temperature = temperature
        self.predictor: Predictor = predict_plainly
        self.training_method: TrainingMethod | None = None
        self._prepared = False
        self.origin: dict[str, Any] = {"network": f"{type(network).__module__}.{type(network).__qualname__}"}
        self.domains: list[str] = []
        self._scores: list[SegmentationScores] = []
        self._latest_loss: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Warns if the run's precision is slow on this machine; prepares the training method.

        Raises:
            ValueError: If the training method does not suit the data, the network or the precision.
        """
        precision, method = str(self.trainer.precision), self.training_method
        if precision.startswith("bf16") and self.trainer.strategy.root_device.type == "cpu":
            warn_of_slow_bf16(precision)
        if stage != "fit" or method is None:
            return
        if precision in ("bf16-true", "16-true", "64-true"):
            raise ValueError(
                f"trainer.precision is {precision}, in which {type(method).__name__} cannot train: expected 32-true, "
                "bf16-mixed or 16-mixed"
            )
        datamodule = getattr(self.trainer, "datamodule", None)
        normalization = getattr(datamodule, "normalization", None)
        if normalization is not None:
            method.normalization = Normalization(**normalization)
        method.check_data(datamodule)
        method.check_length(self.trainer.max_epochs or -1)
        if not self._prepared:  # by an earlier `fit` of this module
            method.prepare(self.network, self.num_classes)
        self._prepared = True

    def forward(self, image: Tensor) -> Tensor:
        """Predicts (B, K, H, W) probabilities of a (B, 3, H, W) image with the installed predictor."""
        return scale_temperature(self.predictor(self.network, image), self.temperature)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns SGD with polynomial decay of the learning rate per step."""
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=self.power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Applies this run's length and optimizer settings where those of a checkpoint differ."""
        steps = int(self.trainer.estimated_stepping_batches)
        settings = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        continue_schedule(self.lr_schedulers(), steps, self.power, settings)  # type: ignore[arg-type]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Returns the cross-entropy over the labelled pixels of a batch plus the training method's losses."""
        image, mask = batch["image"], batch["mask"]
        added: dict[str, Tensor] = {}
        if self.training_method is None:
            logits = self._predict_in_training(image)
        else:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything puts it
            with seeded_by(seed, self.global_rank, self.global_step, batch_idx):
                step = self.training_method.run_step(self._predict_in_training, self.network, image, mask)
                added = self.training_method.compute_losses(step)
            logits, mask = step.logits, step.masks
        loss = compute_training_loss(logits, mask)
        for name, value in added.items():
            self.log(f"train/{type(self.training_method).__name__}/{name}", value, batch_size=len(image))
            loss = loss + value
        self._latest_loss = loss.detach()
        self.log("train/loss", loss, batch_size=len(image), prog_bar=True)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(image))  # type: ignore[union-attr]
        return loss

    def on_train_epoch_start(self) -> None:
        """Starts the epoch of the training method, with access to the source images."""
        if self.training_method is not None:
            images = SourceImages(self.trainer.train_dataloader, self.device)  # type: ignore[arg-type]
            self.training_method.start_epoch(self.current_epoch, self.network, images)

    def _predict_in_training(self, image: Tensor) -> Tensor:
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        logits = predict_in_training(self.network, image)
        self._check_classes(logits)
        return logits

    def on_train_epoch_end(self) -> None:
        """Stops training if the loss or the weights are NaN or infinite."""
        if self._latest_loss is not None:
            check_finite(self._latest_loss, self.parameters(), self.current_epoch, self.lr)

    def on_validation_start(self) -> None:
        """Resets the scores of each validation set; rejects target domains, and networks that have diverged."""
        self.on_train_epoch_end()  # here, too, before a checkpoint is saved
        check_not_targets(self.trainer.val_dataloaders)
        self._start_scores(self.trainer.val_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/miou``, ... in percent, ``val/brier``, ``val/nll``; for several sets also ``val/SET/miou``, ..."""
        self._log_scores("val")

    def on_test_start(self) -> None:
        """Resets the scores of each target."""
        self._start_scores(self.trainer.test_dataloaders)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Predicts and scores a batch.

        Returns:
            ``probabilities`` (B, K, H, W) at image size; B ``scores``, on the host; ``milliseconds`` of prediction per
            image; ``domain``, the name of the data set; B ``name``; and B ``adaptation``, the method's record of its
            adaptation to each image, for JSON, or None.
        """
        check_batch(batch, "image", "mask")
        image, masks = batch["image"], batch["mask"]
        with Stopwatch(image.device) as stopwatch:
            probabilities = self._predict(batch, batch_idx)
        scores = [score_image(prediction, mask) for prediction, mask in zip(probabilities, masks, strict=True)]
        for score in scores:
            self._scores[dataloader_idx].update(score)
        return {
            "probabilities": probabilities,
            "scores": fetch_scores(scores, masks),
            "milliseconds": stopwatch.milliseconds() / len(image),
            "domain": self.domains[dataloader_idx],
            "name": name_images(batch, batch_idx),
            "adaptation": describe_adaptations(self.predictor, len(image)),
        }

    validation_step = test_step

    def on_test_epoch_end(self) -> None:
        """Logs means over targets, as in validation; for several targets also ``test/TARGET/miou``, ..."""
        self._log_scores("test")

    def add_scores(self, domain: str, scores: Scores) -> None:
        """Adds an earlier run's scores of one of the `domains`, on one process only: the processes are summed."""
        self._scores[self.domains.index(domain)].update(scores)

    def on_predict_start(self) -> None:
        """Finds the names of the data sets."""
        self.domains = name_domains(self.trainer.predict_dataloaders)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Labels a batch at the size of its images on disk.

        Returns:
            ``name``, ``domain`` and ``adaptation`` as in a test; B ``labels`` (H', W') uint8; and B ``confidence``
            (H', W') float32 in [0, 1], the probability of the label. The size is the batch's ``size`` (B, 2), else its
            mask's, else the image's. None if the images are too small and the data module skips broken images.
        """
        check_batch(batch, "image")
        image = batch["image"]
        sizes = [batch["mask" if "mask" in batch else "image"].shape[-2:]] * len(image)
        if "size" in batch:
            sizes = batch["size"].tolist()  # before the network runs, as this waits for the device
        try:
            predicted = self._predict(batch, batch_idx)
        except TooSmallError as error:
            if not may_skip(self.trainer, dataloader_idx, name_images(batch, batch_idx), str(error)):
                raise
            return None
        labels, confidence = label_images(predicted, sizes)
        return {
            "name": name_images(batch, batch_idx),
            "labels": labels,
            "confidence": confidence,
            "domain": self.domains[dataloader_idx] if self.domains else "data0",
            "adaptation": describe_adaptations(self.predictor, len(image)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks a checkpoint's origin, and renames its weights to this module's names.

        Raises ValueError if it is of another network, other classes or another training method, or cannot be resumed.
        """
        check_origin(self, checkpoint)  # first: it knows why the sizes of the weights may differ
        own = self.state_dict()
        method = take_method_state(own)
        fits = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if method and fits:
            saved = checkpoint.get("training_method") or {}
            check_method_state(type(self.training_method).__name__, method, saved)
            method = dict(saved["state"])
        checkpoint["state_dict"] = fit_weights(own, checkpoint["state_dict"]) | method
        if fits and "optimizer_states" not in checkpoint:
            raise ValueError(
                "the checkpoint contains only weights, so `fit` cannot continue from it: expected one that `fit` wrote"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the class names and the origin, and moves the training method's state out of the weights."""
        checkpoint["class_names"] = self.class_names
        checkpoint["origin"] = describe_origin(self)
        method = take_method_state(checkpoint["state_dict"])
        if self.training_method is not None:
            checkpoint["training_method"] = {"name": type(self.training_method).__name__, "state": method}

    def _predict(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Predicts the probabilities of a batch; adds the names of its images to errors."""
        try:
            probabilities = self(batch["image"])
        except ValueError as error:
            raise type(error)(f"{', '.join(name_images(batch, batch_idx))}: {error}") from error
        self._check_classes(probabilities)
        return probabilities

    def _check_classes(self, logits: Tensor) -> None:
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"{type(self.network).__name__} predicts {logits.shape[1]} classes, the data has {self.num_classes}: "
                "set the network's num_classes to the data's"
            )

    def _start_scores(self, loaders: Any) -> None:
        expected = getattr(getattr(self.trainer, "datamodule", None), "num_classes", self.num_classes)
        if expected != self.num_classes:
            raise ValueError(
                f"the data has {expected} classes, the model {self.num_classes}: set the model's num_classes to "
                f"{expected}"
            )
        self.domains = name_domains(loaders)
        self._scores = [SegmentationScores(self.num_classes).to(self.device) for _ in self.domains]

    def _log_scores(self, stage: str) -> None:
        summaries = {domain: score.compute() for domain, score in zip(self.domains, self._scores, strict=True)}
        for domain, summary in summaries.items():
            if not sum(summary["reliability"]["pixels"]) and self.trainer.state.fn != TrainerFn.FITTING:
                raise ValueError(
                    f"no pixel of {domain} is labelled, all are ignored: nothing can be scored. Check the ids in its "
                    "files and their classes: python -m experiments.check_data --data DATA.yaml"
                )
        values, classes = name_scores(stage, summaries, self.class_names)
        for key, value in values.items():
            # The value is the same on all processes: its maximum is exact, while the mean of equal numbers may round.
            self.log(key, value, prog_bar=key.endswith("/miou"), sync_dist=True, reduce_fx="max")
        if not self.trainer.sanity_checking:
            for logger in self.loggers:  # not by self.log: it would print a line per class and domain
                logger.log_metrics(classes, step=self.global_step)


def take_method_state(state: dict[str, Any]) -> dict[str, Any]:
    """Removes the training method's tensors, which checkpoints keep apart from the weights, from a state dict."""
    return {name: state.pop(name) for name in list(state) if name.startswith("training_method.")}
