"""The rows of `experiments.benchmark`: their columns, table and files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.run.records import to_plain, write_file, write_json
from experiments.pages import format_csv, format_markdown

Row = dict[str, Any]
COLUMNS = (
    "network", "height", "width", "device", "precision", "method", "steps", "trainable", "ms", "ms_spread",
    "ms_plain_loop", "ms_plain_loop_spread", "ratio", "peak_mb", "peak_mb_plain_loop", "tflop",
    "fraction_of_measured_rate", "steps_fraction", "agreement", "largest_difference", "stages", "stages_tflop",
    "repeats", "channels_last", "compile", "resampling", "alpha", "lr", "note",
)  # fmt: skip
SHOWN = (  # columns of the displayed table: title, key of the row, format
    ("network", "network", ""), ("size", "size", ""), ("precision", "precision", ""), ("method", "method", ""),
    ("N_t", "steps", ""), ("trainable", "trainable", ""), ("ms", "ms", ".0f"), ("plain loop", "ms_plain_loop", ".0f"),
    ("ratio", "ratio", ".2f"), ("MB", "peak_mb", ".0f"), ("TFLOP", "tflop", ".2f"),
    ("share of peak", "fraction_of_measured_rate", ".0%"), ("share of peak, steps", "steps_fraction", ".0%"),
    ("same labels", "agreement", ".2%"),
)  # fmt: skip
NUMBERS = range(6, len(SHOWN))


def format_benchmark(rows: Sequence[Row]) -> str:
    """Formats rows as a Markdown table."""
    return format_markdown([title for title, *_ in SHOWN], map(list_cells, rows), NUMBERS)


def list_cells(row: Row) -> list[str]:
    """Lists the cells of a row in the displayed table."""
    values = row | {"size": f"{row['height']}x{row['width']}"}
    return ["" if values[key] is None else format(values[key], form).replace("%", " %") for _, key, form in SHOWN]


def format_measurements(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Formats a page in Markdown: the machine, then the table of rows."""
    rates = ", ".join(f"{rate:.2g} TFLOP/s in {name}" for name, rate in machine["rate_tflop_per_s"].items())
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads, load {machine['load']:.1f}"
    origin = f"Measured on {machine['date']}: {where}, torch {machine['torch']}, commit {str(machine['commit'])[:10]}"
    return f"{origin}; a large matrix product: {rates}. Medians.\n\n{format_benchmark(rows)}\n"


def write_rows(rows: Sequence[Row], folder: Path) -> None:
    """Writes all rows to `benchmark.json` and `benchmark.csv`, where the stages are JSON within a cell."""
    write_json(folder / "benchmark.json", rows)
    lines = [[json.dumps(cell) if isinstance(cell, dict) else cell for cell in to_plain(row).values()] for row in rows]
    write_file(folder / "benchmark.csv", format_csv(COLUMNS, lines).encode())
