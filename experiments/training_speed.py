"""The input pipeline against the training step: which of the two makes training wait.

Measures images per second of the training loader alone, of training on one batch that is repeated, and of training on
what the loader gives. The last two run in the same loop, `Trainer.fit` on the project's `SegmentationModule` (forward,
backward, SGD, the logging of a run without a logger), so that they differ in nothing but the source of their batches.
Without `--config` the data are generated pairs of PNGs in GTA5's layout and size.
"""

import argparse
import itertools
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from callbacks.records import find_commit, write_file
from datamodules import GTADataModule
from experiments.benchmark.cases import CONFIGS, make_network
from experiments.benchmark.cost import PRECISIONS, synchronize
from experiments.command_line import to_path
from experiments.reading import ENCODINGS, draw_photographs, name_processor, write_tree
from lightning_modules.segmentation import SegmentationModule
from main import main

GTA_SIZE = (1052, 1914)
LEAST_BATCHES = 3  # that are measured, however long they take
LEAST_PAIRS = 64  # links to the files that were drawn


@dataclass(frozen=True)
class Budget:
    """How long something is measured.

    Attributes:
        warm_up: Batches that do not count.
        seconds: Of measuring, after which it ends with the next batch.
    """

    warm_up: int
    seconds: float

    def is_spent(self, batches: int, seconds: float) -> bool:
        """Tells whether this is enough."""
        return batches >= LEAST_BATCHES and seconds >= self.seconds


class Pace(Callback):
    """Counts images per second of training from the end of the warm-up on, and stops when the budget is spent."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.images = self.batches = 0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the time when the device is done with a batch of the warm-up, and then of each that counts."""
        if trainer.global_step < self.budget.warm_up:
            return
        if trainer.global_step == self.budget.warm_up:
            synchronize(pl_module.device)
            self._start = time.perf_counter()
            return
        self.images += len(batch["image"])
        self.batches += 1
        if self.budget.is_spent(self.batches, time.perf_counter() - self._start):
            synchronize(pl_module.device)
            self.seconds = time.perf_counter() - self._start
            trainer.should_stop = True


class Repeated(IterableDataset):
    """Gives the same batch for ever."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the batch."""
        return itertools.repeat(self.batch)


def measure_loader(loader: DataLoader, budget: Budget) -> float:
    """Returns images per second of a loader alone, epoch after epoch, once its workers have started."""
    count = images = 0
    start = seconds = 0.0
    for epoch in itertools.count():
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        for batch in loader:
            count += 1
            if count <= budget.warm_up:
                start = time.perf_counter()
                continue
            images += len(batch["image"])
            seconds = time.perf_counter() - start
            if budget.is_spent(count - budget.warm_up, seconds):
                return images / seconds
    raise AssertionError("an epoch follows each epoch")


