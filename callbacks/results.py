"""One record per image, streamed to disk, and one summary per run."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from callbacks.method import require_segmentation
from callbacks.panels import draw_panel, find_palette
from callbacks.predictions import OUTPUTS, Output, Predictions
from callbacks.records import find_commit, find_folder, find_method, name_device, read_records, to_plain, write_file
from callbacks.reliability import draw_reliability, encode_figure
from callbacks.summary import summarize_records

RECORDS = "records.jsonl"
SUMMARY = "results.json"
RELIABILITY = "reliability.png"


class Results(Callback):
    """Writes `records.jsonl` (a line per image, as soon as it is scored) and `results.json` in test and validate runs.

    Beside them lies `reliability.png`, the reliability diagram. Both are also written when a run is interrupted;
    ``complete`` is false then. Files of an earlier run in the same folder are kept under a number. Under several
    processes each streams to a file of its own; the first merges them at the end, so the folder has to be one that all
    of them see.

    Predict runs write label maps and overlays in place of these, see `Predictions`.

    Args:
        folder: Where to write; None is the logger's folder of the run, or `outputs/results` without a logger.
        panels: For how many images per domain and process test and validate runs draw `panels/DOMAIN/NAME.png`: image |
            truth | prediction.
        outputs: What predict runs write of each image: ``labels``, ``train_ids``, ``overlays``, ``confidence``.
        overwrite: Whether predict runs replace earlier predictions in the folder.
    """

    def __init__(
        self,
        folder: str | None = None,
        panels: int = 4,
        outputs: Sequence[Output] = OUTPUTS,
        overwrite: bool = False,
    ) -> None:
        if folder is not None and not folder.strip():
            raise ValueError("results.folder is empty: expected a path, or null for the folder of the run")
        self.folder = folder
        self.panels = panels
        self.predictions = Predictions(folder, outputs, overwrite)
        self._drawn: dict[str, int] = {}
        self._place = Path()
        self._stream: IO[str] | None = None
        self._records: list[dict[str, Any]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the stream."""
        self._open(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the stream; validation inside fit leaves no files."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the records of a batch."""
        self._write(trainer, pl_module, outputs, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the records of a batch."""
        if self._stream is not None:
            self._write(trainer, pl_module, outputs, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the summary."""
        self._finish(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the summary."""
        if self._stream is not None:
            self._finish(trainer, pl_module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds out what is predicted already."""
        self.predictions.setup(trainer, pl_module, stage)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the data sets to predict."""
        self.predictions.on_predict_start(trainer, pl_module)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the predictions of a batch."""
        self.predictions.on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the manifest of the predictions."""
        self.predictions.teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the summary of what is there."""
        self.predictions.on_exception(trainer, pl_module, exception)
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        if trainer.is_global_zero:
            for path in map(self._path, range(1, trainer.world_size)):  # what other processes have finished counts too
                self._records += read_records(path) if path.exists() else []
            self._summarize(trainer, pl_module, complete=False)

    def _open(self, trainer: Trainer) -> None:
        self._place = find_folder(trainer, self.folder)
        self._drawn = {}
        if trainer.is_global_zero:
            self._place.mkdir(parents=True, exist_ok=True)
            set_aside(self._place)
        trainer.strategy.barrier("results folder")
        self._records = []
        self._stream = self._path(trainer.global_rank).open("w", encoding="utf-8")

    def _path(self, rank: int) -> Path:
        return self._place / (RECORDS if rank == 0 else f"records.rank{rank}.jsonl")

    def _write(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Mapping[str, Any]) -> None:
        assert self._stream is not None
        method = find_method(trainer)
        adaptations = method.adaptations if method else [None] * len(outputs["name"])
        for name, scores, adaptation in zip(outputs["name"], outputs["scores"], adaptations, strict=True):
            record = {"domain": outputs["domain"], "name": name, "milliseconds": outputs["milliseconds"]}
            record |= {"adaptation": adaptation.to_record() if adaptation else None}
            record |= scores.to_record()
            self._records.append(record)
            self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        for number, probabilities in enumerate(outputs["probabilities"]):
            self._draw(trainer, module, batch, number, probabilities, outputs)

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        batch: Mapping[str, Any],
        number: int,
        prediction: Tensor,
        outputs: Any,
    ) -> None:
        """Draws the panel of one image, if its domain does not have enough yet."""
        domain, name = outputs["domain"], outputs["name"][number]
        if self._drawn.get(domain, 0) >= self.panels:
            return
        self._drawn[domain] = self._drawn.get(domain, 0) + 1
        panel = draw_panel(batch["image"][number], batch["mask"][number], [prediction], find_palette(trainer, module))
        path = self._place / "panels" / domain / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        panel.save(path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key=f"panels/{domain}", images=[panel], caption=[name])

    def _finish(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._stream is not None
        self._stream.close()
        self._stream = None
        trainer.strategy.barrier("results written")
        if trainer.is_global_zero:
            self._merge(trainer.world_size)
            self._summarize(trainer, module, complete=True)
        trainer.strategy.barrier("results merged")

    def _merge(self, world_size: int) -> None:
        for rank in range(1, world_size):
            self._records += read_records(self._path(rank))
        self._records.sort(key=lambda record: (record["domain"], record["name"]))
        if world_size > 1:
            text = "".join(json.dumps(record) + "\n" for record in self._records)
            self._path(0).write_text(text, encoding="utf-8")
            for rank in range(1, world_size):
                self._path(rank).unlink()

    def _summarize(self, trainer: Trainer, module: LightningModule, complete: bool) -> None:
        method, scored = find_method(trainer), require_segmentation(module)
        datamodule: Any = getattr(trainer, "datamodule", None)
        summary = {
            "complete": complete,
            "stage": trainer.state.fn.value if trainer.state.fn else None,
            "method": method.settings() if method else None,
            "checkpoint": str(trainer.ckpt_path or scored.released or "") or None,
            "data": datamodule.describe() if hasattr(datamodule, "describe") else None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": find_commit(),
            "device": name_device(module),
            "precision": str(trainer.precision),
            "temperature": scored.temperature,
            "versions": {"torch": torch.__version__},
            **summarize_records(self._records, scored.class_names, scored.domains),
        }
        path = self._place / SUMMARY
        path.write_text(json.dumps(to_plain(summary), indent=1) + "\n", encoding="utf-8")
        self._draw_reliability(trainer, summary["domains"])
        rank_zero_info(f"{'Results' if complete else 'Results of an interrupted run'}: {path}")

    def _draw_reliability(self, trainer: Trainer, domains: Mapping[str, Mapping[str, Any]]) -> None:
        if not any(sum(summary["reliability"]["pixels"]) for summary in domains.values()):
            return
        path = self._place / RELIABILITY
        write_file(path, encode_figure(draw_reliability(domains)))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key="reliability", images=[str(path)])


def set_aside(folder: Path) -> None:
    """Numbers the results of an earlier run in a folder, so that nothing is overwritten."""
    old = [path for path in (folder / RECORDS, folder / SUMMARY, folder / RELIABILITY) if path.exists()]
    old += sorted(path for path in folder.glob("records.rank*.jsonl") if path.name.count(".") == 2)
    if not old:
        return
    number = 1
    while any(path.with_suffix(f".{number}{path.suffix}").exists() for path in old):
        number += 1
    for path in old:
        path.rename(path.with_suffix(f".{number}{path.suffix}"))
    rank_zero_info(f"{folder} held results of an earlier run: they are now numbered {number}")
