"""The files that `predict` writes: label maps, overlays and confidence maps, and a manifest for resuming."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from callbacks.method import require_segmentation
from callbacks.report.panels import draw_overlay, encode_jpeg, encode_png, find_palette, restore_photograph
from callbacks.run.prediction_folder import SUFFIXES, Output, PredictionFolder, Writers, describe_image
from callbacks.run.processes import all_or_none, gather_sets
from callbacks.run.records import describe_run, find_folder, find_method, leave_out, to_plain, write_file, write_json
from callbacks.run.settings import describe_data, describe_predictor, find_root, keeps_knowledge
from lightning_modules.loaders import list_loaders

OUTPUTS: tuple[Output, ...] = ("labels", "train_ids", "overlays")
# Entries of a data set's description that do not affect predictions.
NOT_IN_PREDICTIONS = ("role", "choose_on_target", "broken", "left_out", "release")


class Predictions(Callback):
    """Writes the predictions of predict runs, with each image's name and at its size on disk.

    - ``labels``: `labels/DOMAIN/NAME.png`, an indexed PNG: the values are the classes, the palette their colours.
    - ``train_ids``: `train_ids/DOMAIN/NAME.png`, the same values as a plain gray PNG.
    - ``overlays``: `overlays/DOMAIN/NAME.jpg`, the class colours over the photograph (the network's input, resized to
      the size on disk).
    - ``confidence``: `confidence/DOMAIN/NAME.png`, a gray PNG of 255 times the probability of the class, rounded.

    Files are written atomically: a killed process leaves no partial file. `predictions.json` records the settings and
    how many images are done; `predictions.jsonl` has a line per image. The same command run again resumes and skips
    images that are done. Different settings in the same folder are an error, unless `overwrite` is set.

    Threads write while the network predicts. With several processes, each writes its own images, to a folder that all
    of them share.

    Args:
        folder: The output folder; None means the logger's folder of the run, or `outputs/results` without a logger.
        outputs: One or more of the kinds above.
        overwrite: Whether to start over and replace the predictions in the folder.

    Raises:
        ValueError: If outputs is empty or has an unknown kind.
    """

    def __init__(self, folder: str | None = None, outputs: Sequence[Output] = OUTPUTS, overwrite: bool = False) -> None:
        if not outputs or any(output not in SUFFIXES for output in outputs):
            raise ValueError(f"outputs is {list(outputs)}: expected one or more of {', '.join(SUFFIXES)}")
        self.folder = folder
        self.outputs = tuple(output for output in get_args(Output) if output in outputs)
        self.overwrite = overwrite
        self._place: PredictionFolder | None = None
        self._manifest: dict[str, Any] = {}
        self._done: dict[str, set[str]] = {}
        self._palette = np.zeros((256, 3), dtype=np.uint8)
        self._stream: IO[str] | None = None
        self._writers = Writers()
        self._may_be_empty = False
        self._left_out: dict[str, set[str]] = {}
        self._files: dict[int, dict[str, Path]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Registers the function that tells the data which images to skip; called once the checkpoint is loaded."""
        if stage == "predict":
            self._files = {}
            leave_out(trainer, lambda: self._open(trainer, pl_module))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the folder, if the data have not done so.

        Raises:
            ValueError: If two data sets have the same domain: their files would share a folder.
        """
        self._open(trainer, pl_module)
        domains = [loader.dataset.domain for loader in list_loaders(trainer.predict_dataloaders) if has_names(loader)]
        for domain in domains:
            if domains.count(domain) > 1:
                raise ValueError(
                    f"{domains.count(domain)} data sets are named {domain}, and predictions go into a folder of that "
                    "name: expected different names, set their domain"
                )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hands a batch to the writer threads."""
        if outputs is None:
            return  # too small for the network: the data have recorded that
        assert self._place is not None and self._stream is not None
        domain = outputs["domain"]
        files = self._find_files(trainer, dataloader_idx)
        described = (outputs[key] for key in ("name", "labels", "confidence", "adaptation"))
        for name, labels, confidence, adaptation, image in zip(*described, batch["image"], strict=True):
            if name in self._done.get(domain, ()):
                continue  # only data without `leave_out` still have images that are done
            paths = self._place.paths(domain, name)
            record = {
                "domain": domain,
                "name": name,
                "height": labels.shape[0],
                "width": labels.shape[1],
                "finite": bool(confidence.isfinite().all()),
                "image": describe_image(files.get(name)),
                "adaptation": adaptation,
            }
            for path in filter(Path.exists, paths.values()):  # left from another image: files mark an image as done
                path.unlink()
            self._stream.write(json.dumps(to_plain(record)) + "\n")
            self._stream.flush()  # before its files are written
            self._writers.add(self._write, paths, labels, confidence, image)
        if trainer.received_sigterm and not getattr(trainer.predict_loop.batch_progress, "is_last_batch", False):
            raise SIGTERMException  # Lightning raises it in all loops but this one

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Waits for the threads and completes the manifest, even if there was nothing left to predict."""
        place = self._place
        if stage != "predict" or place is None:
            return
        self._writers.finish()
        self._close(trainer, pl_module)
        self._left_out = gather_sets(list_left_out(trainer))
        with all_or_none(trainer):
            if trainer.is_global_zero:
                place.merge_records()
                self._summarize(place, trainer, ended=True)
                place.lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Updates the manifest with the images done so far."""
        place = self._place
        if place is None:  # not a predict run, or its folder was not open yet
            leave_out(trainer, {})
            return
        self._writers.abandon()
        self._close(trainer, pl_module)
        self._left_out = list_left_out(trainer)
        if trainer.is_global_zero:
            self._summarize(place, trainer, ended=False)
            place.lock.release()

    def _find_files(self, trainer: Trainer, dataloader_idx: int) -> Mapping[str, Path]:
        """Returns the image files of a data set by image name; empty if it does not consist of files."""
        if dataloader_idx not in self._files:
            dataset = getattr(list_loaders(trainer.predict_dataloaders)[dataloader_idx], "dataset", None)
            self._files[dataloader_idx] = {pair.name: pair.image for pair in getattr(dataset, "pairs", ())}
        return self._files[dataloader_idx]

    def _open(self, trainer: Trainer, module: LightningModule) -> dict[str, set[str]]:
        """Opens the folder on all processes, once; returns the names of the images that are done, by domain.

        Raises:
            ValueError: If the folder has predictions of other settings, or lies in a folder of input images.
            FolderInUseError: If another run writes to the folder.
            FileExistsError: If it has output files without a manifest.
        """
        if self._place is not None:
            return self._done
        place = PredictionFolder(find_folder(trainer, self.folder), self.outputs)
        try:
            with all_or_none(trainer):
                for member in list_members(trainer):
                    place.check_apart(find_root(member))
                self._palette = find_palette(trainer, module)
                if trainer.is_global_zero:
                    self._begin(place, trainer, module)
            self._done = trainer.strategy.broadcast(self._done)
            with all_or_none(trainer):
                self._stream = place.records(trainer.global_rank).open("a", encoding="utf-8")
        except BaseException:
            place.lock.release()
            raise
        self._place = place
        self._writers = Writers()
        self._may_be_empty = module.allow_zero_length_dataloader_with_multiple_devices
        module.allow_zero_length_dataloader_with_multiple_devices = True  # fewer images than processes may be left
        if self._done:
            warnings.filterwarnings("ignore", "Total length of `DataLoader` across ranks is zero")
        return self._done

    def _begin(self, place: PredictionFolder, trainer: Trainer, module: LightningModule) -> None:
        """Locks and checks the folder, finds the images that are done, and writes the manifest."""
        place.lock.acquire()
        settings = describe_predicting(trainer, module, self._palette) | {"outputs": list(self.outputs)}
        runs = place.prepare(settings, self.overwrite, keeps_knowledge(find_method(trainer)))
        place.merge_records()
        self._done = place.find_done()
        found = sum(map(len, self._done.values()))
        if found:
            rank_zero_info(f"{place.root} has predictions of {found} images: these images are skipped")
        run = describe_run(trainer, module, found)
        self._manifest = {"complete": False, "settings": settings, "runs": [*runs, run]}
        write_json(place.manifest, self._manifest)

    def _write(self, paths: Mapping[Output, Path], labels: Tensor, confidence: Tensor, image: Tensor) -> None:
        """Writes the files of one image."""
        classes = labels.numpy()
        for output, path in paths.items():
            if output == "labels":
                data = encode_png(classes, self._palette)
            elif output == "train_ids":
                data = encode_png(classes)
            elif output == "overlays":
                data = encode_jpeg(draw_overlay(restore_photograph(image), classes, self._palette))
            else:
                data = encode_png((255 * confidence.nan_to_num()).round().to(torch.uint8).numpy())
            write_file(path, data)

    def _close(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._stream is not None
        self._stream.close()
        self._place = None
        leave_out(trainer, {})
        module.allow_zero_length_dataloader_with_multiple_devices = self._may_be_empty

    def _summarize(self, place: PredictionFolder, trainer: Trainer, ended: bool) -> None:
        done, records, expected = place.find_done(), place.read_records(), list_expected(trainer)
        domains = {
            domain: {
                "expected": len(expected[domain]) if domain in expected else None,
                **count_records([records[domain, name] for name in done.get(domain, ())]),
            }
            for domain in sorted({*done, *expected})
        }
        left_out = sorted({name for names in self._left_out.values() for name in names})
        missing = sum(
            len(names - done.get(domain, set()) - self._left_out.get(domain, set()))
            for domain, names in expected.items()
        )
        count = sum(map(len, done.values()))
        self._manifest |= {"complete": ended and not missing, "images": count, "domains": domains, "left_out": left_out}
        write_json(place.manifest, self._manifest)
        if not (ended or count):
            return  # stopped before the first image: there is nothing to resume
        found = self._manifest["runs"][-1]["found"]
        state = "complete" if self._manifest["complete"] else "incomplete: run the same command again to resume"
        rank_zero_info(
            f"Predictions of {count} images ({found} from earlier runs; {state}): "
            f"{', '.join(str(place.root / output) for output in self.outputs)}"
        )


def describe_predicting(trainer: Trainer, module: LightningModule, palette: np.ndarray) -> dict[str, Any]:
    """Returns all settings that predictions depend on, as plain values for JSON.

    Args:
        trainer: The run's trainer.
        module: The SegmentationModule, with the weights that predict.
        palette: (256, 3) uint8 RGB, the colours of the classes.
    """
    data = {}
    for number, member in enumerate(list_members(trainer)):
        described = describe_data(member, NOT_IN_PREDICTIONS)
        data[described.get("domain", f"data{number}")] = described
    num_classes = require_segmentation(module).num_classes
    colours = [f"#{palette[label].tobytes().hex()}" for label in range(num_classes)]
    return to_plain({**describe_predictor(trainer, module), "colours": colours, "data": data})


def list_members(trainer: Trainer) -> list[Any]:
    """Lists the datamodules of the data sets to predict: those of a multi-target datamodule, or the single one."""
    datamodule = getattr(trainer, "datamodule", None)
    return [] if datamodule is None else list(getattr(datamodule, "targets", [datamodule]))


def list_left_out(trainer: Trainer) -> dict[str, set[str]]:
    """Returns the names of the images that this process skipped as broken or too small, by domain."""
    left_out: dict[str, set[str]] = {}
    for member in list_members(trainer):
        problems = [problem for found in getattr(member, "left_out", {}).values() for problem in found]
        if problems:
            left_out.setdefault(member.domain, set()).update(problem.name for problem in problems)
    return left_out


def has_names(loader: Any) -> bool:
    """Returns whether a loader's data set provides its domain and the names of its images."""
    dataset = getattr(loader, "dataset", None)
    return hasattr(dataset, "domain") and hasattr(dataset, "name") and hasattr(dataset, "__len__")


def list_expected(trainer: Trainer) -> dict[str, set[str]]:
    """Returns the names of all images to predict, done or not, by domain, for data sets that provide names."""
    datasets = [loader.dataset for loader in list_loaders(trainer.predict_dataloaders) if has_names(loader)]
    return {dataset.domain: {dataset.name(index) for index in range(len(dataset))} for dataset in datasets}


def count_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts images, and those with a fallback, a note or non-finite values."""
    adaptations = [record["adaptation"] for record in records if record["adaptation"]]
    return {
        "images": len(records),
        "fallbacks": sum(adaptation["fallback"] for adaptation in adaptations),
        "notes": sorted({adaptation["note"] for adaptation in adaptations if adaptation["note"]}),
        "images_with_notes": sum(adaptation["note"] is not None for adaptation in adaptations),
        "images_not_finite": sum(not record["finite"] for record in records),
    }
