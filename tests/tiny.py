"""Arguments that make any experiment on StreetScenes tiny, and what such a run leaves."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXPERIMENT = ROOT / "configs" / "experiment" / "street_scenes.yaml"

DATA = [
    "--data.height=64",
    "--data.width=128",
    "--data.num_train=8",
    "--data.num_val=2",
    "--data.num_test=3",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.crop_size=[32,32]",
]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
QUIET.append("--untrained=true")  # scores of networks with random weights are wanted here
NO_LOGGER = ["--trainer.logger=false"]


def place(folder: Path) -> list[str]:
    """Returns the arguments that make a run write into a folder."""
    return [f"--trainer.default_root_dir={folder}", f"--results.folder={folder / 'results'}"]


def arguments(folder: Path, *more: str, experiment: Path = EXPERIMENT, logger: bool = False) -> list[str]:
    """Returns the arguments of a tiny run that writes into a folder."""
    plain = ["--results.report=false"]  # takes longer than the run; those who look at it turn it on
    return [f"--config={experiment}", *DATA, *QUIET, *([] if logger else NO_LOGGER), *place(folder), *plain, *more]


def predict_arguments(photographs: Path, folder: Path, *more: str) -> list[str]:
    """Returns the arguments of `predict` on a folder of photographs."""
    data = ["--data=FolderDataModule", f"--data.root={photographs}", "--data.num_workers=0"]
    return ["predict", f"--config={EXPERIMENT}", *data, *QUIET, *NO_LOGGER, *place(folder), *more]


def when_written(*paths: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


def read_results(folder: Path) -> dict[str, Any]:
    """Reads the results.json of such a run."""
    return json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
