"""Measures the time, memory and operations per image of the methods, beside a plain loop and a large matrix product.

Each row is one method on one network, image size and precision. It is compared with a plain loop, always in float32,
whose runs alternate with the method's, and with a large matrix product: the share of its rate that the method reaches.
Weights are random, as time does not depend on them; the image is smooth noise. Rows are saved as they are measured, in
`benchmark.json` and `benchmark.csv`, and the description of the machine in `machine.json`.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from callbacks.run.records import number_files, write_json
from callbacks.seg_ttt import DEFAULT_TRAINABLE
from experiments.benchmark import cost
from experiments.benchmark.cases import list_cases
from experiments.benchmark.command import parse_arguments
from experiments.benchmark.measure import measure
from experiments.benchmark.subject import CLASSES, make_subject
from experiments.benchmark.table import Row, format_benchmark, format_measurements, write_rows
from experiments.pages import insert_report

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def make_network(name: str) -> nn.Module:
    """Makes a network of configs/model with random weights.

    Raises:
        FileNotFoundError: If there is no such file; the message lists the existing ones.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"{path} does not exist: expected one of {known}")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))["network"]
    arguments = config.setdefault("init_args", {})
    if "weights" in arguments:
        arguments["weights"] = None
    if "network" not in arguments:  # in a wrapper, the inner network has the number of classes
        arguments["num_classes"] = CLASSES
    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate(parser.parse_object({"network": config})).network


def resolve_trainable(network: nn.Module, choices: list[str]) -> list[str]:
    """Replaces ``default`` with the network's own layers, and drops duplicates."""
    own = ",".join(getattr(network, "adapted_layers", DEFAULT_TRAINABLE))
    return list(dict.fromkeys(own if choice == "default" else choice for choice in choices))


def run_benchmark(args: Sequence[str] | None = None) -> list[Row]:
    """Runs the command line; returns the rows.

    Raises:
        ValueError: If the labels of a row in float32 differ from the plain loop's; all rows are written first.
    """
    options = parse_arguments(args)
    options.folder.mkdir(parents=True, exist_ok=True)
    written = (options.folder / name for name in ("benchmark.json", "benchmark.csv", "machine.json"))
    number_files([path for path in written if path.exists()])  # those of an earlier run are kept
    device = torch.device(options.device)
    rates = {precision: cost.measure_rate(device, precision) for precision in options.precision}
    machine = cost.describe_device(device) | {"rate_tflop_per_s": rates, "options": vars(options)}
    write_json(options.folder / "machine.json", machine)
    print(format_benchmark([]), flush=True)
    rows: list[Row] = []
    try:
        for name, size in product(options.networks, options.sizes):
            torch.manual_seed(0)
            subject = make_subject(name, make_network(name), size, device)
            trainable = resolve_trainable(subject.network, options.trainable)
            for case, precision in product(list_cases(options.methods, options.steps, trainable), options.precision):
                rows.append(measure(case, precision, subject, options, rates[precision]))
                if options.compile != "none":
                    torch.compiler.reset()
                write_rows(rows, options.folder)
                print(f"{format_benchmark(rows[-1:]).splitlines()[-1]} {rows[-1]['note']}".rstrip(), flush=True)
    finally:
        print(f"\n{len(rows)} rows in {options.folder}", flush=True)
        if options.write and rows:
            insert_report(options.write, format_measurements(rows, machine))
    differing = sum("DIFFERS" in row["note"] for row in rows)
    if differing:
        raise ValueError(f"{differing} rows in float32 differ from the plain loop: see their notes")
    return rows


if __name__ == "__main__":
    run_benchmark()
