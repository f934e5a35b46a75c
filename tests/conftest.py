"""What every test gets: no network, a fixed number of threads, and a clean environment outside the repository."""

import os

# Before anything imports albumentations, wandb, matplotlib or torch.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` uses two processes

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
import wandb

from tests.tiny import arguments

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

LONG = 10.0  # seconds of a slow or busy machine: 5 of an idle core here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `cuda` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that takes long and is not marked `slow`."""
    start = time.process_time()  # other work on the machine does not count
    outcome = yield
    seconds = time.process_time() - start
    if seconds > LONG and not item.get_closest_marker("slow"):
        pytest.fail(f"it takes {seconds:.1f} s of processor time, more than {LONG:g}: make it shorter, or mark it slow")
    return outcome


@pytest.fixture(autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let Weights & Biases write to a temporary folder, and undo what a test or Lightning does to `os.environ`."""
    before = dict(os.environ)
    folder = str(tmp_path_factory.mktemp("wandb"))
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[name] = folder
    yield
    if wandb.run is not None:
        wandb.finish()  # or the loggers of the next test would write into this run
    wandb.teardown()  # or it would keep this test's environment: it reads it once per process
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or Lightning would take the next test for one process of several
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny training run on StreetScenes."""
    from main import main

    folder = tmp_path_factory.mktemp("fit")
    main(["fit", *arguments(folder, "--trainer.max_epochs=1", "--data.repeats=2")])
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    return folder / "checkpoints" / "best.ckpt"
