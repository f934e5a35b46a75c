"""Silences messages of libraries that say nothing about a run."""

import logging
import warnings


def silence_libraries() -> None:
    """Silences Lightning's advertising and its complaints about its own code, for the rest of this process."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(keeps_record)


def keeps_record(record: logging.LogRecord) -> bool:
    """Returns whether to print a log record: not Lightning's tips to install more of its products."""
    return "Tip: For seamless cloud" not in record.getMessage()
