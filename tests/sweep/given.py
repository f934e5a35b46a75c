"""A sweep to try things on, and a function that stands for main.py."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from experiments.sweep.__main__ import run_command
from experiments.sweep.trial import ScoreReporter
from lightning_modules.metrics import Scores
from tests.tiny import ROOT

IMAGES = 15


def fake_main(args: list[str]) -> None:
    """Stands for main.py where only the sweep around it is tested: scores 15 images, the best of them at alpha 0.4."""
    given = dict(argument.lstrip("-").split("=", 1) for argument in args[1:] if "=" in argument)
    own = {name[7:]: json.loads(value) for name, value in given.items() if name.startswith("method.")}
    if "--print_config" in args:
        data = {"choose_on_target": given.get("data.choose_on_target") == "true"}
        method = {"class_path": "callbacks.IaBN", "init_args": own}
        config = {"data": data, "model": {}, "method": method, "trainer": {}, "ckpt_path": given["ckpt_path"]}
        print(json.dumps(config))
        sys.exit()
    folder = Path(given["results.folder"])
    records, hits = folder / "records.jsonl", round(100 - 100 * abs(own["alpha"] - 0.4))
    done = records.read_text().count("\n") if records.exists() else 0
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(json.dumps({"found": done, **given}) + "\n")
    if own["alpha"] > 1:
        print("error: alpha is out of its range", file=sys.stderr)
        sys.exit(2)
    scores = make_scores([hits, 0], [100, 0])
    reporter, trainer = ScoreReporter(), SimpleNamespace(world_size=1)
    reporter.on_validation_epoch_start(trainer, None)  # type: ignore[arg-type]
    for number in range(done, IMAGES):
        time.sleep(float(os.environ.get("SECONDS_PER_IMAGE", 0)))
        with records.open("a") as file:
            file.write(json.dumps({"domain": "development", "name": str(number), **scores.to_record()}) + "\n")
        outputs = {"scores": [scores], "domain": "development"}
        reporter.on_validation_batch_end(trainer, None, outputs)  # type: ignore[arg-type]
    mean = {"miou": hits, "ece": 100 - hits}
    (folder / "results.json").write_text(json.dumps({"mean": mean, "domains": {"development": mean}}))


def make_scores(hits: list[int], union: list[int]) -> Scores:
    """Returns the scores of an image of two classes, from the pixels hit and those of hit or miss."""
    return Scores.from_record(Scores.zeros(2).to_record() | {"intersection": hits, "union": union, "pixels": union})


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Writes a sweep over alpha; None leaves a key out."""
    (folder / "best.ckpt").write_bytes(b"weights")
    content = {
        "program": str(ROOT / "main.py"),
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "parameters": {"method.alpha": {"values": [0.0, 0.2, 0.4, 0.6]}},
        "command": [
            *("${env}", "${interpreter}", "${program}", "validate", "--ckpt_path=${envvar:SEGADAPT_CHECKPOINT}"),
            *("--method=IaBN", "${args}"),
        ],
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def read_outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def list_trials(folder: Path) -> list[tuple[Any, Any, str]]:
    return [(row["values"]["method.alpha"], row["score"], row["state"]) for row in read_outcome(folder)["trials"]]


def sweep(folder: Path, *options: str, more: tuple[str, ...] = ()) -> str | None:
    """Runs the sweep of a folder, one run per trial; returns its error."""
    try:
        run_command([str(folder / "sweep.yaml"), "--separate", f"--folder={folder / 'out'}", *options, "--", *more])
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None
