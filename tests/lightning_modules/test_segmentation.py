"""The module that trains, scores and predicts, and networks that are compiled."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from callbacks import IaBN, SegTTT
from datamodules import TargetsDataModule
from datamodules.labels import LabelSpace
from lightning_modules import recipe
from lightning_modules.compilation import compile_network
from lightning_modules.loaders import name_domains
from lightning_modules.networks import DeepLabV1
from lightning_modules.probabilities import resize_probabilities
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, make_images, make_trainer


def make_module(num_classes: int = 19, **kwargs: Any) -> SegmentationModule:
    network = TinyNetwork(num_classes)
    network.train()
    return SegmentationModule(network, num_classes, **kwargs)


@pytest.mark.parametrize(("channels_last", "expected"), [(None, False), (False, False), (True, True)])
def test_training_loss_is_the_mean_over_labelled_pixels(channels_last: bool | None, expected: bool) -> None:
    module = make_module(5, channels_last=channels_last)
    module.log = lambda *_, **__: None  # there is no trainer
    module.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.1}])
    layouts: list[bool] = []
    module.network.eval()
    module.network.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].is_contiguous()))
    masks = torch.randint(0, 5, (2, 32, 48))
    batch = {"image": make_images(2), "mask": masks, "name": ["a", "b"]}
    masks[0, :20] = 255
    loss = module.training_step(batch, 0)
    assert layouts == [not expected]
    torch.testing.assert_close(loss, F.cross_entropy(module.network(batch["image"]), masks, ignore_index=255))
    masks[:] = 255
    loss = module.training_step(batch, 0)  # without labels it is 0 and teaches nothing
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.parameters())


def test_training_falls_and_its_learning_rate_falls_polynomially_to_0(tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses, rates = [], []

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            losses.append(trainer.callback_metrics["train/loss"].item())

    trainer = make_trainer(tmp_path, max_epochs=8, callbacks=[Keep()])
    trainer.fit(make_module(lr=0.1, power=0.9), datamodule=FakeDataModule(length=8))  # 4 batches of 2 per epoch
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert rates == pytest.approx([0.1 * (1 - step / 32) ** 0.9 for step in range(32)])
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(0) and (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
    assert isinstance(trainer.optimizers[0], torch.optim.SGD) and not group["nesterov"]


def test_loggers_get_the_iou_of_each_class_that_is_present(tmp_path: Path) -> None:
    module = SegmentationModule(TinyNetwork(19), 19, LabelSpace.of_size(19).names)
    logger = CSVLogger(tmp_path, name="run", version="0")
    data = TargetsDataModule([FakeDataModule("near", 1), FakeDataModule("far", 1)])
    make_trainer(tmp_path, logger=logger).test(module, datamodule=data, verbose=False)
    header = (tmp_path / "run" / "0" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    present = {*data.targets[0].test_dataloader().dataset[0]["mask"].unique().tolist()} - {255}
    assert {"test/far/miou", *(f"test/near/iou/{module.class_names[train_id]}" for train_id in present)} <= {*header}
    assert present


@pytest.mark.parametrize("run", ["fit", "validate", "test", "predict"])
def test_class_counts_that_disagree_are_an_error(tmp_path: Path, run: str) -> None:
    start = getattr(make_trainer(tmp_path, max_epochs=1), run)
    with pytest.raises(ValueError, match="TinyNetwork predicts 7 classes, the data has 19"):
        start(SegmentationModule(TinyNetwork(7), 19), datamodule=FakeDataModule())
    if run != "predict":
        with pytest.raises(ValueError, match="the data has 16 classes, the model 19"):
            start(make_module(19), datamodule=FakeDataModule(num_classes=16))


def test_class_names_have_to_be_as_many_as_classes() -> None:
    with pytest.raises(ValueError, match="2 class names for 5 classes"):
        SegmentationModule(TinyNetwork(5), 5, ["a", "b"])
    with pytest.raises(ValueError, match="num_classes is 256: expected 2 to 255"):
        SegmentationModule(TinyNetwork(5), 256)
    assert make_module(5).class_names == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (TinyNetwork(16), r"network.head.weight is \(16, 8, 1, 1\), the network has \(19, 8, 1, 1\)"),
        (TinyNetwork(19, norm=None), "15 tensors missing.* is missing"),
        (DeepLabV1("resnet10", 19, width=4), "network.backbone.* is not part of the network"),
    ],
)
def test_checkpoint_of_another_network_is_an_error_that_names_what_differs(tmp_path, other: nn.Module, message) -> None:
    path = tmp_path / "other.ckpt"
    state = SegmentationModule(other, 19).state_dict()
    trainer = make_trainer(tmp_path, max_epochs=1, barebones=False)
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.1", "epoch": 0, "global_step": 0}, path)
    module = make_module()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"(?s)the checkpoint is from a different network.*{message}"):
        trainer.test(module, datamodule=FakeDataModule(), ckpt_path=str(path), weights_only=True)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        ({}, [(32, 48), (32, 48)]),
        ({"mask": torch.zeros(2, 64, 50, dtype=torch.int64)}, [(64, 50), (64, 50)]),
        ({"size": torch.tensor([[64, 50], [20, 31]])}, [(64, 50), (20, 31)]),
    ],
)
def test_predict_step_labels_at_the_size_on_disk_or_of_the_mask_or_the_image(more: dict, sizes: list) -> None:
    module, images = make_module(5).eval(), make_images(2)
    output = module.predict_step({"image": images, "name": ["a", "b"], **more}, 0)
    assert output["name"] == ["a", "b"]
    for number, size in enumerate(sizes):
        best = resize_probabilities(module(images)[number : number + 1], size)[0].max(dim=0)
        assert torch.equal(output["labels"][number], best.indices.to(torch.uint8))
        assert torch.equal(output["confidence"][number], best.values)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_runs_work_under_deterministic_algorithms(tmp_path: Path, stage: str) -> None:
    trainer = make_trainer(tmp_path, deterministic=True)
    try:
        getattr(trainer, stage)(make_module(), datamodule=FakeDataModule(length=2))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize(("bf16", "old"), [(True, False), (True, True), (False, False)])  # old: such a torch
def test_bf16_on_a_cpu_without_instructions_for_it_is_warned_of(
    bf16: bool, old: bool, able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    names = {"avx2": True, "avx512_bf16": able, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: names, raising=False)
    if old:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        (tmp_path / "cpuinfo").write_text("flags : " + " ".join(name for name, has in names.items() if has))
        monkeypatch.setattr(recipe, "CPU_INFO", tmp_path / "cpuinfo")
    precision = "bf16-mixed" if bf16 else "32-true"
    make_trainer(tmp_path, precision=precision).predict(make_module(), datamodule=FakeDataModule(length=2))
    found = [str(one.message) for one in recwarn if "trainer.precision=32-true" in str(one.message)]
    assert bool(found) == (bf16 and not able)


def test_domains_are_named_after_their_data_sets_and_all_differently() -> None:
    a, b, a_2 = (SimpleNamespace(dataset=SimpleNamespace(domain=domain)) for domain in ("a", "b", "a_2"))
    unnamed = SimpleNamespace(dataset=SimpleNamespace())
    assert name_domains(a) == ["a"] and name_domains([a, b]) == ["a", "b"] and name_domains([]) == []
    assert name_domains({"x": a, "y": unnamed}) == ["a", "data1"] and name_domains([a, a, a]) == ["a", "a_1", "a_2"]
    assert len(set(name_domains([a, a_2, a]))) == 3  # found to fail


# Compiled networks


def test_a_compiler_that_fails_is_left_alone_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = TinyNetwork(), make_images(1)
    expected = network(image)
    failing = Mock(side_effect=RuntimeError("no compiler here\nmore"))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    compile_network(network)
    with pytest.warns(UserWarning, match="TinyNetwork runs without torch.compile, which failed: no compiler here$"):
        assert torch.equal(network(image), expected)
    assert network._compiled_call_impl is None
    assert torch.equal(network(image), expected)


def test_modes_copies_and_refused_images_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="compile is 'fast': expected one of none, default, reduce-overhead"):
        SegmentationModule(TinyNetwork(), 5, compile="fast")
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    network = TinyNetwork()
    compile_network(network)
    assert copy.deepcopy(network)._compiled_call_impl is None
    with pytest.raises(RuntimeError, match="expected input"):
        network(torch.zeros(1, 2, 8, 8))
    compile_network(network, "none")
    assert network._compiled_call_impl is None


@pytest.mark.slow
def test_compiled_predictions_have_the_labels_of_uncompiled_ones() -> None:
    image = make_images(1)
    for method in (IaBN(0.3), SegTTT(num_steps=2, scales=(0.5,), trainable=["layer4", "head"])):
        network = TinyNetwork()
        expected = method.predict(network, image)
        compile_network(network)
        with torch._dynamo.config.patch(suppress_errors=False):
            compiled = method.predict(network, image)
        assert network._compiled_call_impl is not None
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=0)
