"""Learns one alpha per BatchNorm layer from source images alone, and writes them into a file.

The file is what IaBN, TTA, Seg-TTT and all other methods take in place of a number: --method.alpha=FILE. Then scores
IaBN with it on the development set, beside the network as trained.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from callbacks.learned_alpha import learn_alpha
from callbacks.run.records import write_file
from experiments.command_line import make_parser, parse, to_path
from experiments.pages import describe_machine
from experiments.study import QUIET
from lightning_modules.normalization import Normalization

HEADING = (
    "# Weights of IaBN by layer, learned by `python -m experiments.learn_alpha` from source images: --method.alpha={}\n"
)


def list_batches(source: Any, batch_size: int, steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (B, 3, H, W) whole images of the source's train split and their (B, H, W) labels, in a random order.

    Args:
        source: The datamodule of the source.
        batch_size: B; images of one size.
        steps: How many batches.
        device: Where to put them.
    """
    dataset = source.make_dataset("train", source.evaluation_transform)
    order = RandomSampler(
        dataset, num_samples=batch_size * steps, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    for batch in DataLoader(dataset, batch_size, sampler=order, num_workers=source.num_workers):
        yield batch["image"].to(device), batch["mask"].to(device)


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = make_parser("learn_alpha", __doc__)
    parser.add_argument("config", type=to_path, help="the experiment, e.g. configs/experiment/street_scenes.yaml")
    parser.add_argument("checkpoint", type=to_path, help="the trained network")
    parser.add_argument("--write", type=to_path, default=Path("alpha.yaml"), help="where to (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of Adam (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=2, help="images of one size per step (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate (%(default)s)")
    return parse(parser, args)


def run_learning(args: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the weights by layer.

    Raises:
        ValueError: If a number is out of range, or the experiment has no source.
    """
    from main import main  # takes long

    arguments = parse_arguments(args)
    if min(arguments.steps, arguments.batch_size) < 1:
        raise ValueError("--steps and --batch-size: expected 1 or more")
    common = [f"--config={arguments.config}", f"--ckpt_path={arguments.checkpoint}", *QUIET, "--trainer.logger=false"]
    common += ["--results.report=false", "--results.panels=0", "--verbose=false", *arguments.options]
    place = arguments.write.with_suffix("")
    cli = main(["validate", *common, f"--results.folder={place / 't-BN'}", "--results.overwrite=true", "--method=null"])
    source = getattr(cli.datamodule, "source", cli.datamodule)
    if source is None or source.role != "source":
        raise ValueError(f"{arguments.config} has no source data: expected an experiment that `fit` can train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = list_batches(source, arguments.batch_size, arguments.steps, device)
    begin = time.perf_counter()
    alpha = learn_alpha(cli.model.network.to(device), batches, arguments.lr, Normalization(**source.normalization))
    content = {
        "alpha": {name: round(value, 4) for name, value in alpha.items()},
        "learned_from": {
            "config": str(arguments.config), "checkpoint": str(arguments.checkpoint),
            "source": source.describe()["domain"],
        },
        "steps": arguments.steps, "batch_size": arguments.batch_size, "lr": arguments.lr, **describe_machine(),
    }  # fmt: skip
    write_file(arguments.write, (HEADING.format(arguments.write) + yaml.safe_dump(content, sort_keys=False)).encode())
    print(f"Learned in {time.perf_counter() - begin:.0f} s: {arguments.write}, {len(alpha)} layers", flush=True)
    more = [
        f"--results.folder={place / 'IaBN'}",
        "--results.overwrite=true",
        "--method=IaBN",
        f"--method.alpha={arguments.write}",
    ]
    found = [float(run.trainer.callback_metrics["val/miou"]) for run in (cli, main(["validate", *common, *more]))]
    print(
        f"Mean IoU on the development set: {found[0]:.1f} as trained (t-BN), {found[1]:.1f} by IaBN with these weights"
    )
    return alpha


if __name__ == "__main__":
    try:
        run_learning()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
