"""Saves the configuration of each run next to its results."""

import json

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from callbacks.run.records import find_log_folder


class RunConfig(SaveConfigCallback):
    """Writes a run's configuration to its folder, without replacing an earlier one, and passes it to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves the configuration; Lightning calls this once per run, on the first process."""
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            logger.log_hyperparams(json.loads(self.parser.dump(self.config, skip_none=False, format="json")))
        folder = find_log_folder(trainer)
        if folder is None:
            return
        path = folder / "config.yaml"
        number = 1
        while path.exists():
            path = path.with_name(f"config.{number}.yaml")
            number += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
