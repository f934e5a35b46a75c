"""One record per image, streamed to disk, and one summary per run; a run that was interrupted goes on."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.blended_norm import list_faults
from callbacks.method import require_segmentation
from callbacks.method_search import list_searches
from callbacks.predictions import OUTPUTS, Done, Output, Predictions
from callbacks.report.dashboard import log_dashboard
from callbacks.report.gallery import Gallery
from callbacks.report.panels import draw_panel, find_palette
from callbacks.report.reliability import draw_reliability, encode_figure
from callbacks.report.summary import gain_of_image, summarize_records
from callbacks.report.write import write_report, write_training_report
from callbacks.run.folder import (
    PANELS,
    RECORDS,
    RELIABILITY,
    SUMMARY,
    Key,
    Line,
    RunFolder,
    choose_folder,
    find_earlier,
    read_located,
    set_aside,
)
from callbacks.run.processes import all_or_none
from callbacks.run.records import (
    describe_run,
    find_commit,
    find_folder,
    find_log_folder,
    find_method,
    name_device,
    read_records,
    shorten_name,
    to_plain,
    write_file,
)
from callbacks.run.selection import Selection
from callbacks.run.settings import describe_evaluation, find_stage, fingerprint_weights, keeps_knowledge
from callbacks.run.training_folder import check_trained
from lightning_modules.metrics import Scores, fetch_scores, scale_temperature, score_image
from lightning_modules.predictor import predict_plainly

__all__ = ["RECORDS", "SUMMARY", "Results", "find_method", "read_records", "set_aside", "summarize_records", "to_plain"]


@dataclass(frozen=True)
class Plan:
    """What a run has to score.

    Attributes:
        batches: The images (domain and name) of each batch, over all processes, in order.
        resumable: Whether what is done can be left out.
        available: How many images the data sets have, of which a limit may leave out some.
    """

    batches: list[list[Key]]
    resumable: bool
    available: int = 0

    @classmethod
    def of(cls, evaluated: Sequence[Any]) -> "Plan":
        """Makes the plan of data sets as the datamodule opened them, see `describe_evaluation`."""
        batches = [
            [(dataset.domain, dataset.name(index)) for index in batch]
            for _, dataset, indices in evaluated
            for batch in indices
        ]
        images = [image for batch in batches for image in batch]
        domains = [dataset.domain for _, dataset, _ in evaluated]
        resumable = bool(images) and len(set(images)) == len(images) and len(set(domains)) == len(domains)
        return cls(batches, resumable, sum(len(dataset) for _, dataset, _ in evaluated))

    @property
    def images(self) -> list[Key]:
        """All images, in order."""
        return [image for batch in self.batches for image in batch]

    def find_done(self, lines: Iterable[Line]) -> list[Line]:
        """Returns a record of each image of whole batches, in order; part of a batch has to be predicted again."""
        found = {line.key: line for line in lines}
        done = [batch for batch in self.batches if all(image in found for image in batch)]
        return [found[image] for batch in done for image in batch]

    def sort(self, lines: Sequence[Line]) -> list[Line]:
        """Returns a record of each image, in order."""
        if not self.resumable:
            several = len({line.path for line in lines}) > 1
            return sorted(lines, key=lambda line: line.key) if several else list(lines)
        found = {line.key: line for line in lines}
        return [found[image] for image in self.images if image in found]


@dataclass(frozen=True)
class Beginning:
    """What the first process tells the others when a run begins.

    Attributes:
        root: The folder of the run.
        done: Names of the images that are left out, by domain.
        panels: How many panels are drawn, by domain.
    """

    root: Path
    done: dict[str, set[str]]
    panels: dict[str, int]


class Results(Callback):
    """Writes `records.jsonl` (a line per image, as soon as it is scored) and `results.json` in test and validate runs.

    Beside them lie `reliability.png`, the reliability diagram; `run.json`, the settings of the run; `gallery/`, with
    pictures of the first images and of those that gained and lost most; and `report.html`, which shows it all and needs
    nothing else. Weights & Biases gets the same. Summary and diagram are also written when a run is interrupted;
    ``complete`` is false then.

    The same command run again goes on where it stopped, however it stopped, and ends with the scores of a run that was
    never interrupted: only batches with an image that has no record are predicted, earlier records count in the summary
    and in what the module logs. Other settings in the same folder are an error, unless `overwrite`.

    Under several processes each streams to a file of its own; the first merges them at the end, so the folder has to be
    one that all of them see.

    Predict runs write label maps and overlays in place of these, see `Predictions`.

    Args:
        folder: Where to write; None is the folder of an unfinished run of the same settings, else the logger's folder
            of the run, or `outputs/results` without a logger.
        panels: For how many images per domain and process test and validate runs draw `panels/DOMAIN/NAME.png`: image |
            truth | t-BN, if it is scored too | prediction; and how many of the first images are in the report.
        outputs: What predict runs write of each image: ``labels``, ``train_ids``, ``overlays``, ``confidence``.
        overwrite: Whether to begin anew: predict runs replace earlier predictions in the folder, the others put earlier
            results aside under a number.
        baseline: Whether test runs with a method also score the network as it is (t-BN), one forward more per image,
            to say what each image gained. It does not count in the time per image.
        report: Whether test runs keep a gallery and write `report.html`; a fit run writes one of its curves then, into
            the folder of its logger.
        selection: The file of a model selection, which the run has to keep to; its SHA-256 is in `results.json`.
        departures: Arguments of the method that differ from the selection on purpose, which is noted.
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
                "results.departures is set, results.selection is not: expected the file that they depart from"
            )
        self.departures = list(departures)
        self.predictions = Predictions(folder, outputs, overwrite)
        self._run: RunFolder | None = None
        self._plan = Plan([], False)
        self._done: Mapping[str, set[str]] | None = {}
        self._trained = False
        self._panels_left: dict[str, int] = {}
        self._gallery: Gallery | None = None
        self._stream: IO[str] | None = None
        self._limit: tuple[str, int | float | None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has the data leave out what is done; when they ask what that is, the checkpoint is restored."""
        self.predictions.setup(trainer, pl_module, stage)
        self._trained = False
        if stage in ("validate", "test"):
            self._run = None
            self._done = None
            leave_out(trainer, lambda: self._find_done(trainer, pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder, if the data did not ask for it."""
        self._find_done(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder, if the data did not ask for it; validation inside fit leaves no files."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._find_done(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts what is done already."""
        self._add_earlier(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts what is done already."""
        self._add_earlier(trainer, pl_module)

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

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Completes the table on the screen."""
        self._show_all_loaders(trainer.test_loop)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Completes the table on the screen."""
        self._show_all_loaders(trainer.validate_loop)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the summary."""
        self._finish(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the summary."""
        if self._stream is not None:
            self._finish(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that there is something to train."""
        self._trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the report of the training, if a logger keeps its curves; says what was left out."""
        check_trained(trainer, self._trained)
        folder = find_log_folder(trainer)
        if not self.report or not trainer.is_global_zero or folder is None:
            return
        for logger in trainer.loggers:
            logger.save()  # what is still in memory
        try:
            write_training_report(folder)
        except (OSError, ValueError) as error:  # of a page beside: the training is done
            rank_zero_warn(f"{folder}: the report of the training could not be written: {error}")

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
        """Writes the manifest of the predictions; unlocks the folder."""
        self.predictions.teardown(trainer, pl_module, stage)
        self._close(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the summary of what is there."""
        self.predictions.on_exception(trainer, pl_module, exception)
        run = self._run
        try:
            if run is None or self._stream is None or not trainer.is_global_zero:
                return
            if not (run.is_finished() and self._is_nothing_left()):
                self._summarize(trainer, pl_module, run, self._plan.sort(run.locate()), complete=False)
        finally:
            self._close(trainer)

    def _find_done(self, trainer: Trainer, module: LightningModule) -> Mapping[str, set[str]]:
        """Returns the names of the images that are done by domain; at first, opens the folder on all processes."""
        if self._done is None:
            self._done = self._open(trainer, module)
        return self._done

    def _open(self, trainer: Trainer, module: LightningModule) -> dict[str, set[str]]:
        """Opens the folder on all processes; returns the names of the images that are done by domain.

        Raises:
            ValueError: If the folder holds results of other settings.
            FolderInUseError: If another run writes there.
        """
        own, stage = find_folder(trainer, self.folder), find_stage(trainer)
        datamodule: Any = getattr(trainer, "datamodule", None)
        evaluated: Sequence[Any] = []
        beginning: Beginning | None = None
        with all_or_none(trainer):
            if hasattr(datamodule, "open_evaluated"):
                evaluated = datamodule.open_evaluated(stage)
            self._plan = Plan.of(evaluated)
        with all_or_none(trainer):
            if trainer.is_global_zero:
                beginning = self._begin(trainer, module, own, evaluated)
        beginning = trainer.strategy.broadcast(beginning)
        assert beginning is not None
        with all_or_none(trainer):
            self._join(trainer, beginning, {dataset.domain for _, dataset, _ in evaluated}, stage)
        if beginning.done:  # its loaders have no more than is left of what the limit allows
            name = f"limit_{'val' if stage == 'validate' else 'test'}_batches"
            self._limit = name, getattr(trainer, name)
            setattr(trainer, name, 1.0)
        return beginning.done

    def _join(self, trainer: Trainer, beginning: Beginning, domains: Iterable[str], stage: str | None) -> None:
        """Opens what this process writes in the folder of the run."""
        if self._run is None:  # not the first process, which holds the lock
            self._run = RunFolder(beginning.root)
        self._panels_left = {}
        for domain in domains:
            left = max(0, self.panels * trainer.world_size - beginning.panels.get(domain, 0))
            self._panels_left[domain] = (left + trainer.world_size - 1 - trainer.global_rank) // trainer.world_size
        if self.report and stage == "test":
            self._gallery = Gallery(self._run.root, self.panels)
        self._stream = self._run.records(trainer.global_rank).open("a", encoding="utf-8")

    def _begin(self, trainer: Trainer, module: LightningModule, own: Path, evaluated: Sequence[Any]) -> Beginning:
        """Chooses, locks and checks the folder, and writes its manifest."""
        method = find_method(trainer)
        if method is not None:
            method.check_network(require_segmentation(module).network)  # before anything is refused or put aside
        settings = describe_evaluation(trainer, module, evaluated)
        settings["baseline"] = self._scores_baseline(trainer)
        for search in list_searches(trainer):
            settings |= search.describe_settings()
        if self.selection is not None:
            weights = fingerprint_weights(require_segmentation(module).network)
            self.selection.check(method.settings() if method else None, weights, self.departures)
        run = choose_folder(own, self.folder is not None, self.overwrite, settings)
        try:
            runs = find_earlier(run, self.folder is not None, self.overwrite, settings)
            lines = run.locate()
            done = self._plan.find_done(lines) if self._plan.resumable else []
            reason = explain_new_beginning(trainer, self._plan, lines, done)
            if reason is not None:
                rank_zero_warn(f"{run.root}: {len(lines)} images are scored, but {reason}: all are predicted anew")
                set_aside(run.root)
                runs, done = [], []
            run.merge(done)
            if done:
                rank_zero_info(f"{run.root}: {len(done)} of {len(self._plan.images)} images are scored already")
            run.write_manifest({"settings": settings, "runs": [*runs, describe_run(trainer, module, len(done))]})
        except BaseException:
            run.lock.release()
            raise
        self._run = run
        names: dict[str, set[str]] = {}
        for line in done:
            names.setdefault(line.key[0], set()).add(line.key[1])
        return Beginning(run.root, names, run.count_panels())

    def _is_nothing_left(self) -> bool:
        """Returns whether everything was scored before this run."""
        found = self._done or {}
        return bool(found) and sum(map(len, found.values())) == len(self._plan.images)

    def _add_earlier(self, trainer: Trainer, module: LightningModule) -> None:
        """Adds the records of earlier runs to the module's sums, on the first process alone."""
        if self._run is None or not self._done or not trainer.is_global_zero:
            return
        scored = require_segmentation(module)
        records, searches = read_located(self._plan.sort(self._run.locate())), list_searches(trainer)
        for domain, group in groupby(records, key=lambda record: record["domain"]):
            total = Scores.zeros(scored.num_classes)
            for record in group:
                total += Scores.from_record(record)
                for search in searches:
                    search.add_earlier(record)
            scored.add_scores(domain, total)

    def _show_all_loaders(self, loop: Any) -> None:
        """Gives data sets of which nothing was left their column in Lightning's table: it skips empty loaders."""
        shown = getattr(loop, "_logged_outputs", None)
        if self._run is not None and self._done and shown is not None:
            shown.extend({} for _ in range(loop.num_dataloaders - len(shown)))

    def _write(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Mapping[str, Any]) -> None:
        assert self._stream is not None
        method = find_method(trainer)
        adaptations = method.adaptations if method else [None] * len(outputs["name"])
        baselines = self._predict_baseline(trainer, module, batch)
        if baselines is not None:
            scored = [score_image(*pair) for pair in zip(baselines, batch["mask"], strict=True)]
            baseline_scores = fetch_scores(scored, batch["mask"])
        lines = []
        for number, (name, scores, adaptation) in enumerate(
            zip(outputs["name"], outputs["scores"], adaptations, strict=True)
        ):
            record = {"domain": outputs["domain"], "name": name, "milliseconds": outputs["milliseconds"]}
            record |= {"adaptation": adaptation.to_record() if adaptation else None}
            record |= scores.to_record()
            if baselines is not None:
                record["baseline"] = baseline_scores[number].to_record()
            for search in list_searches(trainer):
                record |= search.extend_records(trainer, module, batch)[number]
            baseline = None if baselines is None else baselines[number]
            self._draw(trainer, module, batch, number, baseline, outputs, gain_of_image(record))
            lines.append(json.dumps(record) + "\n")
        self._stream.write("".join(lines))  # last: an image with a record is not predicted again
        self._stream.flush()

    def _scores_baseline(self, trainer: Trainer) -> bool:
        """Returns whether a run also scores the network as it is."""
        return self.baseline and trainer.state.fn == TrainerFn.TESTING and find_method(trainer) is not None

    def _predict_baseline(self, trainer: Trainer, module: LightningModule, batch: Mapping[str, Any]) -> Tensor | None:
        """Predicts a batch with the network as it is, if asked to: (B, K, H, W) probabilities."""
        if not self._scores_baseline(trainer):
            return None
        scored = require_segmentation(module)
        with trainer.precision_plugin.forward_context():
            return scale_temperature(predict_plainly(scored.network, batch["image"]), scored.temperature)

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        batch: Mapping[str, Any],
        number: int,
        baseline: Tensor | None,
        outputs: Any,
        gain: float,
    ) -> None:
        """Draws an image for the gallery, and its panel, if its domain does not have enough yet."""
        assert self._run is not None
        domain, name = outputs["domain"], outputs["name"][number]
        image, truth, prediction = batch["image"][number], batch["mask"][number], outputs["probabilities"][number]
        if self._gallery is not None and self._gallery.wants(domain, name, gain):
            palette = find_palette(trainer, module)
            self._gallery.add(domain, name, gain, image, truth, baseline, prediction, palette)
        left = self._panels_left.setdefault(domain, self.panels)
        if left <= 0:
            return
        self._panels_left[domain] = left - 1
        shown = [prediction] if baseline is None else [baseline, prediction]
        file = io.BytesIO()
        draw_panel(image, truth, shown, find_palette(trainer, module)).save(file, "PNG")
        write_file(self._run.root / PANELS / domain / f"{shorten_name(name)}.png", file.getvalue())

    def _finish(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._run is not None and self._stream is not None
        self._stream.close()
        self._stream = None
        trainer.strategy.barrier("results written")
        with all_or_none(trainer):
            if trainer.is_global_zero:
                self._complete(trainer, module, self._run)

    def _complete(self, trainer: Trainer, module: LightningModule, run: RunFolder) -> None:
        """Merges what all processes wrote, and sums it up."""
        self._check_visible(trainer, run)
        lines = run.merge(self._plan.sort(run.locate()))
        complete = not self._plan.resumable or len(lines) == len(self._plan.images)
        if complete and self._is_nothing_left() and run.is_finished():
            rank_zero_info(f"Results (from before, nothing was left to predict): {run.root / SUMMARY}")
        else:
            self._summarize(trainer, module, run, lines, complete)

    def _check_visible(self, trainer: Trainer, run: RunFolder) -> None:
        """Raises FileNotFoundError if the first process does not see what another one wrote."""
        for path in map(run.records, range(trainer.world_size)):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is not there: expected a results.folder that the processes on all machines see"
                )

    def _summarize(
        self, trainer: Trainer, module: LightningModule, run: RunFolder, lines: Sequence[Line], complete: bool
    ) -> None:
        method, scored = find_method(trainer), require_segmentation(module)
        datamodule: Any = getattr(trainer, "datamodule", None)
        summary = {
            "complete": complete,
            "limited": self._describe_limit(),
            "stage": find_stage(trainer),
            "method": method.settings() if method else None,
            "checkpoint": str(trainer.ckpt_path or scored.released or "") or None,
            "data": datamodule.describe() if hasattr(datamodule, "describe") else None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": find_commit(),
            "device": name_device(module),
            "precision": str(trainer.precision),
            "selection": None if self.selection is None else self.selection.describe(self.departures),
            "temperature": scored.temperature,
            "versions": {"torch": torch.__version__},
            "plain_formula": list_faults(),
            **summarize_records(read_located(lines), scored.class_names, scored.domains),
        }
        if summary["limited"] and complete:
            rank_zero_warn(
                "{images} of {of} images are scored, as a limit asks for (limit_test_batches, limit_val_batches or "
                "fast_dev_run)".format(**summary["limited"])
            )
        self._draw_reliability(run, summary["domains"])
        for search in list_searches(trainer) if complete else ():
            for name, content in search.report().items():
                write_file(run.root / name, (json.dumps(to_plain(content), indent=1) + "\n").encode())
        path = run.write_summary(summary)  # last: with it, a run is finished
        rank_zero_info(f"{'Results' if complete else 'Results of an interrupted run'}: {path}")
        try:
            self._show(trainer, module, run, lines)
        except Exception as error:  # the scores are on disk, and a run that was interrupted says why by itself
            rank_zero_warn(
                f"{run.root}: report or dashboard could not be made ({type(error).__name__}: {error}). The results are "
                f"whole; mend what the error names, then: python -m experiments.report {run.root}"
            )

    def _describe_limit(self) -> dict[str, int] | None:
        """Returns how many images of how many a limit leaves; None if there is none."""
        images, available = len(self._plan.images), self._plan.available
        return {"images": images, "of": available} if images < available else None

    def _show(self, trainer: Trainer, module: LightningModule, run: RunFolder, lines: Sequence[Line]) -> None:
        """Writes the report, and logs the dashboard."""
        if self._gallery is not None:
            self._gallery.trim(measure_gains(read_located(lines)))
            rank_zero_info(f"Report: {write_report(run.root)}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_dashboard(logger.experiment, run.root, require_segmentation(module).class_names)

    def _draw_reliability(self, run: RunFolder, domains: Mapping[str, Mapping[str, Any]]) -> None:
        if not any(sum(summary["reliability"]["pixels"]) for summary in domains.values()):
            return
        write_file(run.root / RELIABILITY, encode_figure(draw_reliability(domains)))

    def _close(self, trainer: Trainer) -> None:
        """Puts back what a run has changed."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._limit is not None:
            setattr(trainer, *self._limit)
            self._limit = None
        self._gallery = None
        if self._run is not None or self._done is None:
            leave_out(trainer, {})
            self._done = {}
        if self._run is not None:
            self._run.lock.release()
            self._run = None


def measure_gains(records: Iterable[Mapping[str, Any]]) -> dict[Key, float]:
    """Returns what each image with a record gained, see `gain_of_image`."""
    return {(record["domain"], record["name"]): gain_of_image(record) for record in records}


def explain_new_beginning(trainer: Trainer, plan: Plan, lines: Sequence[Line], done: Sequence[Line]) -> str | None:
    """Says why a run cannot go on from the records there are; None if it can, or there are none.

    Args:
        trainer: Of the run.
        plan: What it has to score.
        lines: All records.
        done: Those of whole batches.
    """
    if not lines:
        return None
    if not plan.resumable:
        return "these data cannot leave them out (expected a datamodule of this project, and different names)"
    stage = find_stage(trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if stage in getattr(callback, "needs_every_image", ()):
            return f"{type(callback).__name__} needs every image in the run"
    method = find_method(trainer)
    if keeps_knowledge(method) and len(done) < len(plan.images):
        return f"{type(method).__name__} KEEPS KNOWLEDGE between images, which was lost when the run stopped"
    return None


def leave_out(trainer: Trainer, done: Done) -> None:
    """Tells the data of a run what to leave out, if they can."""
    tell = getattr(getattr(trainer, "datamodule", None), "leave_out", None)
    if tell is not None:
        tell(done)
