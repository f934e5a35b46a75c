"""The content of a results folder as plain values, read once for the report and the dashboard."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from callbacks.report.gallery import find_pictures, list_predictions
from callbacks.report.panels import make_palette
from callbacks.report.summary import COMPARED, SCORES, DomainData, ImageRow, collect_domains
from callbacks.run.folder import RECORDS, SEARCH, SUMMARY, RunFolder
from callbacks.run.records import read_mapping

BASELINE = "t-BN"  # the paper's name of the unadapted network
METHOD_NAMES = {"SegTTT": "Seg-TTT", "MCDropout": "MC dropout"}


@dataclass
class RunData:
    """The content of a results folder.

    Attributes:
        folder: Path of the folder.
        summary: Content of results.json; empty if it is missing or invalid.
        settings: Settings in run.json; empty if it is missing or invalid.
        runs: The runs that made the results, as run.json lists them.
        search: Content of search.json; None if it is missing, or has no point with a mean IoU.
        class_names: Names of the K classes.
        domains: Domains by name, in order; domains without a scored image are left out.
    """

    folder: Path
    summary: dict[str, Any]
    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    search: dict[str, Any] | None
    class_names: list[str] = field(default_factory=list)
    domains: dict[str, DomainData] = field(default_factory=dict)

    @property
    def method(self) -> dict[str, Any] | None:
        """Name and arguments of the method; None for the network as trained."""
        return self.summary.get("method", self.settings.get("method"))

    @property
    def label(self) -> str:
        """Display name of the method."""
        unknown = self.method is None and self.has_baseline  # both files that name it are missing
        return "method" if unknown else name_method(self.method)

    @property
    def has_baseline(self) -> bool:
        """Whether the unadapted network was scored on all images."""
        return bool(self.domains) and all(domain.has_baseline for domain in self.domains.values())

    @property
    def rows(self) -> list[ImageRow]:
        """One row per image, over all domains."""
        return [row for domain in self.domains.values() for row in domain.rows]

    @property
    def images(self) -> int:
        """Number of scored images."""
        return sum(domain.scores["images"] for domain in self.domains.values())

    @property
    def expected(self) -> int | None:
        """Number of images to score; None if unknown."""
        planned = self.settings.get("data")
        if planned is None or self.settings.get("limit_batches") != 1.0:
            if not self.summary.get("complete"):
                return None
            planned = self.summary["domains"]  # a complete run scored all images
        counts = [member.get("images") for member in planned.values()]
        return None if None in counts else sum(counts)

    @property
    def complete(self) -> bool:
        """Whether every image is scored, as far as is known."""
        return bool(self.summary.get("complete", False)) and self.expected in (None, self.images)

    @property
    def mean(self) -> dict[str, float | None]:
        """Unweighted means of the scores over domains; None where a score or a domain is missing."""
        whole = bool(self.domains) and len(self.domains) == len(self.settings.get("data") or self.domains)
        means: dict[str, float | None] = {}
        for key in (*SCORES, *COMPARED):
            values = [value for domain in self.domains.values() if (value := domain.numbers[key]) is not None]
            means[key] = sum(values) / len(values) if whole and len(values) == len(self.domains) else None
        return means

    @cached_property
    def colours(self) -> dict[str, list[int]]:
        """(R, G, B) in 0 to 255 by class, as in the gallery; hues if there are no pictures."""
        palette = make_palette(len(self.class_names)).flatten().tolist()
        for path in list_predictions(self.folder)[:1]:
            with Image.open(path) as picture:
                palette = picture.getpalette() or palette
        return {name: palette[3 * number : 3 * number + 3] for number, name in enumerate(self.class_names)}

    def pictures(self, row: ImageRow) -> dict[str, Path]:
        """Returns an image's files in the gallery by layer; empty if it has none."""
        return find_pictures(self.folder, row.domain, row.name)


def name_method(settings: Mapping[str, Any] | None) -> str:
    """Returns the display name of a method; t-BN (the network as trained) without one."""
    if not settings:
        return BASELINE
    name = str(settings.get("name", "method"))
    return METHOD_NAMES.get(name, name)


def read_run(folder: Path) -> RunData:
    """Reads a results folder, parts of which may be missing.

    If there are records, the scores are computed from them, so that they cover all finished images even if a run was
    killed.

    Args:
        folder: A folder with results.json, records, or both.

    Raises:
        FileNotFoundError: If it holds neither.
    """
    if not has_results(folder):
        raise FileNotFoundError(explain_wrong_folder(folder))
    own = RunFolder(folder)
    manifest = own.read_manifest() or {"settings": {}, "runs": []}
    lines = list(dict(own.read_lines()).values())  # the last record of each image
    search = read_mapping(folder / SEARCH)
    data = RunData(
        folder,
        summary=read_mapping(folder / SUMMARY),
        settings=manifest["settings"],
        runs=manifest["runs"],
        search=search if is_search(search) else None,
    )
    data.class_names = find_class_names(data, lines)
    data.domains = read_domains(data, lines)
    return data


def has_results(folder: Path) -> bool:
    """Returns whether a folder holds scores of a run, complete or not."""
    return any((folder / name).is_file() for name in (SUMMARY, RECORDS)) or bool(RunFolder(folder).read_lines())


def explain_wrong_folder(folder: Path) -> str:
    """Returns an error message that says what a folder without results holds, and what was expected."""
    if not folder.exists():
        found = f"{folder} does not exist"
    elif not folder.is_dir():
        found = f"{folder} is a file"
    else:
        inside = sorted(path.name for path in folder.iterdir())
        found = f"{folder} contains {', '.join(inside[:5]) or 'nothing'}{', ...' if len(inside) > 5 else ''}"
    return (
        f"{found}: expected the folder of a test or validate run, with {SUMMARY} or {RECORDS} (--results.folder of the "
        "run, or the folder printed at its end), or the folder of a training run with metrics.csv"
    )


def is_search(search: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object is a search with parameters and at least one point with a mean IoU."""
    try:
        known = [set(search["parameters"]) <= set(point["values"]) for point in search["points"]]
        scored = [point["miou"] is not None for point in search["points"]]
    except (KeyError, TypeError):
        return False
    return bool(search["parameters"]) and all(known) and any(scored)


def find_class_names(data: RunData, lines: Sequence[bytes]) -> list[str]:
    """Returns the class names in run.json or results.json, else the class numbers."""
    if data.settings.get("class_names"):
        return list(data.settings["class_names"])
    for scores in data.summary.get("domains", {}).values():
        return list(scores["iou"])
    return [str(number) for record in map(json.loads, lines[:1]) for number in range(len(record["intersection"]))]


def read_domains(data: RunData, lines: Sequence[bytes]) -> dict[str, DomainData]:
    """Sums the records by domain; without records, uses the scores in results.json."""
    summed = data.summary.get("domains", {})
    if not lines:
        return {name: DomainData(name, restore_nan(scores)) for name, scores in summed.items()}
    planned = data.settings.get("data") or {}
    domains = collect_domains(map(json.loads, lines), data.class_names, [*planned, *summed])
    for name, domain in domains.items():
        if data.expected is not None:
            domain.expected = planned.get(name, {}).get("images")
    return domains


def restore_nan(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Converts JSON's null back to NaN in scores that had no labelled pixels."""
    restored = {key: math.nan if value is None and key in SCORES else value for key, value in scores.items()}
    return restored | {"iou": {name: math.nan if value is None else value for name, value in scores["iou"].items()}}
