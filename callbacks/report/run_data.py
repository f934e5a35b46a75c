"""What a results folder holds, as plain values: one reader for the report, the dashboard and the tables."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from callbacks.report.gallery import EXTREMES, has_pictures, list_predictions, locate_pictures, rank_extremes
from callbacks.report.panels import make_palette
from callbacks.report.summary import summarize_records
from callbacks.run.folder import MANIFEST, RECORDS, SEARCH, SUMMARY, Line, RunFolder, read_located
from callbacks.run.records import read_manifest
from lightning_modules.metrics import Scores

BASELINE = "t-BN"  # how the unadapted network is called, as in the paper
METHOD_NAMES = {"SegTTT": "Seg-TTT", "MCDropout": "MC dropout"}
SCORES = ("miou", "accuracy", "ece", "classwise_ece", "brier", "nll", "ms_per_image")


@dataclass(frozen=True)
class ImageRow:
    """One image of a run.

    Attributes:
        domain: Of the image.
        name: Of the image.
        miou: Mean IoU in percent over the classes in prediction or ground truth; NaN if there are none.
        baseline_miou: The same of the unadapted network; None if it was not scored.
        milliseconds: Time to adapt and predict.
        losses: Loss before each step; empty if there were no steps, or only some of the losses were recorded.
        fallback: Whether the prediction is the unadapted one.
        note: Why adaptation was skipped or undone.
    """

    domain: str
    name: str
    miou: float
    baseline_miou: float | None
    milliseconds: float
    losses: tuple[float, ...] = ()
    fallback: bool = False
    note: str | None = None

    @property
    def difference(self) -> float:
        """Mean IoU gained over the unadapted network, in points; NaN if that was not scored."""
        return math.nan if self.baseline_miou is None else self.miou - self.baseline_miou


@dataclass
class DomainData:
    """One domain of a run.

    Attributes:
        name: Of the domain.
        scores: As in results.json, with NaN where there was nothing to score.
        baseline: ``miou``, ``iou`` by class, ``ece`` and so on of the unadapted network; None if it was not scored.
        rows: A row per image, in the order of the records.
        expected: How many images the domain has; None if that is not known.
    """

    name: str
    scores: dict[str, Any]
    baseline: dict[str, Any] | None = None
    rows: list[ImageRow] = field(default_factory=list)
    expected: int | None = None

    @property
    def gain(self) -> float | None:
        """Mean IoU gained over the unadapted network on all images together, in points."""
        return None if self.baseline is None else self.scores["miou"] - self.baseline["miou"]

    @property
    def worse(self) -> float | None:
        """Share of the images, in percent, whose mean IoU fell; None without baseline or without labels."""
        differences = self.differences
        return 100 * sum(value < 0 for value in differences) / len(differences) if differences else None

    @property
    def differences(self) -> list[float]:
        """Mean IoU gained per image in points, where that is known."""
        return [row.difference for row in self.rows if not math.isnan(row.difference)]

    def rank(self, extremes: int = EXTREMES) -> tuple[list[ImageRow], list[ImageRow]]:
        """Returns the best and the worst images: by mean IoU gained if that is known, else by mean IoU."""
        by_name = {row.name: row for row in self.rows}
        values = {row.name: row.miou if self.baseline is None else row.difference for row in self.rows}
        best, worst = rank_extremes(values, extremes)
        return [by_name[name] for name in best], [by_name[name] for name in worst]


@dataclass
class RunData:
    """A results folder.

    Attributes:
        folder: Where it lies.
        summary: results.json; empty if it is not there or spoilt.
        settings: Those in run.json; empty if it is not there.
        runs: The commands that made the results, as run.json lists them.
        class_names: K names.
        palette: (256, 3) uint8 RGB.
        domains: By name, in order; those without an image yet are left out.
        search: search.json; None if it is not there.
        missing: What is not there, in sentences for a reader.
    """

    folder: Path
    summary: dict[str, Any]
    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    class_names: list[str]
    palette: np.ndarray
    domains: dict[str, DomainData]
    search: dict[str, Any] | None
    missing: list[str]

    @property
    def method(self) -> dict[str, Any] | None:
        """Name and arguments of the method; None for the network as trained."""
        return self.summary.get("method", self.settings.get("method"))

    @property
    def label(self) -> str:
        """The name of the method for readers."""
        unknown = self.method is None and self.has_baseline  # neither file that says so is there
        return "method" if unknown else name_method(self.method)

    @property
    def has_baseline(self) -> bool:
        """Whether the unadapted network was scored on all images."""
        return bool(self.domains) and all(domain.baseline is not None for domain in self.domains.values())

    @property
    def images(self) -> int:
        """How many images are scored."""
        return sum(domain.scores["images"] for domain in self.domains.values())

    @property
    def expected(self) -> int | None:
        """How many images there are to score; None if that is not known."""
        data = self.settings.get("data")
        if not isinstance(data, Mapping) or self.settings.get("limit_batches") != 1.0:
            data = self.summary.get("domains")  # by which they were there once
            if not isinstance(data, Mapping) or not self.summary.get("complete"):
                return None
        counts = [member.get("images") for member in data.values()]
        return sum(counts) if all(isinstance(count, int) for count in counts) else None

    @property
    def complete(self) -> bool:
        """Whether every image is scored, as far as is known."""
        return bool(self.summary.get("complete", False)) and self.expected in (None, self.images)

    def average(self, values: Mapping[str, float | None]) -> float | None:
        """Returns the simple mean over domains; None if a value or a domain is not there (yet)."""
        numbers = [value for value in values.values() if value is not None]
        whole = len(numbers) == len(self.domains) == len(self.settings.get("data") or self.domains)
        return sum(numbers) / len(numbers) if numbers and whole else None

    @property
    def colours(self) -> dict[str, list[int]]:
        """RGB in 0 to 255 of each class."""
        return {name: self.palette[number].tolist() for number, name in enumerate(self.class_names)}

    def compare_domains(self) -> dict[str, dict[str, float]]:
        """Returns the mean IoU per domain by method: the unadapted network first, if it was scored."""
        base = {name: domain.baseline["miou"] for name, domain in self.domains.items() if domain.baseline}
        miou = {name: domain.scores["miou"] for name, domain in self.domains.items()}
        return {BASELINE: base, self.label: miou} if base else {self.label: miou}

    def compare_classes(self, domain: DomainData) -> dict[str, dict[str, float]]:
        """Returns the IoU per class by method: the unadapted network first, if it was scored."""
        base = {BASELINE: domain.baseline["iou"]} if domain.baseline and domain.baseline["iou"] else {}
        return {**base, self.label: domain.scores["iou"]}

    def pictures(self, row: ImageRow) -> dict[str, Path]:
        """Returns the files of an image in the gallery by layer; empty if it is not in there."""
        if not has_pictures(self.folder, row.domain, row.name):
            return {}
        paths = locate_pictures(self.folder, row.domain, row.name)
        return {layer: path for layer, path in paths.items() if path.exists()}


def name_method(settings: Mapping[str, Any] | None) -> str:
    """Returns the name of a method as readers know it; without one, the network as trained: t-BN."""
    if not settings:
        return BASELINE
    name = str(settings.get("name", "method"))
    return METHOD_NAMES.get(name, name)


def read_run(folder: Path) -> RunData:
    """Reads a results folder; what is missing in there is named, not an error.

    Scores are computed from the records where there are any, so that they are those of all images that are done, also
    when a run was killed.

    Args:
        folder: With results.json or records.jsonl, or both.

    Raises:
        FileNotFoundError: If it holds neither.
    """
    if not has_results(folder):
        raise FileNotFoundError(explain_wrong_folder(folder))
    missing: list[str] = []
    summary = read_json(folder / SUMMARY)
    if summary is None:
        missing.append(
            f"{SUMMARY} is not there, or spoilt: the run has not ended; what was run is taken from {MANIFEST}"
        )
    manifest = read_manifest(folder / MANIFEST)
    if manifest is None:
        missing.append(f"{MANIFEST} is not there: how many images the data has is not known")
        manifest = {"settings": {}, "runs": []}
    search = read_json(folder / SEARCH)
    if search is not None and not is_search(search):
        missing.append(f"{SEARCH} holds no point with a mean IoU: the search is left out")
        search = None
    data = RunData(
        folder=folder,
        summary=summary or {},
        settings=manifest["settings"],
        runs=manifest["runs"],
        class_names=[],
        palette=np.zeros((256, 3), dtype=np.uint8),
        domains={},
        search=search,
        missing=missing,
    )
    lines = locate_images(folder)
    data.class_names = find_class_names(data, lines)
    data.domains = collect_domains(data, lines)
    data.palette = find_palette(data)
    missing.extend(list_missing(data, bool(lines)))
    return data


def has_results(folder: Path) -> bool:
    """Returns whether a folder holds scores of a run, whole or not."""
    return any((folder / name).is_file() for name in (SUMMARY, RECORDS)) or bool(RunFolder(folder).list_rank_files())


def explain_wrong_folder(folder: Path) -> str:
    """Says why a folder holds no results, and what was expected."""
    if not folder.exists():
        found = f"{folder} does not exist"
    elif not folder.is_dir():
        found = f"{folder} is a file"
    else:
        inside = sorted(path.name for path in folder.iterdir())
        found = f"{folder} holds {', '.join(inside[:5]) if inside else 'nothing'}{', ...' if len(inside) > 5 else ''}"
    return (
        f"{found}: expected the folder of a test or validate run, with {SUMMARY} or {RECORDS} (--results.folder of the "
        "run, or the folder that it named at its end), or that of a training with metrics.csv"
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None if the file is not there or spoilt."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def is_search(search: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object is a search with parameters, and a point with a mean IoU."""
    parameters, points = search.get("parameters"), search.get("points")
    if not isinstance(parameters, list) or not parameters or not isinstance(points, list):
        return False
    whole = all(isinstance(p, dict) and set(parameters) <= set(p.get("values", ())) and "miou" in p for p in points)
    return whole and any(point["miou"] is not None for point in points)


