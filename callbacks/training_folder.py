"""The folder of a training: its own, and no other's."""

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger


def reserve_folders(trainer: Trainer) -> None:
    """Makes the folder of a training at once: another that starts in the same second takes the next number."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if not isinstance(logger, CSVLogger):
            continue
        while True:
            try:
                Path(logger.log_dir).mkdir(parents=True)
                break
            except FileExistsError:
                if not isinstance(logger.version, int):
                    break  # named by the user
                logger._version = logger.version + 1
