"""One record per image, streamed to disk, and one summary per run; interrupted runs resume."""

import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import IO, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.method import require_segmentation
from callbacks.method_search import find_search
from callbacks.predictions import OUTPUTS, Output, Predictions
from callbacks.report.finish import finish_run
from callbacks.report.gallery import RunPictures
from callbacks.report.page import write_training_report
from callbacks.report.panels import find_palette
from callbacks.report.summary import summarize_records
from callbacks.run.folder import RECORDS, SUMMARY, set_aside
from callbacks.run.processes import all_or_none
from callbacks.run.records import (
    find_folder,
    find_log_folder,
    find_method,
    leave_out,
    read_records,
    to_plain,
    write_json,
)
from callbacks.run.scoring import ScoringRun
from callbacks.run.selection import Selection
from callbacks.run.settings import describe_evaluation, find_stage, fingerprint_weights
from callbacks.run.training_folder import check_progress, find_written
from lightning_modules.metrics import Scores, fetch_scores, score_image
from lightning_modules.predictor import predict_plainly
from lightning_modules.probabilities import scale_temperature

__all__ = ["RECORDS", "SUMMARY", "Results", "find_method", "read_records", "set_aside", "summarize_records", "to_plain"]


class Results(Callback):
    """Writes `records.jsonl` (a line per image, as soon as it is scored) and `results.json` in test and validate runs.

    The folder also gets `reliability.png`, the reliability diagram; `run.json`, the settings; and, in test runs,
    `gallery/`, with pictures of the first images and of those with the largest gains and losses, and `report.html`, a
    self-contained page that shows all of this. Weights & Biases gets the same. An interrupted run also writes summary
    and diagram, with ``complete`` set to false.

    The same command run again resumes, however the run stopped, and ends with the same scores as an uninterrupted run:
    it skips batches whose images all have a record, and includes earlier records in the summary and in the module's
    logged metrics. Different settings in the same folder are an error, unless `overwrite` is set.

    With several processes, each streams to its own file and the first one merges them at the end, so all processes must
    share the folder.

    Predict runs write label maps and overlays instead, see `Predictions`.

    Args:
        folder: The output folder. None means, in test and validate, the folder of an unfinished run with the same
            settings if there is one, else the logger's folder of the run, or `outputs/results` without a logger.
        panels: Number of images per domain and process for which test and validate runs draw `panels/DOMAIN/NAME.png`
            (image | truth | t-BN, if scored | prediction); also the number of first images in the report.
        outputs: Kinds of files that predict runs write: ``labels``, ``train_ids``, ``overlays``, ``confidence``.
        overwrite: Whether to start over: predict runs replace earlier predictions in the folder, the other runs rename
            earlier results by adding a number.
        baseline: Whether test runs with a method also score the unadapted network (t-BN), to report the gain of each
            image. This takes one more forward pass per image, which does not count in the time per image.
        report: Whether test runs keep a gallery and write `report.html`, and fit runs write a report of their curves to
            the logger's folder.
        selection: File of a model selection. A run that differs from it is an error; `results.json` has its SHA-256.
        departures: Arguments of the method that may differ from the selection; they are recorded in `results.json`.
    """

    def __init__(
        self,
        folder: str | None = None,
        panels: int = 4,
        outputs: Sequence[Output] = OUTPUTS,
        overwrite: bool = False,
        baseline: bool = True,
        report: bool = True,
        selection: str | None = None,
        departures: Sequence[str] = (),
    ) -> None:
        if folder is not None and not folder.strip():
            raise ValueError("results.folder is empty: expected a path, or null for the folder of the run")
        self.folder = folder
        self.panels = panels
        self.overwrite = overwrite
        self.baseline = baseline
        self.report = report
        self.selection = None if selection is None else Selection.read(selection)
        if departures and self.selection is None:
            raise ValueError(
                "results.departures is set, but results.selection is not: expected the file that they depart from"
            )
        self.departures = list(departures)
        self.predictions = Predictions(folder, outputs, overwrite)
        self._trained = False
        self._run: ScoringRun | None = None
        self._stream: IO[str] | None = None
        self._pictures: RunPictures | None = None
        self._limit: tuple[str, int | float | None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Registers the function that tells the data which images to skip; called once the checkpoint is loaded."""
        self.predictions.setup(trainer, pl_module, stage)
        self._trained = False
        if stage in ("validate", "test"):
            leave_out(trainer, lambda: self._open(trainer, pl_module).done)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder, if the data have not done so."""
        self._open(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder, if the data have not done so; validation inside fit writes no files."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the records of earlier runs to the module's sums, on the first process only."""
        if self._run is None or not self._run.done or not trainer.is_global_zero:
            return
        scored, search = require_segmentation(pl_module), find_search(trainer)
        for domain, records in groupby(self._run.read(), key=lambda record: record["domain"]):
            total = Scores.zeros(scored.num_classes)
            for record in records:
                total += Scores.from_record(record)
                if search is not None:
                    search.add_earlier(record)
            scored.add_scores(domain, total)

    on_validation_epoch_start = on_test_epoch_start

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws panels and gallery pictures of a batch, then writes its records."""
        if self._stream is None:
            return  # validation inside fit
        records, baselines = self._make_records(trainer, pl_module, outputs, batch)
        assert self._pictures is not None
        for number, record in enumerate(records):
            baseline = None if baselines is None else baselines[number]
            image, truth, prediction = batch["image"][number], batch["mask"][number], outputs["probabilities"][number]
            self._pictures.draw(image, truth, baseline, prediction, record)
        self._stream.writelines(json.dumps(record) + "\n" for record in records)
        self._stream.flush()  # last: a resumed run skips images with a record

    on_validation_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes Lightning show and return each score once: it would repeat all of them for each data set.

        Numbers that another callback logs per data set keep their columns.
        """
        loop = trainer.test_loop if trainer.testing else trainer.validate_loop
        shown = getattr(loop, "_logged_outputs", None)
        several = any("/dataloader_idx_" in key for values in shown or () for key in values)
        if self._run is not None and shown is not None and not several:
            shown[:] = [dict(ChainMap(*shown))]

    on_validation_epoch_end = on_test_epoch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the records of all processes and writes the summary."""
        if self._run is None or self._stream is None:
            return  # validation inside fit
        self._stream.close()
        self._stream = None  # from here on an error must not overwrite the summary with an interrupted run's
        trainer.strategy.barrier("results written")
        with all_or_none(trainer):
            if trainer.is_global_zero:
                complete = self._run.merge(trainer)
                if complete and self._run.nothing_left and self._run.folder.is_finished():
                    place = self._run.folder.root / SUMMARY
                    rank_zero_info(f"Results (from an earlier run; no images left to predict): {place}")
                else:
                    self._finish(trainer, pl_module, self._run, complete)

    on_validation_end = on_test_end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records that training has started."""
        self._trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Names the checkpoint and writes the training report, if a logger has the curves.

        Raises:
            ValueError: If nothing was trained.
        """
        check_progress(trainer, self._trained)
        if written := find_written(trainer):
            rank_zero_info(f"Checkpoint: {written}")
        folder = find_log_folder(trainer)
        if not self.report or not trainer.is_global_zero or folder is None:
            return
        for logger in trainer.loggers:
            logger.save()  # flush values still in memory
        try:
            write_training_report(folder)
        except (OSError, ValueError) as error:  # only the report failed: training itself is done
            rank_zero_warn(f"{folder}: the training report could not be written: {error}")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder of predictions and checks the data sets."""
        self.predictions.on_predict_start(trainer, pl_module)

    def on_predict_batch_end(self, *hook: Any) -> None:
        """Writes the predictions of a batch."""
        self.predictions.on_predict_batch_end(*hook)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Completes the manifest of the predictions and unlocks the folder."""
        self.predictions.teardown(trainer, pl_module, stage)
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the summary of the images scored so far, and unlocks the folder."""
        self.predictions.on_exception(trainer, pl_module, exception)
        try:
            if self._run is None or self._stream is None or not trainer.is_global_zero:
                return
            if not (self._run.folder.is_finished() and self._run.nothing_left):
                self._finish(trainer, pl_module, self._run, complete=False)
        finally:
            self._close(trainer)

    def _open(self, trainer: Trainer, module: LightningModule) -> ScoringRun:
        """Opens the folder on all processes, at the first call in a run.

        Raises:
            ValueError: If the folder has results of other settings.
            FolderInUseError: If another run writes to the folder.
        """
        if self._run is not None:
            return self._run
        stage, own = find_stage(trainer), find_folder(trainer, self.folder)
        datamodule: Any = getattr(trainer, "datamodule", None)
        with all_or_none(trainer):
            evaluated = datamodule.open_evaluated(stage) if hasattr(datamodule, "open_evaluated") else []
            run = ScoringRun.of(evaluated)
        self._run = run
        with all_or_none(trainer):
            if trainer.is_global_zero:
                settings = self._describe_settings(trainer, module, evaluated)
                run.open(trainer, module, own, self.folder is not None, self.overwrite, settings)
        run.share(trainer)
        with all_or_none(trainer):
            gallery, palette = self.report and stage == "test", find_palette(trainer, module)
            self._pictures = RunPictures(run.folder, trainer, self.panels, gallery, palette)
            self._stream = run.folder.records(trainer.global_rank).open("a", encoding="utf-8")
        if run.done:  # the loaders already apply the limit, and skip what is done
            name = f"limit_{'val' if stage == 'validate' else 'test'}_batches"
            self._limit = name, getattr(trainer, name)
            setattr(trainer, name, 1.0)
        return run

    def _describe_settings(self, trainer: Trainer, module: LightningModule, evaluated: Sequence[Any]) -> dict[str, Any]:
        """Returns the settings that scores depend on; raises ValueError if method or selection rejects the network."""
        method, network = find_method(trainer), require_segmentation(module).network
        if method is not None:
            method.check_network(network)  # before files are checked or renamed
        settings = describe_evaluation(trainer, module, evaluated) | {"baseline": self._scores_baseline(trainer)}
        if (search := find_search(trainer)) is not None:
            settings |= search.describe_settings()
        if self.selection is not None:
            self.selection.check(method.settings() if method else None, fingerprint_weights(network), self.departures)
        return settings

    def _make_records(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Returns the record of each image of a batch, and t-BN's (B, K, H, W) probabilities, None if not scored."""
        records = [
            {
                "domain": outputs["domain"],
                "name": name,
                "milliseconds": outputs["milliseconds"],
                "adaptation": adaptation,
                **scores.to_record(),
            }
            for name, scores, adaptation in zip(outputs["name"], outputs["scores"], outputs["adaptation"], strict=True)
        ]
        baselines = self._predict_baseline(trainer, module, batch)
        if baselines is not None:
            scored = [score_image(*pair) for pair in zip(baselines, batch["mask"], strict=True)]
            for record, scores in zip(records, fetch_scores(scored, batch["mask"]), strict=True):
                record["baseline"] = scores.to_record()
        if (search := find_search(trainer)) is not None:
            for record, found in zip(records, search.extend_records(trainer, module, batch), strict=True):
                record |= found
        return records, baselines

    def _scores_baseline(self, trainer: Trainer) -> bool:
        """Returns whether a run also scores the unadapted network (t-BN)."""
        return self.baseline and trainer.state.fn == TrainerFn.TESTING and find_method(trainer) is not None

    def _predict_baseline(self, trainer: Trainer, module: LightningModule, batch: Mapping[str, Any]) -> Tensor | None:
        """Returns the unadapted network's (B, K, H, W) probabilities of a batch; None if they are not scored."""
        if not self._scores_baseline(trainer):
            return None
        scored = require_segmentation(module)
        with trainer.precision_plugin.forward_context():
            return scale_temperature(predict_plainly(scored.network, batch["image"]), scored.temperature)

    def _finish(self, trainer: Trainer, module: LightningModule, run: ScoringRun, complete: bool) -> None:
        """Writes the summary, the result of a search, the report and the dashboard, see `finish_run`."""
        if complete and (search := find_search(trainer)) is not None:
            for name, content in search.report().items():
                write_json(run.folder.root / name, content)
        selection = None if self.selection is None else self.selection.describe(self.departures)
        assert self._pictures is not None
        finish_run(run, trainer, module, complete, selection, self._pictures)

    def _close(self, trainer: Trainer) -> None:
        """Undoes what `_open` set up: closes the stream, unlocks the folder, resets the limit and the data."""
        leave_out(trainer, {})
        if self._stream is not None:
            self._stream.close()
        if self._limit is not None:
            setattr(trainer, *self._limit)
        if self._run is not None:
            self._run.folder.lock.release()
        self._run = self._stream = self._pictures = self._limit = None
