import pytest
import torch
from torch import nn

from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.dropout import add_dropout
from tests.fakes import make_images


def test_a_shared_relu_keeps_being_one_module_and_calls_its_dropout_as_often() -> None:
    block = DeepLabV1("resnet50", 5, width=4, dropout=0.5).backbone.layer1[0]
    calls = []
    block.relu[1].register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(1, 4, 8, 8))
    assert len(calls) == 3


def test_activations_inside_other_norms_get_one() -> None:
    pytest.importorskip("timm")
    from timm.layers import BatchNormAct2d

    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    keys = set(network.state_dict())
    add_dropout(network, 0.5)
    assert any(isinstance(module, nn.Dropout) for module in network.modules()) and set(network.state_dict()) == keys
    assert not torch.equal(network(make_images(1)), network(make_images(1)))


def test_what_cannot_have_dropout_is_an_error() -> None:
    network = DeepLabV1("resnet10", 5, width=4)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a probability of 0 or more and below 1"):
            add_dropout(network, wrong)
    with pytest.raises(ValueError, match="Conv2d has no ReLU module"):
        add_dropout(nn.Conv2d(3, 4, 1), 0.5)
