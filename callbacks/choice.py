"""Which method a command line asks for."""

from collections.abc import Sequence
from itertools import pairwise

import callbacks


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
                f"unknown method {name!r}: expected one of {known}, or a YAML file such as "
                "configs/method/seg_ttt.yaml; leave --method out for a plain forward (t-BN)"
            )
