"""The residual backbones and DeepLabv1 on them, and how any network is run."""

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.resnet import ResNet
from lightning_modules.predictor import Stopwatch, predict_logits, predict_plainly
from tests.fakes import TinyNetwork, make_images

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
LAYERS = ("layer1", "layer2", "layer3", "layer4")


def on_meta(backbone: str, num_classes: int = 19, width: int = 64) -> DeepLabV1:
    with torch.device("meta"):
        return DeepLabV1(backbone, num_classes, width=width).eval()


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", BLOCKS)
def test_first_blocks_keep_dilation_1_and_those_behind_them_dilate(backbone: str, output_stride: int) -> None:
    with torch.device("meta"):
        network = ResNet(backbone, output_stride=output_stride)
    dilations, striding = ((1, 1, 2, 4), ("layer2",)) if output_stride == 8 else ((1, 1, 1, 2), ("layer2", "layer3"))
    for layer, dilation, depth in zip(LAYERS, dilations, BLOCKS[backbone], strict=True):
        stage = network.get_submodule(layer)
        assert len(stage) == depth
        for number, block in enumerate(stage):
            convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
            wide = [conv for conv in convolutions if conv.kernel_size == (3, 3)]
            expected = (1, 1) if number == 0 else (dilation, dilation)
            assert wide and all(conv.dilation == conv.padding == expected for conv in wide)
            assert ((2, 2) in [conv.stride for conv in convolutions]) == (layer in striding and number == 0)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
def test_parameter_names_and_shapes_are_torchvisions(backbone: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)(weights=None).state_dict()
    ours = on_meta(backbone).backbone.state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == expected
    stages = ("layer4",) if backbone == "resnet101" else ("layer3", "layer4")
    assert on_meta(backbone).adapted_layers == (*stages, "head")


def test_with_stride_in_place_of_dilation_the_backbone_is_torchvisions() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = ResNet("resnet18", output_stride=16).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    ours.layer4 = nn.Identity()
    image = make_images(1, 64, 96)
    x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))
    with torch.no_grad():
        assert torch.equal(ours.layer1(ours.run_stem(image)), x)
        assert torch.equal(ours(image), theirs.layer3(theirs.layer2(x)))


def test_upsampling_aligns_corners() -> None:
    network = DeepLabV1("resnet10", 4, width=4).eval()
    image = make_images(1, 41, 57)
    with torch.no_grad():
        expected = F.interpolate(network.head(network.backbone(image)), (41, 57), mode="bilinear", align_corners=True)
        assert torch.equal(network(image), expected)


def test_width_scales_every_stage() -> None:
    assert on_meta("resnet10", width=16).backbone.channels == 128
    assert sum(p.numel() for p in on_meta("resnet10", width=16).parameters()) == pytest.approx(311_000, rel=0.02)


def test_plain_prediction_is_the_softmax_of_the_logits_and_takes_no_gradient() -> None:
    network, images = TinyNetwork(), make_images(2)
    probabilities = predict_plainly(network, images)
    assert torch.equal(probabilities, network(images).softmax(dim=1)) and not probabilities.requires_grad
    assert predict_logits(network, images).requires_grad


def return_as(wrap: Callable[[torch.Tensor], object]) -> nn.Module:
    """Makes a network that wraps its logits, of half the image's size, as another library may."""

    class Foreign(TinyNetwork):
        def forward(self, image: torch.Tensor) -> object:  # type: ignore[override]
            return wrap(super().forward(image))

    return Foreign(upsample=False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"aux": logits + 1, "out": logits},  # torchvision
        lambda logits: OrderedDict(loss=None, logits=logits),
        lambda logits: SimpleNamespace(loss=None, logits=logits),  # transformers
    ],
)
def test_logits_are_found_where_other_libraries_put_them_and_resized(wrap: Callable[[torch.Tensor], object]) -> None:
    images = make_images(1, 31, 45)
    small = TinyNetwork(upsample=False)(images)
    expected = F.interpolate(small, (31, 45), mode="bilinear", align_corners=False)
    assert torch.equal(predict_logits(return_as(wrap), images), expected)


@pytest.mark.parametrize(
    ("output", "found"),
    [({"masks": torch.zeros(1, 2, 3, 4)}, "dict"), ((1, 2), "tuple"), (torch.zeros(3, 4), r"\(3, 4\)")],
)
def test_network_that_does_not_return_logits_is_a_clear_error(output: object, found: str) -> None:
    with pytest.raises(TypeError, match=f"Foreign returned .*{found}.*: expected one tensor"):
        predict_logits(return_as(lambda _: output), make_images(1))


def test_stopwatch_tells_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.25])
    monkeypatch.setattr("lightning_modules.predictor.time.perf_counter", lambda: next(times))
    with Stopwatch(torch.device("cpu")) as stopwatch:
        pass
    assert stopwatch.milliseconds() == 250
