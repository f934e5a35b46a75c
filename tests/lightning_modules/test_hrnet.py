import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from callbacks.seg_ttt import select_parameters
from lightning_modules.networks import HRNet
from lightning_modules.networks.hrnet import BilinearFusion
from tests.fakes import make_images


def make_trunk(name: str = "hrnet_w18_small") -> nn.Module:
    return timm.create_model(name, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)).eval()


@pytest.mark.parametrize(("name", "channels"), [("hrnet_w18", (18, 36, 72, 144)), ("hrnet_w48", (48, 96, 192, 384))])
def test_branches_have_timms_shapes_and_parameters_timms_names(name: str, channels: tuple[int, ...]) -> None:
    image = torch.empty(2, 3, 64, 96, device="meta")
    with torch.device("meta"):
        theirs, ours = make_trunk(name), HRNet(19, name).eval()
    shapes = [tuple(branch.shape) for branch in ours.backbone(image)]
    assert shapes == [tuple(branch.shape) for branch in theirs(image)]
    assert shapes == [(2, width, 16 // 2**level, 24 // 2**level) for level, width in enumerate(channels)]
    assert list(ours.backbone.state_dict()) == list(theirs.state_dict())
    assert ours.neck[0].weight.shape == (sum(channels), sum(channels), 1, 1)
    assert ours.compute_logits(image).shape == (2, 19, 16, 24)


def test_with_timms_upsampling_the_branches_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs, network = make_trunk(), HRNet(5, "hrnet_w18_small").eval()
    network.backbone.load_state_dict(theirs.state_dict())
    image = make_images(1, 64, 96)

    def repeat_pixels(features: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return F.interpolate(features, size=size, mode="nearest")

    with torch.no_grad():
        bilinear = network.backbone(image)
        monkeypatch.setattr("lightning_modules.networks.hrnet.fit_size", repeat_pixels)
        repeated, expected = network.backbone(image), theirs(image)
    assert all(torch.allclose(ours, other, atol=1e-5) for ours, other in zip(repeated, expected, strict=True))
    assert not torch.allclose(bilinear[0], expected[0], atol=1e-3)


def test_fusion_adds_what_is_upsampled_bilinearly_to_the_finer_branch() -> None:
    torch.manual_seed(0)
    block = make_trunk().stage2[0]
    fine, coarse = torch.randn(1, 16, 9, 13), torch.randn(1, 32, 5, 7)  # an odd size: timm's own block fails
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="must match the size"):
            block([fine, coarse])
        x, y = block.branches[0](fine), block.branches[1](coarse)
        lifted = F.interpolate(block.fuse_layers[0][1][:2](y), (9, 13), mode="bilinear", align_corners=True)
        expected = [(x + lifted).relu(), (block.fuse_layers[1][0](x) + y).relu()]
        fused = BilinearFusion(block)([fine, coarse])
    assert all(torch.allclose(ours, other, atol=1e-6) for ours, other in zip(fused, expected, strict=True))


def test_logits_read_all_branches_at_a_quarter_of_the_size() -> None:
    torch.manual_seed(0)
    network, image = HRNet(5, "hrnet_w18_small").eval(), make_images(1, 75, 51)
    with torch.no_grad():
        branches = network.backbone(image)
        assert [tuple(branch.shape[-2:]) for branch in branches] == [(19, 13), (10, 7), (5, 4), (3, 2)]
        lifted = [F.interpolate(branch, (19, 13), mode="bilinear", align_corners=True) for branch in branches]
        expected = network.head(network.neck(torch.cat(lifted, dim=1)))
        assert torch.allclose(network.compute_logits(image), expected, atol=1e-6)


def test_what_moves_is_the_papers_and_the_authors_choice() -> None:
    network = HRNet(5, "hrnet_w18_small")
    late = {name.split(".")[1] for name in select_parameters(network, network.adapted_layers) if "backbone" in name}
    released = {
        name.split(".")[1] for name in select_parameters(network, network.released_layers) if "backbone" in name
    }
    assert late == {"transition3", "stage4"}
    assert released == {"conv2", "bn2", "layer1", "transition3", "stage4"}
    frozen = {name for name, _ in network.backbone.named_children()} - released
    assert {"conv1", "bn1", "transition1", "transition2", "stage2", "stage3"} <= frozen
