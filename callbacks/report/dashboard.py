"""What a Weights & Biases run shows of a results folder: scores, charts, class masks; all of it works offline."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.report.run_data import RunData, read_run

ROOT = "results"  # all keys begin with it
ORIGIN = ("commit", "selection", "method", "checkpoint", "complete", "device", "precision", "temperature")


def log_dashboard(run: Any, folder: Path, class_names: Sequence[str] | None = None) -> None:
    """Logs the scores, figures and pictures of a results folder to a run.

    Scores are summary values ``results/DOMAIN/miou`` and so on, of all domains ``results/mean/miou``; commit and
    selection are in the config under ``provenance``; tables hold classes, bins of reliability, losses and times; the
    pictures come with masks of truth, t-BN and method.

    Args:
        run: A run of Weights & Biases, offline or not.
        folder: Of a test or validate run; what is missing in there is left out.
        class_names: K names; those in the folder if None.

    Raises:
        FileNotFoundError: If there are no scores in the folder.
    """
    from callbacks.report.media import collect_media  # loads wandb

    data = read_run(folder)
    if class_names is not None and len(class_names) == len(data.class_names):
        data.class_names = list(class_names)
    origin = {key: data.summary.get(key) for key in ORIGIN} | {"images": data.images}
    run.config.update({"provenance": origin}, allow_val_change=True)
    for key, value in list_scores(data).items():
        run.summary[f"{ROOT}/{key}"] = value
    entries = {f"{ROOT}/{key}": value for key, value in collect_media(data).items()}
    if entries:
        run.log(entries)


def list_scores(data: RunData) -> dict[str, float]:
    """Returns the scores of each domain and their mean over domains, by ``DOMAIN/NAME``; what is not known is absent.

    Percentages are in percent, gains in points, times in milliseconds.
    """
    scores = {f"mean/{key}": value for key, value in data.mean.items()}
    for name, domain in data.domains.items():
        counts = {key: domain.scores.get(key) for key in ("images", "fallbacks")}
        classes = {f"iou/{label}": value for label, value in domain.scores["iou"].items()}
        scores |= {f"{name}/{key}": value for key, value in (domain.numbers | counts | classes).items()}
    return {key: value for key, value in scores.items() if value is not None and not math.isnan(value)}