def measure_training(
    model: SegmentationModule, loader: DataLoader, budget: Budget, options: argparse.Namespace
) -> float:
    """Returns images per second of `Trainer.fit` with the batches of a loader."""
    pace = Pace(budget)
    with tempfile.TemporaryDirectory(prefix="training_speed_") as folder:
        trainer = Trainer(
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            precision=options.precision,
            max_steps=10**6,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=[pace],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(model, loader)
    return pace.rate


def write_pairs(root: Path, options: argparse.Namespace) -> float:
    """Writes generated pairs in GTA5's layout; returns the MB of an average pair."""
    encoding = next(encoding for encoding in ENCODINGS if encoding.datamodule is GTADataModule)
    encoding = replace(encoding, image="images/train/{}.png", labels="labels/train/{}.png", split="train")
    write_tree(root, encoding, draw_photographs(options.pairs, options.size), max(options.pairs, LEAST_PAIRS))
    files = [path.stat().st_size for path in root.rglob("*.png")]
    return sum(files) / len(files) * 2 / 1e6


def open_data(root: Path, options: argparse.Namespace) -> tuple[SegmentationModule, LightningDataModule]:
    """Makes the model and the data: those of the experiment named, or the pairs in a folder."""
    if options.config is not None:
        arguments = [f"--config={options.config}", f"--model={CONFIGS / options.network}.yaml", "--trainer.max_steps=1"]
        arguments += [
            "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false",
            "--trainer.logger=false",
            f"--trainer.default_root_dir={root}",
        ]
        if "weights:" in (CONFIGS / f"{options.network}.yaml").read_text(encoding="utf-8"):
            arguments.append("--model.network.init_args.weights=null")
        cli = main(["fit", *arguments, *options.options])
        return cli.model, cli.datamodule
    data = GTADataModule(
        str(root),
        batch_size=options.batch_size,
        num_workers=options.workers,
        crop_size=(options.crop, options.crop),
        repeats=100,
    )
    return SegmentationModule(make_network(options.network)), data


def measure_rates(
    model: SegmentationModule, data: LightningDataModule, options: argparse.Namespace
) -> tuple[dict[str, float], list[int], int]:
    """Measures the three.

    Returns:
        Images per second of the ``loader``, the ``step`` and ``both``; the shape of a batch; the number of workers.
    """
    loader = data.train_dataloader()
    batch, workers = next(iter(loader)), loader.num_workers
    budget = Budget(options.warm_up, options.seconds)
    # The batches that workers hold ready when the clock starts are not to count as quick ones.
    ready = replace(budget, warm_up=max(options.warm_up, 2 * workers))
    rates: dict[str, float] = {}
    for name in ("loader", "step", "both"):
        if name == "loader":
            rates[name] = measure_loader(loader, ready)
        elif name == "step":
            rates[name] = measure_training(model, DataLoader(Repeated(batch), batch_size=None), budget, options)
        else:
            rates[name] = measure_training(model, data.train_dataloader(), ready, options)
        print(f"{name:<8}{rates[name]:8.2f} images per second", flush=True)
    return rates, list(batch["image"].shape), workers


def compare(report: dict[str, Any]) -> str:
    """Says in a sentence which is the bottleneck."""
    loader, step, both = (report["images_per_s"][name] for name in ("loader", "step", "both"))
    slower, share = ("input pipeline", loader / step) if loader < step else ("training step", step / loader)
    return (
        f"The {slower} is the bottleneck: it runs at {100 * share:.0f} % of the other's rate; together they reach "
        f"{100 * both / min(loader, step):.0f} % of the slower one's."
    )


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    name, summary = "python -m experiments.training_speed", __doc__.split("\n\n")[0]
    parser = argparse.ArgumentParser(prog=name, description=summary)
    add = parser.add_argument
    add("--folder", type=to_path, default=Path("outputs/training_speed"), help="where to write (%(default)s)")
    add("--network", default="deeplabv1_resnet50", help="a file of configs/model, with random weights (%(default)s)")
    add("--config", type=to_path, metavar="EXPERIMENT", help="take the training data of this experiment")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--precision", choices=list(PRECISIONS), default="32-true", help="(%(default)s)")
    add("--seconds", type=float, default=30.0, help="that each of the three is measured (%(default)s)")
    add("--warm-up", type=int, default=10, help="batches before that (%(default)s)")
    own = parser.add_argument_group("of generated pairs (with --config these are the experiment's)")
    own.add_argument("--batch-size", type=int, default=4, help="images per batch (%(default)s)")
    own.add_argument("--crop", type=int, default=512, help="height and width of crops (%(default)s)")
    own.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of the loader (%(default)s)")
    own.add_argument("--pairs", type=int, default=16, help="different pairs that are drawn (%(default)s)")
    own.add_argument(
        "--size", type=int, nargs=2, default=GTA_SIZE, metavar=("H", "W"), help="of the images (1052 1914)"
    )
    add("options", nargs="*", help="with --config: more arguments for main.py, after --")
    options = parser.parse_args(args)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def run(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, writes `training_speed.json`; returns what it writes.

    Returns:
        ``images_per_s`` of the ``loader``, the ``step`` and ``both``, ``bottleneck``, and what was measured where.
    """
    options = parse_arguments(args)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*the official number is")  # of images in the whole data set
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="training_speed_") as folder:
        megabytes = None if options.config else write_pairs(Path(folder), options)
        model, data = open_data(Path(folder), options)
        rates, batch, workers = measure_rates(model, data, options)
    report: dict[str, Any] = {
        "images_per_s": rates,
        "bottleneck": "loader" if rates["loader"] < rates["step"] else "step",
        "network": options.network,
        "data": str(options.config) if options.config else f"generated GTA5-like PNG pairs, {megabytes:.2f} MB each",
        "batch": batch,
        "workers": workers,
        "loop": "Trainer.fit",
        "precision": options.precision,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else name_processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": load,
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": find_commit(),
    }
    print(f"\n{compare(report)}", flush=True)
    write_file(options.folder / "training_speed.json", json.dumps(report, indent=1).encode())
    return report


if __name__ == "__main__":
    run()
