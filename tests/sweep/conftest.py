"""What the tests of sweeps share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main as program
from main import main
from tests.sweep.given import fake_main
from tests.tiny import arguments


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny training run."""
    folder = tmp_path_factory.mktemp("fit")
    main(["fit", *arguments(folder, "--trainer.max_epochs=1", "--data.repeats=2")])
    return folder / "checkpoints" / "best.ckpt"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The runs of the function that stands for main.py, as a function that reads them."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.delenv("SEGADAPT_EXPERIMENT", raising=False)
    monkeypatch.setenv("SEGADAPT_CHECKPOINT", str(tmp_path / "best.ckpt"))
    monkeypatch.setattr(program, "main", fake_main)
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
