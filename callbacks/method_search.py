"""Grid search over a method's arguments in one pass over the development set.

Each image is decoded once, and work that grid points share is done once if the results stay the same: for Seg-TTT, the
prediction of the views, and one run of steps for all values of `num_steps`.

Source: paper, Sec. 4 and 5.1-5.2 (all hyperparameters are chosen on the development set).
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import product
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from callbacks.method import Method, require_segmentation
from callbacks.run.folder import SEARCH
from callbacks.run.records import to_plain
from callbacks.run.settings import keeps_knowledge
from callbacks.search import log_result, refuse_run, sum_over_processes
from lightning_modules.metrics import count_overlap
from lightning_modules.predictor import Stopwatch


class MethodSearch(Callback):
    """Scores every point of a grid of a method's arguments; `Results` writes the outcome to `search.json`.

    Logs ``val/best_ARGUMENT`` for every numeric argument in the grid and ``val/miou_best`` in percent; to the loggers
    only, also ``val/miou_ARGUMENT_VALUE`` for every point. The run itself needs no ``--method``: without one, it also
    scores t-BN. An interrupted run can be resumed. Of several searches, a `validate` run makes only the last.

    Args:
        method: Provides the arguments that are not in the grid.
        grid: Maps names of the method's arguments to the values to try; every combination is a point.

    Attributes:
        points: The argument values of each point; the last argument changes fastest.
        variants: The method at each point.
        miou: The latest mean IoU in percent of each point.
        best: The point with the highest mean IoU, the first in a tie; None before the first result.

    Raises:
        ValueError: If the grid is empty, names an argument that the method does not have, or has a value outside its
            range; or if the run is a `test` or `predict`, where settings must not be chosen.
    """

    def __init__(self, method: Method, grid: dict[str, list[Any]]) -> None:
        self.method = method
        self.set_grid(grid)
        self.miou: list[float] = []
        self.best: dict[str, Any] | None = None
        self._images = 0
        self._milliseconds = 0.0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None  # intersections and unions, images, milliseconds
        self._latest: tuple[Mapping[str, Any], list[dict[str, Any]]] | None = None

    def set_grid(self, grid: Mapping[str, Sequence[Any]]) -> None:
        """Sets the values to try; raises ValueError if the grid is empty or does not fit the method."""
        empty = ", ".join(name for name, values in grid.items() if not values)
        if not grid or empty:
            raise ValueError(
                f"{f'{empty} in the grid' if empty else 'the grid'} is empty: expected one or more values for each "
                "argument, e.g. {psi: [0.6, 0.7, 0.8]}"
            )
        self.grid = {name: list(values) for name, values in grid.items()}
        self.points = [dict(zip(grid, values, strict=True)) for values in product(*self.grid.values())]
        self.variants = [self.method.vary(point) for point in self.points]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError in a `test` or `predict` run."""
        if stage in ("test", "predict"):
            refuse_run(self, stage, "settings are chosen on the development set alone")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the results, and the sums if this validation includes a search."""
        self.miou, self.best, self._latest, self._sums = [], None, None, None
        module = require_segmentation(pl_module)
        if self.is_due(trainer):
            self.variants = [self.method.vary(point) for point in self.points]  # fresh, without earlier state
            for variant in self.variants:
                variant.check_network(module.network)  # fail before the first image
            self._sums = (
                torch.zeros(len(self.variants), 2, module.num_classes, dtype=torch.int64, device=module.device),
                torch.zeros((), dtype=torch.int64, device=module.device),
                torch.zeros((), dtype=torch.float64, device=module.device),
            )

    @property
    def keeps_knowledge(self) -> bool:
        """Whether results depend on earlier images: such a run cannot be resumed."""
        return any(map(keeps_knowledge, self.variants))

    def is_due(self, trainer: Trainer) -> bool:
        """Returns whether the validation that starts includes this search."""
        return self is find_search(trainer) if trainer.state.fn == TrainerFn.VALIDATING else not trainer.sanity_checking

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Predicts and scores a batch at every point, unless `extend_records` already has."""
        self.extend_records(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the mean IoU of every point and logs the result."""
        if self._sums is None:
            return
        overlap, images, milliseconds = sum_over_processes(trainer, *self._sums)
        intersection, union = overlap.unbind(dim=1)
        miou = (intersection.double() / union).nanmean(dim=1)  # over classes in prediction or ground truth
        self.miou = (100 * miou).tolist()
        self._images, self._milliseconds = int(images), float(milliseconds)
        place = int(miou.nan_to_num(nan=-1).argmax())
        self.best = self.points[place]
        self._log(trainer, pl_module, self.miou[place])

    def describe_settings(self) -> dict[str, Any]:
        """Returns method and grid, for JSON; only records with the same ones can be reused."""
        return to_plain({"search": {"method": self.method.settings(), "grid": self.grid}})

    def extend_records(
        self, trainer: Trainer, module: LightningModule, batch: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Scores a batch at every point, only once; returns the entries to add to each image's record, for JSON."""
        if self._sums is None:
            return [{} for _ in batch["image"]]
        if self._latest is None or self._latest[0] is not batch:
            self._latest = batch, self._score(trainer, module, batch)
        return self._latest[1]

    def add_earlier(self, record: Mapping[str, Any]) -> None:
        """Adds the record of an image that an interrupted run has scored."""
        self._add(torch.tensor(record["search"]["overlap"]), record["search"]["milliseconds"])

    def report(self) -> dict[str, dict[str, Any]]:
        """Returns the content of each file to write at the end of a complete run, by file name."""
        if not self.miou:
            return {}
        points = [{"values": point, "miou": miou} for point, miou in zip(self.points, self.miou, strict=True)]
        settings = self.method.settings()
        return {
            SEARCH: {
                "method": settings.pop("name"),
                "settings": settings,
                "parameters": list(self.grid),
                "points": points,
                "best": next(point for point in points if point["values"] == self.best),
                "images": self._images,
                "seconds": self._milliseconds / 1000,
            }
        }

    def _score(self, trainer: Trainer, module: LightningModule, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        masks, network = batch["mask"], require_segmentation(module).network
        found: dict[tuple[int, int], Tensor] = {}
        with (
            Stopwatch(module.device) as stopwatch,
            trainer.precision_plugin.forward_context(),
            torch.no_grad(),
            closing(self.method.predict_variants(network, batch["image"], self.variants)) as predictions,
        ):
            for number, place, outcome in predictions:
                found[place, number] = count_overlap(outcome.probabilities[0], masks[place])
        milliseconds = stopwatch.milliseconds() / len(masks)
        entries = []
        for place in range(len(masks)):
            overlap = torch.stack([found[place, number] for number in range(len(self.variants))])
            self._add(overlap, milliseconds)
            entries.append({"search": {"overlap": overlap.tolist(), "milliseconds": milliseconds}})
        return entries

    def _add(self, overlap: Tensor, milliseconds: float) -> None:
        """Adds the (P, 2, K) int64 intersections and unions of an image at P points, and its time in milliseconds."""
        assert self._sums is not None
        overlaps, images, total = self._sums
        overlaps.add_(overlap.to(overlaps.device))
        images.add_(1)
        total.add_(milliseconds)

    def _log(self, trainer: Trainer, module: LightningModule, best: float) -> None:
        """Logs the best point as metrics of the module, and every point to the loggers only."""
        assert self.best is not None
        values = {f"best_{name}": value for name, value in self.best.items() if isinstance(value, int | float)}
        log_result(module, {**values, "miou_best": best})
        points = {f"val/miou_{name_variant(point)}": miou for point, miou in zip(self.points, self.miou, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(points, step=module.global_step)


def find_search(trainer: Trainer) -> MethodSearch | None:
    """Returns the search that a `validate` run makes: the last one among its callbacks; None in other runs."""
    if trainer.state.fn != TrainerFn.VALIDATING:
        return None
    searches = [callback for callback in trainer.callbacks if isinstance(callback, MethodSearch)]  # type: ignore[attr-defined]
    return searches[-1] if searches else None


def name_variant(values: Mapping[str, Any]) -> str:
    """Names a point of a grid for logs: ``psi_0.7_num_steps_3``."""
    return "_".join(
        f"{name}_{value:g}" if isinstance(value, float) else f"{name}_{value}" for name, value in values.items()
    )
