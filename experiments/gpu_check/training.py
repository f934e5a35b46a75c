"""Trains on two processes as a user would, and times a training step in both memory layouts."""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset

from callbacks.iabn import IaBN
from experiments.benchmark.cost import autocast, time_call
from experiments.benchmark.random_weights import CLASSES
from experiments.gpu_check.runner import Row
from experiments.gpu_check.subjects import Setup
from experiments.parent_death import end_with_parent
from lightning_modules.networks.deeplab_v1 import DeepLabV1
from lightning_modules.segmentation import SegmentationModule

PROCESSES = 2
STEPS = 3
ROOT = Path(__file__).parents[2]
MODULE = "experiments.gpu_check.training"  # which is __main__ in the processes


class RandomPairs(Dataset):
    """Random images and masks in memory.

    Args:
        count: Number of pairs.
        size: (height, width) of each.
    """

    domain = "random"

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 3, *size, generator=generator)
        self.masks = torch.randint(0, CLASSES, (count, *size), generator=generator)

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns a pair."""
        return {"image": self.images[number], "mask": self.masks[number], "name": f"{number:03d}"}


class KeepLosses(SegmentationModule):
    """Remembers the loss of each training step."""

    def on_fit_start(self) -> None:
        """Starts the list."""
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Adds the loss of a step."""
        self.losses.append(outputs["loss"].detach())


def check_processes(setup: Setup) -> Iterator[Row]:
    """Fits with two processes and tests with IaBN: equal weights on both, a finite loss, equal scores.

    On a GPU they share synchronised BatchNorm: by NCCL if there are two GPUs, else by gloo on the one, which NCCL
    refuses. torch has no synchronised BatchNorm for a CPU.
    """
    gpus = torch.cuda.device_count() if setup.device.type == "cuda" else 0
    kinds = [("cpu", "gloo")] if gpus == 0 else [("cuda", "nccl" if gpus >= PROCESSES else "gloo"), ("cpu", "gloo")]
    for device, backend in kinds:
        results = run_processes(device, backend)
        weights = {result["weights"] for result in results}
        losses = [result["losses"][-1] for result in results]
        scores = {result["miou"] for result in results}
        finite = all(torch.isfinite(torch.tensor(result["losses"])).all() for result in results)
        row = {"device": device, "backend": backend, "processes": len(results), "SyncBN": results[0]["sync"]}
        row |= {"equal weights": len(weights) == 1, "last loss": losses[0], "equal scores": len(scores) == 1}
        counted = [len(result["losses"]) for result in results]
        synced = results[0]["sync"] == (device == "cuda")
        ok = len(weights) == 1 and len(scores) == 1 and finite and counted == [STEPS] * PROCESSES and synced
        yield {**row, "steps": counted[0], "IaBN mIoU": results[0]["miou"], "ok": ok}


def run_processes(device: str, backend: str) -> list[dict[str, Any]]:
    """Starts the processes and waits for them; none outlives this call.

    Returns:
        What each has written, in the order of their ranks.

    Raises:
        RuntimeError: If one fails; with the end of what it printed.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0", "WORLD_SIZE": str(PROCESSES)}
    started: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(PROCESSES)]
        try:
            for rank, log in enumerate(logs):
                command = [sys.executable, "-m", MODULE, str(rank), device, backend, str(log.with_suffix(".json"))]
                environment = {**os.environ, **shared, "NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
                with log.open("wb") as output:
                    started.append(
                        subprocess.Popen(
                            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                            preexec_fn=end_with_parent(),
                        )
                    )  # fmt: skip
            for process in started:
                process.wait()
        finally:
            for process in started:
                process.kill()
                process.wait()
        for rank, process in enumerate(started):
            if process.returncode != 0:
                raise RuntimeError(
                    f"process {rank} on {device} with {backend} ended with status {process.returncode}:\n"
                    + logs[rank].read_text(encoding="utf-8", errors="replace")[-4000:]
                )
        return [json.loads(log.with_suffix(".json").read_text(encoding="utf-8")) for log in logs]


def work(rank: int, device: str, backend: str, result: Path) -> None:
    """Does the part of one process, a node of one device for Lightning, and writes what came of it."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    gpu = device == "cuda"
    seed_everything(0, verbose=False)
    module = KeepLosses(DeepLabV1("resnet10", CLASSES, width=8), CLASSES)
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
    pairs = RandomPairs(2 * PROCESSES * STEPS, (64, 64))
    trainer.fit(module, DataLoader(pairs, batch_size=2, shuffle=True))
    sync = any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in module.network.modules())
    digest = hashlib.sha256()
    # The running statistics of BatchNorm are each process's own unless they are synchronised.
    for tensor in module.network.state_dict().values() if sync else module.network.parameters():
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    losses = [float(loss) for loss in module.losses]
    (scores,) = trainer.test(module, DataLoader(pairs, batch_size=1), verbose=False)
    outcome = {"weights": digest.hexdigest(), "losses": losses, "miou": scores["test/miou"], "sync": sync}
    result.write_text(json.dumps(outcome), encoding="utf-8")


def time_training(setup: Setup) -> Iterator[Row]:
    """Times forward, loss, backward and SGD of one process in bf16, with both memory layouts."""
    batch, side = (2, 64) if setup.tiny else (4, 512)
    for layout in (torch.contiguous_format, torch.channels_last):
        network = setup.make_network().to(setup.device).to(memory_format=layout).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(batch, 3, side, side, generator=generator).to(setup.device, memory_format=layout)
        mask = torch.randint(0, CLASSES, (batch, side, side), generator=generator).to(setup.device)

        def take_step(
            network: torch.nn.Module = network,
            optimizer: torch.optim.Optimizer = optimizer,
            image: torch.Tensor = image,
            mask: torch.Tensor = mask,
        ) -> None:
            with autocast(setup.device, "bf16-mixed"):
                loss = torch.nn.functional.cross_entropy(network(image).float(), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        for _ in range(2):
            take_step()
        times = sorted(time_call(take_step, setup.device) for _ in range(3 if setup.tiny else 10))
        row = {"layout": str(layout).removeprefix("torch."), "batch": batch, "size": f"{side}x{side}"}
        yield {**row, "ms per step": times[len(times) // 2]}


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
