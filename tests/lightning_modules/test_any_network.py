"""What holds for every network of this project, on tiny versions."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from callbacks.iabn import IaBN
from callbacks.seg_ttt import SegTTT, select_parameters
from lightning_modules.networks import (
    FCN,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3Plus,
    FCN8s,
    HRNet,
    RoundedSizes,
    SegmentationNetwork,
    Segmenter,
    TimmDeepLab,
)
from lightning_modules.predictor import predict_plainly
from tests.fakes import make_images, unchanged

CLASSES = 5
Make = Callable[..., SegmentationNetwork]

WITH_BATCH_NORM: dict[str, Make] = {
    "deeplab_v1": lambda **kwargs: DeepLabV1("resnet10", CLASSES, width=4, **kwargs),
    "deeplab_v2": lambda **kwargs: DeepLabV2("resnet10", CLASSES, width=4, **kwargs),
    "deeplab_v3_plus_8": lambda **kwargs: DeepLabV3Plus("resnet10", CLASSES, width=4, **kwargs),
    "deeplab_v3_plus_16": lambda **kwargs: DeepLabV3Plus("resnet10", CLASSES, width=4, output_stride=16, **kwargs),
    "fcn": lambda **kwargs: FCN("resnet10", CLASSES, width=4, **kwargs),
    "fcn8s_bn": lambda **kwargs: FCN8s("vgg16_bn", CLASSES, width=4, **kwargs),
    "hrnet": lambda **kwargs: HRNet(CLASSES, "hrnet_w18_small", **kwargs),
    "timm_deeplab": lambda **kwargs: TimmDeepLab(CLASSES, channels=16, **kwargs),
}
WITHOUT_BATCH_NORM: dict[str, Make] = {
    "fcn8s": lambda **kwargs: FCN8s("vgg16", CLASSES, width=4, **kwargs),
    "segmenter": lambda **kwargs: Segmenter(CLASSES, width=64, depth=3, **kwargs),
}
NETWORKS = WITH_BATCH_NORM | WITHOUT_BATCH_NORM


def make(name: str, **kwargs: object) -> SegmentationNetwork:
    """Makes a tiny network whose logits differ between pixels."""
    torch.manual_seed(0)
    network = NETWORKS[name](**kwargs).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels == CLASSES:
            nn.init.normal_(layer.weight, std=0.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_one(name: str) -> None:
    """Its logits have the size of the image, and depend on no other image; its head and what adapts are the paper's."""
    network, images = make(name), make_images(2, 41, 67)
    size = network.min_size
    with torch.no_grad():
        logits = network(images)
        singles = torch.cat([network(images[:1]), network(images[1:])])
        assert network(make_images(1, size, size)).shape == (1, CLASSES, size, size)
    assert logits.shape == (2, CLASSES, 41, 67) and not torch.allclose(logits[0], logits[1], rtol=1e-3)
    assert torch.allclose(logits, singles, rtol=1e-4, atol=1e-5 * logits.abs().max())
    with pytest.raises(ValueError, match=f"the image is {size}x{size - 1} pixels .* expects {size} or more"):
        network(make_images(1, size, size - 1))
    for names in (network.adapted_layers, getattr(network, "released_layers", network.adapted_layers)):
        moving = select_parameters(network, names)
        assert set(moving) & {"head.bias", "head.4.bias", "head.branches.3.bias"}
        early = ("backbone.conv1.", "conv1.", "backbone.conv_stem.", "backbone.patch_embed")
        assert len(moving) < len(list(network.parameters())) and not any(path.startswith(early) for path in moving)
    torch.manual_seed(0)
    layers = [layer for layer in NETWORKS[name]().head.modules() if isinstance(layer, nn.Conv2d)]
    side = 3 if name == "deeplab_v2" else 1  # it has four classifiers
    for classifier in layers if name == "deeplab_v2" else layers[-1:]:
        assert classifier.bias is not None and (classifier.bias == 0).all()
        assert classifier.out_channels == CLASSES and classifier.kernel_size == (side, side)
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.4)
    with pytest.raises(ValueError, match=r"weights is 'coco': expected 'imagenet'.* or None"):
        make(name, weights="coco")


