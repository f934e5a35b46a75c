from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import ResNet50_Weights, WeightsEnum

from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.resnet import ResNet
from lightning_modules.predictor import Stopwatch, predict_logits, predict_plainly
from tests.fakes import TinyNetwork, make_images

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def on_meta(backbone: str, num_classes: int = 19, width: int = 64) -> DeepLabV1:
    with torch.device("meta"):
        return DeepLabV1(backbone, num_classes, width=width).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 128), (61, 83), (8, 8), (9, 200)])
@pytest.mark.parametrize("backbone", BLOCKS)
def test_logits_have_the_size_of_the_image_and_features_an_eighth(backbone: str, height: int, width: int) -> None:
    network = on_meta(backbone, 7)
    image = torch.empty(2, 3, height, width, device="meta")
    assert network(image).shape == (2, 7, height, width)
    channels = 512 if backbone in ("resnet10", "resnet18") else 2048
    assert network.backbone(image).shape == (2, channels, -(-height // 8), -(-width // 8))
    assert network.backbone.channels == channels and network.output_stride == 8


@pytest.mark.parametrize("backbone", BLOCKS)
def test_first_block_of_layer3_and_layer4_keeps_dilation_1_and_the_others_have_2_and_4(backbone: str) -> None:
    network = on_meta(backbone).backbone
    layers = ("layer1", "layer2", "layer3", "layer4")
    for layer, dilation, depth in zip(layers, (1, 1, 2, 4), BLOCKS[backbone], strict=True):
        stage = network.get_submodule(layer)
        assert len(stage) == depth
        for number, block in enumerate(stage):
            wide = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
            expected = (1, 1) if number == 0 else (dilation, dilation)
            assert wide and all(m.dilation == m.padding == expected for m in wide)
            strides = [m.stride for m in block.modules() if isinstance(m, nn.Conv2d)]
            assert ((2, 2) in strides) == (layer == "layer2" and number == 0)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
def test_parameter_names_and_shapes_are_torchvisions(backbone: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)(weights=None).state_dict()
    ours = on_meta(backbone).backbone.state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == expected


def test_with_stride_in_place_of_dilation_the_backbone_is_torchvisions() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = ResNet("resnet18").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    image = make_images(1, 64, 64)
    x = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))))
    ours.layer3 = ours.layer4 = nn.Identity()
    with torch.no_grad():
        assert torch.equal(ours(image), x)


def test_head_starts_from_the_papers_distribution() -> None:
    torch.manual_seed(0)
    head = DeepLabV1("resnet18", 200).head
    assert head.kernel_size == (1, 1) and (head.bias == 0).all()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02) and abs(head.weight.mean().item()) < 1e-4


def test_upsampling_aligns_corners() -> None:
    network = DeepLabV1("resnet10", 4, width=4).eval()
    image = make_images(1, 41, 57)
    with torch.no_grad():
        expected = F.interpolate(network.head(network.backbone(image)), (41, 57), mode="bilinear", align_corners=True)
        assert torch.equal(network(image), expected)


@pytest.mark.parametrize("size", [(7, 64), (64, 7), (1, 1)])
def test_image_smaller_than_the_output_stride_is_a_clear_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"the image is {size[0]}x{size[1]} pixels .*output stride of 8"):
        on_meta("resnet18")(torch.empty(1, 3, *size, device="meta"))


def test_width_scales_every_stage() -> None:
    assert on_meta("resnet10", width=16).backbone.channels == 128
    assert sum(p.numel() for p in on_meta("resnet10", width=16).parameters()) == pytest.approx(311_000, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet34", 19), "unknown backbone 'resnet34': expected one of resnet10"),
        (("resnet18", 1), "num_classes is 1"),
        (("resnet18", 19, "coco"), "weights is 'coco'"),
        (("resnet18", 19, None, 0), "width is 0"),
        (("resnet10", 19, "imagenet"), "no ImageNet weights for backbone 'resnet10'"),
        (("resnet18", 19, "imagenet", 32), "need width=64, the backbone has width=32"),
    ],
)
def test_arguments_outside_their_range_are_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV1(*arguments)


