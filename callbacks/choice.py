"""What a command line asks for: which method, and whether its checkpoint is one."""

import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

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


def check_checkpoint(path: str | Path | None) -> None:
    """Raises ValueError if a file is no checkpoint, but empty, cut off or of another kind; no file at all passes."""
    if path is None or not Path(path).is_file() or zipfile.is_zipfile(path):
        return
    with Path(path).open("rb") as file:
        begin = file.read(2)
    if begin[:1] != b"\x80":  # torch before 1.6 wrote bare pickles
        state = "empty" if not begin else "cut off" if begin == b"PK" else "no file of torch.save"
        raise ValueError(f"the checkpoint {path} cannot be read, it is {state}: expected one that `fit` wrote")
