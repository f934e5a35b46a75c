from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules import (
    GTADataModule,
    StreetScenesDataModule,
    StreetScenesProtocol,
    TargetsDataModule,
    WildDashDataModule,
)
from datamodules.labels import CITYSCAPES_COLOURS, LabelSpace
from datamodules.samplers import EpochSampler, ShareSampler, limit_batches, split_batches
from datamodules.transforms import MEAN, STD, TrainingTransform, restore_colours
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer


def order(epoch: int, **kwargs: Any) -> list[tuple[int, int]]:
    sampler = EpochSampler(kwargs.pop("size", 23), **kwargs)
    sampler.set_epoch(epoch)
    items = list(sampler)
    assert len(items) == len(sampler)
    return items


def test_order_of_an_epoch_depends_on_the_seed_and_the_epoch_alone() -> None:
    visited = [[index for index, _ in order(epoch, seed=5)] for epoch in range(3)]
    assert all(sorted(indices) == list(range(23)) for indices in visited)
    assert visited[0] != visited[1] != visited[2]
    sampler = EpochSampler(23, seed=5)
    torch.manual_seed(99)
    np.random.seed(99)
    for epoch in (2, 0, 1):
        sampler.set_epoch(epoch)
        assert [index for index, _ in sampler] == visited[epoch]
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


@pytest.mark.parametrize(("size", "world_size"), [(0, 1), (1, 3), (5, 2), (6, 3), (14, 7)])
def test_evaluation_deals_out_every_sample_exactly_once(size: int, world_size: int) -> None:
    for batch_size in (1, 2, 3):
        batches = split_batches(size, batch_size)
        assert [index for batch in batches for index in batch] == list(range(size))
        shares = [ShareSampler(batches, rank, world_size) for rank in range(world_size)]
        assert sorted(index for share in shares for index in share) == list(range(size))
        assert [len(share) for share in shares] == [len(list(share)) for share in shares]
        assert list(ShareSampler(batches)) == list(range(size))
        dealt = [DataLoader(range(size), batch_size, sampler=share, collate_fn=tuple) for share in shares]
        assert sorted(batch for loader in dealt for batch in loader) == [tuple(batch) for batch in batches]


@pytest.mark.parametrize(("limit", "world_size"), [(1, 1), (2, 3), (100, 2), (0.5, 1), (0.3, 2), (1.0, 3)])
def test_limited_batches_are_the_first_of_each_process(limit: float, world_size: int) -> None:
    batches = split_batches(23, 2)
    expected = []
    for rank in range(world_size):
        share = batches[rank::world_size]
        expected += share[: int(len(share) * limit) if isinstance(limit, float) else limit]
    assert limit_batches(batches, limit, world_size) == sorted(expected, key=lambda batch: batch.start)
    assert limit_batches(batches, 1.0, world_size) == batches


def place(data: FakeDataModule, rank: int, world_size: int) -> FakeDataModule:
    """Lets data be those of one process of several."""
    limits = {"limit_test_batches": 1.0, "limit_val_batches": 1.0}
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy, **limits)
    return data


def test_a_batch_is_left_out_if_all_its_images_are() -> None:
    done = {"blocks": {"blocks_0", "blocks_1", "blocks_2", "blocks_4"}, "other": {"blocks_5"}}
    left = []
    for rank in (0, 1):
        data = place(FakeDataModule(length=7, eval_batch_size=2), rank, 2)
        data.leave_out(done)
        left.append([batch["name"] for batch in data.test_dataloader()])
    assert left == [[["blocks_2", "blocks_3"], ["blocks_6"]], [["blocks_4", "blocks_5"]]]
    data.leave_out({})
    assert len(data.test_dataloader()) == 2


def test_a_loader_that_is_empty_on_some_process_has_no_length() -> None:
    for rank in range(3):
        loader = place(FakeDataModule(length=2), rank, 3).test_dataloader()
        with pytest.raises(TypeError):
            len(loader)
        assert [batch["name"] for batch in loader] == [[f"blocks_{rank}"]][: 2 - rank]
    assert len(place(FakeDataModule(length=2), 1, 2).test_dataloader()) == 1
    assert len(place(FakeDataModule(length=2), 2, 3).predict_dataloader()) == 0  # nobody waits for the others there