def test_imagenet_weights_are_loaded_without_their_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    fake = torchvision.models.resnet50(weights=None).state_dict()
    asked = []

    def get_state_dict(self: WeightsEnum, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(self)
        return fake

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    network = DeepLabV1("resnet50", 19, "imagenet")
    assert asked == [ResNet50_Weights.IMAGENET1K_V1]
    state = network.backbone.state_dict()
    assert all(torch.equal(value, fake[key]) for key, value in state.items())
    assert fake.keys() - state.keys() == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("error", [URLError("no network"), OSError("refused"), TimeoutError("too late")])
def test_imagenet_weights_without_a_network_name_the_file_and_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(FileNotFoundError) as raised:
        DeepLabV1("resnet50", 19, "imagenet")
    message = str(raised.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth") in message
    assert ResNet50_Weights.IMAGENET1K_V1.url in message and "weights=None" in message and str(error.args[0]) in message


def test_imagenet_weights_are_found_at_the_place_that_the_message_names(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    place.parent.mkdir(parents=True)
    torch.manual_seed(4)
    fake = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(fake, place)
    network = DeepLabV1("resnet18", 19, "imagenet")
    assert torch.equal(network.backbone.conv1.weight, fake["conv1.weight"])


def test_plain_prediction_is_the_softmax_of_the_logits_and_takes_no_gradient() -> None:
    network, images = TinyNetwork(), make_images(2)
    probabilities = predict_plainly(network, images)
    assert torch.equal(probabilities, network(images).softmax(dim=1)) and not probabilities.requires_grad
    assert predict_logits(network, images).requires_grad


def test_logits_of_another_size_are_resized() -> None:
    images = make_images(1, 31, 45)
    network = TinyNetwork(upsample=False)
    expected = F.interpolate(network(images), (31, 45), mode="bilinear", align_corners=False)
    assert torch.equal(predict_logits(network, images), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"aux": logits + 1, "out": logits},  # torchvision
        lambda logits: OrderedDict(loss=None, logits=logits),
        lambda logits: SimpleNamespace(loss=None, logits=logits),  # transformers
    ],
)
def test_logits_are_found_where_other_libraries_put_them(wrap: Callable[[torch.Tensor], object]) -> None:
    class Foreign(TinyNetwork):
        def forward(self, image: torch.Tensor) -> object:
            return wrap(super().forward(image))

    images = make_images(1)
    expected = predict_logits(TinyNetwork(upsample=False), images)
    assert torch.equal(predict_logits(Foreign(upsample=False), images), expected)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"out": 1}, "dict"),
        ({"masks": torch.zeros(1, 2, 3, 4)}, "dict"),
        ((1, 2), "tuple"),
        (torch.zeros(3, 4), r"\(3, 4\)"),
    ],
)
def test_network_that_does_not_return_logits_is_a_clear_error(output: object, found: str) -> None:
    class Other(nn.Module):
        def forward(self, image: torch.Tensor) -> object:
            return output

    with pytest.raises(TypeError, match=f"Other returned .*{found}"):
        predict_logits(Other(), make_images(1))


def test_stopwatch_tells_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.25])
    monkeypatch.setattr("lightning_modules.predictor.time.perf_counter", lambda: next(times))
    with Stopwatch(torch.device("cpu")) as stopwatch:
        pass
    assert stopwatch.milliseconds() == 250


@pytest.mark.cuda
def test_stopwatch_waits_for_the_device() -> None:
    x = torch.rand(4096, 4096, device="cuda")
    with Stopwatch(x.device) as stopwatch:
        for _ in range(20):
            x = (x @ x).clamp(0, 1)
    assert stopwatch.milliseconds() > 0.5
