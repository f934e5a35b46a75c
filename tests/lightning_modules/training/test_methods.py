"""Training methods through the command line: they train, resume as if never stopped, and leave nothing at test time."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import distributed, nn

from datamodules import FolderDataModule
from lightning_modules.networks import DeepLabV1, FCN8s, HRNet, TimmDeepLab
from lightning_modules.networks.norms import WhitenedNorm2d
from lightning_modules.processes import average_over_processes, gather_from_processes
from lightning_modules.training import (
    ASG,
    CSG,
    DRPC,
    FSDR,
    ISW,
    FrozenNorms,
    MixStyle,
    PhotometricRandomization,
    TrainingMethod,
)
from lightning_modules.training.features import find_module, name_stages, record_outputs
from lightning_modules.training.method import in_evaluation, seeded_by
from lightning_modules.training.styles import Styles
from main import main
from tests import programs
from tests.fakes import FakeDataModule, TinyNetwork
from tests.tiny import ROOT, arguments
from tests.trees import write_image

RESNET = ["--model.network.init_args.norm=isw"]
LITE0 = [f"--model={ROOT / 'configs' / 'model' / 'timm_efficientnet_lite0.yaml'}"]
# Of each method: its arguments, those of the network, and the loss that it adds.
METHODS: dict[str, tuple[list[str], list[str], str | None]] = {
    "ISW": (["--training.from_epoch=1", "--training.images=4", "--training.trials=2"], RESNET, "ISW/whitening"),
    "ASG": ([], LITE0, "ASG/divergence"),
    "CSG": (["--training.queue=16"], LITE0, "CSG/contrast3"),
    "FrozenNorms": ([], LITE0, None),
    "DRPC": (["--training.copies=1"], [], "DRPC/consistency"),
    "FSDR": (["--training.learn_from=1", "--training.images=4", "--training.bands=4", "--training.high=1"], [], None),
    "MixStyle": ([], [], None),
    "PhotometricRandomization": ([], [], None),
}


def fit(folder: Path, name: str | None, *more: str, epochs: int = 2) -> Any:
    """Trains by a method, or by none."""
    own, network, _ = METHODS[name] if name else ([], [], None)
    method = [f"--training={name}"] if name else []
    logger = ["--trainer.logger=pytorch_lightning.loggers.CSVLogger", f"--trainer.logger.save_dir={folder}"]
    args = ["fit", *arguments(folder, *method, *own, *network, *logger, logger=True)]
    return main([*args, f"--trainer.max_epochs={epochs}", "--trainer.log_every_n_steps=1", *more])


def read_curve(folder: Path, name: str) -> list[float]:
    (path,) = folder.rglob("metrics.csv")
    with path.open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


class Interrupt(Callback):
    """Stops training in the middle of the second epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise RuntimeError("the power went out")


