"""Checks training on two processes."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from callbacks.iabn import IaBN
from experiments.benchmark.subject import CLASSES
from experiments.command_line import quieten
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup
from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.segmentation import SegmentationModule

PROCESSES = 2
STEPS = 3


def check_processes(setup: Setup) -> Iterator[Row]:
    """Trains on two processes and tests with IaBN; expects equal weights, equal scores and a finite loss.

    On GPUs, BatchNorm is synchronised: by NCCL if there are two GPUs, else by gloo, since NCCL rejects two processes on
    one GPU. torch has no synchronised BatchNorm for a CPU.
    """
    gpus = torch.cuda.device_count() if setup.device.type == "cuda" else 0
    kinds = [("cpu", "gloo")] if gpus == 0 else [("cuda", "nccl" if gpus >= PROCESSES else "gloo"), ("cpu", "gloo")]
    for device, backend in kinds:
        first, second = run_processes(device, backend)
        equal_weights = all(torch.equal(*pair) for pair in zip(first["weights"], second["weights"], strict=True))
        row: Row = {"device": device, "backend": backend, "processes": PROCESSES, "SyncBN": first["sync"]}
        row |= {"equal weights": equal_weights, "last loss": first["loss"]}
        row |= {"equal scores": first["miou"] == second["miou"], "steps": first["steps"], "IaBN mIoU": first["miou"]}
        finite = all(torch.isfinite(torch.tensor(result["loss"])) for result in (first, second))
        stepped = first["steps"] == second["steps"] == STEPS
        synced = first["sync"] == (device == "cuda")
        yield {**row, "ok": equal_weights and row["equal scores"] and finite and stepped and synced}


def run_processes(device: str, backend: str) -> list[dict[str, Any]]:
    """Runs `train_and_test` in two processes, which end with this call; returns the outcome of each."""
    port = find_free_network_port()
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.start_processes(
            train_and_test, (device, backend, port, Path(folder)), PROCESSES, join=False, start_method="spawn"
        )
        try:
            while not context.join():
                pass
        finally:
            for process in context.processes:
                process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]


def train_and_test(rank: int, device: str, backend: str, port: int, folder: Path) -> None:
    """Runs one process, which is a node with one device for Lightning, and saves its outcome."""
    quieten()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"LOCAL_RANK": "0", "NODE_RANK": str(rank)}
    torch.set_num_threads(1)
    gpu = device == "cuda"
    seed_everything(0, verbose=False)
    module = SegmentationModule(DeepLabV1("resnet10", CLASSES, width=8), CLASSES)
    trainer = Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=([rank] if backend == "nccl" else [0]) if gpu else 1,
        num_nodes=PROCESSES,
        strategy=DDPStrategy(process_group_backend=backend, cluster_environment=LightningEnvironment()),
        sync_batchnorm=gpu,
        max_steps=STEPS,
        precision="bf16-mixed" if gpu else "32-true",
        callbacks=[IaBN()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    pairs = make_random_pairs(2 * PROCESSES * STEPS, (64, 64))
    trainer.fit(module, DataLoader(pairs, batch_size=2, shuffle=True))  # type: ignore[arg-type]
    outcome: dict[str, Any] = {"loss": trainer.callback_metrics["train/loss"].item(), "steps": trainer.global_step}
    sync = any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in module.network.modules())
    # The running statistics of BatchNorm are each process's own unless they are synchronised.
    tensors = module.network.state_dict().values() if sync else module.network.parameters()
    outcome |= {"sync": sync, "weights": [tensor.detach().cpu().clone() for tensor in tensors]}
    (scores,) = trainer.test(module, DataLoader(pairs, batch_size=1), verbose=False)  # type: ignore[arg-type]
    torch.save(outcome | {"miou": scores["test/miou"]}, folder / f"{rank}.pt")


def make_random_pairs(count: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Draws random samples, each with an image, a mask and a name."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *size, generator=generator)
    masks = torch.randint(0, CLASSES, (count, *size), generator=generator)
    pairs = zip(images, masks, strict=True)
    return [{"image": image, "mask": mask, "name": f"{number:03d}"} for number, (image, mask) in enumerate(pairs)]
