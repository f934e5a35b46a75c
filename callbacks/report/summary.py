"""From the records of single images to the scores of a run."""

import math
from collections import Counter
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
        images, of fallbacks and of images with a note; if the unadapted network was scored too, baseline_miou and
        worse_than_baseline, the share of images in percent that it is better at, else None. ``mean``: the simple
        average of the scores and milliseconds over domains, empty if one of them has no image yet.
    """
    grouped = {domain: DomainSums(len(class_names)) for domain in domains}
    for record in records:
        if record["domain"] not in grouped:
            grouped[record["domain"]] = DomainSums(len(class_names))
        grouped[record["domain"]].add(record)
    summaries = {domain: sums.summarize(class_names) for domain, sums in grouped.items() if sums.milliseconds}
    averaged = (*PERCENTAGES, *PLAIN, "ms_per_image")
    whole = summaries and len(summaries) == len(grouped)  # the mean of some of the domains would mislead
    mean = {key: sum(s[key] for s in summaries.values()) / len(summaries) for key in averaged} if whole else {}
    return {"domains": summaries, "mean": mean}


class DomainSums:
    """What is kept of the records of a domain: sums, and a number per image.

    Args:
        num_classes: Number of classes K.
    """

    def __init__(self, num_classes: int) -> None:
        self.scores = Scores.zeros(num_classes)
        self.baseline = Scores.zeros(num_classes)
        self.gains: list[float] = []
        self.milliseconds: list[float] = []
        self.fallbacks = 0
        self.notes: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds the record of an image."""
        self.scores += Scores.from_record(record)
        self.milliseconds.append(record["milliseconds"])
        if record.get("baseline"):
            self.baseline += Scores.from_record(record["baseline"])
            self.gains.append(gain_of_image(record))
        adaptation = record["adaptation"] or {}
        self.fallbacks += adaptation.get("fallback", False)
        if adaptation.get("note"):
            self.notes[adaptation["note"]] += 1

    def summarize(self, class_names: list[str]) -> dict[str, Any]:
        """Returns the scores of a domain with one image or more, see `summarize_records`."""
        scores = self.scores.summarize()
        return {
            **{key: 100 * scores[key] for key in PERCENTAGES},
            **{key: scores[key] for key in PLAIN},
            "iou": {name: 100 * iou for name, iou in zip(class_names, scores["iou"], strict=True)},
            "reliability": scores["reliability"],
            "ms_per_image": torch.tensor(self.milliseconds, dtype=torch.float64).quantile(0.5).item(),
            "images": len(self.milliseconds),
            "fallbacks": self.fallbacks,
            "notes": sorted(self.notes),
            "images_with_notes": self.notes.total(),
            **self._compare(),
        }

    def _compare(self) -> dict[str, float | None]:
        """Returns how the unadapted network did, if it was scored on every image."""
        if len(self.gains) < len(self.milliseconds):
            return {"baseline_miou": None, "worse_than_baseline": None}
        known = [gain for gain in self.gains if not math.isnan(gain)]  # of images in which something is labelled
        worse = 100 * sum(gain < 0 for gain in known) / len(known) if known else None
        return {"baseline_miou": 100 * self.baseline.summarize()["miou"], "worse_than_baseline": worse}


def gain_of_image(record: Mapping[str, Any]) -> float:
    """Returns the points of mean IoU that an image gained over the unadapted network, else its mean IoU in percent.

    NaN if nothing in it is labelled.

    Args:
        record: As `Results` writes it.
    """
    miou = Scores.from_record(record).summarize()["miou"]
    baseline = Scores.from_record(record["baseline"]).summarize()["miou"] if record.get("baseline") else 0.0
    return 100 * (miou - baseline)
