import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.adaptation import loss as upsampled_loss
from callbacks.adaptation.loss import upsampled_cross_entropy

Sizes = tuple[tuple[int, int], tuple[int, int]]  # of the logits and of the target

SIZES: list[Sizes] = [((4, 6), (32, 48)), ((5, 7), (37, 53)), ((16, 24), (32, 47)), ((1, 1), (9, 8))]
SIZES += [((1, 5), (1, 40)), ((6, 6), (6, 31)), ((6, 6), (31, 6))]  # of one row, or of as many rows or columns
SIZES += [((30, 40), (8, 10)), ((30, 3), (7, 30)), ((2, 3), (1, 1))]  # to fewer rows or pixels
corners = pytest.mark.parametrize("align_corners", [False, True])


def draw(sizes: Sizes, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Float64 logits of 5 classes, and labels of which 30 % are ignored."""
    (coarse, fine), generator = sizes, torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, 5, *coarse, generator=generator, dtype=torch.float64)
    target = torch.randint(5, (batch, *fine), generator=generator)
    drawn = torch.rand(target.shape, generator=generator) < 0.3
    drawn[0, 0, 0] = False
    return logits, target.masked_fill(drawn, 255)


def reference(logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
    wide = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(wide, target, ignore_index=255)


def differentiate(
    logits: Tensor, target: Tensor, align_corners: bool, function: Callable[..., Tensor] = upsampled_cross_entropy
) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = function(leaf, target, align_corners)
    return loss.detach(), torch.autograd.grad(3 * loss, leaf)[0]


def assert_close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], rtol: float, atol: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=rtol, atol=atol)


@pytest.fixture(params=[2**22, 1500, 1], ids=["all-at-once", "a-few-rows", "row-by-row"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of logits that are worked on at once."""
    monkeypatch.setattr(upsampled_loss, "CHUNK", request.param)


@corners
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_value_and_gradient_are_torchs(sizes: Sizes, align_corners: bool, chunks: None) -> None:
    logits, target = draw(sizes)
    expected = differentiate(logits, target, align_corners, reference)
    assert_close(differentiate(logits, target, align_corners), expected, rtol=1e-9, atol=1e-12)
    assert expected[1].abs().max() > 1e-4
    single = differentiate(logits.float(), target, align_corners)
    assert single[0].dtype == single[1].dtype == torch.float32
    assert_close(single, expected, rtol=1e-4, atol=1e-6)
    for other in (logits.contiguous(memory_format=torch.channels_last), logits.expand(3, *logits.shape)[1]):
        assert_close(differentiate(other, target, align_corners), expected, rtol=1e-9, atol=1e-12)


def test_rows_are_counted_in_chunks_and_never_held_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = draw(((4, 6), (64, 48)), batch=1)
    sizes: list[int] = []
    softmax = Tensor.log_softmax
    monkeypatch.setattr(Tensor, "log_softmax", lambda self, dim: (sizes.append(self.numel()), softmax(self, dim))[1])
    monkeypatch.setattr(upsampled_loss, "CHUNK", 5 * 48 * 3)
    upsampled_cross_entropy(logits, target, True)
    assert max(sizes) == 5 * 48 * 3 and sum(sizes) == 5 * 48 * 64


@corners
def test_extreme_logits_stay_finite_and_no_labelled_pixel_gives_nan_as_torch_does(
    align_corners: bool, chunks: None
) -> None:
    logits, target = draw(((4, 6), (16, 20)))
    for factor in (1.0, 1e4, -1e4):
        extreme = factor * logits.sign()
        found = differentiate(extreme.float(), target, align_corners)
        assert all(value.isfinite().all() for value in found)
        # Where two logits cross, a float32 of 1e4 is known to 1e-3 only, and so is the share of either.
        assert_close(found, differentiate(extreme, target, align_corners, reference), rtol=1e-3, atol=1e-5)
    loss, gradient = differentiate(logits, torch.full_like(target, 255), align_corners)
    assert loss.isnan() and gradient.shape == logits.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_logits_are_computed_with_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    logits, target = draw(((4, 6), (64, 96)))
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        loss, gradient = differentiate(half, target, True)
    expected, slope = differentiate(half.double(), target, True, reference)
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), slope, rtol=2 * eps, atol=eps * slope.abs().max().item())


@pytest.mark.cuda
@corners
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_cuda_agrees_and_never_waits(dtype: torch.dtype, tolerance: float, align_corners: bool) -> None:
    logits, target = draw(((8, 16), (64, 128)))
    logits = logits.to(dtype)
    expected, slope = differentiate(logits.double(), target, align_corners, reference)
    logits, target = logits.cuda(), target.cuda()
    differentiate(logits, target, align_corners)  # makes the matrix
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, gradient = differentiate(logits, target, align_corners)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-4, atol=1e-5)
    atol = tolerance * slope.abs().max().item()
    torch.testing.assert_close(gradient.cpu().double(), slope, rtol=tolerance, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["matmul.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('high')"])
def test_precision_of_products_is_put_back_by_either_switch(switch: str) -> None:
    program = f"""
import torch
from callbacks.adaptation.loss import exact_products
matmul = torch.backends.cuda.matmul
{switch}
before = matmul.fp32_precision
with exact_products(): assert matmul.fp32_precision == 'ieee', matmul.fp32_precision
assert matmul.fp32_precision == before == 'tf32', (matmul.fp32_precision, before)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
