import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch.utils.data import BatchSampler, DataLoader

from datamodules import GTADataModule, TargetsDataModule, WildDashDataModule
from datamodules.prefetch import DevicePrefetcher
from datamodules.samplers import EpochSampler, limit_batches, share_batches
from datamodules.street_scenes import StreetScenesDataModule, StreetScenesProtocol
from datamodules.transforms import MEAN, STD
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer


def order(epoch: int, **kwargs: Any) -> list[tuple[int, int]]:
    sampler = EpochSampler(23, **kwargs)
    sampler.set_epoch(epoch)
    assert len(list(sampler)) == len(sampler)
    return list(sampler)


def test_order_of_an_epoch_depends_on_the_seed_and_the_epoch_alone() -> None:
    visited = [[index for index, _ in order(epoch, seed=5)] for epoch in range(3)]
    assert all(sorted(indices) == list(range(23)) for indices in visited)
    assert visited[0] != visited[1] != visited[2]
    torch.manual_seed(99)
    np.random.seed(99)
    assert [index for index, _ in order(2, seed=5)] == visited[2]
    assert order(0, seed=6) != order(0, seed=5)


@pytest.mark.parametrize(("world_size", "repeats"), [(1, 1), (2, 1), (3, 2), (5, 2)])
def test_shares_of_processes_are_disjoint_equal_and_together_the_epoch(world_size: int, repeats: int) -> None:
    whole = order(1, repeats=repeats)
    assert [number for _, number in whole] == [repeats + one for one in range(repeats) for _ in range(23)]
    shares = [order(1, repeats=repeats, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [item for share in shares for item in share]
    assert len({len(share) for share in shares}) == 1
    assert len(set(together)) == len(together) == len(whole) // world_size * world_size
    assert set(together) <= set(whole)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(("size", "world_size"), [(0, 1), (1, 3), (5, 2), (6, 3), (14, 7)])
def test_evaluation_deals_out_every_batch_exactly_once(size: int, world_size: int, batch_size: int) -> None:
    batches = list(BatchSampler(range(size), batch_size, drop_last=False))
    shares = [share_batches(batches, rank, world_size) for rank in range(world_size)]
    loaders = [DataLoader(range(size), batch_size, sampler=share, collate_fn=list) for share in shares]
    assert sorted(batch for loader in loaders for batch in loader) == batches


@pytest.mark.parametrize(
    ("limit", "world_size", "kept"), [(1, 1, 1), (2, 3, 6), (9, 2, 8), (0.5, 1, 4), (0.3, 2, 2), (1.0, 3, 8)]
)
def test_limited_batches_are_the_first_of_each_process(limit: float, world_size: int, kept: int) -> None:
    batches = [[2 * number, 2 * number + 1] for number in range(8)]
    assert limit_batches(batches, limit, world_size) == batches[:kept]


def open_as(rank: int, world_size: int, **kwargs: Any) -> FakeDataModule:
    """Opens data as one process of several does."""
    data, strategy = FakeDataModule(**kwargs), SimpleNamespace(root_device=torch.device("cpu"))
    limits = {"limit_test_batches": 1.0, "limit_val_batches": 1.0}
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy, **limits)
    return data


def test_images_and_batches_that_are_left_out_are_no_part_of_a_loader_and_of_its_length() -> None:
    done = {"blocks": {"blocks_0", "blocks_1", "blocks_2", "blocks_4"}, "other": {"blocks_5"}}
    left = []
    for rank in (0, 1):
        data = open_as(rank, 2, length=7, eval_batch_size=2)
        data.leave_out(done)
        left.append([batch["name"] for batch in data.test_dataloader()])
    assert left == [[["blocks_2", "blocks_3"], ["blocks_6"]], [["blocks_4", "blocks_5"]]]
    data.leave_out({})
    assert len(data.test_dataloader()) == 2
    for rank in range(3):  # the last of which has none
        loader = open_as(rank, 3, length=2).test_dataloader()
        with pytest.raises(TypeError):
            len(loader)
        assert [batch["name"] for batch in loader] == [[f"blocks_{rank}"]][: 2 - rank]
    assert len(open_as(1, 2, length=2).test_dataloader()) == 1
    assert len(open_as(2, 3, length=2).predict_dataloader()) == 0  # nobody waits for the others there


def collect(loader: DataLoader, epoch: int | None = None) -> list[tuple[str, bytes, bytes]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [
        (name, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in loader
        for image, mask, name in zip(batch["image"], batch["mask"], batch["name"], strict=True)
    ]


def test_samples_depend_on_index_epoch_and_seed_and_not_on_workers_or_the_batch_size(tmp_path: Path) -> None:
    def draw(epoch: int = 1, **kwargs: Any) -> list[tuple[str, bytes, bytes]]:
        return collect(FakeDataModule(length=6, **kwargs).train_dataloader(), epoch)

    first = draw()
    torch.manual_seed(1)
    np.random.seed(1)
    assert first == draw() == draw(num_workers=2) == draw(batch_size=3)
    assert not set(first) & {*draw(0), *draw(seed=1)}
    assert collect(FakeDataModule(num_workers=2).test_dataloader()) == collect(FakeDataModule().test_dataloader())
    names: list[str] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
            names.extend(batch["name"])

    trainer = make_trainer(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Watch()])
    trainer.fit(SegmentationModule(TinyNetwork(19), 19), datamodule=FakeDataModule(length=6))
    assert names == [name for epoch in range(3) for name, *_ in draw(epoch)]  # Lightning tells the sampler its epoch


def test_item_holds_image_mask_and_name() -> None:
    dataset = FakeDataModule().test_dataloader().dataset
    item = dataset[3]
    assert set(item) == {"image", "mask", "name"} and item["name"] == "blocks_3"
    exact = ((dataset.load_image(3).astype(np.float64) / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
    assert item["image"].dtype == torch.float32 and np.array_equal(item["image"].numpy(), exact)
    assert item["mask"].dtype == torch.int64 and np.array_equal(item["mask"].numpy(), dataset.load_ids(3))
    assert item["image"].is_contiguous() and item["mask"].is_contiguous()
    for index in (-1, 5):
        with pytest.raises(IndexError, match="blocks has 5 images"):
            dataset[index]


def test_last_training_batch_is_whole_and_every_image_is_evaluated() -> None:
    assert [len(batch["name"]) for batch in FakeDataModule(length=5).train_dataloader()] == [2, 2]
    assert len(FakeDataModule(length=1, repeats=2).train_dataloader()) == 1
    for name in ("val", "test", "predict"):
        loader = getattr(FakeDataModule(length=5, eval_batch_size=2), f"{name}_dataloader")()
        assert [len(batch["name"]) for batch in loader] == [2, 2, 1]


of_targets = partial(TargetsDataModule, [FakeDataModule()])
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: FakeDataModule(length=1).train_dataloader(), "blocks gives .* 1 training images, fewer than"),
    (lambda: FakeDataModule(length=0).test_dataloader(), "the test split of blocks has no images"),
    (lambda: FakeDataModule(batch_size=0), "batch_size is 0: expected 1 or more"),
    (lambda: FakeDataModule(eval_batch_size=0), "eval_batch_size is 0: expected 1 or more"),
    (lambda: FakeDataModule(repeats=0), "repeats is 0: expected 1 or more"),
    (lambda: FakeDataModule(num_workers=-1), "num_workers is -1: expected 0 or more"),
    (lambda: FakeDataModule(crop_size=(64, 0)), r"crop_size is \(64, 0\): expected \(height, width\), 1 or more"),
    (
        lambda: FakeDataModule(crop_scale=(0.5, 2)),
        r"crop_scale is \(0.5, 2\): expected a range of shares .* in \[0, 1\]",
    ),
    (lambda: FakeDataModule(blur_sigma=(2, 1)), r"blur_sigma is \(2, 1\): expected a range of pixels from 0"),
    (lambda: FakeDataModule(num_classes=18), "num_classes is 18: expected 19 .* or 16"),
    (lambda: of_targets(broken="skipp"), "broken is 'skipp': expected one of error, skip"),
    (lambda: of_targets(eval_batch_size=0), "eval_batch_size is 0: expected 1 or more"),
    (lambda: of_targets(evaluation_resize="no"), "evaluation_resize is 'no': expected one of protocol"),
    (lambda: of_targets(evaluation_resize=360), "evaluation_resize is 360: expected one of"),
    (lambda: of_targets(evaluation_resize=(0, 9)), r"evaluation_resize is \(0, 9\): expected .* \(height, width\)"),
    (lambda: TargetsDataModule([]), "targets is empty"),
    (lambda: of_targets(source=FakeDataModule(num_classes=16)), "disagree on their classes: 16 .*; 19 "),
    (lambda: of_targets().train_dataloader(), "there is no source data set"),
    (lambda: of_targets().val_dataloader(), "there is no development data set"),
    (lambda: StreetScenesDataModule("mars"), "unknown domain 'mars': expected one of source"),
    (lambda: StreetScenesDataModule(world_seed=-1), "world_seed is -1: expected 0 or more"),
    (lambda: StreetScenesDataModule(num_test=-1), "num_test is -1: expected 0 or more"),
    (lambda: StreetScenesDataModule(height=0), "height is 0: expected 32 or more"),
    (lambda: StreetScenesDataModule(width=-5), "width is -5: expected 64 or more"),
]


@pytest.mark.parametrize(("act", "said"), WRONG)
def test_what_is_wrong_is_said(act: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        act()


def test_targets_serve_each_stage_from_its_role() -> None:
    targets = [FakeDataModule("near", 3), FakeDataModule("far", 2)]
    data = TargetsDataModule(targets, FakeDataModule("source", 4), FakeDataModule("dev", 2))
    assert data.train_dataloader().dataset.domain == "source" and data.val_dataloader().dataset.domain == "dev"
    assert [loader.dataset.domain for loader in data.test_dataloader()] == ["near", "far"]
    assert [len(loader.dataset) for loader in data.predict_dataloader()] == [3, 2]
    assert (data.num_classes, data.class_names[0], data.colours[0]) == (19, "road", (128, 64, 128))


def test_what_is_given_for_all_data_sets_of_targets_reaches_each() -> None:
    members = [FakeDataModule("near"), FakeDataModule("far"), GTADataModule(), WildDashDataModule()]
    for given in ({}, {"broken": "skip", "eval_batch_size": 3, "evaluation_resize": "none"}):
        TargetsDataModule(members[:2], *members[2:], **given)
        assert {member.eval_batch_size for member in members} == {given.get("eval_batch_size", 1)}
        described = [member.describe() for member in members]
        assert {one["evaluation_resize"] for one in described} == {given.get("evaluation_resize", "protocol")}
        assert [one["broken"] for one in described[2:]] == [given.get("broken", "error")] * 2


def test_street_scenes_protocol_has_its_roles_sizes_and_seeds() -> None:
    data = StreetScenesProtocol(96, 192, 3, 2, 1, world_seed=4, target_seed=9, num_workers=0)
    assert (data.source.role, data.development.role) == ("source", "development")
    targets = [(target.domain, target.role, target.world_seed) for target in data.targets]
    assert targets == [(domain, "target", 9) for domain in ("haze", "dusk", "dust")]
    assert data.source.world_seed == data.development.world_seed == 4
    described = data.describe()
    assert [target["world_seed"] for target in described["targets"]] == [9, 9, 9]
    assert described == StreetScenesProtocol(96, 192, 3, 2, 1, world_seed=4, target_seed=9, num_workers=1).describe()
    (loader, *others) = data.test_dataloader()
    item = loader.dataset[0]
    assert len(others) == 2 and len(loader.dataset) == 1 and item["name"] == "haze_test_00000"
    assert item["image"].shape == (3, 96, 192) and item["mask"].shape == (96, 192)
    assert len(data.val_dataloader().dataset) == 2


def test_training_scenes_that_are_kept_in_memory_are_those_drawn_anew() -> None:
    data = StreetScenesDataModule("source", 96, 192, num_train=2, num_workers=0, crop_size=(32, 32))
    dataset = data.make_dataset("train", data.training_transform)
    first = dataset[(1, 0)]["image"]
    dataset[(1, 1)]
    assert torch.equal(dataset[(1, 0)]["image"], first)  # neither epoch wrote to what is kept


def test_a_prefetcher_is_otherwise_its_loader_which_is_used_itself_on_a_cpu() -> None:
    loader = FakeDataModule("near", 3).test_dataloader()
    assert type(loader) is DataLoader
    prefetcher = pickle.loads(pickle.dumps(DevicePrefetcher(loader, torch.device("cuda", 0))))
    assert len(prefetcher) == 3 and prefetcher.dataset.domain == "near" and prefetcher.batch_size == loader.batch_size
    with pytest.raises(AttributeError, match="nothing"):
        prefetcher.nothing  # noqa: B018


@pytest.mark.cuda
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_prefetcher_yields_every_batch_in_order_on_the_device(count: int) -> None:
    samples = [{"image": torch.full((3, 64, 64), float(n)), "name": str(n)} for n in range(count)]
    seen = []
    for batch in DevicePrefetcher(DataLoader(samples, pin_memory=True), torch.device("cuda", 0)):
        torch.cuda._sleep(10_000_000)  # a step that is busy while the next batch is copied
        assert batch["image"].device.type == "cuda"
        seen.append((batch["image"].unique().tolist(), batch["name"]))
    assert seen == [([float(n)], [str(n)]) for n in range(count)]