@pytest.mark.parametrize(
    ("name", "semantics"),
    [*((name, "paper") for name in NETWORKS), *((name, "released") for name in ("deeplab_v1", "hrnet", "segmenter"))],
)
def test_methods_move_it_at_batch_size_1_and_leave_it_as_it_was(name: str, semantics: Any) -> None:
    network, images = make(name), make_images(1, 67, 83)
    alpha = 0.1 if name in WITH_BATCH_NORM else 0.0
    with unchanged(network):
        method = SegTTT(alpha, psi=0.1, num_steps=2, lr=0.01, scales=(0.5, 1.0), semantics=semantics)
        adapted = method.predict(network, images)
        (account,) = method.adaptations
        assert account.steps == 2 and account.note is None and account.losses[-1] != account.losses[0]
        unmoved = SegTTT(alpha, psi=0.1, num_steps=0, scales=(0.5, 1.0)).predict(network, images)
        assert not torch.allclose(adapted, unmoved, atol=1e-5)
        if alpha:
            plain = predict_plainly(network, images)  # in the same layout: a deep random network amplifies rounding
            blended = IaBN(alpha).predict(network, images)
            assert blended.isfinite().all() and not torch.allclose(blended, plain, atol=1e-5)
            assert torch.allclose(IaBN(0.0).predict(network, images), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("deeplab_v1", "switchable"),
        ("deeplab_v1", "ibn_b"),
        ("deeplab_v3_plus_8", "batch_instance"),
        ("deeplab_v3_plus_8", "ibn_a"),
        ("fcn8s_bn", "switchable"),
        ("fcn8s_bn", "batch_instance"),
        ("hrnet", "switchable"),
        ("hrnet", "ibn_a"),
    ],
)
def test_other_norms_train_and_adapt(name: str, norm: str) -> None:
    network, images = make(name, norm=norm), make_images(2, 67, 83)
    assert repr(network) != repr(make(name))
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=1e-2), []
    for _ in range(3):
        loss = F.cross_entropy(network.train()(images), torch.zeros(2, 67, 83, dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0] and all(parameter.isfinite().all() for parameter in network.parameters())
    method = SegTTT(0.0, psi=0.1, num_steps=1, lr=1e-3, scales=(0.5,))
    assert method.predict(network.eval(), images[:1]).isfinite().all() and method.adaptations[0].steps == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_live_in_training_only_and_adds_no_key(name: str) -> None:
    plain, network, images = make(name), make(name, dropout=0.2), make_images(2, 41, 67)
    assert sorted(network.state_dict()) == sorted(plain.state_dict())
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates.count(0.2) >= 5
    with torch.no_grad():
        assert torch.allclose(network(images), plain(images), atol=1e-5)
        network.train()
        assert not torch.allclose(network(images), network(images), atol=1e-3)


@pytest.mark.parametrize("name", ["hrnet", "timm_deeplab", "segmenter"])
def test_missing_extra_is_a_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"timm is not installed: .*pip install -e '\.\[timm\]'"):
        NETWORKS[name]()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make("fcn8s_bn", norm="ibn_a"), "defined only for residual networks"),
        (lambda: DeepLabV1("resnet34", 19), "unknown backbone 'resnet34': expected one of resnet10"),
        (lambda: DeepLabV1("resnet18", 1), "num_classes is 1: expected 2 or more"),
        (lambda: DeepLabV1("resnet18", 19, width=0), "width is 0"),
        (lambda: DeepLabV1("resnet10", 19, "imagenet"), "no ImageNet weights for backbone 'resnet10'"),
        (lambda: DeepLabV1("resnet18", 19, "imagenet", 32), "need width=64, the backbone has width=32"),
        (lambda: DeepLabV3Plus("resnet18", 19, output_stride=4), "output_stride is 4: expected 8 or 16"),
        (lambda: FCN8s("vgg19", 4), "unknown backbone 'vgg19': expected one of vgg16, vgg16_bn"),
        (lambda: FCN8s("vgg16", 4, None, 0), "width is 0"),
        (lambda: FCN8s("vgg16", 4, "imagenet", 8), "need width=64, the backbone has width=8"),
        (lambda: HRNet(19, "resnet18"), "backbone is 'resnet18': expected an HRNet from timm"),
        (lambda: HRNet(19, "hrnet_w17"), "has no model 'hrnet_w17'"),
        (lambda: TimmDeepLab(5, output_stride=4), "output_stride is 4: expected 8, 16 or 32"),
        (lambda: TimmDeepLab(5, "resnet18", "package"), "weights=package has only tf_efficientnet_lite0"),
        (lambda: Segmenter(5, norm="switchable"), "a vision transformer has no BatchNorm"),
        (lambda: Segmenter(5, dropout=1.0), "dropout is 1.0: expected a probability"),
        (lambda: Segmenter(5, weights="imagenet", depth=2), "depth is 2, but ImageNet weights fit only"),
        (lambda: Segmenter(5, width=100), "width is 100: expected a multiple of 64"),
        (lambda: Segmenter(5, depth=0), "depth is 0: expected a positive number"),
        (lambda: Segmenter(5, "resnet18"), "backbone is 'resnet18': expected a vision transformer"),
        (lambda: RoundedSizes(nn.Identity(), 0), "multiple is 0: expected a positive number"),
    ],
)
def test_arguments_outside_their_range_are_errors(wrong: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("build", "error", "expected"),
    [
        (lambda: DeepLabV1("resnet50", 19, "imagenet"), URLError("no network"), "PLACE/resnet50-0676ba61.pth"),
        (lambda: FCN8s("vgg16_bn", 19, "imagenet"), TimeoutError("too late"), "PLACE/vgg16_bn-6c64b313.pth"),
        (lambda: HRNet(19, weights="imagenet"), OSError("refused"), "ImageNet weights of hrnet_w18"),
    ],
)
def test_imagenet_weights_without_a_network_name_the_file(
    build: Callable[[], nn.Module], error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for loader in ("torch.hub.download_url_to_file", "timm.create_model"):
        monkeypatch.setattr(loader, Mock(side_effect=error))
    with pytest.raises(FileNotFoundError) as raised:
        build()
    expected = expected.replace("PLACE", str(tmp_path / "hub" / "checkpoints"))
    said = [str(error.args[0]), "weights=None", "could not be downloaded", expected]
    assert [word for word in said if word not in str(raised.value)] == []


def test_imagenet_weights_are_loaded_without_their_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"  # the place that the message names
    place.parent.mkdir(parents=True)
    fake = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(fake, place)
    for network in (DeepLabV1("resnet18", 19, "imagenet"), DeepLabV3Plus("resnet18", 19, "imagenet")):
        state = network.backbone.state_dict()
        assert all(torch.equal(value, fake[key]) for key, value in state.items())
        assert fake.keys() - state.keys() == {"fc.weight", "fc.bias"}
    asked: list[WeightsEnum] = []
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda weights, **_: asked.append(weights) or {})
    with pytest.raises(RuntimeError, match="Missing key"):
        FCN("resnet50", 19, "imagenet")
    assert asked == [torchvision.models.ResNet50_Weights.IMAGENET1K_V1]
