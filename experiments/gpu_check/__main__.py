"""Checks this project on a GPU, then times it, most important first, within --minutes.

The exit status is 1 if a check failed, ran out of time, or was not run for lack of time; timings do not count. Results
are saved after every row.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from experiments.benchmark.cost import choose_device, describe_device
from experiments.command_line import to_path
from experiments.gpu_check.correctness import check_methods, check_norm, check_variants, check_waits
from experiments.gpu_check.runner import Check, Report, Setup
from experiments.gpu_check.speed import list_rates, time_methods, time_training
from experiments.gpu_check.training import check_processes


def list_timings(name: str, network: str) -> list[Check]:
    """Lists the timings of the methods on one network."""
    times = {
        "bf16": ("--precision bf16-mixed --plain false", 30),
        "float32": ("--precision 32-true", 70),
        "compile": ("--precision bf16-mixed --plain false --compile default", 90),
    }
    return [
        Check(f"{name}-{kind}", partial(time_methods, arguments=f"--networks {network} {arguments}"), seconds)
        for kind, (arguments, seconds) in times.items()
    ]


CHECKS = [
    Check("norm", check_norm, 20, "the blended norm and its gradient match the formula in float64"),
    Check("variants", check_variants, 40, "several numbers of steps in one pass give the predictions of each alone"),
    Check("waits", check_waits, 40, "the host waits equally often for few and for many steps"),
    Check("methods", check_methods, 75, "every method predicts as on the CPU and leaves the network unchanged"),
    Check("processes", check_processes, 90, "two processes end with equal weights and equal scores"),
    Check("rates", list_rates, 15),
    *list_timings("r50", "deeplabv1_resnet50"),
    Check("training", time_training, 20),
    *list_timings("r101", "deeplabv1_resnet101"),
]


def check_gpu(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_check", description=__doc__)
    add = parser.add_argument
    device = "the device to check (default: a GPU if there is one)"
    add("--device", type=choose_device, choices=("auto", "cuda", "cpu"), default="auto", help=device)
    add("--tiny", action="store_true", help="tiny networks and images, to see that everything runs")
    names = [check.name for check in CHECKS]
    only = "run only these steps; an unknown name lists them all"
    add("--only", nargs="+", metavar="NAME", choices=names, default=names, help=only)
    add("--minutes", type=float, default=5.0, help="total time; steps that remain then are not run (default: 5)")
    files = "where to write gpu_check.json and gpu_check.md (default: %(default)s)"
    add("--folder", type=to_path, default=Path("outputs/gpu_check"), help=files)
    options = parser.parse_args(args)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: expected a GPU with a driver, or --device cpu --tiny")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    setup = Setup(torch.device("cuda:0" if options.device == "cuda" else "cpu"), options.tiny)
    machine = describe_device(setup.device) | {"tiny": options.tiny}
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    report = Report(options.folder, machine)
    report.run_all([check for check in CHECKS if check.name in options.only], setup, 60 * options.minutes)
    print(f"\nFiles: {options.folder}/gpu_check.json and gpu_check.md", flush=True)
    failed, not_run = report.list_checks("FAILED", "out of time"), report.list_checks("not run")
    if failed:
        print(f"FAILED: {', '.join(failed)}", flush=True)
    if not_run:
        print(f"NOT RUN for lack of time (raise --minutes): {', '.join(not_run)}", flush=True)
    if failed or not_run:
        return 1
    print("All checks passed.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(check_gpu())
