"""Computes the scores of a run from the records of its images, for everything that shows them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from lightning_modules.metrics import LOGGED, Scores

SCORES = (*LOGGED, "ms_per_image")
EXTREMES = 3  # number of best images, and of worst images


class ImageRow:
    """One image of a run, from its record.

    Attributes:
        milliseconds: Time to adapt to the image and predict it.
        adaptation: The method's report: ``losses`` before each step, ``fallback``, ``note``; with trust below 1 also
            ``relabelled`` and ``held_back``, shares of the pixels. Empty without a method.
        miou: Mean IoU in percent over the classes in prediction or ground truth; NaN if there are none.
        baseline_miou: The same for the unadapted network; None if it was not scored.
        gain: Mean IoU gained over the unadapted network, in points; NaN if that network was not scored.
        score: What images are ranked by: the gain or, if the unadapted network was not scored, the mean IoU.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.domain: str = record["domain"]
        self.name: str = record["name"]
        self.milliseconds: float = record["milliseconds"]
        self.adaptation: dict[str, Any] = record.get("adaptation") or {}
        self.score = self.miou = score_record(record)
        self.baseline_miou: float | None = None
        self.gain = math.nan
        if record.get("baseline"):
            self.baseline_miou = score_record(record["baseline"])
            self.score = self.gain = self.miou - self.baseline_miou


