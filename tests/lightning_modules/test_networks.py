"""Networks on residual and VGG backbones against torchvision's and their papers, and how any network is run."""

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights, WeightsEnum
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from callbacks.seg_ttt import SegTTT
from lightning_modules.networks import FCN, DeepLabV1, DeepLabV2, DeepLabV3Plus, FCN8s, RoundedSizes
from lightning_modules.networks.resnet import ResNet
from lightning_modules.predictor import Stopwatch, predict_logits, predict_plainly
from tests.fakes import TinyNetwork, make_images, unchanged

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def on_meta(kind: Callable[..., nn.Module], *args: object, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return kind(*args, **kwargs).eval()


def draw_weights(network: nn.Module) -> nn.Module:
    """Gives a network on the meta device weights, quickly."""
    generator = torch.Generator().manual_seed(0)
    network = network.to_empty(device="cpu").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            bound = (3 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
            tensor.uniform_(-bound, bound, generator=generator)
    return network


def upsample(x: Tensor, *size: int) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", BLOCKS)
def test_first_blocks_keep_dilation_1_and_those_behind_them_dilate(backbone: str, output_stride: int) -> None:
    network = on_meta(ResNet, backbone, output_stride=output_stride)
    dilations, striding = ((1, 1, 2, 4), (2,)) if output_stride == 8 else ((1, 1, 1, 2), (2, 3))
    for number, (dilation, depth) in enumerate(zip(dilations, BLOCKS[backbone], strict=True), 1):
        stage = network.get_submodule(f"layer{number}")
        assert len(stage) == depth
        for block in stage:
            first = block is stage[0]
            convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
            wide = [conv for conv in convolutions if conv.kernel_size == (3, 3)]
            expected = (1, 1) if first else (dilation, dilation)
            assert wide and all(conv.dilation == conv.padding == expected for conv in wide)
            assert ((2, 2) in [conv.stride for conv in convolutions]) == (number in striding and first)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
def test_parameter_names_and_shapes_are_torchvisions(backbone: str) -> None:
    theirs = on_meta(getattr(torchvision.models, backbone), weights=None).state_dict()
    ours = on_meta(DeepLabV1, backbone, 19)
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.backbone.state_dict().items()} == expected
    stages = ("layer4",) if backbone == "resnet101" else ("layer3", "layer4")
    assert ours.adapted_layers == on_meta(FCN, backbone, 19).adapted_layers == (*stages, "head")
    rest = ("aspp", "reduction", "decoder", "head")
    assert on_meta(DeepLabV3Plus, backbone, 19).adapted_layers == (*stages, *rest)


def test_with_stride_in_place_of_dilation_the_backbone_is_torchvisions() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = ResNet("resnet18", output_stride=16).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    ours.layer4 = nn.Identity()
    image = make_images(1, 64, 96)
    with torch.no_grad():
        x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))
        assert torch.equal(ours(image), theirs.layer3(theirs.layer2(x)))


def test_deeplab_v1_aligns_corners_and_its_width_scales_every_stage() -> None:
    network, image = DeepLabV1("resnet10", 4, width=4).eval(), make_images(1, 41, 57)
    with torch.no_grad():
        logits = network.head(network.backbone(image))
        expected = F.interpolate(logits, (41, 57), mode="bilinear", align_corners=True)
        assert torch.equal(network(image), expected)
    network = on_meta(DeepLabV1, "resnet10", 19, width=16)
    assert network.backbone.channels == 128
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(311_000, rel=0.02)


def test_logits_of_deeplab_v2_are_the_sum_of_four_dilated_classifiers() -> None:
    network, image = DeepLabV2("resnet10", 3, width=4).eval(), make_images(1, 45, 70)
    with torch.no_grad():
        features = network.backbone(image)
        logits = sum(
            F.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
            for branch, rate in zip(network.head.branches, (6, 12, 18, 24), strict=True)
        )
        assert torch.allclose(network(image), upsample(logits, 45, 70), atol=1e-6)
    assert network.adapted_layers == ("layer3", "layer4", "head") and logits.shape[-2:] == (6, 9)


