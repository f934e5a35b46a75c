"""The command line: `python main.py fit|validate|test|predict --config configs/experiment/NAME.yaml`.

One key picks the test-time method: `--method SegTTT --method.psi=0.7`, or `--method configs/method/seg_ttt.yaml`.
No method is a plain forward (t-BN).
"""

import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger

import callbacks  # noqa: F401 (so that the command line knows methods by their short names)
import datamodules  # noqa: F401 (so that the command line knows its classes by their short names)
from callbacks.choice import check_checkpoint, check_method, check_trained, check_writable, expand_home
from callbacks.method import Method
from callbacks.processes import run_to_end
from callbacks.records import to_plain
from callbacks.results import Results
from callbacks.run_config import RunConfig
from lightning_modules.networks.checkpoints import CheckpointReader
from lightning_modules.segmentation import SegmentationModule

DEFAULTS = Path(__file__).parent / "configs" / "trainer" / "default.yaml"


class SegmentationCLI(LightningCLI):
    """LightningCLI with `--method`, `--results`, and a network that learns its classes from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the method, the results, and what data and model share."""
        parser.add_lightning_class_args(Results, "results")
        parser.add_subclass_arguments(Method, "method", required=False)
        parser.add_argument(
            "--untrained",
            type=bool,
            default=False,
            help="whether a network with random weights may be tested, validated or predict",
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; notes limits of one batch, which the parser takes for 1.0, all batches."""
        super().parse_arguments(parser, args)
        joined = [argument.split("=", 1) for argument in args or () if "=" in argument]
        given = dict(joined) | dict(pairwise(args or ()))
        limits = [f"limit_{kind}_batches" for kind in ("train", "val", "test", "predict")]
        self.of_one_batch = [limit for limit in limits if given.get(f"--trainer.{limit}") == "1"]

    def _parse_ckpt_path(self) -> None:
        check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))  # it holds no hyperparameters to parse

    def before_instantiate_classes(self) -> None:
        """Leaves out ImageNet weights that others replace: they may not be on this machine."""
        run = self.config[self.subcommand]
        arguments = run.model.network.get("init_args")
        if run.get("ckpt_path") and run.model.released:
            raise ValueError("ckpt_path and model.released are both set: expected one of them; set the other to null")
        if (run.get("ckpt_path") or run.model.released) and arguments is not None and arguments.get("weights"):
            arguments.weights = None
        check_writable(run.results.folder)
        if self.subcommand != "fit":
            check_trained(run)
        if self.subcommand == "predict":
            run.return_predictions = False  # they are on disk, and would fill the memory

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the method, before the callbacks that write: it refuses a network first."""
        trainer = super().instantiate_trainer(**dict.fromkeys(self.of_one_batch, 1), **kwargs)
        trainer.strategy.checkpoint_io = CheckpointReader()
        network = self.config[self.subcommand].model.network
        arguments = network.get("init_args")
        self.model.origin = {
            "network": str(network.class_path),
            "arguments": {} if arguments is None else to_plain(arguments.as_dict()),
        }
        if self.subcommand == "fit":
            reserve_folders(trainer)
        method = self._get(self.config_init, "method")
        if method is not None:
            trainer.callbacks.insert(0, method)  # type: ignore[attr-defined]
        return trainer


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


def main(args: Sequence[str] | None = None) -> SegmentationCLI:
    """Runs a command line; returns what it made (trainer, model, datamodule)."""
    args = expand_home(sys.argv[1:] if args is None else args)
    check_method(args)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    outer_run = wandb.run
    try:
        return SegmentationCLI(
            SegmentationModule,
            LightningDataModule,
            subclass_mode_data=True,
            args=args,
            trainer_defaults={"use_distributed_sampler": False},  # the datamodules deal out samples without padding
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # it fails on networks without num_classes; config.yaml is the record
            parser_kwargs={name: {"default_config_files": [str(DEFAULTS)]} for name in SegmentationCLI.subcommands()},
        )
    finally:
        if wandb.run is not None and wandb.run is not outer_run:
            wandb.finish()  # or the next command of this process would log into this one's run


if __name__ == "__main__":
    run_to_end(main)