@pytest.mark.parametrize("name", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS)])
def test_a_training_that_resumes_ends_as_one_that_did_not_stop(name: str | None, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", name, "--data.repeats=2", epochs=3)
    weights = {key: value.clone() for key, value in whole.model.state_dict().items()}
    with pytest.raises(RuntimeError, match="power"):
        interrupt = f"--trainer.callbacks+={__name__}.Interrupt"
        fit(tmp_path / "cut", name, "--data.repeats=2", interrupt, epochs=3)
    (last,) = (tmp_path / "cut").rglob("last.ckpt")
    resumed = fit(tmp_path / "resumed", name, "--data.repeats=2", f"--ckpt_path={last}", epochs=3)
    assert resumed.trainer.global_step == whole.trainer.global_step == 12
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    if name is None:
        return
    loss = METHODS[name][2]
    if loss is not None:
        curve = read_curve(tmp_path / "whole", f"train/{loss}")
        assert min(curve) >= 0 and max(curve) > 0  # ASG's is 0 before the network has moved
    (best,) = (tmp_path / "whole").rglob("best.ckpt")
    saved = torch.load(best, weights_only=False)
    assert not [key for key in saved["state_dict"] if key.startswith("training_method")]
    assert saved["training_method"]["name"] == name
    both = [f"--training={name}", *METHODS[name][1]]  # as a config of an experiment says it
    tested = main(["test", *arguments(tmp_path / "test", *both, f"--ckpt_path={best}")])
    assert tested.model.training_method is None and "test/miou" in tested.trainer.callback_metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_in_bf16_with_accumulated_gradients(name: str, tmp_path: Path) -> None:
    more = ["--trainer.precision=bf16-mixed", "--trainer.accumulate_grad_batches=2", "--data.repeats=2"]
    trained = fit(tmp_path, name, *more)
    assert trained.trainer.global_step == 4  # 2 epochs of 4 batches
    assert all(value.isfinite().all() for value in trained.model.state_dict().values())
    assert all(math.isfinite(value) for value in read_curve(tmp_path, "train/loss"))


@pytest.mark.parametrize("method", [PhotometricRandomization(), DRPC(copies=2), FSDR(bands=4, high=1, probability=1.0)])
def test_images_change_and_labels_stay_beside_them(method: TrainingMethod) -> None:
    images, masks = torch.randn(3, 3, 24, 32), torch.randint(0, 5, (3, 24, 32))
    with seeded_by(1):
        changed, labels = method.change_batch(images, masks)
    with seeded_by(1):
        again, _ = method.change_batch(images, masks)
    assert torch.equal(changed, again) and changed.isfinite().all()
    assert len(changed) == len(labels) and torch.equal(labels[:3], masks) and changed.shape[1:] == images.shape[1:]
    assert not torch.equal(changed[-3:], images) and torch.equal(labels[-3:], masks)


def test_features_of_modules_are_recorded_and_hooks_are_gone_after() -> None:
    network, image = TinyNetwork(), torch.randn(2, 3, 16, 16)
    with record_outputs(network, ["layer3", "head"]) as outputs:
        network(image)
    assert outputs.keys() == {"layer3", "head"} and outputs["head"].shape[1] == 5
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match=r"TinyNetwork has no module 'layer9': expected one such as stem, stem_norm"):
        find_module(network, "layer9")
    network.alias = network.layer3  # as libraries do that offer a module under two names
    assert find_module(network, "alias") is network.layer3


def test_features_are_mixed_in_the_step_alone() -> None:
    network, images = TinyNetwork(), torch.randn(2, 3, 16, 16)
    method = MixStyle(["layer3"], probability=1.0)
    method.prepare(network, 5)
    plain = network(images)
    with seeded_by(0), method.changing(network):
        mixed = network(images)
        assert torch.allclose(network(images[:1]), plain[:1], atol=1e-5)  # an image alone has nothing to mix with
    assert not torch.allclose(mixed, plain) and torch.equal(network(images), plain)


def test_modes_and_seeds_are_put_back() -> None:
    network = TinyNetwork().train()
    network.stem_norm.eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with in_evaluation(network.modules()), seeded_by(7, 1):
        assert not any(module.training for module in network.modules())
        first = torch.rand(2)
    assert network.training and network.head.training and not network.stem_norm.training
    assert torch.equal(torch.rand(2), expected)
    with seeded_by(7, 2):
        assert not torch.equal(torch.rand(2), first)


@pytest.mark.parametrize(
    ("network", "deep"), [(DeepLabV1("resnet10", 5, width=8, norm="isw"), [8, 8]), (TimmDeepLab(5, norm="isw"), [4, 4])]
)
def test_stages_begin_at_stride_4_and_whitened_norms_sit_in_three_places(network: nn.Module, deep: list[int]) -> None:
    CSG().prepare(network, 5)  # random weights will do
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, WhitenedNorm2d)}
    assert len(layers) == 3 and not any(layer.state_dict() for layer in layers.values())
    stages, hooks = name_stages(network), [len(module._forward_hooks) for module in network.modules()]
    with record_outputs(network.eval(), [*layers, *stages]) as outputs, torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
    assert [len(outputs[name][0, 0]) for name in stages] == [16, 8, *deep]
    for name, layer in layers.items():
        assert outputs[name].shape[1] == layer.num_features
        assert outputs[name].mean(dim=(2, 3)).abs().max() < 1e-4
    assert hooks == [len(module._forward_hooks) for module in network.modules()]


