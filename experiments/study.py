"""Runs of the command line that belong together: training, choices on the development set, and the test. Resumes."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.folder import SEARCH
from lightning_modules.metrics import Scores
from main import main


class Study:
    """One trained network, its choices on the development set, and its tests. What is done already is not done again.

    Args:
        folder: Where everything is written.
        common: Arguments of every command.
        development: Arguments that pick the images to choose on, if they differ from the data's own.
    """

    def __init__(self, folder: Path, common: Sequence[str], development: Sequence[str] = ()) -> None:
        self.folder = folder
        self.common = list(common)
        self.development = list(development)

    def validate(self, name: str, arguments: Iterable[str], anew: bool = False) -> dict[str, Any]:
        """Scores a method on the development set; returns its summary, also of an earlier run.

        Args:
            name: Of its folder.
            arguments: That pick the method.
            anew: Whether an earlier run is put aside, as it was of other settings.
        """
        place = self.folder / "development" / name
        return self._run("validate", place, [*self.development, *arguments], anew)

    def test(self, name: str, arguments: Iterable[str]) -> dict[str, Any]:
        """Scores a method on the targets; returns its summary, also of an earlier run."""
        return self._run("test", self.folder / "test" / name, arguments)

    def search_alpha(self) -> dict[float, float]:
        """Returns the mean IoU in percent on the development set for each alpha of IaBN."""
        place = self.folder / "development" / "alpha"
        self.validate("alpha", ["--trainer.callbacks+=callbacks.alpha_search.AlphaSearch"])
        points = json.loads((place / SEARCH).read_text(encoding="utf-8"))["points"]
        return {point["values"]["alpha"]: point["miou"] for point in points}

    def compare_images(self, name: str, other: str) -> list[float]:
        """Returns by how many points of mean IoU each test image differs from one method to the other."""
        per_image = []
        for place in (self.folder / "test" / name, self.folder / "test" / other):
            records = read_records(place / RECORDS)
            per_image.append({(r["domain"], r["name"]): Scores.from_record(r).summarize()["miou"] for r in records})
        return [100 * (per_image[1][image] - miou) for image, miou in per_image[0].items()]

    def _run(self, command: str, place: Path, arguments: Iterable[str], anew: bool = False) -> dict[str, Any]:
        summary = place / SUMMARY
        if anew or not (summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["complete"]):
            more = ["--results.overwrite=true"] if anew else []
            main([command, *self.common, f"--results.folder={place}", *more, *arguments])
        return json.loads(summary.read_text(encoding="utf-8"))


def describe_method(method: str, settings: dict[str, Any]) -> list[str]:
    """Returns the arguments that pick a method with its settings."""
    values = {key: json.dumps(value) if isinstance(value, list | bool) else value for key, value in settings.items()}
    return [f"--method={method}", *(f"--method.{key}={value}" for key, value in values.items() if value is not None)]
