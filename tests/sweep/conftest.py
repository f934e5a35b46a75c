"""What the tests of sweeps share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main as program
from tests.sweep.given import fake_main


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The runs of the function that stands for main.py, as a function that reads them."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.delenv("SEGADAPT_EXPERIMENT", raising=False)
    monkeypatch.setenv("SEGADAPT_CHECKPOINT", str(tmp_path / "best.ckpt"))
    monkeypatch.setattr(program, "main", fake_main)
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
