"""The report of a training: its curves, the best epoch, checkpoints and config, in one HTML page."""

import csv
import math
from pathlib import Path

from callbacks.report.figures import LOSS_NAME, MIOU_NAME, RATE_NAME, draw_training, place_best
from callbacks.report.page import embed, write_page

TRAINING_REPORT = "training.html"


def write_training_report(folder: Path) -> Path | None:
    """Writes `training.html` into the folder of a fit run: curves, the best epoch, checkpoints, and the config.

    Args:
        folder: With the `metrics.csv` of Lightning's CSVLogger.

    Returns:
        The path of the report; None if there is no training in there.

    Raises:
        OSError: If the report cannot be written.
    """
    curves = read_curves(folder / "metrics.csv")
    if LOSS_NAME not in curves:
        return None
    last_step, last_loss = curves[LOSS_NAME][-1]
    tiles = [{"value": f"{last_loss:.3f}", "label": "last training loss (nats)"}]
    notes = []
    if MIOU_NAME in curves:
        step, best = place_best(curves[MIOU_NAME])
        tiles = [
            {"value": f"{best:.2f} %", "label": f"best mean IoU (development), step {step:.0f}"},
            {"value": f"{curves[MIOU_NAME][-1][1]:.2f} %", "label": "last mean IoU (development)"},
            *tiles,
        ]
    else:
        notes.append("The mean IoU on a development set was not logged")
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    checkpoints = [(str(path.relative_to(folder)), f"{path.stat().st_size / 2**20:.1f} MiB") for path in paths]
    nothing = [("none", "no checkpoint lies in this folder")]
    content = {
        "title": "Training",
        "subtitle": f"{len(curves[LOSS_NAME])} logged steps, to step {last_step:.0f}",
        "tiles": tiles,
        "notes": notes,
        "figures": [{"title": "Curves", "figures": [embed(draw_training(curves))]}],
        "facts": [{"title": "Checkpoints", "rows": checkpoints or nothing}],
    }
    return write_page(folder / TRAINING_REPORT, content)


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Reads the points (step, value) of the curves that a CSVLogger wrote; empty if there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line.get("step")]
    curves = {}
    for name in (LOSS_NAME, RATE_NAME, MIOU_NAME):
        points = [(float(line["step"]), float(line[name])) for line in lines if line.get(name)]
        curves[name] = [point for point in points if math.isfinite(point[1])]
    return {name: points for name, points in curves.items() if points}