class DomainData:
    """One domain of a run: the sums over its images, added one at a time, and the scores that follow from them.

    Attributes:
        rows: One row per image, in the order of the records.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.rows: list[ImageRow] = []
        self._class_names = class_names
        self._sums = self._baseline = Scores.zeros(len(class_names))

    @classmethod
    def of_summary(cls, scores: Mapping[str, Any], class_names: Sequence[str]) -> "DomainData":
        """Makes a domain without rows from its scores in results.json, where null stands for NaN."""
        domain = cls(class_names)
        scores = {"reliability": {"pixels": [], "confidence": [], "accuracy": []}} | dict(scores)
        domain.has_baseline = scores["baseline_miou"] is not None
        domain.scores = dict(scores) | {key: restore_nan(scores[key]) for key in (*SCORES, "iou", "reliability")}
        return domain

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds an image."""
        self.rows.append(ImageRow(record))
        self._sums += Scores.from_record(record)
        if record.get("baseline"):
            self._baseline += Scores.from_record(record["baseline"])

    @cached_property
    def has_baseline(self) -> bool:
        """Whether the unadapted network was scored on every image."""
        return all(row.baseline_miou is not None for row in self.rows)

    @property
    def gains(self) -> list[float]:
        """Mean IoU gained per image, in points, for the images where it is known."""
        return [row.gain for row in self.rows if not math.isnan(row.gain)]

    @property
    def numbers(self) -> dict[str, Any]:
        """The scores, and ``gain``, the mean IoU gained over the unadapted network in points; None if unknown."""
        gain = self.scores["miou"] - self.scores["baseline_miou"] if self.has_baseline else None
        return self.scores | {"gain": gain}

    @property
    def baseline_iou(self) -> dict[str, float]:
        """IoU of the unadapted network in percent by class; empty if not every image has a record of it."""
        return self._name_classes(self._baseline.summarize()["iou"]) if self.has_baseline and self.rows else {}

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The scores of the domain, which has at least one image, as in results.json, see `summarize_domains`."""
        sums, gains = self._sums.summarize(), self.gains
        milliseconds = torch.tensor([row.milliseconds for row in self.rows], dtype=torch.float64)
        notes = [note for row in self.rows if (note := row.adaptation.get("note"))]
        scores = {
            **{key: unit * sums[key] for key, unit in LOGGED.items()},
            "iou": self._name_classes(sums["iou"]),
            "reliability": sums["reliability"],
            "ms_per_image": milliseconds.quantile(0.5).item(),
            "images": len(self.rows),
            "fallbacks": sum(bool(row.adaptation.get("fallback")) for row in self.rows),
            "notes": sorted(set(notes)),
            "images_with_notes": len(notes),
            "baseline_miou": 100 * self._baseline.summarize()["miou"] if self.has_baseline else None,
            "worse_than_baseline": None,
        }
        if self.has_baseline and gains:  # something is labelled
            scores["worse_than_baseline"] = 100 * sum(gain < 0 for gain in gains) / len(gains)
        for key in ("relabelled", "held_back"):  # of a method with trust below 1
            shares = [share for row in self.rows if (share := row.adaptation.get(key)) is not None]
            if shares:
                scores[key] = 100 * sum(shares) / len(shares)
        return scores

    def rank(self) -> tuple[list[ImageRow], list[ImageRow]]:
        """Returns the best and the worst images, see `rank_extremes`."""
        by_name = {row.name: row for row in self.rows}
        best, worst = rank_extremes({name: row.score for name, row in by_name.items()})
        return [by_name[name] for name in best], [by_name[name] for name in worst]

    def _name_classes(self, iou: Sequence[float]) -> dict[str, float]:
        return {name: 100 * value for name, value in zip(self._class_names, iou, strict=True)}


def summarize_records(
    records: Iterable[Mapping[str, Any]], class_names: Sequence[str], domains: Iterable[str] = ()
) -> dict[str, Any]:
    """Sums records into scores per domain and their mean, see `collect_domains` and `summarize_domains`."""
    order = list(domains)
    return summarize_domains(collect_domains(records, class_names, order), order)


def summarize_domains(domains: Mapping[str, DomainData], expected: Iterable[str] = ()) -> dict[str, Any]:
    """Returns scores per domain and their mean, in percent except for the Brier score and NLL.

    Args:
        domains: Domains with at least one image each.
        expected: All domains of the run.

    Returns:
        ``domains``: per domain miou, iou per class (NaN where absent), accuracy, ece, classwise_ece, brier in [0, 2],
        nll in nats, reliability (see `Scores.summarize`), the median of milliseconds per image, the different notes,
        and the numbers of images, of fallbacks and of images with a note; baseline_miou and worse_than_baseline (the
        percentage of images on which the unadapted network is better), both None if it was not scored on every image;
        with trust below 1 also relabelled and held_back, shares of the pixels in percent. ``mean``: the unweighted
        mean of the scores and milliseconds over domains, empty if one of them has no image yet.
    """
    summaries = {name: domain.scores for name, domain in domains.items()}
    whole = summaries and set(expected) <= summaries.keys()  # the mean of some of the domains would mislead
    mean = {key: sum(s[key] for s in summaries.values()) / len(summaries) for key in SCORES} if whole else {}
    return {"domains": summaries, "mean": mean}


def collect_domains(
    records: Iterable[Mapping[str, Any]], class_names: Sequence[str], order: Iterable[str] = ()
) -> dict[str, DomainData]:
    """Sums records as written by `Results` by domain, one at a time; leaves out domains without an image.

    Args:
        records: Records of images.
        class_names: Names of the K classes.
        order: Order of the domains; others follow in order of appearance.
    """
    domains = {name: DomainData(class_names) for name in order}
    for record in records:
        domains.setdefault(record["domain"], DomainData(class_names)).add(record)
    return {name: domain for name, domain in domains.items() if domain.rows}


def restore_nan(value: Any) -> Any:
    """Replaces each null of a JSON value by NaN."""
    if isinstance(value, Mapping):
        return {key: restore_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_nan(item) for item in value]
    return math.nan if value is None else value


def gain_of_image(record: Mapping[str, Any]) -> float:
    """Returns the mean IoU that an image gained over the unadapted network in points, else its mean IoU in percent.

    NaN if it has no labelled pixels.
    """
    return ImageRow(record).score


def score_record(record: Mapping[str, Any]) -> float:
    """Returns the mean IoU of one image in percent; NaN if it has no class."""
    return 100 * Scores.from_record(record).summarize()["miou"]


def rank_extremes(scores: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Returns the names of the three best images (best first) and of the three worst (worst first), none in both.

    Args:
        scores: Scores by name, higher is better; NaN is left out. Equal scores are ordered by name. If there are
            fewer than six, they are split in half, and the best list gets the odd one.
    """
    ranked = [name for _, name in sorted((score, name) for name, score in scores.items() if not math.isnan(score))]
    best = min(EXTREMES, math.ceil(len(ranked) / 2))
    worst = min(EXTREMES, len(ranked) - best)
    return ranked[::-1][:best], ranked[:worst]
