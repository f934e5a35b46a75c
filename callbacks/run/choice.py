"""Checks the values of `--method` and `--training`, and describes the network for checkpoints."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import callbacks
from callbacks.run.records import to_plain
from lightning_modules import training

# Per option: the known names, an example file, and what a run without the option uses.
CHOICES = {
    "method": (callbacks.__all__, "configs/method/seg_ttt.yaml", "a plain forward pass (t-BN)"),
    "training": (training.__all__, "configs/training/isw.yaml", "cross-entropy alone"),
}


def check_choices(args: Sequence[str]) -> None:
    """Raises ValueError if `--method` or `--training` is repeated, or is no known name, class path or file."""
    for option, (known, file, without) in CHOICES.items():
        names = [later for earlier, later in pairwise(args) if earlier == f"--{option}"]
        names += [arg.removeprefix(f"--{option}=") for arg in args if arg.startswith(f"--{option}=")]
        if len(names) > 1:
            raise ValueError(f"--{option} is given {len(names)} times ({', '.join(names)}): expected one per run")
        for name in names:
            if name not in ("null", *known) and not any(mark in name for mark in "./{"):
                listed = ", ".join(name for name in known if name not in ("Method", "TrainingMethod"))
                raise ValueError(
                    f"unknown {option} {name!r}: expected one of {listed}, a class path such as my_package.MyClass, or "
                    f"a YAML file such as {file}; omit --{option} for {without}"
                )


def describe_network(network: Any) -> dict[str, Any]:
    """Returns the class path and arguments of a configured network, for checkpoints."""
    arguments = network.get("init_args")
    plain = {} if arguments is None else to_plain(arguments.as_dict())
    return {"network": str(network.class_path), "arguments": plain}
