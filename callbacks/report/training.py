"""The report of a training: its curves, the best epoch, checkpoints and config, in one HTML page."""

import csv
import math
from pathlib import Path

from callbacks.report.figures import LOSS_NAME, MIOU_NAME, RATE_NAME, draw_training
from callbacks.report.page import Page, embed, list_files

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
    shown = {name: curves[name] for name in (LOSS_NAME, RATE_NAME, MIOU_NAME) if name in curves}
    page = Page(
        title="Training", subtitle=f"{len(curves[LOSS_NAME])} logged steps, to step {curves[LOSS_NAME][-1][0]:.0f}"
    )
    if MIOU_NAME in curves:
        step, best = max(curves[MIOU_NAME], key=lambda point: (point[1], -point[0]))
        page.tiles.append({"value": f"{best:.2f} %", "label": f"best mean IoU (development), step {step:.0f}"})
        page.tiles.append({"value": f"{curves[MIOU_NAME][-1][1]:.2f} %", "label": "last mean IoU (development)"})
    else:
        page.notes.append("The mean IoU on a development set was not logged")
    page.tiles.append({"value": f"{curves[LOSS_NAME][-1][1]:.3f}", "label": "last training loss (nats)"})
    page.figures = [{"title": "Curves", "text": "", "figures": [embed(draw_training(shown), wide=True)]}]
    page.facts = [{"title": "Checkpoints", "rows": list_checkpoints(folder)}]
    page.files = list_files(folder, ["config.yaml"])
    return page.write(folder / TRAINING_REPORT)


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Reads the points (step, value) of everything that a CSVLogger wrote; empty if there is no such file."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.is_file():
        return curves
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            for name, text in line.items():
                if name not in ("epoch", "step") and text and line.get("step"):
                    value = float(text)
                    if math.isfinite(value):
                        curves.setdefault(name, []).append((float(line["step"]), value))
    return curves


def list_checkpoints(folder: Path) -> list[tuple[str, str]]:
    """Lists the checkpoints of a run with their sizes."""
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    found = [(str(path.relative_to(folder)), f"{path.stat().st_size / 2**20:.1f} MiB") for path in paths]
    return found or [("none", "no checkpoint lies in this folder")]
