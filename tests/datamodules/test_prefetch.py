"""Batches that are copied ahead to a GPU."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.prefetch import DevicePrefetcher
from tests.fakes import FakeDataModule


def test_it_is_otherwise_its_loader() -> None:
    loader = FakeDataModule("near", 3).test_dataloader()
    prefetcher = pickle.loads(pickle.dumps(DevicePrefetcher(loader, torch.device("cuda", 0))))
    assert len(prefetcher) == 3 and prefetcher.dataset.domain == "near" and prefetcher.batch_size == loader.batch_size
    with pytest.raises(AttributeError, match="nothing"):
        prefetcher.nothing  # noqa: B018


def test_on_a_cpu_the_loader_itself_is_used() -> None:
    assert type(FakeDataModule("near", 3).test_dataloader()) is DataLoader


@pytest.mark.cuda
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_yields_every_batch_in_order_on_the_device(count: int) -> None:
    loader = DataLoader(
        [{"image": torch.full((3, 64, 64), float(n)), "name": str(n)} for n in range(count)], pin_memory=True
    )
    seen = []
    for batch in DevicePrefetcher(loader, torch.device("cuda", 0)):
        torch.cuda._sleep(10_000_000)  # a step that is busy while the next batch is copied
        assert batch["image"].device.type == "cuda"
        seen.append((batch["image"].unique().tolist(), batch["name"]))
    assert seen == [([float(n)], [str(n)]) for n in range(count)]
