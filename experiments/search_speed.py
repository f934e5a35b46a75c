"""What one pass over a grid of settings saves against a run for each: 11 alphas of IaBN, 10 step counts of Seg-TTT.

Both ways run in one process, one after the other, on the same images. Times are this process's CPU time, which other
work on the machine hardly changes; that the scores are the same is checked.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")

import torch

from callbacks.alpha_search import ALPHAS
from callbacks.results import SUMMARY
from callbacks.run_folder import SEARCH
from experiments.study import describe_method
from main import main

GRIDS: dict[str, tuple[str, dict[str, Any], str, Sequence[Any]]] = {
    "11 alphas of IaBN": ("IaBN", {}, "alpha", ALPHAS),
    "10 step counts of Seg-TTT": ("SegTTT", {"scales": [0.5, 0.75, 1.0]}, "num_steps", range(1, 11)),
}


def measure(name: str, common: Sequence[str], folder: Path) -> dict[str, Any]:
    """Measures one grid both ways.

    Args:
        name: Of the grid.
        common: Arguments of every run.
        folder: Where the runs write.

    Returns:
        ``name``, ``points``, CPU seconds of ``one_pass`` and ``separate`` runs, and their ``ratio``.

    Raises:
        RuntimeError: If the two ways do not give the same scores.
    """
    method, settings, argument, values = GRIDS[name]
    base = {"class_path": f"callbacks.{method}", "init_args": settings}
    search = {"class_path": "callbacks.method_search.MethodSearch"}
    search |= {"init_args": {"method": base, "grid": {argument: list(values)}}}  # type: ignore[dict-item]
    start = time.process_time()
    main(["validate", *common, f"--results.folder={folder / 'pass'}", f"--trainer.callbacks={json.dumps([search])}"])
    one_pass = time.process_time() - start
    points = json.loads((folder / "pass" / SEARCH).read_text(encoding="utf-8"))["points"]
    start = time.process_time()
    alone = []
    for value in values:
        place = folder / str(value)
        arguments = describe_method(method, settings | {argument: value})
        main(["validate", *common, f"--results.folder={place}", "--trainer.callbacks=[]", *arguments])
        alone.append(json.loads((place / SUMMARY).read_text(encoding="utf-8"))["mean"]["miou"])
    separate = time.process_time() - start
    if any(abs(point["miou"] - miou) > 1e-9 for point, miou in zip(points, alone, strict=True)):
        raise RuntimeError(f"{name}: one pass and separate runs differ: {points} against {alone}")
    return {
        "name": name,
        "points": len(alone),
        "one_pass": one_pass,
        "separate": separate,
        "ratio": separate / one_pass,
    }


def run_search_speed(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measures all grids and prints them as a Markdown table; returns its rows."""
    name = "python -m experiments.search_speed"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", default="configs/experiment/street_scenes.yaml", help="experiment (%(default)s)")
    parser.add_argument("--checkpoint", help="trained network; without, weights are random, which costs the same")
    parser.add_argument("--images", type=int, default=30, help="of the development set (%(default)s)")
    arguments = parser.parse_args(args)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    common = [f"--config={arguments.config}", f"--trainer.limit_val_batches={arguments.images}", "--verbose=false"]
    common += ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    common += [f"--ckpt_path={arguments.checkpoint}"] if arguments.checkpoint else ["--untrained=true"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, grid in enumerate(GRIDS):
            rows.append(measure(grid, common, Path(folder) / str(number)))
    print(f"\n{arguments.images} images, {torch.get_num_threads()} thread(s), torch {torch.__version__}, CPU seconds\n")
    print("| grid | one pass | a run for each | ratio |\n|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['name']} | {row['one_pass']:.1f} | {row['separate']:.1f} | {row['ratio']:.1f} |")
    return rows


if __name__ == "__main__":
    run_search_speed()
