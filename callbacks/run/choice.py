"""What a command line asks for: which method, on which network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import callbacks
from callbacks.run.records import to_plain


def check_method(args: Sequence[str]) -> None:
    """Raises ValueError if `--method` is given a name that is neither a method, a class path nor a file."""
    names = [later for earlier, later in pairwise(args) if earlier == "--method"]
    names += [arg.removeprefix("--method=") for arg in args if arg.startswith("--method=")]
    if len(names) > 1:
        raise ValueError(f"--method is given {len(names)} times ({', '.join(names)}): expected one method per run")
    for name in names:
        if name not in ("null", *callbacks.__all__) and not any(mark in name for mark in "./{"):
            known = ", ".join(known for known in callbacks.__all__ if known != "Method")
            raise ValueError(
                f"unknown method {name!r}: expected one of {known}, a class path such as my_package.MyMethod, or a "
                "YAML file such as configs/method/seg_ttt.yaml; leave --method out for a plain forward (t-BN)"
            )


def describe_network(network: Any) -> dict[str, Any]:
    """Returns class path and arguments of a network in a config, for checkpoints."""
    arguments = network.get("init_args")
    plain = {} if arguments is None else to_plain(arguments.as_dict())
    return {"network": str(network.class_path), "arguments": plain}
