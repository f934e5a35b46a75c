"""What tests of whole runs share: a module, data, a run that breaks off, and what a run leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback

from callbacks.results import Results
from callbacks.run.records import read_records
from datamodules import TargetsDataModule
from datamodules.labels import LabelSpace
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer


def make_module(temperature: float = 1.0, **kwargs: Any) -> SegmentationModule:
    """Makes a module of a `TinyNetwork` with these arguments."""
    names = list(LabelSpace.of_size(19).names)
    return SegmentationModule(TinyNetwork(19, **kwargs), 19, names, temperature=temperature)


def make_data(near: int = 4, far: int = 2, wide: int = 3, **kwargs: Any) -> TargetsDataModule:
    """Makes so many images of each target, and five on the development set."""
    lengths = {"near": near, "far": far, "wide": wide}
    targets = [FakeDataModule(name, length, **kwargs) for name, length in lengths.items() if length]
    return TargetsDataModule(targets, development=FakeDataModule("dev", 5, **kwargs))


def make_targets(**kwargs: Any) -> TargetsDataModule:
    """Makes five images over two targets."""
    return make_data(3, 2, 0, **kwargs)


def read_json(path: Path) -> dict[str, Any]:
    """Reads strict JSON: NaN and infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class Stop(Callback):
    """Breaks off before the batch of a number; keeps the names of the images that are predicted."""

    def __init__(self, at: int | None = None, error: Callable[[str], BaseException] = RuntimeError) -> None:
        self.at = at
        self.error = error
        self.batches: list[list[str]] = []

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        if len(self.batches) == self.at:
            raise self.error("stopped")
        self.batches.append(batch["name"])

    on_validation_batch_start = on_test_batch_start
    on_predict_batch_start = on_test_batch_start

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


def run(
    folder: Path,
    *callbacks: Callback,
    stage: str = "test",
    data: Any = None,
    module: SegmentationModule | None = None,
    results: dict[str, Any] | None = None,
    verbose: bool = False,
    **kwargs: Any,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Runs; returns what the trainer returns, and what it logged."""
    own = Results(**{"folder": str(folder), "panels": 0, "report": False, **(results or {})})
    trainer = make_trainer(folder.parent, callbacks=[*callbacks, own], **kwargs)
    data = make_data() if data is None else data
    returned = getattr(trainer, stage)(module or make_module(), datamodule=data, verbose=verbose)
    return returned, {key: value.item() for key, value in trainer.callback_metrics.items()}


def stop_run(folder: Path, *callbacks: Callback, at: int, **kwargs: Any) -> list[str]:
    """Runs until the batch of a number; returns the names of the images before."""
    stop = Stop(at)
    with pytest.raises(RuntimeError, match="stopped"):
        run(folder, *callbacks, stop, **kwargs)
    return stop.names


def read_results(folder: Path) -> dict[str, Any]:
    return read_json(folder / "results.json")


def read_files(folder: Path) -> dict[str, bytes]:
    """Reads all that a run has written but its manifest, which has dates."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in ("run.json", "predictions.json")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads a summary without what no two runs share."""
    summary = read_results(folder)
    for domain in (*summary["domains"].values(), summary["mean"]):
        domain.pop("ms_per_image", None)
    return {key: value for key, value in summary.items() if key not in ("date", "commit")}


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Reads the records without the measured time; checks that no other files of records are left."""
    assert not list(folder.glob("records.rank*")) and not list(folder.glob(".*"))
    return [record | {"milliseconds": None} for record in read_records(folder / "records.jsonl")]


def check_same(folder: Path, other: Path) -> None:
    """Asserts that two runs left the same records and the same summary."""
    assert read_all(folder) == read_all(other) and read_summary(folder) == read_summary(other)


def list_found(folder: Path) -> list[int]:
    return [earlier["found"] for earlier in read_json(folder / "run.json")["runs"]]
