"""The losses of training methods against their formulas, written out for single numbers, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.training import asg, csg, drpc, fsdr, isw
from lightning_modules.training.mixstyle import mix_statistics
from tests.fakes import draw


def test_covariances_are_those_between_channels_and_their_variances_of_each_image_and_its_copy() -> None:
    images, copies = draw(3, 3, 4, 5), draw(3, 3, 4, 5, seed=1)
    for values, found in zip(images.flatten(2), isw.compute_covariances(images), strict=True):
        torch.testing.assert_close(found, values @ values.T / 19 + 1e-5 * torch.eye(3, dtype=torch.float64))
    network = torch.nn.Sequential(torch.nn.Identity())
    (found,) = isw.measure_variances(network, ["0"], [(images[:2], copies[:2]), (images[2:], copies[2:])])
    both = torch.stack([isw.compute_covariances(images), isw.compute_covariances(copies)])
    torch.testing.assert_close(found, both.var(dim=0, correction=0).mean(dim=0))


def test_whitening_is_the_mean_absolute_covariance_over_the_mask() -> None:
    features = draw(2, 3, 4, 5).requires_grad_()
    mask = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    covariances = isw.compute_covariances(features)
    expected = sum((abs(one[0, 1]) + abs(one[1, 2])) / 2 for one in covariances) / 2
    assert isw.measure_whitening(features, mask).item() == pytest.approx(expected.item())
    assert torch.autograd.gradcheck(lambda x: isw.measure_whitening(x, mask), features)
    assert isw.measure_whitening(features, torch.zeros_like(mask)).item() == 0


def test_covariances_that_move_are_chosen() -> None:
    variances = torch.tensor([[9.0, 0.1, 5.0], [9.0, 9.0, 0.2], [9.0, 9.0, 9.0]])
    chosen = isw.choose_covariances(variances, clusters=2)
    assert chosen.nonzero().tolist() == [[0, 2]]  # above the diagonal alone, and of these the large one
    # With the zeros on and below the diagonal counted, as in the authors' code, the low group is that of zeros.
    three = isw.choose_covariances(variances, clusters=3, semantics="released")
    assert three.nonzero().tolist() == [[0, 1], [0, 2], [1, 2]]
    values = torch.tensor([0.1, 5.1, 0.2, 9.9, 5.0, 10.0, 0.15], dtype=torch.float64).numpy()
    assert isw.divide_into_groups(values, 3).tolist() == [0, 1, 0, 2, 1, 2, 0]  # numbered from the lowest
    assert isw.divide_into_groups(values[:2], 3).tolist() == [0, 1]


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    frozen, trained = draw(2, 4), draw(2, 4, seed=1).requires_grad_()
    p, q = frozen.softmax(dim=1), trained.softmax(dim=1)
    expected = sum(p[i, k] * math.log(p[i, k] / q[i, k]) for i in range(2) for k in range(4)) / 2
    assert asg.measure_divergence(frozen, trained).item() == pytest.approx(expected.item())
    assert torch.autograd.gradcheck(lambda x: asg.measure_divergence(frozen, x), trained)
    assert asg.measure_divergence(frozen, frozen).item() == pytest.approx(0)


def test_a_chunk_is_the_mean_of_its_features_by_attention() -> None:
    features = draw(1, 3, 4, 4).abs()
    attention = csg.compute_attention(features)
    mean = features.mean(dim=(2, 3))[0]
    assert attention[0, 0, 1, 2].item() == pytest.approx(sum(features[0, :, 1, 2] * mean).item())
    pooled = csg.pool_chunks(features, attention, 2)
    weights = attention[0, 0, :2, 2:] + 1e-6
    expected = (features[0, :, :2, 2:] * weights).sum(dim=(1, 2)) / weights.sum()
    assert pooled.shape == (4, 3) and torch.allclose(pooled[1], expected)  # row by row: 1 is on the right of the top
    assert csg.pool_chunks(features, attention, 9).shape == (16, 3)  # no more chunks than the map has places
    assert torch.autograd.gradcheck(lambda x: csg.pool_chunks(x, attention, 2), features.requires_grad_())


def test_contrast_tells_the_own_key_from_the_queue() -> None:
    queries, keys, queue = (F.normalize(draw(n, 4, seed=n), dim=1) for n in (2, 3, 5))
    keys = keys[:2]
    losses = []
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(query @ key / 0.07)
        losses.append(-math.log(own / (own + sum(math.exp(query @ other / 0.07) for other in queue))))
    assert csg.contrast(queries, keys, queue, 0.07).item() == pytest.approx(sum(losses) / 2)
    assert torch.autograd.gradcheck(lambda x: csg.contrast(x, keys, queue, 0.07), queries.requires_grad_())


def test_consistency_is_the_distance_from_the_mean_of_the_versions() -> None:
    features = draw(4, 2, 2, 2).requires_grad_()  # two images in two versions
    first, second = features[:2], features[2:]
    whole = abs(first.mean(dim=(2, 3)) - second.mean(dim=(2, 3))).mean() / 2
    cells = abs(first - second).mean() / 2
    assert drpc.measure_consistency(features, 2).item() == pytest.approx(((whole + cells) / 2).item())
    assert drpc.measure_consistency(torch.cat([first, first]), 2).item() == 0
    assert torch.autograd.gradcheck(lambda x: drpc.measure_consistency(x, 2), features)


def test_bands_add_up_to_the_image_and_lie_apart() -> None:
    images = draw(2, 3, 12, 17)
    bands = torch.stack([fsdr.keep_bands(images, torch.arange(5) == band) for band in range(5)])
    assert torch.allclose(bands.sum(dim=0).float(), images.float(), atol=1e-5)
    again = fsdr.keep_bands(bands[1], torch.tensor([True, False, True, True, True]))
    assert again.abs().max() < 1e-6
    flat = torch.full((1, 3, 8, 8), 0.5)
    lowest = torch.tensor([True, False])
    assert torch.allclose(fsdr.keep_bands(flat, lowest), flat) and fsdr.keep_bands(flat, ~lowest).abs().max() < 1e-6


def test_bands_that_do_not_vary_are_kept_and_the_entropy_chooses_those_that_do() -> None:
    images, styles = torch.rand(1, 3, 16, 16) * 0.2 + 0.4, torch.rand(1, 3, 20, 20)
    varying = torch.tensor([False, False, False, True])
    changed = fsdr.randomize_bands(images, styles, varying)
    assert not torch.equal(changed, images)
    lowest = torch.tensor([True, False, False, False])
    low = fsdr.keep_bands(changed, lowest) - fsdr.keep_bands(images, lowest)
    assert low.abs().max() < 0.1 < (changed - images).abs().max()  # matching a histogram leaks a little
    assert torch.equal(fsdr.randomize_bands(images, styles, torch.zeros(4, dtype=torch.bool)), images)
    assert fsdr.measure_entropy(torch.zeros(1, 4, 2, 2)).item() == pytest.approx(math.log(4))
    assert fsdr.choose_varying(torch.tensor([0.3, 0.9, 0.1, 0.5])).tolist() == [False, False, True, False]


def test_histograms_become_those_of_the_styles() -> None:
    images, styles = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    matched = fsdr.match_histograms(images, styles)
    assert torch.allclose(matched.flatten(2).sort(dim=2).values, styles.flatten(2).sort(dim=2).values)
    assert torch.equal(matched.flatten(2).argsort(dim=2), images.flatten(2).argsort(dim=2))
    assert fsdr.match_histograms(images, draw(2, 3, 3, 5)).shape == images.shape


def test_colours_get_mean_and_covariance_of_the_style() -> None:
    images, styles = torch.rand(2, 3, 16, 16) * 0.3 + 0.3, torch.rand(2, 3, 9, 9) * 0.2 + 0.4
    changed = drpc.transfer_colours(images, styles).flatten(2)
    with torch.autocast("cpu", torch.bfloat16):  # as in a mixed-precision training step
        assert torch.equal(drpc.transfer_colours(images, styles).flatten(2), changed)
    wanted = styles.flatten(2)
    assert torch.allclose(changed.mean(dim=2), wanted.mean(dim=2), atol=1e-3)
    for one, other in zip(changed, wanted, strict=True):
        assert torch.allclose(torch.cov(one, correction=0), torch.cov(other, correction=0), atol=1e-3)


def test_mixed_statistics_lie_between_those_of_two_images() -> None:
    features, partners = draw(2, 3, 6, 6) * 2 + 1, torch.tensor([1, 0])
    same = mix_statistics(features, partners, torch.ones(2))
    assert torch.allclose(same, features, atol=1e-5)
    other = mix_statistics(features, partners, torch.zeros(2))
    assert torch.allclose(other.mean(dim=(2, 3)), features.flip(0).mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(other.std(dim=(2, 3)), features.flip(0).std(dim=(2, 3)), atol=1e-4)
    half = mix_statistics(features, partners, torch.full((2,), 0.5))
    assert torch.allclose(half.mean(dim=(2, 3))[0], features.mean(dim=(0, 2, 3)), atol=1e-5)