def test_teachers_know_imagenet_and_queues_wrap() -> None:
    network = TimmDeepLab(5, weights="package").train()
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    asg = ASG()
    asg.prepare(network, 5)
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    step = asg.run_step(network, network, images, masks)
    assert asg.compute_losses(step)["divergence"].item() == pytest.approx(0, abs=1e-3)  # nothing has moved yet
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    assert all(module.training for module in network.modules())
    moving = ASG(frozen_norms=False)
    moving.prepare(network, 5)
    step = moving.run_step(network, network, images, masks)
    assert moving.compute_losses(step)["divergence"].item() > 1  # the statistics of the batch are others
    csg = CSG(chunks=2, queue=5)
    csg.prepare(network, 5)
    before = csg.get_buffer("queue0").clone()
    losses = csg.compute_losses(csg.run_step(network, network, images, masks))
    assert losses.keys() == {"contrast3", "contrast4"} and all(loss.item() > 0 for loss in losses.values())
    assert not torch.equal(csg.get_buffer("queue0"), before)
    sum(losses.values()).backward()
    assert csg.get_submodule("query0")[0].weight.grad is not None
    assert csg.get_submodule("key0")[0].weight.grad is None
    assert not [name for name in {**asg.state_dict(), **csg.state_dict()} if "network" in name]  # teachers stay outside


def test_a_training_that_ends_before_isw_begins_is_warned() -> None:
    with pytest.warns(UserWarning, match="ISW whitens from epoch 5 on, counted from 0, but .* has 5") as caught:
        for length in (5, 6, -1):  # endless
            ISW().check_length(length)
    assert len(caught) == 1


def test_the_auxiliary_classifier_of_isw_learns_from_the_last_stage_but_one() -> None:
    torch.manual_seed(0)
    network = DeepLabV1("resnet10", 5, width=8, norm="isw").train()
    method, without = ISW(auxiliary=0.4), ISW(auxiliary=0)
    for one in (method, without):
        one.prepare(network, 5)
    images, masks = torch.randn(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32))
    masks[0, :9] = 255
    method.classifier[1].eval()  # its dropout draws
    step = method.run_step(network, network, images, masks)
    (loss,) = method.compute_losses(step).values()
    logits = F.interpolate(method.classifier(step.features["backbone.layer3"]), size=(32, 32), mode="bilinear")
    assert loss.item() == pytest.approx(0.4 * F.cross_entropy(logits, masks, ignore_index=255).item(), rel=1e-4)
    loss.backward()
    assert method.classifier[0][0].weight.grad is not None and network.backbone.layer3[0].conv1.weight.grad is not None
    assert network.head.weight.grad is None  # the network's own classifier has its own loss
    assert not without.compute_losses(without.run_step(network, network, images, masks))  # and nothing to whiten yet
    assert not list(without.parameters())