def test_logits_of_deeplab_v3_plus_are_torchvisions_pyramid_and_the_decoder_of_the_paper() -> None:
    network, image = DeepLabV3Plus("resnet10", 3, width=4).eval(), make_images(1, 45, 70)

    def conv_bn_relu(layers: nn.Sequential, x: Tensor) -> Tensor:
        conv, norm, _ = layers
        x = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()

    with torch.no_grad():
        low, high = network.backbone.layer1(network.backbone.run_stem(image)), network.backbone(image)
        assert low.shape == (1, 16 // 4, 12, 18) and high.shape == (1, 32, 6, 9)
        x = torch.cat([upsample(network.aspp(high), 12, 18), conv_bn_relu(network.reduction, low)], dim=1)
        x = conv_bn_relu(network.decoder[1], conv_bn_relu(network.decoder[0], x))
        assert torch.allclose(network(image), upsample(network.head(x), 45, 70), atol=1e-6)
    theirs = on_meta(deeplabv3_resnet50, weights=None, weights_backbone=None).classifier[0]
    assert repr(on_meta(DeepLabV3Plus, "resnet50", 19).aspp) == repr(theirs)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [1, 12, 24, 36]), (16, [1, 6, 12, 18])])
def test_channels_and_rates_of_deeplab_v3_plus_are_those_of_the_paper(output_stride: int, rates: list[int]) -> None:
    network = on_meta(DeepLabV3Plus, "resnet101", 19, output_stride=output_stride)
    assert network.output_stride == network.backbone.output_stride == output_stride
    assert [branch[0].dilation[0] for branch in network.aspp.convs[:4]] == rates
    assert network.reduction[0].weight.shape == (48, 256, 1, 1)
    assert [tuple(layer[0].weight.shape) for layer in network.decoder] == [(256, 304, 3, 3), (256, 256, 3, 3)]
    image = torch.empty(1, 3, 65, 97, device="meta")
    assert network.backbone(image).shape[-2:] == (-(-65 // output_stride), -(-97 // output_stride))
    assert network.compute_logits(image).shape == (1, 19, 17, 25)


def test_fcn_is_torchvisions_with_its_dilation() -> None:
    """Torchvision dilates the first blocks, too; with its convolutions set so, the logits are the same."""
    theirs = on_meta(fcn_resnet50, weights=None, weights_backbone=None, num_classes=4, aux_loss=False)
    ours = on_meta(FCN, "resnet50", 4)
    state = {key.replace("classifier.", "head."): value for key, value in draw_weights(theirs).state_dict().items()}
    ours.load_state_dict(state, assign=True)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Conv2d) and name.startswith("backbone."):
            mine = ours.get_submodule(name)
            mine.dilation, mine.padding, mine.stride = module.dilation, module.padding, module.stride
    image = make_images(1, 33, 50)
    with torch.no_grad():
        logits, expected = ours(image), theirs(image)["out"]
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * expected.std())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn"])
def test_layers_of_fcn8s_are_those_of_the_classifier(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the 7x7 map that the classifier takes, the centre of fc7 is the classifier's second layer."""
    theirs = draw_weights(on_meta(getattr(torchvision.models, backbone), weights=None))
    asked: list[WeightsEnum] = []
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda own, **_: asked.append(own) or theirs.state_dict())
    ours = FCN8s(backbone, 4, weights="imagenet").eval()
    assert asked == [{"vgg16": VGG16_Weights.IMAGENET1K_V1, "vgg16_bn": VGG16_BN_Weights.IMAGENET1K_V1}[backbone]]
    image = make_images(1, 224, 224)
    with torch.no_grad():
        features = theirs.features(image)
        pool5 = ours.conv5(ours.conv4(ours.conv3(ours.conv2(ours.conv1(image)))))
        assert torch.allclose(pool5, features, rtol=1e-4, atol=1e-5 * features.std())
        expected = theirs.classifier[:5](features.flatten(1))
        assert torch.allclose(ours.fc7(ours.fc6(pool5))[:, :, 3, 3], expected, rtol=1e-4, atol=1e-4 * expected.std())


