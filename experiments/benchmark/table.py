"""The rows of `experiments.benchmark`: their columns, how they are shown, and how they are written."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.run.records import to_plain, write_file

Row = dict[str, Any]
COLUMNS = (
    "network", "height", "width", "device", "precision", "method", "steps", "trainable", "ms", "ms_spread",
    "ms_plain_loop", "ms_plain_loop_spread", "ratio", "peak_mb", "peak_mb_plain_loop", "tflop",
    "fraction_of_measured_rate", "steps_fraction", "agreement", "largest_difference", "stages", "stages_tflop",
    "repeats", "channels_last", "compile", "resampling", "alpha", "lr", "note",
)  # fmt: skip

# Columns of the table that is shown: title, key of the row, format, factor.
TEXTS = (("precision", "precision"), ("method", "method"), ("N_t", "steps"), ("moves", "trainable"))
NUMBERS = (
    ("ms", "ms", "{:.0f}", 1),
    ("plain loop", "ms_plain_loop", "{:.0f}", 1),
    ("ratio", "ratio", "{:.2f}", 1),
    ("MB", "peak_mb", "{:.0f}", 1),
    ("TFLOP", "tflop", "{:.2f}", 1),
    ("of rate", "fraction_of_measured_rate", "{:.0f} %", 100),
    ("steps of rate", "steps_fraction", "{:.0f} %", 100),
    ("same labels", "agreement", "{:.2f} %", 100),
)


def format_heading() -> str:
    """Returns the first two lines of the Markdown table."""
    titles = ["network", "size", *(title for title, _ in TEXTS), *(title for title, *_ in NUMBERS)]
    return f"| {' | '.join(titles)} |\n|{'---|' * (len(titles) - len(NUMBERS))}{'---:|' * len(NUMBERS)}"


def format_row(row: Row) -> str:
    """Returns the line of a row in the Markdown table."""
    cells = [row["network"], f"{row['height']}x{row['width']}"]
    cells += ["" if row[key] is None else str(row[key]) for _, key in TEXTS]
    cells += ["" if row[key] is None else form.format(factor * row[key]) for _, key, form, factor in NUMBERS]
    return f"| {' | '.join(cells)} |"


def format_page(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Formats rows as Markdown, with the machine they were measured on."""
    rates = ", ".join(f"{rate:.2g} TFLOP/s in {name}" for name, rate in machine["rate_tflop_per_s"].items())
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads, load {machine['load']:.1f}"
    origin = f"Measured on {machine['date']}: {where}, torch {machine['torch']}, commit {str(machine['commit'])[:10]}"
    table = "\n".join([format_heading(), *map(format_row, rows)])
    return f"{origin}; a large matrix product: {rates}. Medians.\n\n{table}\n"


def write_rows(rows: Sequence[Row], folder: Path) -> None:
    """Writes all rows as `benchmark.json` and `benchmark.csv` (where stages are JSON)."""
    plain = [to_plain(row) for row in rows]
    write_file(folder / "benchmark.json", json.dumps(plain, indent=1).encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(row | {key: json.dumps(row[key]) for key in ("stages", "stages_tflop")} for row in plain)
    write_file(folder / "benchmark.csv", text.getvalue().encode())
