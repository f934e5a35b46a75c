import pytest
import torch
import torch.nn.functional as F

from callbacks.seg_ttt import select_parameters
from lightning_modules.networks import Segmenter
from tests.fakes import make_images


def make_network(**kwargs: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(5, width=64, depth=3, **kwargs).eval()  # type: ignore[arg-type]


def test_each_patch_is_classified_from_its_token() -> None:
    network, image = make_network(patch_size=8), make_images(1, 40, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = image * std[:, None, None] + mean[:, None, None]  # timm's transformers have a normalisation of their own
    with torch.no_grad():
        tokens = network.backbone.forward_features((levels - 0.5) / 0.5)[0, 1:]  # without the class token
        logits = network.compute_logits(image)
        expected = tokens @ network.head.weight.flatten(1).T + network.head.bias
        assert torch.allclose(logits[0].permute(1, 2, 0).flatten(0, 1), expected, atol=1e-5)
        upsampled = F.interpolate(logits, (40, 48), mode="bilinear", align_corners=False)
        assert torch.allclose(network(image), upsampled, atol=1e-6)


def test_padding_is_cropped() -> None:
    network, image = make_network(), make_images(1, 48, 64)
    cropped = image[..., :41, :57]
    zero = network.renormalize(torch.zeros(1, 3, 1, 1))
    padded = F.pad(network.renormalize(cropped), (0, 7, 0, 7))
    with torch.no_grad():
        whole = network((padded - zero) / network.renormalize.scale)  # the same pixels, padded by the test
        assert torch.allclose(network(cropped), whole[..., :41, :57], atol=1e-4)


@pytest.mark.parametrize(("depth", "first"), [(12, 8), (6, 4), (4, 2), (1, 0)])
def test_last_third_of_the_blocks_moves(depth: int, first: int) -> None:
    with torch.device("meta"):
        network = Segmenter(5, width=64, depth=depth)
    moving = select_parameters(network, network.adapted_layers)
    assert {name.split(".")[2] for name in moving if "blocks" in name} == {str(n) for n in range(first, depth)}
    assert "backbone.norm.weight" in moving and "head.weight" in moving
    assert not any("embed" in name or "token" in name for name in moving)


def test_standard_size_is_timms() -> None:
    with torch.device("meta"):
        network = Segmenter(19)
    assert len(network.backbone.blocks) == 12 and network.head.weight.shape == (19, 192, 1, 1)
    assert network.output_stride == network.min_size == 16
