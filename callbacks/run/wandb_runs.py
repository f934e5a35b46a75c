"""Weights & Biases' runs in a process that runs several commands; does not import wandb, which takes a second."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def find_wandb_run() -> Any:
    """Returns the process's run of Weights & Biases; None without one."""
    return getattr(sys.modules.get("wandb"), "run", None)


@contextmanager
def finishing_wandb_run() -> Iterator[None]:
    """Finishes a run that starts within a ``with`` block, else the next command in this process would log to it."""
    outer_run = find_wandb_run()
    try:
        yield
    finally:
        if find_wandb_run() not in (None, outer_run):
            sys.modules["wandb"].finish()
