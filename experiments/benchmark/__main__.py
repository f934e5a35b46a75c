"""Measures the time, memory and operations per image of the methods, beside a plain loop and a large matrix product.

Each row is one method on one network, image size and precision. It is compared with a plain loop, always in float32,
whose runs alternate with the method's, and with a large matrix product: the share of its rate that the method reaches.
Weights are random, as time does not depend on them; the image is smooth noise. Rows are saved as they are measured, in
`benchmark.json` and `benchmark.csv`, and the description of the machine in `machine.json`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from callbacks.run.records import number_files, to_plain, write_file, write_json
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.cost import describe_device, measure_rate
from experiments.benchmark.measure import COLUMNS, Row, measure_all
from experiments.pages import format_csv, format_markdown, insert_report

SHOWN = (  # columns of the displayed table: title, key of the row, format
    ("network", "network", ""), ("size", "size", ""), ("precision", "precision", ""), ("method", "method", ""),
    ("N_t", "steps", ""), ("trainable", "trainable", ""), ("ms", "ms", ".0f"), ("plain loop", "ms_plain_loop", ".0f"),
    ("ratio", "ratio", ".2f"), ("MB", "peak_mb", ".0f"), ("TFLOP", "tflop", ".2f"),
    ("share of peak", "fraction_of_measured_rate", ".0%"), ("share of peak, steps", "steps_fraction", ".0%"),
    ("same labels", "agreement", ".2%"),
)  # fmt: skip
NUMBERS = range(6, len(SHOWN))


def run_benchmark(args: Sequence[str] | None = None) -> list[Row]:
    """Runs the command line; returns the rows.

    Raises:
        ValueError: If the labels of a row in float32 differ from the plain loop's; all rows are written first.
    """
    options = parse_arguments(args)
    options.folder.mkdir(parents=True, exist_ok=True)
    files = [options.folder / name for name in ("benchmark.json", "benchmark.csv", "machine.json")]
    number_files([path for path in files if path.exists()])  # those of an earlier run are kept
    device = torch.empty(0, device=options.device).device  # with its index, as images have it
    rates = {precision: measure_rate(device, precision, options.quick) for precision in options.precision}
    machine = describe_device(device) | {"rate_tflop_per_s": rates, "options": vars(options)}
    write_json(files[-1], machine)
    print(format_rows([]), flush=True)
    rows: list[Row] = []
    try:
        for row in measure_all(options):
            rows.append(row)
            write_json(files[0], rows)
            write_file(files[1], format_cells(rows).encode())
            print(f"{format_rows([row]).splitlines()[-1]} {row['note']}".rstrip(), flush=True)
    finally:
        print(f"\n{len(rows)} rows in {options.folder}", flush=True)
        if options.write and rows:
            insert_report(options.write, format_benchmark(rows, machine))
    differing = sum("DIFFERS" in row["note"] for row in rows)
    if differing:
        raise ValueError(f"{differing} rows in float32 differ from the plain loop: see their notes")
    return rows


def format_cells(rows: Sequence[Row]) -> str:
    """Formats all columns of rows as CSV, in which the stages are JSON within a cell."""
    cells = [[json.dumps(cell) if isinstance(cell, dict) else cell for cell in to_plain(row).values()] for row in rows]
    return format_csv(COLUMNS, cells)


def format_rows(rows: Sequence[Row]) -> str:
    """Formats rows as a Markdown table."""
    cells = []
    for row in rows:
        values = row | {"size": f"{row['height']}x{row['width']}"}
        texts = (None if values[key] is None else format(values[key], form) for _, key, form in SHOWN)
        cells.append([(text or "").replace("%", " %") for text in texts])
    return format_markdown([title for title, *_ in SHOWN], cells, NUMBERS)


def format_benchmark(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Formats the machine and the rows in Markdown."""
    rates = ", ".join(f"{rate:.2g} TFLOP/s in {name}" for name, rate in machine["rate_tflop_per_s"].items())
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads, load {machine['load']:.1f}"
    origin = f"Measured on {machine['date']}: {where}, torch {machine['torch']}, commit {str(machine['commit'])[:10]}"
    return f"{origin}; a large matrix product: {rates}. Medians.\n\n{format_rows(rows)}\n"


if __name__ == "__main__":
    run_benchmark()
