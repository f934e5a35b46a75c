from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import blended_norm
from callbacks.blended_norm import measure_statistics, normalize_blended, recover_variance

ALPHAS = [0.0, 0.1, 1.0]
EPS = 1e-5

Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def make_arguments(
    batch: int = 2, size: tuple[int, int] = (5, 6), offset: float = 1.0, affine: bool = True, channels: int = 4
) -> Arguments:
    """Features, running mean and variance, weight and bias, all float64."""
    generator = torch.Generator().manual_seed(batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = (draw(batch, channels, *size) + offset * draw(batch, channels, 1, 1).sign()) * 2
    mean, var = 2 * offset * draw(channels).sign(), draw(channels).abs() + 0.3
    return x, mean, var, draw(channels) + 0.5 if affine else None, draw(channels) if affine else None


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


def assert_all_close(found: list[Tensor], expected: list[Tensor], rtol: float, atol: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def with_gradients(function, arguments: Arguments, *more: object, seed: int = 7) -> list[Tensor]:
    """The output, and the gradients of x, weight and bias for one gradient of the output."""
    leaves = [
        None if value is None else value.detach().clone(memory_format=torch.preserve_format) for value in arguments
    ]
    inputs = [leaf.requires_grad_() for leaf in (leaves[0], *leaves[3:]) if leaf is not None]
    output = function(*leaves, *more)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).bfloat16()  # exact in any type
    return [output.detach(), *torch.autograd.grad(output, inputs, gradient.to(output))]


def run(arguments: Arguments, alpha: float, pooled: bool = False) -> list[Tensor]:
    return with_gradients(lambda *args: normalize_blended(*args[:5], alpha, EPS, pooled), arguments)


def expect(arguments: Arguments, alpha: float, pooled: bool = False) -> list[Tensor]:
    precise = tuple(None if value is None else value.double() for value in arguments)
    return with_gradients(lambda *args: textbook(*args[:5], alpha, pooled), precise)


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    return tuple(None if value is None else value.to(dtype) for value in arguments)


def lay_out(arguments: Arguments, layout: torch.memory_format) -> Arguments:
    return arguments[0].contiguous(memory_format=layout), *arguments[1:]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_value_and_gradients_are_those_of_the_formula(
    alpha: float, batch: int, layout: torch.memory_format, pooled: bool, affine: bool
) -> None:
    arguments = lay_out(make_arguments(batch, affine=affine), layout)
    expected = expect(arguments, alpha, pooled)
    assert_all_close(run(arguments, alpha, pooled), expected, rtol=1e-11, atol=1e-11)
    single = run(cast(arguments, torch.float32), alpha, pooled)
    assert {value.dtype for value in single} == {torch.float32}
    assert_all_close([value.double() for value in single], expected, rtol=1e-5, atol=1e-5)
    served = blended_norm.fast_path_report().values()
    assert set(served) <= {"fast"}  # or the plain formula would stand in for a kernel that is wrong


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_maps_of_one_value(alpha: float, pooled: bool) -> None:
    arguments = make_arguments(3, (1, 1))
    assert_all_close(run(arguments, alpha, pooled), expect(arguments, alpha, pooled), rtol=1e-9, atol=1e-9)


def measure(x: Tensor, pooled: bool = False) -> tuple[Tensor, Tensor]:
    """Returns (B, C) mean and variance of each sample, or (1, C) of all."""
    means, variances = zip(*map(measure_statistics, [x] if pooled else x.split(1)), strict=True)
    return torch.stack(means), torch.stack(variances)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_formula_that_compilers_get_is_the_same(
    monkeypatch: pytest.MonkeyPatch, alpha: float, pooled: bool, affine: bool
) -> None:
    arguments = make_arguments(3, affine=affine)
    expected = run(arguments, alpha, pooled)
    statistics = measure(arguments[0], pooled)
    monkeypatch.setattr(blended_norm, "has_kernels", lambda x: False)
    assert_all_close(run(arguments, alpha, pooled), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(measure(arguments[0], pooled), statistics)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_half_precision_features_keep_their_type_and_statistics_of_float32(
    alpha: float, batch: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    precise = make_arguments(batch, (9, 11))
    arguments = (precise[0].to(dtype).contiguous(memory_format=layout), *(value.float() for value in precise[1:]))
    output, *gradients = run(arguments, alpha)
    expected, *slopes = expect(arguments, alpha)  # of the rounded features, so that only the arithmetic differs
    half = torch.finfo(dtype).eps
    assert output.dtype == gradients[0].dtype == dtype and gradients[1].dtype == gradients[2].dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=2 * half, atol=2 * half)
    for one, other in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=4 * half, atol=4 * half * other.abs().max().item())
    mean, var = measure(arguments[0])
    assert mean.dtype == var.dtype == torch.float32
    x = arguments[0].double()
    torch.testing.assert_close(mean.double(), x.mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), x.var((2, 3), correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_means_1000_deviations_from_0_cost_no_digits(alpha: float, pooled: bool, layout: torch.memory_format) -> None:
    x, mean, var, weight, bias = cast(make_arguments(2, (16, 16)), torch.float32)
    x, mean = x + 2000, mean + 2000  # exactly these are normalised; their deviation is about 2
    arguments = (x.contiguous(memory_format=layout), mean, var, weight, bias)
    found, expected = [value.double() for value in run(arguments, alpha, pooled)], expect(arguments, alpha, pooled)
    # The mean itself is a float32, whose unit in the last place is 1.2e-4 here: a few of these are all that is lost.
    assert_all_close(found[:1], expected[:1], rtol=1e-5, atol=2e-3)
    assert_all_close(found[1:], expected[1:], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("pooled", "batch"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("offset", "mean_error", "var_error"), [(0.0, 1e-7, 4e-7), (10.0, 1e-5, 1e-6), (2000.0, 3e-3, 1e-4)]
)
def test_statistics_of_large_maps_keep_their_digits(
    offset: float, mean_error: float, var_error: float, layout: torch.memory_format, pooled: bool, batch: int
) -> None:
    x = offset + 2 * torch.randn(batch, 3, 410, 517, generator=torch.Generator().manual_seed(0))
    mean, var = measure(x.contiguous(memory_format=layout), pooled)
    dims = (0, 2, 3) if pooled else (2, 3)
    torch.testing.assert_close(mean.double(), x.double().mean(dims).view(mean.shape), rtol=0, atol=mean_error)
    expected = x.double().var(dims, correction=0).view(var.shape)
    torch.testing.assert_close(var.double(), expected, rtol=var_error, atol=0)


@pytest.mark.parametrize("size", [(1, 8, 64, 128), (2, 300, 40, 48), (1, 3, 65, 96), (1, 1500, 33, 64)])
def test_statistics_of_maps_whose_blocks_are_measured_at_once(size: tuple[int, ...]) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(size[3])  # differs along a row
    mean, var = measure_statistics(x.contiguous(memory_format=torch.channels_last))
    expected = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_sample_hears_of_another(alpha: float, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, *others = cast(make_arguments(3), torch.float32)
    x = x.to(dtype).contiguous(memory_format=layout)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    together = normalize_blended(leaf, *others, alpha, EPS)
    for index in range(3):
        alone = normalize_blended(x[index : index + 1], *others, alpha, EPS)
        assert torch.equal(together[index : index + 1], alone)
    (gradient,) = torch.autograd.grad(together[1].float().square().sum(), leaf)
    assert gradient[1].abs().max() > 0 and not gradient[[0, 2]].any()
    changed = x.clone()
    changed[0] += 5
    assert torch.equal(normalize_blended(changed, *others, alpha, EPS)[1:], together[1:])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_that_are_expanded_or_transposed_are_taken(alpha: float) -> None:
    arguments = make_arguments(2)
    for reduce in (lambda out: out.sum(), lambda out: (out.permute(0, 2, 3, 1) * torch.arange(4.0)).sum()):
        found, expected = (arguments[0].clone().requires_grad_() for _ in range(2))
        reduce(normalize_blended(found, *arguments[1:], alpha, EPS)).backward()
        reduce(textbook(expected, *arguments[1:], alpha, False)).backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-9)


def test_features_that_are_a_slice_of_others() -> None:
    x, *others = make_arguments(3, (8, 8))
    for part in (x[:, :, ::2, 1:5], x[1:], x[:, :, :, ::3], x.transpose(2, 3)):
        torch.testing.assert_close(
            normalize_blended(part, *others, 0.1, EPS), textbook(part, *others, 0.1, False), rtol=1e-11, atol=1e-11
        )


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel has been compared with the formula yet."""
    monkeypatch.setattr("callbacks.blended_norm._served", {})


@pytest.mark.parametrize("way", ["raises", "disagrees", "disagrees-backward"])
def test_a_kernel_that_fails_its_check_leaves_the_plain_formula(
    way: str, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 5, 8, 9, generator=torch.Generator().manual_seed(1))
    arguments = (torch.zeros(5), torch.ones(5), torch.ones(5), torch.zeros(5), 0.3, 1e-5)
    expected = normalize_blended(x, *arguments)
    blended_norm._served.clear()

    def fail(*_: Any) -> Any:
        raise RuntimeError("expected save_mean.defined()\nat a line of its source")

    if way == "disagrees-backward":
        monkeypatch.setattr(
            torch.ops.aten, "native_batch_norm_backward", lambda g, *_: (2 * g, g[0, :, 0, 0], g[0, :, 0, 0])
        )
    else:
        monkeypatch.setattr(blended_norm, "_apply", fail if way == "raises" else lambda x, *_: x + 1)
    with pytest.warns(UserWarning, match="plain formula on cpu torch.float32 contiguous") as caught:
        found = [normalize_blended(x, *arguments) for _ in range(3)]
    assert len(caught) == 1
    (reason,) = blended_norm.fast_path_report().values()
    assert reason == "expected save_mean.defined()" if way == "raises" else "differs by" in reason
    assert_all_close(found, [expected] * 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
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
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(1, 5, 6, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    running, var, weight, bias = (torch.rand(5, dtype=torch.float64, generator=generator) + 0.5 for _ in range(4))
    leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
    output = blended_norm._normalize_plainly(leaves[0], running, var, leaves[1], leaves[2], alpha, 1e-5)
    expected = torch.autograd.grad(output, leaves, g)
    sample_var, sample_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    mean, blended = (blended_norm.blend(*pair, alpha) for pair in ((sample_mean, running), (sample_var, var)))
    invstd = torch.rsqrt(blended + 1e-5)
    found = blended_norm._differentiate_on_cuda(g, x, weight, sample_mean, mean, invstd, alpha)
    assert_all_close(found, expected, rtol=1e-7, atol=1e-7)


def test_a_channel_without_variance_has_variance_0_on_cuda() -> None:
    """Torch's CUDA kernel says 0 for 1 / sqrt(0)."""
    found = recover_variance(torch.tensor([0.5, 2.0, 0.0, float("nan")]))
    assert found[:3].tolist() == [4.0, 0.25, 0.0] and found[3].isnan()
