import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, SegTTT
from callbacks.iabn import InstanceAdaptiveBatchNorm2d, adaptive_batch_norm, convert_batch_norm
from tests.fakes import NormAct2d, Snapshot, TinyNetwork, make_images, randomize

alphas = pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
FEATURES = torch.randn(3, 4, 6, 7, generator=torch.Generator().manual_seed(1)) * 2 + 1


def make_layer(kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    layer = kind(4)
    randomize(layer)
    return layer


def blended(layer: nn.BatchNorm2d, x: Tensor, alpha: float) -> Tensor:
    """Eq. 1-4, written out."""
    mean = alpha * x.mean(dim=(2, 3)) + (1 - alpha) * layer.running_mean
    var = alpha * x.var(dim=(2, 3), correction=0) + (1 - alpha) * layer.running_var
    scaled = (x - mean[..., None, None]) / (var[..., None, None] + layer.eps).sqrt()
    return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]


@alphas
def test_evaluation_moves_no_statistics_and_training_moves_them_as_batch_norm(alpha: float) -> None:
    layer = InstanceAdaptiveBatchNorm2d.from_batch_norm(make_layer(), alpha)
    before = Snapshot(layer)
    layer(FEATURES)
    before.check(layer)
    plain = nn.BatchNorm2d(4)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.train()(FEATURES), plain.train()(FEATURES))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in layer.state_dict().items())


def test_layer_without_running_statistics_or_affine_and_features_of_another_shape() -> None:
    layer = InstanceAdaptiveBatchNorm2d(4, alpha=0.1, track_running_stats=False, affine=False).eval()
    torch.testing.assert_close(layer(FEATURES), F.instance_norm(FEATURES))
    with pytest.raises(ValueError, match="expected 4D"):
        layer(FEATURES[0])


@alphas
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, NormAct2d])
def test_converted_network_gives_per_sample_what_the_formula_gives(kind: type[nn.Module], alpha: float) -> None:
    network = nn.Sequential(make_layer(kind))
    expected = blended(network[0], FEATURES, alpha)
    if kind is NormAct2d:  # what a subclass does after normalising is kept
        expected = F.leaky_relu(expected, 0.1)
    keys, parameters = list(network.state_dict()), list(network.parameters())
    assert convert_batch_norm(network, alpha) is network
    assert isinstance(network[0], InstanceAdaptiveBatchNorm2d) and network[0].alpha == alpha
    assert list(network.state_dict()) == keys
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    torch.testing.assert_close(network(FEATURES), expected, rtol=1e-4, atol=1e-5)
    alone = torch.cat([network(sample) for sample in FEATURES.split(1)])
    torch.testing.assert_close(alone, network(FEATURES), rtol=1e-5, atol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(network))(FEATURES), network(FEATURES))


def test_convert_batch_norm_changes_the_alpha_of_what_is_converted_already() -> None:
    network = convert_batch_norm(TinyNetwork(), 0.1)
    layer = network.stem_norm
    assert convert_batch_norm(network, 0.7).stem_norm is layer and layer.alpha == 0.7
    assert torch.equal(IaBN(0.3).predict(network, make_images(1)), IaBN(0.3).predict(TinyNetwork(), make_images(1)))
    assert layer.alpha == 0.7


def test_a_layer_used_twice_stays_one_layer() -> None:
    network = TinyNetwork(shared=True)
    with adaptive_batch_norm(network, 0.2):
        assert network.layer3[1] is network.layer4[1] and isinstance(network.layer3[1], InstanceAdaptiveBatchNorm2d)
    assert network.layer3[1] is network.layer4[1] and type(network.layer3[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("norm", [nn.Identity, nn.InstanceNorm2d, nn.BatchNorm1d])
def test_network_without_batch_norm_is_an_error_above_alpha_0_only(norm: Callable[[int], nn.Module]) -> None:
    network = TinyNetwork(norm=None)
    network.extra = norm(3)
    with pytest.raises(ValueError, match="TinyNetwork has no 2d BatchNorm"):
        convert_batch_norm(network, 0.1)
    for method in (IaBN(0.0), TTA(0.0), SegTTT(0.0, num_steps=1), SegTTT(0.0, num_steps=1, semantics="released")):
        method.check_network(network)
        assert method.predict(network, make_images(1)).shape == (1, 5, 32, 48)
