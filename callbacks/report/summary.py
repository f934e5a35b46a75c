"""Computes the scores of a run from the records of its images, for everything that shows them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_modules.metrics import LOGGED, Scores

SCORES = (*LOGGED, "ms_per_image")
COMPARED = ("baseline_miou", "gain", "worse_than_baseline")
EXTREMES = 3  # number of best images, and of worst images


@dataclass(frozen=True, eq=False, slots=True)
class ImageRow:
    """One image of a run.

    Attributes:
        milliseconds: Time to adapt to the image and predict it.
        miou: Mean IoU in percent over the classes in prediction or ground truth; NaN if there are none.
        baseline_miou: The same for the unadapted network; None if it was not scored.
        adaptation: The method's report: ``losses`` before each step, ``fallback``, ``note``; with trust below 1 also
            ``relabelled`` and ``held_back``, shares of the pixels. Empty without a method.
    """

    domain: str
    name: str
    milliseconds: float
    miou: float
    baseline_miou: float | None
    adaptation: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "ImageRow":
        """Makes a row from a record."""
        baseline = record.get("baseline")
        return cls(
            record["domain"],
            record["name"],
            record["milliseconds"],
            score_record(record),
            score_record(baseline) if baseline else None,
            record.get("adaptation") or {},
        )

    @property
    def gain(self) -> float:
        """Mean IoU gained over the unadapted network, in points; NaN if that network was not scored."""
        return math.nan if self.baseline_miou is None else self.miou - self.baseline_miou

    @property
    def score(self) -> float:
        """The ranking score: the mean IoU gained, or the mean IoU itself if the unadapted network was not scored."""
        return self.miou if self.baseline_miou is None else self.gain


@dataclass
class DomainData:
    """One domain of a run.

    Attributes:
        scores: Scores as in results.json, see `summarize_records`.
        baseline_iou: IoU of the unadapted network in percent by class; empty if it was not scored on every image.
        rows: One row per image, in the order of the records.
        expected: Number of images in the domain; None if unknown.
    """

    name: str
    scores: dict[str, Any]
    baseline_iou: dict[str, float] = field(default_factory=dict)
    rows: list[ImageRow] = field(default_factory=list)
    expected: int | None = None

    @property
    def has_baseline(self) -> bool:
        """Whether the unadapted network was scored on every image."""
        return self.scores.get("baseline_miou") is not None

    @property
    def numbers(self) -> dict[str, float | None]:
        """The scores that are averaged over domains, and the gain in points; None where unknown."""
        gain = self.scores["miou"] - self.scores["baseline_miou"] if self.has_baseline else None
        return {key: self.scores.get(key) for key in (*SCORES, *COMPARED)} | {"gain": gain}

    @property
    def gains(self) -> list[float]:
        """Mean IoU gained per image, in points, for the images where it is known."""
        return [row.gain for row in self.rows if not math.isnan(row.gain)]

    def rank(self) -> tuple[list[ImageRow], list[ImageRow]]:
        """Returns the best and the worst images, see `rank_extremes`."""
        by_name = {row.name: row for row in self.rows}
        best, worst = rank_extremes({name: row.score for name, row in by_name.items()})
        return [by_name[name] for name in best], [by_name[name] for name in worst]


def summarize_records(
    records: Iterable[Mapping[str, Any]], class_names: Sequence[str], domains: Iterable[str] = ()
) -> dict[str, Any]:
    """Sums records into scores per domain and their mean, in percent except for the Brier score and NLL.

    Args:
        records: Records as written by `Results`.
        class_names: Names of the K classes.
        domains: Order of the domains; others follow in order of appearance.

    Returns:
        ``domains``: per domain miou, iou per class (NaN where absent), accuracy, ece, classwise_ece, brier in [0, 2],
        nll in nats, reliability (see `Scores.summarize`), the median of milliseconds per image, the different notes,
        and the numbers of images, of fallbacks and of images with a note; baseline_miou and worse_than_baseline (the
        percentage of images on which the unadapted network is better), both None if it was not scored on every image;
        with trust below 1 also relabelled and held_back, shares of the pixels in percent. ``mean``: the unweighted
        mean of the scores and milliseconds over domains, empty if one of them has no image yet.
    """
    order = list(domains)
    summaries = {name: domain.scores for name, domain in collect_domains(records, class_names, order).items()}
    whole = summaries and set(order) <= summaries.keys()  # the mean of some of the domains would mislead
    mean = {key: sum(s[key] for s in summaries.values()) / len(summaries) for key in SCORES} if whole else {}
    return {"domains": summaries, "mean": mean}


def collect_domains(
    records: Iterable[Mapping[str, Any]], class_names: Sequence[str], order: Iterable[str] = ()
) -> dict[str, DomainData]:
    """Sums records by domain, one at a time, see `summarize_records`; leaves out domains without an image."""
    zeros = Scores.zeros(len(class_names))
    sums: defaultdict[str, Scores] = defaultdict(lambda: zeros)
    baselines: defaultdict[str, Scores] = defaultdict(lambda: zeros)
    rows: defaultdict[str, list[ImageRow]] = defaultdict(list)
    for record in records:
        name = record["domain"]
        sums[name] += Scores.from_record(record)
        if record.get("baseline"):
            baselines[name] += Scores.from_record(record["baseline"])
        rows[name].append(ImageRow.of(record))
    names = [name for name in dict.fromkeys([*order, *rows]) if name in rows]
    return {name: summarize_domain(name, sums[name], baselines[name], rows[name], class_names) for name in names}


def summarize_domain(
    name: str, sums: Scores, baseline: Scores, rows: list[ImageRow], class_names: Sequence[str]
) -> DomainData:
    """Computes the scores of a domain from the sums over its images, of which there must be at least one."""
    scores = sums.summarize()
    milliseconds = torch.tensor([row.milliseconds for row in rows], dtype=torch.float64)
    notes = [note for row in rows if (note := row.adaptation.get("note"))]
    summary = {
        **{key: unit * scores[key] for key, unit in LOGGED.items()},
        "iou": list_class_iou(scores, class_names),
        "reliability": scores["reliability"],
        "ms_per_image": milliseconds.quantile(0.5).item(),
        "images": len(rows),
        "fallbacks": sum(bool(row.adaptation.get("fallback")) for row in rows),
        "notes": sorted(set(notes)),
        "images_with_notes": len(notes),
        "baseline_miou": None,
        "worse_than_baseline": None,
    }
    for key in ("relabelled", "held_back"):  # of a method with trust below 1
        shares = [share for row in rows if (share := row.adaptation.get(key)) is not None]
        summary |= {key: 100 * sum(shares) / len(shares)} if shares else {}
    domain = DomainData(name, summary, rows=rows)
    if all(row.baseline_miou is not None for row in rows):
        before = baseline.summarize()
        domain.baseline_iou = list_class_iou(before, class_names)
        summary["baseline_miou"] = 100 * before["miou"]
        if domain.gains:  # something is labelled
            summary["worse_than_baseline"] = 100 * sum(gain < 0 for gain in domain.gains) / len(domain.gains)
    return domain


def list_class_iou(scores: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, float]:
    """Returns the IoU in percent by class name."""
    return {name: 100 * value for name, value in zip(class_names, scores["iou"], strict=True)}


def gain_of_image(record: Mapping[str, Any]) -> float:
    """Returns the mean IoU that an image gained over the unadapted network in points, else its mean IoU in percent.

    NaN if it has no labelled pixels.
    """
    return ImageRow.of(record).score


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
