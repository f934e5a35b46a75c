"""What the methods cost: time, memory and operations per image, beside a plain loop and what the machine can do.

Each row is one method on one network, image size and precision. Beside it stand a plain loop, timed by turns in one
run and always in float32, and the share of the rate of a large matrix product that the method's operations reach.
Weights are random, as time does not depend on them; the image is a generated street scene. Rows are written as they
come: `benchmark.json`, `benchmark.csv`, and the machine in `machine.json`.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.method import Method
from callbacks.run.records import find_commit, number_files, to_plain, write_file
from callbacks.views import Resampling
from experiments.benchmark import cost
from experiments.benchmark.cases import (
    METHODS,
    Case,
    Subject,
    list_cases,
    list_trainable,
    make_method,
    make_plain_loop,
    make_subject,
)
from experiments.benchmark.rows import COLUMNS, HEADING, add_note, format_page, format_row, write_rows
from experiments.benchmark.runtime_accuracy import measure_accuracy
from experiments.command_line import to_path
from experiments.pages import insert_report
from lightning_modules.compilation import RECOMPILE_LIMIT
from lightning_modules.predictor import predict_plainly

SIZES = {"cuda": ["1024x2048", "1080x1920", "720x1280"], "cpu": ["256x512"]}
REPEATS = {"cuda": 20, "cpu": 5}
LEAST_AGREEMENT = 0.999  # of the labels of a row in float32 with the plain loop's


def name_processor() -> str:
    """Returns what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Benchmark:
    """Measures cases one after another and writes what it has after each.

    Args:
        options: Of the command line.

    Attributes:
        rows: What was measured.
        rates: Of a large matrix product in TFLOP/s, by precision.
        machine: What all rows have in common.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.rows: list[dict[str, Any]] = []
        self.rates: dict[str, float] = {}
        self.machine: dict[str, Any] = {}
        if options.compile != "none":  # every size of view and every set of weights is a graph of its own
            torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        self._flops: dict[Case, tuple[int, dict[str, int]]] = {}

    def run(self) -> None:
        """Measures everything that the command line asks for."""
        written = (self.options.folder / name for name in ("benchmark.json", "benchmark.csv", "machine.json"))
        number_files([path for path in written if path.exists()])  # those of an earlier run are kept
        for precision in self.options.precision:
            self.rates[precision] = cost.measure_rate(self.device, precision)
        self.describe_machine()
        print(", ".join(f"{name}: {rate:.3g} TFLOP/s" for name, rate in self.rates.items()), f"\n{HEADING}", flush=True)
        for name in self.options.networks:
            for size in self.options.sizes:
                subject = make_subject(name, size, self.options)
                for case in list_cases(name, subject.network, size, self.options):
                    self.rows.append(self.measure(case, subject))
                    write_rows(self.rows, self.options.folder)
                    print(format_row(self.rows[-1]), flush=True)

    def measure(self, case: Case, subject: Subject) -> dict[str, Any]:
        """Measures a case; what goes wrong becomes its note."""
        row = self.begin(case, subject)
        try:
            self.measure_cost(row, case, subject)
            with tempfile.TemporaryDirectory(prefix="plain_loop_") as folder:
                plain = self.warm_plain(row, case, subject, Path(folder)) if self.options.plain else None
                self.measure_time(row, case, subject, plain)
        except (RuntimeError, MemoryError, ValueError) as error:
            if not (isinstance(error, ValueError) or cost.is_out_of_memory(error)):
                raise
            add_note(row, explain(error))
        finally:
            subject.network._compiled_call_impl = None
            if self.options.compile != "none":
                torch.compiler.reset()
            cost.free_memory(self.device)
        return row

    def begin(self, case: Case, subject: Subject) -> dict[str, Any]:
        """Makes a row without results."""
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"network": case.network, "height": case.size[0], "width": case.size[1], "device": self.device.type}
        row |= {
            "precision": case.precision,
            "method": case.method,
            "steps": case.steps,
            "stages": {},
            "stages_tflop": {},
            "note": "",
        }
        row |= {"trainable": None if case.trainable is None else ",".join(case.trainable)}
        row |= {
            "channels_last": bool(getattr(subject.network, "channels_last", False)),
            "compile": self.options.compile,
        }
        row |= {"resampling": self.options.resampling if case.method in ("TTA", "Seg-TTT") else None}
        row |= {"lr": subject.lr if case.steps else None, "repeats": self.options.repeats}
        return row | {"alpha": None if case.method == "t-BN" else subject.alpha}

    def prepare(
        self, case: Case, subject: Subject, resampling: Resampling | None = None
    ) -> tuple[Callable[[], Tensor], Method | None]:
        """Returns our call as `trainer.test` makes it, and its method.

        Raises:
            ValueError: If the method cannot work on the network.
        """
        method = make_method(case, subject, self.options, resampling or self.options.resampling)
        if method is not None:
            method.check_network(subject.network)
        predict = predict_plainly if method is None else method.predict

        def call() -> Tensor:
            with torch.inference_mode(), cost.autocast(self.device, case.precision):
                return predict(subject.network, subject.image)

        return call, method

    def count(self, case: Case, subject: Subject) -> tuple[int, dict[str, int]]:
        """Counts the operations of a case, and of its stages; they do not depend on the precision."""
        key = replace(case, precision="")
        if key not in self._flops:
            self._flops[key] = cost.count_flops(self.prepare(case, subject)[0])
        return self._flops[key]

    def measure_cost(self, row: dict[str, Any], case: Case, subject: Subject) -> None:
        """Adds operations and peak memory; warms up."""
        flops, stages = self.count(case, subject)
        row |= {"tflop": flops / 1e12, "stages_tflop": {name: part / 1e12 for name, part in stages.items()}}
        call, method = self.prepare(case, subject)
        if self.options.compile != "none":
            subject.network.compile(mode=self.options.compile)
            try:
                call(), call()  # graphs are recorded in the second call
            except Exception as error:  # a compiler fails in many ways, and a note is all that is wanted of it
                subject.network._compiled_call_impl = None
                row["compile"] = "none"
                add_note(row, f"not compiled: {explain(error)}")
        row["peak_mb"] = cost.measure_peak(call, self.device)
        if method is not None and method.adaptations[0].note:
            add_note(row, method.adaptations[0].note)

    def warm_plain(
        self, row: dict[str, Any], case: Case, subject: Subject, folder: Path
    ) -> Callable[[], Tensor] | None:
        """Adds how far the plain loop agrees with ours, both made as exact as can be, and its memory.

        Returns:
            The plain loop's call; None if it cannot do this case.
        """
        image = subject.image.contiguous()
        try:
            loop = make_plain_loop(case, subject, self.options, folder / "checkpoint.pt")
            found: list[Tensor] = []

            def call() -> Tensor:
                return loop.predict(subject.pixels, image)

            with cost.exact_float32():
                row["peak_mb_plain_loop"] = cost.measure_peak(lambda: found.append(call()), self.device)
                ours = self.prepare(case, subject, "pillow")[0]()
        except (RuntimeError, MemoryError, ValueError) as error:
            if not (isinstance(error, ValueError) or cost.is_out_of_memory(error)):
                raise
            add_note(row, f"plain loop: {explain(error)}")
            return None
        row["agreement"] = (ours.argmax(dim=1) == found[0].argmax(dim=1)).float().mean().item()
        row["largest_difference"] = (ours - found[0]).abs().max().item()
        if case.precision == "32-true" and row["agreement"] < LEAST_AGREEMENT:
            add_note(row, f"DIFFERS from the plain loop: {100 * row['agreement']:.2f} % of the labels are the same")
        return call

    def measure_time(
        self, row: dict[str, Any], case: Case, subject: Subject, plain: Callable[[], Tensor] | None
    ) -> None:
        """Adds times, and what follows from them."""
        calls = [self.prepare(case, subject)[0], *([plain] if plain else [])]
        calls[0]()
        (times, stages), *others = cost.time_by_turns(calls, self.options.repeats, self.device)
        row |= {"ms": statistics.median(times), "ms_spread": cost.find_spread(times), "stages": stages}
        for plain_times, _ in others:
            row["ms_plain_loop"] = statistics.median(plain_times)
            row["ms_plain_loop_spread"] = cost.find_spread(plain_times)
            row["ratio"] = row["ms_plain_loop"] / row["ms"]
        rate = self.rates[case.precision]
        row["fraction_of_measured_rate"] = row["tflop"] / (row["ms"] / 1000) / rate
        if stages.get("step"):
            row["steps_fraction"] = row["stages_tflop"]["step"] / (sum(stages["step"]) / 1000) / rate

    def describe_machine(self) -> None:
        """Writes what all rows have in common."""
        on_cuda = self.device.type == "cuda"
        self.machine = {
            "machine": platform.platform(), "processor": name_processor(), "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(self.device) if on_cuda else None, "device": self.device.type,
            "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "python": platform.python_version(),
            "torch": torch.__version__, "cuda": torch.version.cuda if on_cuda else None,
            "cudnn": torch.backends.cudnn.version() if on_cuda else None,
            "tf32": torch.backends.cudnn.allow_tf32 if on_cuda else None,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": find_commit(),
            "rate_tflop_per_s": self.rates, "options": vars(self.options),
        }  # fmt: skip
        write_file(self.options.folder / "machine.json", json.dumps(to_plain(self.machine), indent=1).encode())


def explain(error: Exception) -> str:
    """Returns the first line of an error, kept short."""
    reason = "out of memory: " if cost.is_out_of_memory(error) else ""
    text = str(error).strip() or type(error).__name__
    return f"{reason}{text.splitlines()[0][:200]}"


def parse_size(text: str) -> tuple[int, int]:
    """Parses a size such as 1024x2048 (HxW)."""
    height, separator, width = text.lower().partition("x")
    if not separator or not height.isdigit() or not width.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected HxW in pixels, e.g. 1024x2048")
    return int(height), int(width)


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line and fills in what depends on the device."""
    name, summary = "python -m experiments.benchmark", __doc__.split("\n\n")[0]
    parser = argparse.ArgumentParser(prog=name, description=summary)
    add = parser.add_argument
    add("--folder", type=to_path, default=Path("outputs/benchmark"), help="where to write (%(default)s)")
    add("--networks", nargs="+", metavar="NAME", help="files of configs/model (deeplabv1_resnet50)")
    add("--sizes", nargs="+", type=parse_size, metavar="HxW", help="1024x2048 1080x1920 720x1280, on a CPU 256x512")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="all")
    add("--steps", nargs="+", type=int, metavar="N_t", help="of Seg-TTT (1 3 10)")
    add("--trainable", nargs="+", metavar="NAMES", default=["default", "layer4,head", "head"],
        help="what Seg-TTT moves, names joined by commas; 'default' is the network's own")  # fmt: skip
    add("--precision", nargs="+", choices=list(cost.PRECISIONS), default=["32-true", "bf16-mixed"])
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--channels-last", choices=["auto", "true", "false"], default="auto", help="auto: as the network has it")
    add("--compile", choices=["none", "default", "reduce-overhead"], default="none", help="mode of network.compile")
    add("--threads", type=int, help="of torch on a CPU")
    add("--repeats", type=int, help="turns that are timed (20, on a CPU 5)")
    add("--plain", choices=["true", "false"], default="true", help="whether to run the plain loop beside it")
    add("--alpha", type=float, default=0.1, help="of IaBN (%(default)s)")
    add("--psi", type=float, default=0.7, help="of Seg-TTT (%(default)s)")
    add("--lr", type=float, help="of Seg-TTT (one at which random weights stay stable; with --accuracy 0.05)")
    add("--scales", nargs="+", type=float, default=[0.25, 0.5, 0.75], help="of the views")
    add("--resampling", choices=["device", "pillow"], default="device", help="of our views, while timed")
    add("--write", type=to_path, metavar="PAGE", help="a Markdown page that the table is also written into")
    add("--quick", action="store_true", help="a tiny network and image: shows that all works")
    add("--profile", action="store_true", help="profile one image of Seg-TTT instead")
    add("--accuracy", metavar="CHECKPOINT", help="draw mean IoU against time per image instead, with --config")
    add(
        "--config",
        type=to_path,
        metavar="EXPERIMENT",
        help="of the checkpoint, e.g. configs/experiment/gta_resnet50.yaml",
    )
    add("options", nargs="*", help="with --accuracy: more arguments for main.py, after --")
    options = parser.parse_args(args)
    if (options.accuracy is None) != (options.config is None):
        parser.error("--accuracy and --config belong together: expected both or none")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.lr is None and options.accuracy is not None:
        options.lr = 0.05
    options.plain = options.plain == "true"
    options.networks = options.networks or ["deeplabv1_resnet10_small" if options.quick else "deeplabv1_resnet50"]
    options.sizes = options.sizes or [
        parse_size(size) for size in (["64x128"] if options.quick else SIZES[options.device])
    ]
    options.steps = options.steps or ([1] if options.quick else [1, 3, 10])
    options.repeats = options.repeats or (2 if options.quick else REPEATS[options.device])
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def profile(options: argparse.Namespace) -> None:
    """Profiles Seg-TTT on one image for each network, size and precision."""
    benchmark = Benchmark(options)
    for name in options.networks:
        for size in options.sizes:
            subject = make_subject(name, size, options)
            for precision in options.precision:
                moving = list_trainable(subject.network, options)[0]
                call = benchmark.prepare(Case(name, size, precision, "Seg-TTT", options.steps[-1], moving), subject)[0]
                call()
                place = options.folder / f"profile_{name}_{size[0]}x{size[1]}_{options.device}_{precision}"
                print(f"{place.name}\n{cost.profile_call(call, benchmark.device, place)}", flush=True)


def run_benchmark(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns its rows.

    Raises:
        ValueError: If the labels of a row in float32 are not the plain loop's; all rows are written before.
    """
    options = parse_arguments(args)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.accuracy is not None:
        return measure_accuracy(options)
    if options.profile:
        profile(options)
        return []
    benchmark = Benchmark(options)
    try:
        benchmark.run()
    finally:
        print(f"\n{len(benchmark.rows)} rows in {options.folder}", flush=True)
        if options.write and benchmark.rows:
            insert_report(options.write, format_page(benchmark.rows, benchmark.machine))
    differing = [row for row in benchmark.rows if "DIFFERS" in row["note"]]
    if differing:
        raise ValueError(f"{len(differing)} rows in float32 differ from the plain loop: see their notes")
    return benchmark.rows
