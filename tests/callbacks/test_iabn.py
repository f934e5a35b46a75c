import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, SegTTT
from callbacks.iabn import InstanceAdaptiveBatchNorm2d, adaptive_batch_norm, convert_batch_norm
from tests.fakes import NormAct2d, Snapshot, TinyNetwork, make_images, randomize

ALPHAS = [0.0, 0.1, 0.5, 1.0]


def make_layer(alpha: float, dtype: torch.dtype = torch.float32) -> InstanceAdaptiveBatchNorm2d:
    layer = nn.BatchNorm2d(4)
    randomize(layer)
    return InstanceAdaptiveBatchNorm2d.from_batch_norm(layer.to(dtype), alpha)


def make_features(batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return (
        torch.randn(batch, 4, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) * 2 + 1
    )


def blended(layer: nn.BatchNorm2d, x: Tensor, alpha: float) -> Tensor:
    """Eq. 1-4, written out."""
    mean = alpha * x.mean(dim=(2, 3)) + (1 - alpha) * layer.running_mean
    var = alpha * x.var(dim=(2, 3), correction=0) + (1 - alpha) * layer.running_var
    scaled = (x - mean[..., None, None]) / (var[..., None, None] + layer.eps).sqrt()
    return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_flows_through_the_blended_statistics(alpha: float) -> None:
    layer = make_layer(alpha, torch.float64)
    x = make_features(2, torch.float64)[:, :, :3, :3].clone().requires_grad_()

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    weight, bias = layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, weight, bias))
    (gradient,) = torch.autograd.grad(layer(x)[0, 0, 0, 0], x)
    assert (gradient[0, 0] != 0).all() == (alpha > 0)  # every pixel bears on the statistics, and only with alpha
    assert (gradient[1] == 0).all()  # never on another sample's


@pytest.mark.parametrize("alpha", ALPHAS)
def test_evaluation_moves_no_statistics_and_training_moves_them_as_batch_norm(alpha: float) -> None:
    layer, x = make_layer(alpha), make_features()
    before = Snapshot(layer)
    layer(x)
    before.check(layer)
    plain = nn.BatchNorm2d(4)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.train()(x), plain.train()(x))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in layer.state_dict().items())


def test_layer_without_running_statistics_or_affine() -> None:
    x = make_features()
    layer = InstanceAdaptiveBatchNorm2d(4, alpha=0.1, track_running_stats=False, affine=False).eval()
    torch.testing.assert_close(layer(x), F.instance_norm(x))


def test_layer_refuses_features_that_are_not_4_dimensional() -> None:
    with pytest.raises(ValueError, match="expected 4D"):
        make_layer(0.1)(torch.zeros(4, 6, 7))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_converted_network_gives_per_sample_what_the_formula_gives(norm: type[nn.Module], alpha: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4))
    randomize(network)
    x = make_images(2)
    features = network[0](x)
    expected = blended(network[1], features, alpha)
    keys = list(network.state_dict())
    parameters = list(network.parameters())
    assert convert_batch_norm(network, alpha) is network
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == keys
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    assert isinstance(network[1], InstanceAdaptiveBatchNorm2d) and network[1].alpha == alpha


@pytest.mark.parametrize("alpha", ALPHAS)
def test_what_a_batch_norm_subclass_does_after_normalising_is_kept(alpha: float) -> None:
    layer = NormAct2d(4)
    randomize(layer)
    x = make_features()
    expected = F.leaky_relu(blended(layer, x, alpha), 0.1)
    network = convert_batch_norm(nn.Sequential(layer), alpha)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    together = network(x)
    for sample, output in zip(x, together, strict=True):
        torch.testing.assert_close(network(sample[None])[0], output, rtol=1e-5, atol=1e-6)


def test_convert_batch_norm_changes_the_alpha_of_what_is_converted_already() -> None:
    network = convert_batch_norm(TinyNetwork(), 0.1)
    layer = network.stem_norm
    assert convert_batch_norm(network, 0.7).stem_norm is layer and layer.alpha == 0.7
    assert torch.equal(IaBN(0.3).predict(network, make_images(1)), IaBN(0.3).predict(TinyNetwork(), make_images(1)))
    assert layer.alpha == 0.7


def test_a_layer_used_twice_stays_one_layer() -> None:
    network = convert_batch_norm(TinyNetwork(shared=True), 0.2)
    assert network.layer3[1] is network.layer4[1]
    network = TinyNetwork(shared=True)
    with adaptive_batch_norm(network, 0.2):
        assert network.layer3[1] is network.layer4[1] and isinstance(network.layer3[1], InstanceAdaptiveBatchNorm2d)
    assert network.layer3[1] is network.layer4[1] and type(network.layer3[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("norm", [None, nn.InstanceNorm2d, nn.BatchNorm1d])
def test_network_without_batch_norm_is_an_error_above_alpha_0_only(norm: type[nn.Module] | None) -> None:
    network = TinyNetwork(norm=None)
    network.extra = nn.Identity() if norm is None else norm(3)
    image = make_images(1)
    message = "TinyNetwork has no 2d BatchNorm"
    for method in (IaBN(0.1), TTA(0.1), SegTTT(0.1)):
        with pytest.raises(ValueError, match=message):
            method.check_network(network)
        with pytest.raises(ValueError, match=message):
            method.predict(network, image)
    with pytest.raises(ValueError, match=message):
        convert_batch_norm(network, 0.1)
    for method in (IaBN(0.0), TTA(0.0), SegTTT(0.0, num_steps=1), SegTTT(0.0, num_steps=1, semantics="released")):
        method.check_network(network)
        assert method.predict(network, image).shape == (1, 5, 32, 48)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_alpha_outside_0_to_1_is_an_error_everywhere(alpha: float) -> None:
    network = TinyNetwork()
    before = Snapshot(network)
    for make in (
        lambda: InstanceAdaptiveBatchNorm2d(4, alpha),
        lambda: InstanceAdaptiveBatchNorm2d.from_batch_norm(nn.BatchNorm2d(4), alpha),
        lambda: convert_batch_norm(network, alpha),
        lambda: IaBN(alpha),
        lambda: TTA(alpha),
        lambda: SegTTT(alpha),
    ):
        with pytest.raises(ValueError, match=r"alpha is .*expected .*\[0, 1\]"):
            make()
    before.check(network)
