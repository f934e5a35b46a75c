"""The rows of `experiments.benchmark`: their columns, how they are printed, and how they are written."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.run.records import to_plain, write_file

COLUMNS = (
    "network", "height", "width", "device", "precision", "method", "steps", "trainable", "ms", "ms_spread",
    "ms_plain_loop", "ms_plain_loop_spread", "ratio", "peak_mb", "peak_mb_plain_loop", "tflop",
    "fraction_of_measured_rate", "steps_fraction", "agreement", "largest_difference", "stages", "stages_tflop",
    "repeats", "channels_last", "compile", "resampling", "alpha", "lr", "note",
)  # fmt: skip
HEADING = (
    f"{'network':<26}{'size':>10} {'precision':<11}{'method':<8}{'steps':>5} {'trainable':<24}{'ms':>19}"
    f"{'plain ms':>10}{'ratio':>7}{'MB':>8}{'TFLOP':>10}{'of rate':>8}{'same':>8}  note"
)


def add_note(row: dict[str, Any], note: str) -> None:
    """Adds to the note of a row."""
    row["note"] = f"{row['note']}; {note}" if row["note"] else note


def format_row(row: dict[str, Any]) -> str:
    """Formats a row under `HEADING`."""

    def show(key: str, form: str, factor: float = 1.0, unit: str = "") -> str:
        return "-" if row[key] is None else f"{factor * row[key]:{form}}{unit}"

    size = f"{row['height']}x{row['width']}"
    milliseconds = "-" if row["ms"] is None else f"{row['ms']:.1f} ± {row['ms_spread']:.1f}"
    steps = "" if row["steps"] is None else row["steps"]
    cells = f"{row['network']:<26}{size:>10} {row['precision']:<11}{row['method']:<8}{steps:>5} "
    cells += f"{row['trainable'] or '':<24}{milliseconds:>19}{show('ms_plain_loop', '.1f'):>10}"
    cells += f"{show('ratio', '.2f'):>7}{show('peak_mb', '.0f'):>8}{show('tflop', '.3g'):>10}"
    cells += f"{show('fraction_of_measured_rate', '.0f', 100, ' %'):>8}{show('agreement', '.2f', 100, ' %'):>8}"
    return f"{cells}  {row['note']}".rstrip()


def format_page(rows: Sequence[dict[str, Any]], machine: Mapping[str, Any]) -> str:
    """Formats rows as Markdown, with the machine they were measured on."""
    rates = ", ".join(f"{rate:.2g} TFLOP/s in {name}" for name, rate in machine["rate_tflop_per_s"].items())
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads, load {machine['load']:.1f}"
    titles = ["network", "size", "precision", "method", "N_t", "moves", "ms", "plain loop", "ratio", "MB", "TFLOP"]
    titles += ["of rate", "steps of rate", "same labels"]
    lines = [f"| {' | '.join(titles)} |", "|---" * 6 + "|---:" * (len(titles) - 6) + "|"]
    for row in rows:

        def show(key: str, form: str, factor: float = 1.0, unit: str = "", row: Mapping[str, Any] = row) -> str:
            return "" if row[key] is None else f"{factor * row[key]:{form}}{unit}"

        cells = [row["network"], f"{row['height']}x{row['width']}", row["precision"], row["method"]]
        cells += [
            "" if row["steps"] is None else str(row["steps"]),
            row["trainable"] or "",
            show("ms", ".0f"),
            show("ms_plain_loop", ".0f"),
        ]
        cells += [show("ratio", ".2f"), show("peak_mb", ".0f"), show("tflop", ".2f")]
        cells += [show("fraction_of_measured_rate", ".0f", 100, " %"), show("steps_fraction", ".0f", 100, " %")]
        lines.append(f"| {' | '.join([*cells, show('agreement', '.2f', 100, ' %')])} |")
    return (
        f"Measured on {machine['date']}: {where}, torch {machine['torch']}, commit {str(machine['commit'])[:10]}; a "
        f"large matrix product: {rates}. Medians.\n\n" + "\n".join(lines) + "\n"
    )


def write_rows(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes all rows as `benchmark.json` and `benchmark.csv` (where stages are JSON)."""
    plain = [to_plain(row) for row in rows]
    write_file(folder / "benchmark.json", json.dumps(plain, indent=1).encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(row | {key: json.dumps(row[key]) for key in ("stages", "stages_tflop")} for row in plain)
    write_file(folder / "benchmark.csv", text.getvalue().encode())
