"""Runs the command line: checks first, then timing, the figures of most value first.

Exit status 1 if a check failed; a figure that is missing is no failure. Everything is also in the two files of the
folder, which are written after every row, so that a call that is killed has lost nothing.
"""

import argparse
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
import torchmetrics
import torchvision

from callbacks.run.records import find_commit
from experiments.command_line import to_path
from experiments.gpu_check import STARTED, correctness, training
from experiments.gpu_check.runner import Row, Runner, Step
from experiments.gpu_check.speed import Timing
from experiments.gpu_check.subjects import Setup


def list_steps(setup: Setup) -> list[Step]:
    """Lists all steps in their order."""
    timing = Timing(setup)

    def time_methods(backbone: str, precision: str, compiled: bool = False) -> Callable[[], Iterator[Row]]:
        return partial(timing.measure, backbone, precision, compiled)

    return [
        Step("norm", partial(correctness.check_norm, setup), 20),
        Step("variants", partial(correctness.check_variants, setup), 40),
        Step("waits", partial(correctness.check_waits, setup), 40),
        Step("methods", partial(correctness.check_methods, setup), 75),
        Step("processes", partial(training.check_processes, setup), 90),
        Step("rates", timing.measure_rates, 15, timing=True),
        Step("r50-bf16", time_methods("resnet50", "bf16"), 30, timing=True),
        Step("r50-float32", time_methods("resnet50", "float32 (TF32)"), 30, timing=True),
        Step("r50-plain-loop", partial(timing.measure_plain_loop, "resnet50"), 40, timing=True),
        Step("training", partial(training.time_training, setup), 20, timing=True),
        Step("r50-compile", time_methods("resnet50", "bf16", True), 90, timing=True),
        Step("r101-bf16", time_methods("resnet101", "bf16"), 30, timing=True),
        Step("r101-float32", time_methods("resnet101", "float32 (TF32)"), 30, timing=True),
        Step("r101-plain-loop", partial(timing.measure_plain_loop, "resnet101"), 40, timing=True),
        Step("r101-compile", time_methods("resnet101", "bf16", True), 90, timing=True),
    ]


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns what figures depend on."""
    machine: dict[str, Any] = {"device": str(device), "python": platform.python_version(), "torch": torch.__version__}
    machine |= {"torchvision": torchvision.__version__, "pytorch_lightning": pytorch_lightning.__version__}
    machine |= {"torchmetrics": torchmetrics.__version__, "commit": find_commit(), "CPU cores": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {"GPU": properties.name, "GPU memory GiB": properties.total_memory / 2**30}
        machine |= {"GPUs": torch.cuda.device_count(), "driver": find_driver()}
        machine |= {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    return machine


def find_driver() -> str:
    """Asks NVIDIA's tool for the version of the driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def check_gpu(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check", description=__doc__)
    add = parser.add_argument
    add(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="what is checked; auto is a GPU if there is one",
    )
    add("--tiny", action="store_true", help="tiny networks and images: shows that all runs, says nothing about speed")
    add("--only", nargs="+", metavar="NAME", help="run these steps alone; a wrong name lists all")
    add("--minutes", type=float, default=5.0, help="for everything; steps that are left then are not run (default 5)")
    add("--folder", type=to_path, default=Path("outputs/gpu_check"), help="for gpu_check.json and gpu_check.md")
    options = parser.parse_args(args)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: expected a GPU with a driver, or --device cpu --tiny")
    device = torch.device("cuda:0" if options.device == "cuda" else "cpu")
    steps = list_steps(Setup(device, options.tiny))
    unknown = sorted(set(options.only or ()) - {step.name for step in steps})
    if unknown:
        parser.error(f"no step {', '.join(unknown)}: expected some of {', '.join(step.name for step in steps)}")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    machine = describe_machine(device) | {"tiny": options.tiny}
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    start = STARTED if args is None else None
    runner = Runner(options.folder, machine, 60 * options.minutes, start)
    runner.run_all([step for step in steps if not options.only or step.name in options.only])
    print(f"\nFiles: {options.folder}/gpu_check.json and gpu_check.md", flush=True)
    print(f"FAILED: {', '.join(runner.failed)}" if runner.failed else "All checks passed.", flush=True)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(check_gpu())