def locate_images(folder: Path) -> list[Line]:
    """Returns where the records of all processes lie, one per image: of an image that was predicted twice the last."""
    return list({line.key: line for line in RunFolder(folder).locate()}.values())


def find_class_names(data: RunData, lines: Sequence[Line]) -> list[str]:
    """Returns the class names in run.json or results.json, else numbers."""
    names = data.settings.get("class_names")
    if names:
        return list(names)
    for scores in data.summary.get("domains", {}).values():
        return list(scores["iou"])
    return [str(number) for record in read_located(lines[:1]) for number in range(len(record["intersection"]))]


def collect_domains(data: RunData, lines: Sequence[Line]) -> dict[str, DomainData]:
    """Sums the records by domain, one at a time; without records, takes the sums in results.json."""
    planned = data.settings.get("data") or {}
    if not lines:
        scored = {name: restore_nan(scores) for name, scores in data.summary.get("domains", {}).items()}
        return {name: DomainData(name, scores, recall_baseline(scores)) for name, scores in scored.items()}
    order = dict.fromkeys([*planned, *data.summary.get("domains", {})])
    summaries = summarize_records(read_located(lines), data.class_names, order)["domains"]
    domains = {name: DomainData(name, scores) for name, scores in summaries.items()}
    baselines = {name: Scores.zeros(len(data.class_names)) for name in domains}
    for record in read_located(lines):
        name = record["domain"]
        domains[name].rows.append(read_row(record))
        if record.get("baseline"):
            baselines[name] += Scores.from_record(record["baseline"])
    for name, domain in domains.items():
        domain.expected = planned.get(name, {}).get("images") if data.expected is not None else None
        if all(row.baseline_miou is not None for row in domain.rows):
            domain.baseline = summarize_baseline(baselines[name], data.class_names)
    return domains


