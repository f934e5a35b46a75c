import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.replacement import add_dropout
from tests.fakes import TinyNetwork, make_images


def test_every_relu_gets_one() -> None:
    plain, network = (DeepLabV1("resnet18", 5, width=4, dropout=p) for p in (0.0, 0.25))
    relus = [module for module in plain.modules() if isinstance(module, nn.ReLU)]
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(dropouts) == len(relus) == 9 and all(layer.p == 0.25 for layer in dropouts)


def test_a_shared_relu_keeps_being_one_module_and_calls_its_dropout_as_often() -> None:
    block = DeepLabV1("resnet50", 5, width=4, dropout=0.5).backbone.layer1[0]
    calls = []
    block.relu[1].register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(1, 4, 8, 8))
    assert len(calls) == 3


def test_a_share_of_the_values_is_dropped_and_the_rest_scaled() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True))
    add_dropout(network, 0.25)
    torch.manual_seed(0)
    y = network.train()(torch.ones(1, 1, 100, 100))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_activations_inside_other_norms_get_one() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    keys = set(network.state_dict())
    add_dropout(network, 0.5)
    assert any(isinstance(module, nn.Dropout) for module in network.modules()) and set(network.state_dict()) == keys
    assert not torch.equal(network(make_images(1)), network(make_images(1)))


def test_nothing_without_and_clear_errors() -> None:
    network = DeepLabV1("resnet10", 5, width=4)
    add_dropout(network, 0.0)
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a probability of 0 or more and below 1"):
            add_dropout(network, wrong)
    with pytest.raises(ValueError, match="Conv2d has no ReLU module"):
        add_dropout(nn.Conv2d(3, 4, 1), 0.5)
    with pytest.raises(ValueError, match="TinyNetwork has no ReLU module"):
        add_dropout(TinyNetwork(), 0.5)
