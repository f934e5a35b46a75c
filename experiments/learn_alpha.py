"""Learns one alpha per BatchNorm layer from source images alone, and writes them to a file.

IaBN, TTA, Seg-TTT and all other methods accept the file in place of a number: --method.alpha=FILE. The program also
scores IaBN with it on the development set, beside the network as trained.
"""

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from callbacks.learned_alpha import learn_alpha
from callbacks.run.records import write_file
from experiments.command_line import drop_options, make_parser, parse, run_program, to_path
from experiments.pages import describe_machine
from experiments.study import OF_TRAINING, QUIET
from lightning_modules.normalization import Normalization

HEADING = (
    "# IaBN's alpha by layer, learned by `python -m experiments.learn_alpha` from source images: --method.alpha={}\n"
)


def list_images(source: Any, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields `count` (1, 3, H, W) train images, drawn with replacement, and their (1, H', W') labels."""
    dataset = source.make_dataset("train", source.evaluation_transform)
    order = RandomSampler(dataset, replacement=True, num_samples=count, generator=torch.Generator().manual_seed(0))
    for batch in DataLoader(dataset, 1, sampler=order, num_workers=source.num_workers):
        yield batch["image"].to(device), batch["mask"].to(device)


def learn_file(
    config: Path,
    checkpoint: Path,
    path: Path,
    options: Sequence[str],
    steps: int = 300,
    batch_size: int = 2,
    lr: float = 0.05,
) -> tuple[float, float]:
    """Learns one alpha per layer by Adam, writes them to a YAML file, and scores IaBN with them.

    Args:
        config: Configuration of the experiment that trained the network.
        checkpoint: The trained network.
        path: The file to write.
        options: Extra arguments of main.py; those for several devices are dropped.
        steps: Number of steps.
        batch_size: Images per step.
        lr: Learning rate.

    Returns:
        Mean IoU in percent on the development set: as trained (t-BN), and with IaBN and the learned alphas.

    Raises:
        ValueError: If `steps` or `batch_size` is below 1, or the experiment has no source data.
    """
    from main import main  # slow to import

    if min(steps, batch_size) < 1:
        raise ValueError(f"steps is {steps}, the batch size {batch_size}: expected 1 or more of each")
    own = reduce(drop_options, OF_TRAINING, list(options))
    common = [f"--config={config}", *own, f"--ckpt_path={checkpoint}", *QUIET, "--trainer.logger=false"]
    common += ["--results.report=false", "--results.panels=0", "--verbose=false", "--results.overwrite=true"]
    place = path.with_name(f"{path.stem}_scores")
    plain = main(["validate", *common, f"--results.folder={place / 't-BN'}", "--method=null"])
    source = getattr(plain.datamodule, "source", plain.datamodule)
    if source is None or source.role != "source":
        raise ValueError(f"{config} has no source data: expected an experiment that `fit` can train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin = time.perf_counter()
    images = list_images(source, batch_size * steps, device)
    alpha = learn_alpha(plain.model.network.to(device), images, batch_size, lr, Normalization(**source.normalization))
    content = {
        "alpha": {name: round(value, 4) for name, value in alpha.items()},
        "learned_from": {
            "config": str(config), "checkpoint": str(checkpoint), "source": source.describe()["domain"],
            "steps": steps, "batch_size": batch_size, "lr": lr,
        },
        **describe_machine(),
    }  # fmt: skip
    write_file(path, (HEADING.format(path) + yaml.safe_dump(content, sort_keys=False)).encode())
    print(f"Learned in {time.perf_counter() - begin:.0f} s: {path}, {len(alpha)} layers", flush=True)
    method = ["--method=IaBN", f"--method.alpha={path}"]
    blended = main(["validate", *common, f"--results.folder={place / 'IaBN'}", *method])
    first, second = (float(run.trainer.callback_metrics["val/miou"]) for run in (plain, blended))
    return first, second


def run_learning(args: Sequence[str] | None = None) -> tuple[float, float]:
    """Runs the command line; returns the result of `learn_file`."""
    parser = make_parser("learn_alpha", __doc__, quick=False)
    add = parser.add_argument
    add("config", type=to_path, help="the experiment, e.g. configs/experiment/street_scenes.yaml")
    add("checkpoint", type=to_path, help="the trained network")
    add("--write", type=to_path, default=Path("alpha.yaml"), help="file to write (default: %(default)s)")
    add("--steps", type=int, default=300, help="steps of Adam (default: %(default)s)")
    add("--batch-size", type=int, default=2, help="images per step (default: %(default)s)")
    add("--lr", type=float, default=0.05, help="learning rate (default: %(default)s)")
    given = parse(parser, args)
    numbers = given.steps, given.batch_size, given.lr
    plain, blended = learn_file(given.config, given.checkpoint, given.write, given.options, *numbers)
    print(f"Mean IoU on the development set: {plain:.1f} as trained (t-BN), {blended:.1f} with IaBN and these alphas")
    return plain, blended


if __name__ == "__main__":
    run_program(run_learning)
