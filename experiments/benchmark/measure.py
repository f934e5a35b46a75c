"""Measures a method on a network and an image, beside the plain loop."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from callbacks.method import TooLargeError, is_out_of_memory
from experiments.benchmark import cost
from experiments.benchmark.cases import Case, make_call
from experiments.benchmark.plain_loop import PlainLoop
from experiments.benchmark.subject import Subject
from experiments.benchmark.table import COLUMNS, Row
from lightning_modules.compilation import compile_network

ALPHA = 0.1
LEAST_AGREEMENT = 0.999  # least share of labels that a row in float32 has in common with the plain loop


def measure(case: Case, precision: str, subject: Subject, options: argparse.Namespace, rate: float) -> Row:
    """Measures a case; `rate` is that of a matrix product in TFLOP/s. Expected errors become notes of the row."""
    row = start_row(case, precision, subject, options)
    device, network = subject.image.device, subject.network
    settings = case.list_settings(ALPHA if subject.has_batch_norm else 0.0, subject.lr)
    try:
        with noting(row), TemporaryDirectory(prefix="plain_loop_") as folder:
            method = case.make_method(settings)
            if method is not None:
                method.check_network(network)
            flops, stages = cost.count_flops(make_call(method, network, subject.image, "32-true"))
            row |= {"tflop": flops / 1e12, "stages_tflop": {name: part / 1e12 for name, part in stages.items()}}
            call = make_call(method, network, subject.image, precision)
            if options.compile != "none":
                compile_network(network, options.compile)
                call(), call()  # graphs are recorded in the second call
                if network._compiled_call_impl is None:
                    row["compile"] = "none"
                    add_note(row, "not compiled: see the warning")
            call()  # warm-up: choosing algorithms takes memory of its own
            row["peak_mb"] = cost.measure_peak(call, device)
            if method is not None and method.adaptations[0].note:
                add_note(row, method.adaptations[0].note)
            calls = [call]
            if options.plain:
                exact = make_call(case.make_method(settings, "pillow"), network, subject.image, precision)
                with noting(row, "plain loop: "):
                    calls.append(compare_with_plain_loop(row, settings, subject, exact, Path(folder) / "checkpoint.pt"))
                call()  # warm up again
            add_times(row, cost.time_by_turns(calls, options.repeats, device), rate)
    finally:
        compile_network(network, "none")
        cost.free_memory(device)
    return row


def start_row(case: Case, precision: str, subject: Subject, options: argparse.Namespace) -> Row:
    """Makes a row without results."""
    height, width = subject.pixels.shape[:2]
    has_alpha = subject.has_batch_norm and case.method != "t-BN"
    return dict.fromkeys(COLUMNS) | {
        "network": subject.name, "height": height, "width": width, "device": options.device, "precision": precision,
        "method": case.method, "steps": case.steps, "trainable": case.trainable, "stages": {}, "stages_tflop": {},
        "repeats": options.repeats, "channels_last": bool(getattr(subject.network, "channels_last", False)),
        "compile": options.compile, "resampling": "device" if case.has_views else None,
        "alpha": ALPHA if has_alpha else None, "lr": subject.lr if case.steps else None, "note": "",
    }  # fmt: skip


def compare_with_plain_loop(
    row: Row, settings: Mapping[str, Any], subject: Subject, ours: cost.Call, checkpoint: Path
) -> cost.Call:
    """Adds the plain loop's agreement with our call (both without TF32) and its memory; returns the loop's call."""
    if not subject.has_batch_norm:
        settings = {**settings, "alpha": None}
    image = subject.image.contiguous()
    loop = PlainLoop(subject.network, checkpoint, **settings)
    found: list[torch.Tensor] = []

    def call() -> torch.Tensor:
        return loop.predict(subject.pixels, image)

    with cost.float32_products(tf32=False):
        row["peak_mb_plain_loop"] = cost.measure_peak(lambda: found.append(call()), image.device)
        probabilities = ours()
    row["agreement"] = (probabilities.argmax(dim=1) == found[0].argmax(dim=1)).float().mean().item()
    row["largest_difference"] = (probabilities - found[0]).abs().max().item()
    if row["precision"] == "32-true" and row["agreement"] < LEAST_AGREEMENT:
        add_note(row, f"DIFFERS from the plain loop: {100 * row['agreement']:.2f} % of the labels are the same")
    return call


def add_times(row: Row, times: Sequence[cost.Times], rate: float) -> None:
    """Adds the times of our call and of the plain loop's, if there is one, and the ratios derived from them."""
    (ours, stages), *others = times
    row |= {"ms": 1000 * ours.median, "ms_spread": 1000 * ours.iqr, "stages": stages}
    row["fraction_of_measured_rate"] = row["tflop"] / ours.median / rate
    if stages.get("step"):
        row["steps_fraction"] = row["stages_tflop"]["step"] / (sum(stages["step"]) / 1000) / rate
    for plain, _ in others:
        row |= {"ms_plain_loop": 1000 * plain.median, "ms_plain_loop_spread": 1000 * plain.iqr}
        row["ratio"] = row["ms_plain_loop"] / row["ms"]


@contextmanager
def noting(row: Row, where: str = "") -> Iterator[None]:
    """Turns errors of memory and of unsuitable networks or settings into notes of the row; raises all others."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        too_large = isinstance(error, TooLargeError | MemoryError) or is_out_of_memory(error)
        if isinstance(error, RuntimeError) and not too_large:
            raise
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        add_note(row, f"{where}{'out of memory: ' if too_large else ''}{text}")


def add_note(row: Row, note: str) -> None:
    """Appends to the note of a row."""
    row["note"] = f"{row['note']}; {note}" if row["note"] else note
