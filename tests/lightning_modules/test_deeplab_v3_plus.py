import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from lightning_modules.networks import DeepLabV3Plus
from tests.fakes import make_images


def on_meta(backbone: str, **kwargs: int) -> DeepLabV3Plus:
    with torch.device("meta"):
        return DeepLabV3Plus(backbone, 19, **kwargs).eval()


def test_logits_are_torchvisions_pyramid_and_the_decoder_of_the_paper() -> None:
    """The decoder again, written with functions, on the same weights."""
    network = DeepLabV3Plus("resnet10", 3, width=4).eval()
    image = make_images(1, 45, 70)

    def conv_bn_relu(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        conv, norm, _ = layers
        x = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()

    with torch.no_grad():
        low = network.backbone.layer1(network.backbone.run_stem(image))
        high = network.backbone(image)
        assert low.shape == (1, 16 // 4, 12, 18) and high.shape == (1, 32, 6, 9)
        pyramid = F.interpolate(network.aspp(high), size=(12, 18), mode="bilinear")
        x = torch.cat([pyramid, conv_bn_relu(network.reduction, low)], dim=1)
        x = conv_bn_relu(network.decoder[1], conv_bn_relu(network.decoder[0], x))
        expected = F.interpolate(network.head(x), size=(45, 70), mode="bilinear", align_corners=False)
        assert torch.allclose(network(image), expected, atol=1e-6)
    with torch.device("meta"):
        theirs = deeplabv3_resnet50(weights=None, weights_backbone=None).classifier[0]
    assert repr(on_meta("resnet50").aspp) == repr(theirs)


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [1, 12, 24, 36]), (16, [1, 6, 12, 18])])
def test_channels_and_rates_are_those_of_the_paper(output_stride: int, rates: list[int]) -> None:
    network = on_meta("resnet101", output_stride=output_stride)
    assert network.output_stride == network.backbone.output_stride == output_stride
    assert [branch[0].dilation[0] for branch in network.aspp.convs[:4]] == rates
    assert network.reduction[0].weight.shape == (48, 256, 1, 1)
    assert [tuple(layer[0].weight.shape) for layer in network.decoder] == [(256, 304, 3, 3), (256, 256, 3, 3)]
    assert network.head.weight.shape == (19, 256, 1, 1)
    image = torch.empty(1, 3, 65, 97, device="meta")
    assert network.backbone(image).shape[-2:] == (-(-65 // output_stride), -(-97 // output_stride))
    assert network.compute_logits(image).shape == (1, 19, 17, 25)
