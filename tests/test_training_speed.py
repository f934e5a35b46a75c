"""The input pipeline against the training step, on a tiny budget."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from experiments.training_speed import Budget, compare, measure_loader, run
from tests.tiny import DATA, EXPERIMENT, QUIET

FAST = ["--device=cpu", "--network=deeplabv1_resnet10_small", "--seconds=0.01", "--warm-up=1"]


class SlowDataset(Dataset[dict[str, Any]]):
    """Takes 5 ms for each image."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(0.005)
        return {"image": torch.zeros(3, 2, 2)}


def test_loader_is_measured_over_several_epochs() -> None:
    loader = DataLoader(SlowDataset(), batch_size=2)
    rate = measure_loader(loader, Budget(warm_up=1, seconds=0.2))
    assert 20 < rate <= 200


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (
            (10.0, 20.0, 9.0),
            "The input pipeline is the bottleneck: it runs at 50 % of the other's rate",
        ),
        (
            (40.0, 20.0, 19.0),
            "The training step is the bottleneck: it runs at 50 % of the other's rate",
        ),
    ],
)
def test_the_slower_one_is_named(rates: tuple[float, float, float], expected: str) -> None:
    report = {"images_per_s": dict(zip(("loader", "step", "both"), rates, strict=True))}
    assert compare(report).startswith(expected)


def check_report(report: dict[str, Any], folder: Path) -> None:
    assert set(report["images_per_s"]) == {"loader", "step", "both"}
    assert all(rate > 0 for rate in report["images_per_s"].values())
    assert report["loop"] == "Trainer.fit" and report["bottleneck"] in ("loader", "step")
    assert json.loads((folder / "training_speed.json").read_text()) == report


def test_generated_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--batch-size=2", "--crop=32", "--workers=0", "--pairs=1", "--size", "64", "128"]
    report = run([*FAST, f"--folder={tmp_path}", *own])
    check_report(report, tmp_path)
    assert report["batch"] == [2, 3, 32, 32] and report["workers"] == 0
    assert "bottleneck" in capsys.readouterr().out


def test_data_of_an_experiment(tmp_path: Path) -> None:
    report = run([*FAST, f"--folder={tmp_path}", f"--config={EXPERIMENT}", "--", *DATA, *QUIET])
    check_report(report, tmp_path)
    assert report["batch"] == [4, 3, 32, 32]
