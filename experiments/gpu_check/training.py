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
from experiments.gpu_check.runner import Row, Setup
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
        weights = zip(first.pop("weights"), second.pop("weights"), strict=True)
        row: Row = {"device": device, "backend": backend, "processes": PROCESSES, **first}
        row["equal weights"] = all(torch.equal(*pair) for pair in weights)
        row["equal scores"] = first["IaBN mIoU"] == second["IaBN mIoU"]
        finite = torch.tensor([first["last loss"], second["last loss"]]).isfinite().all().item()
        stepped = first["steps"] == second["steps"] == STEPS
        synced = first["SyncBN"] == (device == "cuda")
        yield {**row, "ok": row["equal weights"] and row["equal scores"] and finite and stepped and synced}


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
    pairs: Any = [
        {"image": torch.randn(3, 64, 64), "mask": torch.randint(CLASSES, (64, 64)), "name": str(number)}
        for number in range(2 * PROCESSES * STEPS)
    ]
    trainer.fit(module, DataLoader(pairs, batch_size=2, shuffle=True))
    sync = any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in module.network.modules())
    # The running statistics of BatchNorm are each process's own unless they are synchronised.
    tensors = module.network.state_dict().values() if sync else module.network.parameters()
    weights = [tensor.detach().cpu().clone() for tensor in tensors]
    outcome: dict[str, Any] = {"weights": weights, "SyncBN": sync, "steps": trainer.global_step}
    outcome["last loss"] = trainer.callback_metrics["train/loss"].item()
    (scores,) = trainer.test(module, DataLoader(pairs, batch_size=1), verbose=False)
    torch.save(outcome | {"IaBN mIoU": scores["test/miou"]}, folder / f"{rank}.pt")
