"""Instance-adaptive BatchNorm: the formula and its kernels, and the layers of a network that get it."""

import pickle
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, SegTTT, blended_norm
from callbacks.blended_norm import measure_statistics, normalize_blended, recover_variance
from callbacks.iabn import InstanceAdaptiveBatchNorm2d, adaptive_batch_norm, convert_batch_norm
from tests.fakes import NormAct2d, TinyNetwork, make_images, randomize, unchanged

EPS = 1e-5
Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]

alphas = pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def make_arguments(batch: int = 2, height: int = 5, width: int = 6, affine: bool = True) -> Arguments:
    """Features, running mean and variance, weight and bias, all float64."""
    generator = torch.Generator().manual_seed(batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = (draw(batch, 4, height, width) + draw(batch, 4, 1, 1).sign()) * 2
    mean, var = 2 * draw(4).sign(), draw(4).abs() + 0.3
    return x, mean, var, draw(4) + 0.5 if affine else None, draw(4) if affine else None


def cast(arguments: Arguments, features: torch.dtype, layout: torch.memory_format, others: torch.dtype) -> Arguments:
    x, *rest = arguments
    return x.to(features).contiguous(memory_format=layout), *(None if one is None else one.to(others) for one in rest)


def textbook(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: float, pooled: bool
) -> Tensor:
    """Eq. 1-4, written out."""
    dims = (0, 2, 3) if pooled else (2, 3)
    mean = alpha * x.mean(dims, keepdim=True) + (1 - alpha) * mean[:, None, None]
    var = alpha * x.var(dims, correction=0, keepdim=True) + (1 - alpha) * var[:, None, None]
    out = (x - mean) / torch.sqrt(var + EPS)
    if weight is not None:
        out = out * weight[:, None, None]
    return out if bias is None else out + bias[:, None, None]


def with_gradients(function: Any, arguments: Arguments) -> list[Tensor]:
    """The output, and the gradients of x, weight and bias for one gradient of the output."""
    leaves = [None if one is None else one.detach().clone(memory_format=torch.preserve_format) for one in arguments]
    inputs = [leaf.requires_grad_() for leaf in (leaves[0], *leaves[3:]) if leaf is not None]
    output = function(*leaves)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).bfloat16()  # exact in any type
    return [output.detach(), *torch.autograd.grad(output, inputs, gradient.to(output))]


def run(arguments: Arguments, alpha: float, pooled: bool = False) -> list[Tensor]:
    return with_gradients(lambda *args: normalize_blended(*args, alpha, EPS, pooled), arguments)


def expect(arguments: Arguments, alpha: float, pooled: bool = False) -> list[Tensor]:
    precise = tuple(None if value is None else value.double() for value in arguments)
    return with_gradients(lambda *args: textbook(*args, alpha, pooled), precise)


def assert_all_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("pooled", [False, True])
@layouts
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 5, 6), (3, 1, 1)], ids=str)
@alphas
def test_value_and_gradients_are_those_of_the_formula(
    alpha: float, shape: tuple[int, ...], layout: torch.memory_format, pooled: bool, affine: bool, monkeypatch: Any
) -> None:
    arguments = make_arguments(*shape, affine=affine)
    expected = expect(arguments, alpha, pooled)
    exact, single = (cast(arguments, dtype, layout, dtype) for dtype in (torch.float64, torch.float32))
    assert_all_close(run(exact, alpha, pooled), expected, 1e-9)
    if shape != (3, 1, 1):  # without variance, float32 loses digits
        found = run(single, alpha, pooled)
        assert {value.dtype for value in found} == {torch.float32}
        assert_all_close(found, expected, 1e-5)
    assert set(blended_norm.fast_path_report().values()) <= {"fast"}  # or the plain formula would hide a wrong kernel
    monkeypatch.setattr(blended_norm, "has_kernels", lambda x: False)  # as compilers get it
    assert_all_close(run(exact, alpha, pooled), expected, 1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@layouts
@pytest.mark.parametrize("batch", [1, 2])
@alphas
def test_half_precision_features_keep_their_type_and_statistics_of_float32(
    alpha: float, batch: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    arguments = cast(make_arguments(batch, 9, 11), dtype, layout, torch.float32)
    output, *gradients = run(arguments, alpha)
    expected, *slopes = expect(arguments, alpha)  # of the rounded features, so that only the arithmetic differs
    half = torch.finfo(dtype).eps
    assert output.dtype == gradients[0].dtype == dtype and gradients[1].dtype == gradients[2].dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=2 * half, atol=2 * half)
    for one, other in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=4 * half, atol=4 * half * other.abs().max().item())
    mean, var = measure_statistics(arguments[0])
    assert mean.dtype == var.dtype == torch.float32
    variance, average = torch.var_mean(arguments[0].double(), dim=(0, 2, 3), correction=0)
    assert_all_close([mean, var], [average, variance], 1e-5)