def test_scores_of_fcn8s_are_added_from_coarse_to_fine() -> None:
    network, image = FCN8s("vgg16", 4, width=4).eval(), make_images(1, 61, 75)
    with torch.no_grad():
        pool3 = network.conv3(network.conv2(network.conv1(image)))
        pool4 = network.conv4(pool3)
        pool5 = network.conv5(pool4)
        assert [x.shape[-2:] for x in (pool3, pool4, pool5)] == [(8, 10), (4, 5), (2, 3)]  # sizes round up
        middle = upsample(network.head(network.fc7(network.fc6(pool5))), 4, 5) + network.score_pool4(pool4)
        fine = upsample(middle, 8, 10) + network.score_pool3(pool3)
        assert torch.allclose(network(image), upsample(fine, 61, 75), atol=1e-6)


class Picky(TinyNetwork):
    """Takes only multiples of 32, and returns its logits as other libraries do."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        assert not any(side % 32 for side in image.shape[-2:])
        return {"out": super().forward(image)}


@pytest.mark.parametrize(("size", "rounded"), [((33, 64), (64, 64)), ((32, 64), (32, 64))])
def test_image_is_resized_to_the_next_multiple_and_its_logits_back(size, rounded) -> None:
    network, image = RoundedSizes(Picky()), make_images(1, *size)
    logits = TinyNetwork()(upsample(image, *rounded) if size != rounded else image)
    assert torch.equal(network(image), upsample(logits, *size))
    with unchanged(network):
        method = SegTTT(0.1, psi=0.1, num_steps=2, scales=(0.5, 0.75))
        method.predict(network, image)
        assert method.adaptations[0].steps == 2
    assert RoundedSizes(DeepLabV1("resnet10", 5, width=4)).adapted_layers == ("layer3", "layer4", "head")
    assert not hasattr(network, "adapted_layers")


class Foreign(TinyNetwork):
    """Wraps its logits, of half the image's size, as another library may."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__(upsample=False)
        self.wrap = wrap

    def forward(self, image: Tensor) -> object:  # type: ignore[override]
        return self.wrap(super().forward(image))


def test_logits_are_found_where_other_libraries_put_them_and_resized() -> None:
    images = make_images(1, 31, 45)
    expected = upsample(TinyNetwork(upsample=False)(images), 31, 45)
    for wrap in (
        lambda logits: logits,
        lambda logits: {"aux": logits + 1, "out": logits},  # torchvision
        lambda logits: OrderedDict(loss=None, logits=logits),
        lambda logits: SimpleNamespace(loss=None, logits=logits),  # transformers
    ):
        logits = predict_logits(Foreign(wrap), images)
        assert torch.equal(logits, expected) and logits.requires_grad
    probabilities = predict_plainly(Foreign(wrap), images)
    assert torch.equal(probabilities, expected.softmax(dim=1)) and not probabilities.requires_grad
    none = {"dict": {"masks": torch.zeros(1, 2, 3, 4)}, "tuple": (1, 2), r"\(3, 4\)": torch.zeros(3, 4)}
    for found, output in none.items():
        with pytest.raises(TypeError, match=f"Foreign returned .*{found}.*: expected one tensor"):
            predict_logits(Foreign(lambda _, output=output: output), images)


def test_stopwatch_tells_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.25])
    monkeypatch.setattr("lightning_modules.predictor.time.perf_counter", lambda: next(times))
    with Stopwatch(torch.device("cpu")) as stopwatch:
        pass
    assert stopwatch.milliseconds() == 250
