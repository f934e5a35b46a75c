"""The content of a results folder as plain values, read once for the report and the dashboard."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from callbacks.report.gallery import find_pictures, list_predictions
from callbacks.report.panels import make_palette
from callbacks.report.summary import SCORES, DomainData, ImageRow, collect_domains
from callbacks.run.folder import SEARCH, SUMMARY, RunFolder
from callbacks.run.records import read_mapping

BASELINE = "t-BN"  # the paper's name of the unadapted network
METHOD_NAMES = {"SegTTT": "Seg-TTT", "MCDropout": "MC dropout"}


@dataclass
class RunData:
    """The content of a results folder.

    Attributes:
        folder: Path of the folder.
        settings: Settings in run.json; those that results.json tells if it is missing or invalid.
        runs: The runs that made the results, as run.json lists them; empty if it is missing or invalid.
        summary: Content of results.json; empty if it is missing or invalid.
        search: Content of search.json; empty if there was no search, or one without scores.
        domains: Domains by name, in order; domains without a scored image are left out.
    """

    folder: Path
    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    summary: dict[str, Any]
    search: dict[str, Any]
    domains: dict[str, DomainData]

    @property
    def method(self) -> dict[str, Any] | None:
        """Name and arguments of the method; None for the network as trained."""
        return self.summary.get("method", self.settings["method"])

    @property
    def label(self) -> str:
        """Display name of the method."""
        return name_method(self.method)

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
    def planned(self) -> dict[str, int]:
        """Number of images to score by domain; empty if unknown, e.g. because of a limit."""
        if self.settings["limit_batches"] != 1.0:
            return {}
        return {name: member["images"] for name, member in self.settings["data"].items()}

    @property
    def mean(self) -> dict[str, float]:
        """Unweighted means over domains of the scores that all have; empty if a domain has no image yet."""
        if not self.domains or len(self.domains) < len(self.settings["data"]):
            return {}
        lines = [domain.numbers for domain in self.domains.values()]
        keys = (*SCORES, "baseline_miou", "gain", "worse_than_baseline")
        known = [key for key in keys if all(line[key] is not None for line in lines)]
        return {key: sum(line[key] for line in lines) / len(lines) for key in known}

    @cached_property
    def colours(self) -> dict[str, list[int]]:
        """(R, G, B) in 0 to 255 by class, as in the gallery; hues if there are no pictures."""
        names = self.settings["class_names"]
        palette = make_palette(len(names)).flatten().tolist()
        for path in list_predictions(self.folder)[:1]:
            with Image.open(path) as picture:
                palette = picture.getpalette() or palette
        return {name: palette[3 * number : 3 * number + 3] for number, name in enumerate(names)}

    def pictures(self, row: ImageRow) -> dict[str, Path]:
        """Returns an image's files in the gallery by layer; empty if it has none."""
        return find_pictures(self.folder, row.domain, row.name)


def name_method(settings: Mapping[str, Any] | None) -> str:
    """Returns the display name of a method; t-BN (the network as trained) without one."""
    name = settings["name"] if settings else BASELINE
    return METHOD_NAMES.get(name, name)


def read_run(folder: Path, domains: dict[str, DomainData] | None = None) -> RunData:
    """Reads a results folder, also of an interrupted run: the scores are computed from the records.

    Without records, e.g. if results.json was copied alone, they are those in results.json.

    Args:
        folder: The folder of a test or validate run.
        domains: The domains that `collect_domains` has made of the records; None reads the records.

    Raises:
        FileNotFoundError: If it has neither a valid run.json nor a results.json with scores.
    """
    own, summary, search = RunFolder(folder), read_mapping(folder / SUMMARY), read_mapping(folder / SEARCH)
    summed = summary.get("domains", {})
    manifest = own.read_manifest()
    if manifest is None and not summed:
        found = "is no folder"
        if folder.is_dir():
            found = f"contains {', '.join(sorted(path.name for path in folder.iterdir())[:5]) or 'nothing'}"
        raise FileNotFoundError(
            f"{folder} {found}: expected the folder of a test or validate run, with a valid run.json or results.json "
            "(--results.folder of the run, or the folder printed at its end), or of a training run with metrics.csv"
        )
    if manifest is None:
        data = {name: {"images": scores["images"]} for name, scores in summed.items()}
        names = list(next(iter(summed.values()))["iou"])
        settings = {"method": summary["method"], "class_names": names, "data": data, "limit_batches": None}
        manifest = {"settings": settings, "runs": []}
    settings = manifest["settings"]
    if domains is None:
        lines = dict(own.read_lines()).values()  # the last record of each image
        domains = collect_domains(map(json.loads, lines), settings["class_names"], settings["data"])
    if not domains:
        domains = {name: DomainData.of_summary(summed[name], settings["class_names"]) for name in summed}
    points = search.get("points", [])
    if not points or any(point.get("miou") is None for point in points):  # nothing was labelled
        search = {}
    return RunData(folder, settings, manifest["runs"], summary, search, domains)
