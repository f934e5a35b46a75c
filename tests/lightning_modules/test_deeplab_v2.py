import torch
import torch.nn.functional as F

from lightning_modules.networks import DeepLabV2
from tests.fakes import make_images


def test_logits_are_the_sum_of_four_dilated_classifiers() -> None:
    """Written again with functions, on the same weights."""
    network, image = DeepLabV2("resnet10", 3, width=4).eval(), make_images(1, 45, 70)
    with torch.no_grad():
        features = network.backbone(image)
        branches = network.head.branches
        logits = sum(
            F.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
            for branch, rate in zip(branches, (6, 12, 18, 24), strict=True)
        )
        expected = F.interpolate(logits, size=(45, 70), mode="bilinear", align_corners=False)
        assert torch.allclose(network(image), expected, atol=1e-6)
    assert network.adapted_layers == ("layer3", "layer4", "head") and logits.shape[-2:] == (6, 9)
