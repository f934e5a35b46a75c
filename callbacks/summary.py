"""From the records of single images to the scores of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lightning_modules.metrics import Scores

PERCENTAGES = ("miou", "accuracy", "ece", "classwise_ece")
PLAIN = ("brier", "nll")


def summarize_records(
    records: Iterable[Mapping[str, Any]], class_names: list[str], domains: Iterable[str] = ()
) -> dict[str, Any]:
    """Sums records into scores, per domain and as their mean: in percent, but for Brier score and log-likelihood.

    Args:
        records: As `Results` writes them.
        class_names: K names.
        domains: Order of the domains; others follow as they come.

    Returns:
        ``domains``: per domain miou, iou per class (NaN where absent), accuracy, ece, classwise_ece, brier in [0, 2],
        nll in nats, reliability (see `Scores.summarize`), the median of milliseconds per image, and the numbers of
        images, of fallbacks and of images with a note; ``mean``: the simple average of the scores and milliseconds over
        domains, empty if one of them has no image yet.
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {domain: [] for domain in domains}
    for record in records:
        grouped.setdefault(record["domain"], []).append(record)
    summaries = {domain: _summarize_domain(group, class_names) for domain, group in grouped.items() if group}
    averaged = (*PERCENTAGES, *PLAIN, "ms_per_image")
    whole = summaries and len(summaries) == len(grouped)  # the mean of some of the domains would mislead
    mean = {key: sum(s[key] for s in summaries.values()) / len(summaries) for key in averaged} if whole else {}
    return {"domains": summaries, "mean": mean}


def _summarize_domain(records: list[Mapping[str, Any]], class_names: list[str]) -> dict[str, Any]:
    total = sum((Scores.from_record(record) for record in records), Scores.zeros(len(class_names)))
    scores = total.summarize()
    times = torch.tensor([record["milliseconds"] for record in records], dtype=torch.float64)
    adaptations = [record["adaptation"] for record in records if record["adaptation"]]
    return {
        **{key: 100 * scores[key] for key in PERCENTAGES},
        **{key: scores[key] for key in PLAIN},
        "iou": {name: 100 * iou for name, iou in zip(class_names, scores["iou"], strict=True)},
        "reliability": scores["reliability"],
        "ms_per_image": times.quantile(0.5).item(),
        "images": len(records),
        "fallbacks": sum(adaptation["fallback"] for adaptation in adaptations),
        "notes": sorted({adaptation["note"] for adaptation in adaptations if adaptation["note"]}),
        "images_with_notes": sum(adaptation["note"] is not None for adaptation in adaptations),
    }
