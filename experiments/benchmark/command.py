"""The command line of `experiments.benchmark`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.cost import PRECISIONS, choose_device
from experiments.benchmark.measure import METHODS
from experiments.command_line import to_path

DEFAULTS: dict[str, dict[str, Any]] = {
    "cuda": {"sizes": [(1024, 2048), (1080, 1920), (720, 1280)], "repeats": 20},
    "cpu": {"sizes": [(256, 512)], "repeats": 5},
    "quick": {"networks": ["deeplabv1_resnet10_small"], "sizes": [(64, 128)], "steps": [1], "repeats": 2},
}


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line and fills in the defaults that depend on the device."""
    summary = "What the methods cost: time, memory and operations per image, compared with a plain loop."
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=summary)
    add = parser.add_argument
    add("--folder", type=to_path, default=Path("outputs/benchmark"), help="where to write (default: %(default)s)")
    networks = "files of configs/model (default: deeplabv1_resnet50)"
    add("--networks", nargs="+", metavar="NAME", default=["deeplabv1_resnet50"], help=networks)
    sizes = "default: 1024x2048 1080x1920 720x1280, on a CPU 256x512"
    add("--sizes", nargs="+", type=parse_size, metavar="HxW", help=sizes)
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    steps = "numbers of steps of Seg-TTT (default: 1 3 10)"
    add("--steps", nargs="+", type=int, metavar="N_t", default=[1, 3, 10], help=steps)
    what = "modules that Seg-TTT trains, separated by commas; 'default': the network's own"
    add("--trainable", nargs="+", metavar="NAMES", default=["default", "layer4,head", "head"], help=what)
    add("--precision", nargs="+", choices=PRECISIONS, default=["32-true", "bf16-mixed"], help="default: both")
    kinds = ["auto", "cpu", "cuda"]
    add("--device", type=choose_device, choices=kinds, default="auto", help="auto: a GPU if there is one")
    add("--compile", choices=["none", "default", "reduce-overhead"], default="none", help="same as --model.compile")
    add("--repeats", type=int, help="number of timed runs (default: 20, on a CPU 5)")
    add("--plain", choices=["true", "false"], default="true", help="whether to time the plain loop as well")
    add("--write", type=to_path, metavar="PAGE", help="a Markdown page to also write the table into")
    add("--quick", action="store_true", help="a tiny network and image, to see that everything runs")
    options = parser.parse_args(args)
    parser.set_defaults(**DEFAULTS["quick" if options.quick else options.device])
    return parser.parse_args(args)


def parse_size(text: str) -> tuple[int, int]:
    """Parses a size such as 1024x2048 (HxW)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: expected HxW in pixels, e.g. 1024x2048")
    return int(match[1]), int(match[2])