def share_between_processes(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    own = torch.full((2, 3), float(rank), requires_grad=True)
    with patch.object(distributed, "barrier", side_effect=AssertionError("every step would wait for the GPU")):
        gathered = gather_from_processes(own)
    assert gathered[:, 0].tolist() == [0, 0, 1, 1] and not gathered.requires_grad
    assert average_over_processes(torch.tensor([rank, 4.0])).tolist() == [0.5, 4.0]
    distributed.destroy_process_group()


@pytest.mark.slow
def test_what_processes_share_is_the_same_on_all(tmp_path: Path) -> None:
    assert gather_from_processes(torch.ones(2)).tolist() == average_over_processes(torch.ones(2)).tolist() == [1, 1]
    torch.multiprocessing.spawn(share_between_processes, (str(tmp_path),), nprocs=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CSG", "ISW", "FSDR"])
def test_two_processes_train_and_hold_what_they_share(name: str, tmp_path: Path) -> None:
    own, network, _ = METHODS[name]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=2", "--data.batch_size=2"]
    programs.run(["main.py", "fit", *arguments(tmp_path, f"--training={name}", *own, *network, *two)], tmp_path)
    (last,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(last, weights_only=False)["training_method"]["state"]
    state = {key.removeprefix("training_method."): value for key, value in saved.items()}
    if name == "CSG":  # 2 epochs of 2 steps; each process has 2 images, of 2x2 chunks at stride 16 for 32x32 pixels
        assert state["position"].item() == 2 * 2 * 2 * 2 * 4 % 16
    elif name == "ISW":
        assert any(state[f"mask{number}"].any() for number in range(3))
    else:
        assert state["varying"].any()


def test_frozen_norms_keep_their_statistics_while_weights_learn() -> None:
    network = DeepLabV1("resnet10", 5, width=4).train()
    norms = [layer for layer in network.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.running_mean.uniform_(-1, 1)
    before = [layer.running_mean.clone() for layer in norms]
    method = FrozenNorms()
    method.prepare(network, 5)
    with method.changing(network):
        network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(layer.running_mean, mean) for layer, mean in zip(norms, before, strict=True))
    assert all(layer.training and layer.weight.grad is not None for layer in norms)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ISW(clusters=1), "clusters is 1: expected 2 or more"),
        (lambda: ISW(semantics="theirs"), "semantics is 'theirs': expected paper or released"),  # type: ignore[arg-type]
        (lambda: ISW(auxiliary=-1), "auxiliary is -1: expected 0 or more"),
        (lambda: ISW().prepare(HRNet(5, "hrnet_w18_small", norm="isw"), 5), "no backbone with stages.*set --training"),
        (lambda: FCN8s("vgg16_bn", 5, width=4, norm="isw"), "FCN8s has no stem followed by four named stages"),
        (lambda: ISW().prepare(TinyNetwork(), 5), "TinyNetwork has none: expected a network with norm=isw"),
        (lambda: ASG(weight=-1.0), "weight is -1.0: expected 0 or more"),
        (lambda: ASG().prepare(TinyNetwork(), 5), "TinyNetwork has no backbone with stages"),
        (
            lambda: ASG().prepare(nn.ModuleDict({f"layer{number}": nn.Identity() for number in range(1, 5)}), 5),
            "no ImageNet classifier for ModuleDict: expected a ResNet",
        ),
        (lambda: CSG(temperature=0), "temperature is 0: expected a number above 0"),
        (lambda: FrozenNorms().prepare(TinyNetwork(), 5), "TinyNetwork has no backbone with BatchNorm: expected"),
        (lambda: FrozenNorms().prepare(DeepLabV1("resnet10", 5, width=4), 5), "were never trained.*init_args.weights"),
        (lambda: DRPC(copies=0), "copies is 0: expected 1 or more"),
        (lambda: DRPC(styles="nowhere"), "styles is nowhere, which is not a folder"),
        (lambda: FSDR(bands=4, low=2, high=2), "expected low and high of 0 or more, with a sum from 1"),
        (lambda: MixStyle(alpha=0), "alpha is 0: expected a number above 0"),
        (lambda: MixStyle().prepare(TinyNetwork(), 5), "or set layers to the names of those"),
        (lambda: MixStyle(["layer7"]).prepare(TinyNetwork(), 5), "has no module 'layer7'"),
        (lambda: PhotometricRandomization(strength=2), "strength is 2: expected 0 to 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make()


def test_styles_come_from_a_folder_that_is_no_target(tmp_path: Path) -> None:
    folder = tmp_path / "city" / "sub"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"contains 0 images: expected 2 or more as styles"):
        Styles(str(folder))
    for number in range(3):
        write_image(folder / f"{number}.png", np.full((20, 30, 3), 80 * number, np.uint8))
    styles = Styles(str(tmp_path))
    assert styles.images.shape == (3, 3, 256, 256) and styles.images[1].unique().tolist() == [pytest.approx(80 / 255)]
    data = SimpleNamespace(targets=[FolderDataModule(str(tmp_path / "city"))])
    with pytest.raises(ValueError, match=r"is read as a target of this run: expected photographs"):
        DRPC(styles=str(folder)).check_data(data)
    FSDR(styles=str(folder)).check_data(SimpleNamespace(targets=[FakeDataModule()]))
    DRPC().check_data(data)
    (folder / "broken.jpg").write_bytes(b"no photograph")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        Styles(str(folder))
    assert Styles().images.min() >= 0 and len(Styles().images) >= 12


def test_another_method_does_not_go_on_and_none_trains_in_true_half_precision(tmp_path: Path) -> None:
    fit(tmp_path, "MixStyle", epochs=1)
    (last,) = tmp_path.rglob("last.ckpt")
    with pytest.raises(ValueError, match="was trained by MixStyle, this run uses ISW: expected the same"):
        fit(tmp_path, "ISW", f"--ckpt_path={last}")
    with pytest.raises(ValueError, match=r"precision is bf16-true, in which MixStyle cannot train: expected 32"):
        fit(tmp_path, "MixStyle", "--trainer.precision=bf16-true")
