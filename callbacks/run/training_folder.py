"""The folder of a training run, protected against other training runs."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_warn


def drop_checkpoints(trainer: Any) -> None:
    """Removes the callbacks that write checkpoints if a run is to write none.

    Args:
        trainer: Configuration of the Trainer.
    """
    if trainer.fast_dev_run or trainer.enable_checkpointing is False:
        trainer.enable_checkpointing = False
        found = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
        trainer.callbacks = [one for one in found if one and not one.class_path.endswith("ModelCheckpoint")]


def find_checkpoints(trainer: Trainer, callback: ModelCheckpoint) -> Path:
    """Returns the folder that a checkpoint callback writes to, by Lightning's rules."""
    if callback.dirpath is not None:
        return Path(callback.dirpath)
    if not trainer.loggers:
        return Path(trainer.default_root_dir) / "checkpoints"
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version, "checkpoints")


def check_checkpoints(trainer: Trainer, resumed: str | None) -> None:
    """Raises FileExistsError if a training run would overwrite the checkpoints of another.

    Args:
        trainer: Trainer of the run.
        resumed: Checkpoint that the run resumes from; it may overwrite checkpoints in the same folder.
    """
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        folder = find_checkpoints(trainer, callback)
        names = (f"{callback.filename}.ckpt", f"{callback.CHECKPOINT_NAME_LAST}.ckpt")
        found = [name for name in names if (folder / name).exists()]
        if found and (resumed is None or Path(resumed).resolve().parent != folder.resolve()):
            raise FileExistsError(
                f"{folder} has {' and '.join(found)} of another training run: expected no checkpoints. Resume that run "
                "with --ckpt_path, set another --trainer.default_root_dir, or use a logger, which gives each run its "
                "own folder"
            )


def reserve_folders(trainer: Trainer) -> None:
    """Creates a training run's folder at once, so that a run started in the same second gets the next number."""
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


def check_progress(trainer: Trainer, trained: bool) -> None:
    """Checks at the end of a training run that it trained, and warns if no validation gave the monitored score.

    Args:
        trainer: Trainer of the run.
        trained: Whether training started.

    Raises:
        ValueError: If nothing was trained, unless the run resumed from a checkpoint in its own folder.
    """
    callback, resumed = trainer.checkpoint_callback, trainer.ckpt_path
    folder = Path(getattr(callback, "dirpath", None) or "").resolve()
    if not trained:
        if not resumed or Path(resumed).resolve().parent != folder:
            raise ValueError(
                f"nothing was trained: {resumed or 'the training'} is already at epoch {trainer.current_epoch}, step "
                f"{trainer.global_step}, and trainer.max_epochs is {trainer.max_epochs}, max_steps "
                f"{trainer.max_steps}. Raise these limits"
            )
        return
    if not isinstance(callback, ModelCheckpoint) or not callback.monitor:
        return
    if Path(callback.best_model_path).resolve().parent != folder:
        rank_zero_warn(
            f"no validation logged {callback.monitor}, so there is no {callback.filename}.ckpt, only last.ckpt. Set "
            "trainer.check_val_every_n_epoch to at most max_epochs, and limit_val_batches above 0"
        )


def find_written(trainer: Trainer) -> Path | None:
    """Returns the best checkpoint that a training run has in its own folder, else the last; None without one."""
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
        return None
    paths = [Path(path) for path in (callback.best_model_path, callback.last_model_path) if path]
    own = Path(callback.dirpath).resolve()
    return next((path for path in paths if path.exists() and path.resolve().parent == own), None)
