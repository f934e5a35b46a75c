"""Describes a checkpoint: its classes, its network, its training data, and how far it was trained."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.command_line import to_path
from lightning_modules.networks.checkpoints import read_checkpoint

UNKNOWN = "not in the file: it was written before 2026-11-29, or by another program"


def describe_checkpoint(path: Path) -> str:
    """Describes a checkpoint of `fit`, or a state dict of another program, as YAML.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds no weights.
    """
    saved = read_checkpoint(path)
    weights = saved["state_dict"]
    described = {
        "file": str(path),
        "classes": list(saved["class_names"]) if "class_names" in saved else UNKNOWN,
        **dict.fromkeys(("network", "normalization", "trained_on", "version"), UNKNOWN),
        **(saved.get("origin") or {}),
        "epoch": saved.get("epoch", UNKNOWN),
        "step": saved.get("global_step", UNKNOWN),
        "weights": f"{sum(value.numel() for value in weights.values()):,} numbers in {len(weights)} tensors",
        "names": [*list(weights)[:3], "...", list(weights)[-1]],
    }
    return yaml.safe_dump(described, sort_keys=False, allow_unicode=True)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.describe", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=to_path, metavar="FILE", help="best.ckpt, or a file of weights")
    for path in parser.parse_args(args).checkpoints:
        try:
            print(describe_checkpoint(path.expanduser()))
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
