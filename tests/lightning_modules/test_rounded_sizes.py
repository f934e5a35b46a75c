import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.seg_ttt import SegTTT
from lightning_modules.networks import DeepLabV1, RoundedSizes
from tests.fakes import TinyNetwork, make_images, unchanged


class Picky(TinyNetwork):
    """Takes only multiples of 32, and returns its logits as other libraries do."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        assert not any(side % 32 for side in image.shape[-2:])
        return {"out": super().forward(image)}


@pytest.mark.parametrize(("size", "rounded"), [((33, 64), (64, 64)), ((32, 64), (32, 64))])
def test_image_is_resized_to_the_next_multiple_and_its_logits_back(size, rounded) -> None:
    network, image = RoundedSizes(Picky()), make_images(1, *size)
    resized = F.interpolate(image, rounded, mode="bilinear", align_corners=False)
    logits = TinyNetwork()(resized if size != rounded else image)
    assert torch.equal(network(image), F.interpolate(logits, size, mode="bilinear", align_corners=False))


def test_adapted_layers_are_the_networks_own_if_it_has_them() -> None:
    assert RoundedSizes(DeepLabV1("resnet10", 5, width=4)).adapted_layers == ("layer3", "layer4", "head")
    assert not hasattr(RoundedSizes(nn.Conv2d(3, 5, 1)), "adapted_layers")


def test_seg_ttt_adapts_the_network_inside() -> None:
    network, image = RoundedSizes(Picky()), make_images(1, 40, 50)
    with unchanged(network):
        method = SegTTT(0.1, psi=0.1, num_steps=2, scales=(0.5, 0.75))
        method.predict(network, image)
        assert method.adaptations[0].steps == 2


def test_multiple_below_1_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="multiple is 0: expected a positive number"):
        RoundedSizes(Picky(), 0)