@layouts
@pytest.mark.parametrize("pooled", [False, True])
@alphas
def test_means_1000_deviations_from_0_cost_no_digits(alpha: float, pooled: bool, layout: torch.memory_format) -> None:
    x, mean, *others = cast(make_arguments(2, 16, 16), torch.float32, layout, torch.float32)
    arguments = (x + 2000, mean + 2000, *others)  # exactly these are normalised; their deviation is about 2
    # The mean itself is a float32, whose unit in the last place is 1.2e-4 here: a few of these are all that is lost.
    assert_all_close(run(arguments, alpha, pooled), expect(arguments, alpha, pooled), 2e-3)


@layouts
@pytest.mark.parametrize(
    ("size", "offset", "mean_error", "var_error"),
    [
        *(((batch, 3, 410, 517), 0.0, 1e-7, 4e-7) for batch in (1, 2)),
        *(((batch, 3, 410, 517), 10.0, 1e-5, 1e-6) for batch in (1, 2)),
        *(((batch, 3, 410, 517), 2000.0, 3e-3, 1e-4) for batch in (1, 2)),
        # Several blocks are measured at once.
        *((size, 0.0, 1e-6, 1e-5) for size in ((1, 8, 64, 128), (2, 300, 40, 48), (1, 3, 65, 96), (1, 1500, 33, 64))),
    ],
)
def test_statistics_of_large_maps_keep_their_digits(
    size: tuple[int, ...], offset: float, mean_error: float, var_error: float, layout: torch.memory_format
) -> None:
    x = offset + 2 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    x[..., 1::2] += 0.5  # differs along a row
    mean, var = measure_statistics(x.contiguous(memory_format=layout))
    variance, average = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), average, rtol=0, atol=mean_error)
    torch.testing.assert_close(var.double(), variance, rtol=var_error, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@layouts
@alphas
def test_no_sample_hears_of_another(alpha: float, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, *others = cast(make_arguments(3), dtype, layout, torch.float32)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    together = normalize_blended(leaf, *others, alpha, EPS)
    for index in range(3):
        alone = normalize_blended(x[index : index + 1], *others, alpha, EPS)
        assert torch.equal(together[index : index + 1], alone)
    (gradient,) = torch.autograd.grad(together[1].float().square().sum(), leaf)
    assert gradient[1].abs().max() > 0 and not gradient[[0, 2]].any()


def test_samples_on_another_device_than_the_cpu_are_normalised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = Mock(side_effect=blended_norm._normalize_plainly)
    monkeypatch.setattr(blended_norm, "_normalize_plainly", plainly)
    arguments = cast(make_arguments(3), torch.float32, torch.contiguous_format, torch.float32)
    x, *others = (value.to("meta") for value in arguments if value is not None)
    assert normalize_blended(x, *others, 0.3, EPS).shape == x.shape
    assert [call.args[0].shape for call in plainly.call_args_list] == [(1, 12, 5, 6)]


@alphas
def test_features_and_gradients_may_be_expanded_transposed_or_sliced(alpha: float) -> None:
    x, *others = make_arguments(3, 8, 8)
    for part in (x, x[:, :, ::2, 1:5], x[1:], x[:, :, :, ::3], x.transpose(2, 3)):
        for reduce in (lambda out: out.sum(), lambda out: (out.permute(0, 2, 3, 1) * torch.arange(4.0)).sum()):
            found, expected = (part.clone().requires_grad_() for _ in range(2))
            reduce(normalize_blended(found, *others, alpha, EPS)).backward()
            reduce(textbook(expected, *others, alpha, False)).backward()
            assert_all_close([found.grad], [expected.grad], 1e-9)
        assert_all_close([normalize_blended(part, *others, alpha, EPS)], [textbook(part, *others, alpha, False)], 1e-11)


@pytest.mark.parametrize("way", ["raises", "disagrees", "disagrees-backward"])
def test_a_kernel_that_fails_its_check_leaves_the_plain_formula(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 5, 8, 9, generator=torch.Generator().manual_seed(1))
    arguments = (torch.zeros(5), torch.ones(5), torch.ones(5), torch.zeros(5), 0.3, 1e-5)
    expected = normalize_blended(x, *arguments)
    monkeypatch.setattr(blended_norm, "_served", {})  # no kernel has been compared with the formula yet
    fail = Mock(side_effect=RuntimeError("expected save_mean.defined()\nat a line of its source"))
    if way == "disagrees-backward":
        wrong = lambda g, *_: (2 * g, g[0, :, 0, 0], g[0, :, 0, 0])  # noqa: E731
        monkeypatch.setattr(torch.ops.aten, "native_batch_norm_backward", wrong)
    else:
        monkeypatch.setattr(blended_norm, "_apply", fail if way == "raises" else lambda x, *_: x + 1)
    with pytest.warns(UserWarning, match="plain formula on cpu torch.float32 contiguous") as caught:
        found = [normalize_blended(x, *arguments) for _ in range(3)]
    assert len(caught) == 1
    (reason,) = blended_norm.fast_path_report().values()
    assert reason == "expected save_mean.defined()" if way == "raises" else "differs by" in reason
    assert_all_close(found, [expected] * 3, 1e-5)


@alphas
def test_the_gradient_of_the_cuda_kernels_is_that_of_the_formula(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the two kernels of SyncBatchNorm written out as torch documents them."""

    def reduce(g: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, *_: Any) -> tuple[Tensor, ...]:
        sum_dy, sum_dy_xmu = g.sum(dim=(0, 2, 3)), (g * (x - mean[:, None, None])).sum(dim=(0, 2, 3))
        return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy

    def elemt(g: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *sums: Tensor) -> Tensor:
        sum_dy, sum_dy_xmu, count = sums
        mean, factor, inner = mean[:, None, None], (invstd * weight)[:, None, None], (sum_dy / count)[:, None, None]
        return (g - inner - (x - mean) * (invstd.square() * sum_dy_xmu / count)[:, None, None]) * factor

    monkeypatch.setattr(torch, "batch_norm_backward_reduce", reduce)
    monkeypatch.setattr(torch, "batch_norm_backward_elemt", elemt)
    x, running, var, weight, bias = make_arguments(1)
    gradient = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
    output = textbook(leaves[0], running, var, leaves[1], leaves[2], alpha, False)
    expected = torch.autograd.grad(output, leaves, gradient)
    sample_var, sample_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    mean, blended = (blended_norm.blend(*pair, alpha) for pair in ((sample_mean, running), (sample_var, var)))
    invstd = torch.rsqrt(blended + EPS)
    found = blended_norm._differentiate_on_cuda(gradient, x, weight, sample_mean, mean, invstd, alpha)
    assert_all_close(found, expected, 1e-7)


def test_a_channel_without_variance_has_variance_0_on_cuda() -> None:
    """Torch's CUDA kernel says 0 for 1 / sqrt(0)."""
    found = recover_variance(torch.tensor([0.5, 2.0, 0.0, float("nan")]))
    assert found[:3].tolist() == [4.0, 0.25, 0.0] and found[3].isnan()


# Layers of a network.

FEATURES = torch.randn(3, 4, 6, 7, generator=torch.Generator().manual_seed(1)) * 2 + 1


def make_layer(kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    layer = kind(4)
    randomize(layer)
    return layer


@alphas
def test_evaluation_moves_no_statistics_and_training_moves_them_as_batch_norm(alpha: float) -> None:
    layer = InstanceAdaptiveBatchNorm2d.from_batch_norm(make_layer(), alpha)
    with unchanged(layer):
        layer(FEATURES)
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
    layer = network[0]
    expected = textbook(FEATURES, layer.running_mean, layer.running_var, layer.weight, layer.bias, alpha, False)
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
