"""The command line: `python main.py fit|validate|test|predict --config configs/experiment/NAME.yaml`.

`--method SegTTT --method.psi=0.7` selects a test-time method (without it: t-BN), `--training ISW` a training method.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import callbacks  # noqa: F401 (registers the methods, so that the command line accepts their short names)
import datamodules  # noqa: F401 (likewise for the data modules)
from callbacks.method import Method
from callbacks.results import Results
from callbacks.run import checks as run_checks
from callbacks.run import choice, training_folder
from callbacks.run.config import RunConfig
from callbacks.run.libraries import finishing_wandb_run, silence_libraries
from callbacks.run.parser import Parser, read_whole_numbers
from callbacks.run.processes import run_to_end
from lightning_modules.checkpoints import CheckpointReader
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.training import TrainingMethod

DEFAULTS = Path(__file__).parent / "configs" / "trainer" / "default.yaml"


class SegmentationCLI(LightningCLI):
    """LightningCLI with `--method`, `--training` and `--results`; the network takes its classes from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of results, method and training method, and links the model's classes to the data's."""
        parser.add_lightning_class_args(Results, "results")
        parser.add_subclass_arguments(Method, "method", required=False)
        parser.add_subclass_arguments(TrainingMethod, "training", required=False)
        parser.add_argument("--untrained", type=bool, default=False, help="allow test and predict with random weights")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:  # Lightning would read hyperparameters; there are none
        run_checks.check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    def before_instantiate_classes(self) -> None:
        """Checks the run's configuration and drops the parts that the subcommand does not use."""
        run = self.config[self.subcommand]
        run_checks.check_run(run, str(self.subcommand))
        run_checks.drop_unused(run, str(self.subcommand))
        training_folder.drop_checkpoints(run.trainer)
        if self.subcommand == "predict":
            run.return_predictions = False  # they are written to disk; keeping them would fill the memory

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the method as the first callback, so that it rejects an unsuitable network before others write files."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = CheckpointReader()
        self.model.origin = choice.describe_network(self.config[self.subcommand].model.network)
        if self.subcommand == "fit":
            training_folder.check_checkpoints(trainer, self._get(self.config, "ckpt_path"))
            training_folder.reserve_folders(trainer)
            self.model.training_method = self._get(self.config_init, "training")
        method = self._get(self.config_init, "method")
        if method is not None:
            trainer.callbacks.insert(0, method)  # type: ignore[attr-defined]
        return trainer


def main(args: Sequence[str] | None = None) -> SegmentationCLI:
    """Runs a command line; returns the CLI with its trainer, model and datamodule."""
    args = list(sys.argv[1:] if args is None else args)
    choice.check_choices(args)
    read_whole_numbers()
    silence_libraries()
    with finishing_wandb_run():
        return SegmentationCLI(
            SegmentationModule,
            LightningDataModule,
            subclass_mode_data=True,
            parser_class=Parser,
            args=args,
            trainer_defaults={"use_distributed_sampler": False},  # the datamodules split samples, without padding
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # fails on networks without num_classes; settings are in config.yaml
            parser_kwargs={name: {"default_config_files": [str(DEFAULTS)]} for name in SegmentationCLI.subcommands()},
        )


if __name__ == "__main__":
    run_to_end(main)
