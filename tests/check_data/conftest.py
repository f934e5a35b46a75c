"""A check of data sets from its command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.check_data.__main__ import main
from tests.check_data.trees import VENDORS, Check, CheckOwn, set_official, write_yaml


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs a command line; returns its exit code, its report, and what it wrote to stdout and stderr."""
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)

    def run(*args: str | Path) -> tuple[int, dict[str, Any], str, str]:
        path = tmp_path / "reports" / "check.json"
        code = main(["--json", str(path), *map(str, args), "--threads", "2"])
        written = capsys.readouterr()
        return code, json.loads(path.read_text()) if path.exists() else {}, written.out, written.err

    return run


@pytest.fixture
def check_own(check: Check, tmp_path: Path) -> CheckOwn:
    """Runs it on the YAML of a `FolderDataModule`; returns the exit code, what is found of each split, and stdout."""

    def run(root: Path, *args: str, **arguments: Any) -> tuple[int, dict[str, Any], str]:
        config = write_yaml(tmp_path / "own.yaml", "FolderDataModule", root=str(root), **arguments)
        code, report, out, _ = check("--data", config, *args)
        return code, {found["split"]: found for found in report["data_sets"][0]["splits"]}, out

    return run


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the sizes of the fake trees the official ones."""
    for name in VENDORS:
        set_official(monkeypatch, name)
