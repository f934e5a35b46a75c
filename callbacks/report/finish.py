"""What a `validate` or `test` run leaves at its end: the summary, the diagram, the report and the dashboard."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.blended_norm import fast_path_report
from callbacks.method import require_segmentation
from callbacks.report.figures import draw_reliability, encode_figure
from callbacks.report.gallery import RunPictures
from callbacks.report.page import write_report
from callbacks.report.run_data import read_run
from callbacks.report.summary import DomainData, collect_domains, summarize_domains
from callbacks.run.folder import RELIABILITY, SUMMARY
from callbacks.run.records import find_commit, find_method, name_device, write_file, write_json
from callbacks.run.scoring import ScoringRun
from callbacks.run.settings import find_stage


def finish_run(
    run: ScoringRun,
    trainer: Trainer,
    module: LightningModule,
    complete: bool,
    selection: Mapping[str, Any] | None,
    pictures: RunPictures,
) -> None:
    """Writes what follows from the records of a run, which are read once; `results.json` marks the run as finished.

    Args:
        run: The run; its folder has the records.
        trainer: The run's Trainer.
        module: The run's SegmentationModule.
        complete: Whether every image has a record.
        selection: The selection's entry in results.json; None without one.
        pictures: The run's pictures.
    """
    scored, root = require_segmentation(module), run.folder.root
    domains = collect_domains(run.read(), scored.class_names, scored.domains)
    summary = {
        "complete": complete,
        "limited": run.describe_limit(),
        **describe_scoring(trainer, module),
        "selection": selection,
        **summarize_domains(domains, scored.domains),
    }
    if summary["limited"] and complete:
        rank_zero_warn(
            "{images} of {of} images are scored, because of a limit (limit_test_batches, limit_val_batches or "
            "fast_dev_run)".format(**summary["limited"])
        )
    if any(sum(scores["reliability"]["pixels"]) for scores in summary["domains"].values()):
        write_file(root / RELIABILITY, encode_figure(draw_reliability(summary["domains"])))
    write_json(root / SUMMARY, summary)  # after the other results
    if not domains:
        return  # stopped before the first image: nothing to show
    rank_zero_info(f"{'Results' if complete else 'Results of an interrupted run'}: {root / SUMMARY}")
    try:
        show_run(run, trainer, complete, domains, pictures)
    except Exception as error:  # the scores are on disk; do not hide why a run was interrupted
        rank_zero_warn(
            f"{root}: report or dashboard could not be created ({type(error).__name__}: {error}). The results are "
            f"not affected; fix this error, then run: python -m experiments.report {root}"
        )


def describe_scoring(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns how, when and on what a run scored its images, as in results.json."""
    method, scored = find_method(trainer), require_segmentation(module)
    datamodule: Any = getattr(trainer, "datamodule", None)
    return {
        "stage": find_stage(trainer),
        "method": method.settings() if method else None,
        "checkpoint": str(trainer.ckpt_path or scored.released or "") or None,
        "data": datamodule.describe() if hasattr(datamodule, "describe") else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": find_commit(),
        "device": name_device(module),
        "precision": str(trainer.precision),
        "temperature": scored.temperature,
        "versions": {"torch": torch.__version__},
        "plain_formula": {key: reason for key, reason in fast_path_report().items() if reason != "fast"},
    }


def show_run(
    run: ScoringRun, trainer: Trainer, complete: bool, domains: dict[str, DomainData], pictures: RunPictures
) -> None:
    """Writes the report, if the run keeps a gallery, and logs the results to Weights & Biases."""
    if complete or trainer.world_size == 1:  # else other processes may still be drawing
        pictures.trim(row for domain in domains.values() for row in domain.rows)
    data = read_run(run.folder.root, domains)
    if pictures.has_gallery:
        rank_zero_info(f"Report: {write_report(data)}")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            from callbacks.report.dashboard import log_dashboard  # imports wandb

            log_dashboard(logger.experiment, data)