def read_row(record: Mapping[str, Any]) -> ImageRow:
    """Makes the row of an image from its record."""
    adaptation, baseline = record.get("adaptation") or {}, record.get("baseline")
    return ImageRow(
        domain=record["domain"],
        name=record["name"],
        miou=score_record(record),
        baseline_miou=score_record(baseline) if baseline else None,
        milliseconds=record["milliseconds"],
        losses=tuple(adaptation.get("losses") or ()),
        fallback=bool(adaptation.get("fallback", False)),
        note=adaptation.get("note"),
    )


def score_record(record: Mapping[str, Any]) -> float:
    """Returns the mean IoU of one image in percent; NaN without a class."""
    union = np.asarray(record["union"], dtype=np.float64)
    present = union > 0
    if not present.any():
        return math.nan
    return float(100 * (np.asarray(record["intersection"])[present] / union[present]).mean())


def summarize_baseline(sums: Scores, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes the scores of the unadapted network: in percent, but for Brier score and log-likelihood."""
    scores = sums.summarize()
    percentages = {key: 100 * scores[key] for key in ("miou", "accuracy", "ece", "classwise_ece")}
    iou = {name: 100 * value for name, value in zip(class_names, scores["iou"], strict=True)}
    return {**percentages, "brier": scores["brier"], "nll": scores["nll"], "iou": iou}


def recall_baseline(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what results.json alone knows of the unadapted network: its mean IoU."""
    miou = scores.get("baseline_miou")
    return None if miou is None or math.isnan(miou) else {"miou": miou, "iou": {}}


def restore_nan(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the null of JSON back into NaN, in the scores of a domain and in its classes."""
    restored = {key: math.nan if value is None else value for key, value in scores.items()}
    restored["iou"] = {name: math.nan if value is None else value for name, value in scores["iou"].items()}
    return restored


def find_palette(data: RunData) -> np.ndarray:
    """Returns the palette of the pictures in the gallery; hues if there are none."""
    for path in list_predictions(data.folder):
        with Image.open(path) as picture:
            colours = picture.getpalette()
        if colours:
            palette = np.zeros((256, 3), dtype=np.uint8)
            palette.reshape(-1)[: len(colours)] = colours
            return palette
    return make_palette(len(data.class_names))


def list_missing(data: RunData, has_records: bool) -> list[str]:
    """Says what a report cannot show, and why."""
    if not has_records:
        return [f"{RECORDS} is not there, or holds no whole record: nothing can be said about single images"]
    missing = []
    rows = [row for domain in data.domains.values() for row in domain.rows]
    if data.method and not data.has_baseline:
        missing.append(
            f"The unadapted network ({BASELINE}) was not scored beside the method: gains are not known. Test runs do "
            "so unless --results.baseline=false; validate runs never do"
        )
    if data.method and data.method.get("num_steps") and not any(row.losses for row in rows):
        missing.append("The losses of single steps were not recorded")
    if not any(data.pictures(row) for row in rows):
        missing.append("There are no pictures: --results.panels was 0, or an earlier version made these results")
    return missing
