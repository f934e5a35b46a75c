"""The report in JSON, which is whole at any time of a check."""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.check_data import checks
from experiments.check_data.checks import DataSetCheck, measure_speed


class Report:
    """The JSON file, which can be written at any time.

    Args:
        path: Where to write it.
        found: The checks, which go on while the file is written.
        about: What else it should say.
    """

    def __init__(self, path: Path, found: Sequence[DataSetCheck], about: dict[str, Any]) -> None:
        self.path = path
        self.found = found
        self.about = about | {"started": datetime.now(UTC).isoformat(timespec="seconds")}

    def write(self, complete: bool) -> None:
        """Replaces the file at once, so that it is whole at any time."""
        described = {
            "complete": complete,
            "failed": any(data_set.failed for data_set in self.found),
            **self.about,
            "images_per_second": measure_speed(self.found),
            "data_sets": [data_set.describe() for data_set in self.found],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            beside.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)


def read_all(found: Sequence[DataSetCheck], num_threads: int, report: Report) -> None:
    """Reads all splits, shows the progress, and writes the report after each of them."""
    wanted = [check for data_set in found for check in data_set.checks]
    seldom = 0.1 if sys.stderr.isatty() else 30  # seconds between two lines in a log file
    total = sum(len(check.chosen) for check in wanted)
    with tqdm(total=total, unit=" images", mininterval=seldom, dynamic_ncols=True, smoothing=0.1) as bar:
        for check in wanted:
            try:
                checks.read_split(check, num_threads, bar)
            finally:
                report.write(complete=False)
