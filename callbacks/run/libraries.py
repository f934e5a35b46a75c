"""What a run keeps other libraries from: messages that say nothing about it, and a Weights & Biases run left open."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def silence_libraries() -> None:
    """Silences Lightning's advertising and its complaints about its own code, for the rest of this process."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(keeps_record)


def keeps_record(record: logging.LogRecord) -> bool:
    """Returns whether to print a log record: not Lightning's tips to install more of its products."""
    return "Tip: For seamless cloud" not in record.getMessage()


@contextmanager
def finishing_wandb_run() -> Iterator[None]:
    """Finishes a run that starts within a ``with`` block, else the next command in this process would log to it."""
    outer_run = find_wandb_run()
    try:
        yield
    finally:
        if find_wandb_run() not in (None, outer_run):
            sys.modules["wandb"].finish()


def find_wandb_run() -> Any:
    """Returns the process's run of Weights & Biases, None without one; does not import wandb, which takes a second."""
    return getattr(sys.modules.get("wandb"), "run", None)
