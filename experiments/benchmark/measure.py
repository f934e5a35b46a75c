"""Measures a method on a network and an image, beside the plain loop."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import Measurement

from callbacks.iabn import IaBN, has_batch_norm
from callbacks.method import Method, TooLargeError, is_out_of_memory
from callbacks.seg_ttt import DEFAULT_TRAINABLE, SegTTT
from callbacks.tta import TTA
from experiments.benchmark import cost
from experiments.benchmark.plain_loop import PlainLoop
from experiments.benchmark.subject import Subject, make_subject
from lightning_modules.compilation import compile_network
from lightning_modules.predictor import predict_plainly

METHODS: dict[str, type[Method] | None] = {"t-BN": None, "IaBN": IaBN, "TTA": TTA, "Seg-TTT": SegTTT}
SCALES = (0.25, 0.5, 0.75)
ALPHA = 0.1
LEAST_AGREEMENT = 0.999  # least share of labels that a row in float32 has in common with the plain loop
COLUMNS = (
    "network", "height", "width", "device", "precision", "method", "alpha", "lr", "steps", "trainable", "compile", "ms",
    "ms_spread", "ms_plain_loop", "ms_plain_loop_spread", "ratio", "peak_mb", "peak_mb_plain_loop", "tflop",
    "fraction_of_measured_rate", "steps_fraction", "agreement", "largest_difference", "stages", "stages_tflop", "note",
)  # fmt: skip

Settings = dict[str, Any]
Row = dict[str, Any]


def measure_all(options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every network, image size, method and precision of a command line, as soon as it is measured.

    TF32 and cuDNN's benchmark mode are on meanwhile, as in the GPU presets.
    """
    for name, size in product(options.networks, options.sizes):
        subject = make_subject(name, size, options.device)
        for case, precision in product(list_cases(subject, options), options.precision):
            with cost.fast_settings():
                row = measure(case, subject, precision, options)
            if options.compile == "reduce-overhead":
                torch.compiler.reset()  # frees the memory of the CUDA graphs
            yield row
        if options.compile != "none":
            torch.compiler.reset()  # frees the network


def list_cases(subject: Subject, options: argparse.Namespace) -> list[tuple[str, Settings]]:
    """Lists methods with the arguments of each, which the plain loop takes too; several for Seg-TTT."""
    alpha = {"alpha": ALPHA if has_batch_norm(subject.network) else 0.0}
    views = {**alpha, "scales": SCALES}
    own = ",".join(getattr(subject.network, "adapted_layers", DEFAULT_TRAINABLE))
    chosen = dict.fromkeys(own if names == "default" else names for names in options.trainable)  # each once
    steps = [
        {**views, "psi": 0.7, "lr": subject.lr, "num_steps": count, "trainable": names.split(",")}
        for names in chosen
        for count in options.steps
    ]
    settings: dict[str, list[Settings]] = {"t-BN": [{}], "IaBN": [alpha], "TTA": [views], "Seg-TTT": steps}
    return [(name, each) for name in options.methods for each in settings[name]]


def make_method(name: str, settings: Settings) -> Method | None:
    """Makes a method; None is the plain forward pass."""
    method = METHODS[name]
    return None if method is None else method(**settings)


def make_call(method: Method | None, subject: Subject, precision: str) -> cost.Call:
    """Returns a call that predicts the subject's image by a method as `trainer.test` does."""
    predict = predict_plainly if method is None else method.predict

    def call() -> Tensor:
        with torch.inference_mode(), cost.autocast(subject.image.device, precision):
            return predict(subject.network, subject.image)

    return call


def measure(case: tuple[str, Settings], subject: Subject, precision: str, options: argparse.Namespace) -> Row:
    """Measures a case. Errors of memory and of unsuitable networks become notes of the row."""
    name, settings = case
    row: Row = dict.fromkeys(COLUMNS) | {
        "network": subject.name, "height": subject.pixels.shape[0], "width": subject.pixels.shape[1],
        "device": options.device, "precision": precision, "method": name, "alpha": settings.get("alpha"),
        "lr": settings.get("lr"), "steps": settings.get("num_steps"), "compile": options.compile,
        "trainable": ",".join(settings.get("trainable", [])) or None, "stages": {}, "stages_tflop": {}, "note": "",
    }  # fmt: skip
    network, device = subject.network, subject.image.device
    try:
        with noting(row), TemporaryDirectory(prefix="plain_loop_") as folder:
            method = make_method(name, settings)
            flops, stages = cost.count_flops(make_call(method, subject, "32-true"))
            row |= {"tflop": flops / 1e12, "stages_tflop": {name: part / 1e12 for name, part in stages.items()}}
            call = make_call(method, subject, precision)
            if options.compile != "none":
                compile_network(network, options.compile)
                call(), call()  # graphs are recorded in the second call
                if network._compiled_call_impl is None:
                    row["compile"] = "none"
                    add_note(row, "not compiled: see the warning")
            call()  # warm-up: choosing algorithms takes memory of its own
            _, row["peak_mb"] = cost.measure_peak(call, device)
            if method is not None and method.adaptations[0].note:
                add_note(row, method.adaptations[0].note)
            calls = [call]
            if options.plain == "true":
                with noting(row, "plain loop: "):
                    calls.append(compare_with_plain_loop(row, case, subject, Path(folder) / "checkpoint.pt"))
                call()  # warm up again
            rate = cost.measure_rate(device, precision, options.quick)
            with cost.timing_stages(device) as runs:  # the plain loop has no stages
                times = cost.time_by_turns(calls, options.repeats)
            add_times(row, times, rate)
            for stage, stopwatches in runs.items():
                turns = np.reshape([each.milliseconds() for each in stopwatches], (options.repeats, -1))
                row["stages"][stage] = np.median(turns, axis=0).tolist()
            if steps := row["stages"].get("step"):
                row["steps_fraction"] = row["stages_tflop"]["step"] / (sum(steps) / 1000) / rate
    finally:
        compile_network(network, "none")
        cost.free_memory(device)
    return row


def compare_with_plain_loop(row: Row, case: tuple[str, Settings], subject: Subject, checkpoint: Path) -> cost.Call:
    """Adds the plain loop's memory, and how far it agrees with our method that resizes as it does; returns its call."""
    name, settings = case
    loop = PlainLoop(subject.network, checkpoint, **settings)
    call = partial(loop.predict, subject.pixels, subject.image.contiguous())
    exact = make_method(name, {**settings, "resampling": "pillow"} if "scales" in settings else settings)
    with cost.float32_products(tf32=False):
        plain, row["peak_mb_plain_loop"] = cost.measure_peak(call, subject.image.device)
        ours = make_call(exact, subject, row["precision"])()
    row["agreement"] = (ours.argmax(dim=1) == plain.argmax(dim=1)).float().mean().item()
    row["largest_difference"] = (ours - plain).abs().max().item()
    if row["precision"] == "32-true" and row["agreement"] < LEAST_AGREEMENT:
        add_note(row, f"DIFFERS from the plain loop: {100 * row['agreement']:.2f} % of the labels are the same")
    return call


def add_times(row: Row, times: Sequence[Measurement], rate: float) -> None:
    """Adds the times of our call and of the plain loop's, if there is one, and the ratios derived from them."""
    ours = times[0]
    row |= {"ms": 1000 * ours.median, "ms_spread": 1000 * ours.iqr}
    row["fraction_of_measured_rate"] = row["tflop"] / ours.median / rate
    for plain in times[1:]:
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