def collect(loader: DataLoader) -> list[tuple[str, bytes, bytes]]:
    return [
        (name, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in loader
        for image, mask, name in zip(batch["image"], batch["mask"], batch["name"], strict=True)
    ]


def train_samples(epoch: int = 1, **kwargs: Any) -> list[tuple[str, bytes, bytes]]:
    loader = FakeDataModule(length=6, **kwargs).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return collect(loader)


def test_samples_do_not_depend_on_the_number_of_workers_or_the_batch_size() -> None:
    expected = train_samples()
    assert train_samples(num_workers=2) == expected == train_samples(batch_size=3)
    assert collect(FakeDataModule(num_workers=2).test_dataloader()) == collect(FakeDataModule().test_dataloader())


def test_samples_depend_on_index_epoch_and_seed_alone() -> None:
    def draw(key: int | tuple[int, int], **kwargs: Any) -> dict[str, Any]:
        return FakeDataModule(**kwargs).train_dataloader().dataset[key]

    first = draw((2, 3))
    torch.manual_seed(1)
    np.random.seed(1)
    again = draw((2, 3))
    assert torch.equal(again["image"], first["image"]) and torch.equal(again["mask"], first["mask"])
    for other in (draw((1, 3)), draw((2, 4)), draw((4, 0)), draw((2, 3), seed=1)):
        assert not torch.equal(other["image"], first["image"])
    assert torch.equal(draw(2)["image"], draw((2, 0))["image"])


def test_lightning_tells_the_sampler_its_epoch(tmp_path: Path) -> None:
    from lightning_modules.segmentation import SegmentationModule

    names: list[str] = []

    class Watched(SegmentationModule):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            names.extend(batch["name"])
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(tmp_path, max_epochs=3, limit_val_batches=0)
    trainer.fit(Watched(TinyNetwork(19)), datamodule=FakeDataModule(length=6))
    assert names == [name for epoch in range(3) for name, *_ in train_samples(epoch)]


def test_item_holds_image_mask_and_name() -> None:
    dataset = FakeDataModule().test_dataloader().dataset
    item = dataset[3]
    assert set(item) == {"image", "mask", "name"} and item["name"] == "blocks_3"
    pixels, train_ids = dataset.load_image(3), dataset.load_ids(3)
    exact = ((pixels.astype(np.float64) / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
    assert item["image"].dtype == torch.float32 and np.array_equal(item["image"].numpy(), exact)
    assert item["mask"].dtype == torch.int64 and np.array_equal(item["mask"].numpy(), train_ids)
    assert item["image"].is_contiguous() and item["mask"].is_contiguous()
    assert np.array_equal(restore_colours(item["image"]), pixels)
    for index in (-1, 5):
        with pytest.raises(IndexError, match="blocks has 5 images"):
            dataset[index]


def test_last_training_batch_is_whole_and_every_image_is_evaluated() -> None:
    assert [len(batch["name"]) for batch in FakeDataModule(length=5).train_dataloader()] == [2, 2]
    for name in ("val", "test", "predict"):
        loader = getattr(FakeDataModule(length=5, eval_batch_size=2), f"{name}_dataloader")()
        assert [len(batch["name"]) for batch in loader] == [2, 2, 1]


def test_too_few_images_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="blocks gives this process 1 training images, fewer than one batch of 2"):
        FakeDataModule(length=1).train_dataloader()
    assert len(FakeDataModule(length=1, repeats=2).train_dataloader()) == 1
    with pytest.raises(ValueError, match="the test split of blocks has no images"):
        FakeDataModule(length=0).test_dataloader()


WRONG: list[tuple[dict[str, Any], str]] = [
    *(({name: 0}, f"{name} is 0: expected 1 or more") for name in ("batch_size", "eval_batch_size", "repeats")),
    ({"num_workers": -1}, "num_workers is -1"),
    *(({"num_classes": size}, f"num_classes is {size}: expected 19 .* or 16") for size in (0, 18, 20)),
]
WRONG_FOR_ALL: list[tuple[dict[str, Any], str]] = [
    ({"broken": "skipp"}, "broken is 'skipp': expected one of error, skip"),
    ({"eval_batch_size": 0}, "eval_batch_size is 0: expected 1 or more"),
    ({"evaluation_resize": "no"}, "evaluation_resize is 'no': expected one of protocol"),
    ({"evaluation_resize": 360}, "evaluation_resize is 360: expected one of"),
    ({"evaluation_resize": (0, 9)}, r"evaluation_resize is \(0, 9\): expected one of .*, or \(height, width\)"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_wrong_values_are_errors(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FakeDataModule(**given)


@pytest.mark.parametrize(("given", "said"), WRONG_FOR_ALL)
def test_wrong_values_for_all_data_sets_of_targets_are_errors(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TargetsDataModule([FakeDataModule()], **given)


def test_label_space_of_16_leaves_out_terrain_truck_and_train() -> None:
    space = LabelSpace.of_size(16)
    left_out = set(CITYSCAPES_COLOURS) - set(space.names)
    assert left_out == {"terrain", "truck", "train"} and len(space.names) == len(space.colours) == 16
    for train_id, name in enumerate(CITYSCAPES_COLOURS):
        expected = 255 if name in left_out else space.names.index(name)
        assert space.from_train_ids[train_id] == expected
    assert (space.from_train_ids[19:] == 255).all()
    assert space.colours[9] == CITYSCAPES_COLOURS["sky"]
    assert np.array_equal(space.palette[:16], space.colours) and (space.palette[16:] == 0).all()


def test_training_transform_makes_about_a_tenth_gray_and_jitters_about_half() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:] = (200, 100, 50)
    mask = np.zeros((40, 40), dtype=np.uint8)
    transform = TrainingTransform((16, 16))
    colours = [tuple(restore_colours(transform(image, mask, seed)[0])[8, 8].tolist()) for seed in range(300)]
    gray = sum(r == g == b for r, g, b in colours)
    untouched = colours.count((200, 100, 50))
    assert 12 <= gray <= 54 and 100 <= untouched <= 175


def test_targets_serve_each_stage_from_its_role() -> None:
    data = TargetsDataModule(
        [FakeDataModule("near", 3), FakeDataModule("far", 2)], FakeDataModule("source", 4), FakeDataModule("dev", 2)
    )
    assert data.train_dataloader().dataset.domain == "source" and data.val_dataloader().dataset.domain == "dev"
    assert [loader.dataset.domain for loader in data.test_dataloader()] == ["near", "far"]
    assert [len(loader.dataset) for loader in data.predict_dataloader()] == [3, 2]
    assert (data.num_classes, data.class_names[0], data.colours[0]) == (19, "road", (128, 64, 128))


def test_targets_that_are_missing_or_disagree_are_errors() -> None:
    with pytest.raises(ValueError, match="targets is empty"):
        TargetsDataModule([])
    with pytest.raises(ValueError, match=r"disagree on their classes: 16 .*; 19 "):
        TargetsDataModule([FakeDataModule()], source=FakeDataModule(num_classes=16))
    data = TargetsDataModule([FakeDataModule()])
    with pytest.raises(ValueError, match="there is no source data set"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="there is no development data set"):
        data.val_dataloader()


def test_what_is_given_for_all_data_sets_of_targets_reaches_each() -> None:
    members = [FakeDataModule("near"), FakeDataModule("far"), GTADataModule(), WildDashDataModule()]
    given = {"broken": "skip", "eval_batch_size": 3, "evaluation_resize": "none"}
    TargetsDataModule(members[:2], *members[2:])
    assert {member.eval_batch_size for member in members} == {1}
    assert {member.describe()["evaluation_resize"] for member in members} == {"protocol"}
    TargetsDataModule(members[:2], *members[2:], **given)
    assert {member.eval_batch_size for member in members} == {3}
    assert {member.describe()["evaluation_resize"] for member in members} == {"none"}
    assert [member.describe()["broken"] for member in members[2:]] == ["skip", "skip"]


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
    with pytest.raises(ValueError, match="unknown domain 'mars': expected one of source"):
        StreetScenesDataModule("mars")
    for wrong in ({"num_test": -1}, {"num_train": -3}, {"height": 0}, {"width": -5}):
        with pytest.raises(ValueError):
            StreetScenesDataModule(**wrong)


def test_training_scenes_that_are_kept_in_memory_are_those_drawn_anew() -> None:
    data = StreetScenesDataModule("source", 96, 192, num_train=2, num_workers=0, crop_size=(32, 32))
    dataset = data.make_dataset("train", data.training_transform)
    first = dataset[(1, 0)]["image"]
    dataset[(1, 1)]
    assert torch.equal(dataset[(1, 0)]["image"], first)  # neither epoch wrote to what is kept
