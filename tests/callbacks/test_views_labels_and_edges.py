"""Functions on one image: its views, its pseudo labels, and edge refinement."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.adaptation.refinement import refine_edges, weigh_neighbours
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.views import IMAGENET, Normalization, View, make_views
from tests.fakes import TinyNetwork, make_images

RESAMPLINGS = ["device", "pillow"]


def shade(*size: int) -> Tensor:
    return torch.linspace(0, 1, size[0])[:, None] * 0.3 + torch.linspace(0, 1, size[1])[None] * 0.7


@pytest.mark.parametrize("flip", [False, True])
def test_views_are_inverted_exactly_with_corners_aligned(flip: bool) -> None:
    image, maps = make_images(2), torch.rand(2, 7, 32, 48)
    for resampling in RESAMPLINGS:
        applied = View(1.0, flip).apply(image, resampling=resampling)
        assert torch.equal(applied, image.flip(-1) if flip else image)
        assert torch.equal(View(1.0, flip).invert(applied, (32, 48)), image)
    assert torch.equal(View(1.0, flip).invert(maps.flip(-1) if flip else maps, (32, 48)), maps)
    small = shade(8, 12)[None, None]
    undone = View(0.25, flip).invert(small.flip(-1) if flip else small, (32, 48))
    torch.testing.assert_close(undone[0, 0], shade(32, 48), rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", make_views((0.25, 0.5, 0.75, 1.0, 1.4), flip=True, grayscale=True), ids=str)
def test_device_and_pillow_differ_by_one_grey_level_at_most(view: View) -> None:
    image = make_images(1, 61, 83) * 0.5
    image = IMAGENET.apply((IMAGENET.undo(image).clamp(0, 1) * 255).round() / 255)
    levels = [(IMAGENET.undo(view.apply(image, resampling=name)) * 255).round() for name in RESAMPLINGS]
    assert (levels[0] - levels[1]).abs().max() <= 1


def test_grayscale_and_autocontrast_are_pillows() -> None:
    pixels = np.random.default_rng(0).normal([90, 120, 200], [20, 5, 40], (20, 30, 3)).clip(0, 255).astype(np.uint8)
    pixels[..., 2] = 7  # nothing to stretch
    image = IMAGENET.apply(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    gray = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    stretched = np.asarray(ImageOps.autocontrast(Image.fromarray(pixels), 1))  # 1 % is cut off at both ends
    assert stretched[..., :2].min() == 0 and stretched[..., :2].max() == 255 and (stretched[..., 2] == 7).all()
    views = {View(grayscale=True): gray, View(autocontrast=True): stretched, View(1, True, False, True): stretched}
    for resampling in RESAMPLINGS:
        for view, expected in views.items():
            made = view.invert(view.apply(image, resampling=resampling), (20, 30))
            levels = (IMAGENET.undo(made) * 255).round()[0].permute(1, 2, 0).numpy()
            off = np.abs(levels - expected)
            assert off.max() <= view.autocontrast and np.mean(off > 0) < 0.01


def test_autocontrast_takes_off_haze_and_a_cast_of_colour_from_each_image_of_a_batch() -> None:
    clear = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    hazy = 0.5 * clear * torch.tensor([0.9, 0.8, 0.6])[:, None, None] + torch.tensor([0.3, 0.35, 0.2])[:, None, None]
    view = View(0.5, autocontrast=True)
    seen = [IMAGENET.undo(view.apply(IMAGENET.apply(images))) for images in (clear, hazy)]
    assert (seen[0] - seen[1]).abs().max() < 0.05 and (clear - hazy).abs().max() > 0.3
    alone = torch.cat([view.apply(IMAGENET.apply(one)) for one in hazy.split(1)])
    assert torch.equal(view.apply(IMAGENET.apply(hazy)), alone)


def test_normalization_undoes_itself_and_can_be_another() -> None:
    assert Normalization([0.5, 0.4, 0.3], [1.0, 0.5, 0.25]) == Normalization((0.5, 0.4, 0.3), (1.0, 0.5, 0.25))
    values = torch.rand(1, 3, 4, 5)
    other = Normalization(mean=(0.5, 0.4, 0.3), std=(1.0, 0.5, 0.25))
    torch.testing.assert_close(other.undo(other.apply(values)), values)
    assert other.apply(values)[0, 2, 1, 1].item() == pytest.approx((values[0, 2, 1, 1].item() - 0.3) / 0.25, abs=1e-6)
    gray = View(grayscale=True).apply(other.apply(torch.full((1, 3, 4, 5), 0.2)), other)
    torch.testing.assert_close(other.undo(gray), torch.full((1, 3, 4, 5), 0.2))


def test_make_views_lists_each_scale_plain_and_augmented() -> None:
    assert make_views((0.5, 1), True, True) == (View(0.5), View(0.5, True, True), View(1), View(1, True, True))
    assert make_views((0.5,), True, False) == (View(0.5), View(0.5, flip=True))
    assert make_views((0.5,), True, False, True) == (View(0.5), View(0.5, flip=True, autocontrast=True))
    assert make_views((0.5, 0.25), False, False) == (View(0.5), View(0.25))
    assert len(TTA().views) == 6 and TTA().views == SegTTT().views
    assert TTA(grayscale=False, autocontrast=True).views[1] == View(0.25, flip=True, autocontrast=True)


def test_view_that_is_too_small_is_named() -> None:
    def network(image: Tensor) -> Tensor:
        if image.shape[-1] < 16:
            raise ValueError("the image is too small")
        return image

    with pytest.raises(ValueError, match=r"scale=0.25.*the image is too small"):
        fuse_views(network, make_images(1), make_views((1.0, 0.25), True, True))
    with pytest.raises(ValueError, match=r"view at scale 0\.01 of an image of 32x48 pixels"):
        View(0.01).apply(make_images(1))


def test_fused_map_is_the_mean_of_the_views_softmax_brought_back() -> None:
    network, image = torch.nn.Conv2d(3, 4, 1).requires_grad_(False), make_images(2)
    views = (View(), View(1.0, flip=True), View(0.5), View(0.5, True, True))
    undone = [view.invert(network(view.apply(image)).softmax(dim=1), (32, 48)) for view in views]
    torch.testing.assert_close(fuse_views(network, image, views), torch.stack(undone).mean(dim=0))
    torch.testing.assert_close(  # a network that looks at single pixels does not see the flip
        fuse_views(network, image, views[:2]), network(image).softmax(dim=1)
    )


def loop_over_pixels(probabilities: np.ndarray, psi: float, strict: bool) -> np.ndarray:
    """Eq. 6-8, pixel by pixel."""
    labels = np.full(probabilities.shape[1:], 255)
    for row, column in np.ndindex(labels.shape):
        best = int(probabilities[:, row, column].argmax())
        threshold = np.float64(psi) * probabilities[best].max()
        value = probabilities[best, row, column]
        if value > threshold or (value == threshold and not strict):
            labels[row, column] = best
    return labels


MAPS = (2 * torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).softmax(dim=1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("psi", [0.0, 0.3, 0.7, 1.0])
def test_pseudo_labels_follow_the_formula_per_class_and_per_sample(psi: float, strict: bool) -> None:
    labels = pseudo_labels(MAPS, psi, strict)
    assert labels.dtype == torch.int64
    for single, label in zip(MAPS, labels, strict=True):
        assert np.array_equal(label.numpy(), loop_over_pixels(single.numpy(), psi, strict))
        assert torch.equal(pseudo_labels(single, psi, strict), label)


# Edge refinement.

STEPS = SegTTT(0.3, num_steps=2, lr=0.1, scales=(0.5, 1.0))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def refine_slowly(probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
    """One iteration pixel by pixel, as docs/methods.md has it."""
    height, width = image.shape[1:]
    refined = np.zeros_like(probabilities)
    offsets = [(down, right) for down, right in product((-1, 0, 1), repeat=2) if down or right]
    for row, column in product(range(height), range(width)):
        places = [
            (min(max(row + down * far, 0), height - 1), min(max(column + right * far, 0), width - 1))
            for far, (down, right) in product((1, 2, 4), offsets)
        ]
        colours = np.array([image[:, y, x] for y, x in places])
        own = image[:, row, column]
        deviation = np.concatenate([colours, own[None]]).std(axis=0)
        weights = np.exp(-(np.abs(colours - own) / (0.1 * deviation + 1e-6)).mean(axis=1))
        neighbours = np.array([probabilities[:, y, x] for y, x in places])
        refined[:, row, column] = weights / weights.sum() @ neighbours
    return refined


def test_it_is_the_formula_of_the_docs() -> None:
    image, probabilities = draw(1, 3, 7, 9), draw(1, 4, 7, 9, seed=1).softmax(dim=1)
    expected = probabilities[0].double().numpy()
    for iterations in (1, 2):
        expected = refine_slowly(expected, image[0].double().numpy())
        np.testing.assert_allclose(refine_edges(probabilities, image, iterations)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 17)])
def test_it_keeps_probabilities_and_what_is_the_same_everywhere(size: tuple[int, int]) -> None:
    image, probabilities = draw(2, 3, *size), draw(2, 5, *size, seed=1).softmax(dim=1)
    refined = refine_edges(probabilities, image, 3)
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(2, *size))
    assert refined.min() >= 0 and refine_edges(probabilities, image, 0) is probabilities
    same = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1).expand(2, 2, *size)
    torch.testing.assert_close(refine_edges(same, image, 3), same)
    flat = weigh_neighbours(torch.full_like(image, 0.4))  # without a difference, all weigh the same
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 24))


def test_each_image_is_refined_alone_and_however_it_is_normalised() -> None:
    image, probabilities = draw(2, 3, 12, 20), draw(2, 4, 12, 20, seed=1).softmax(dim=1)
    together = refine_edges(probabilities, image, 2)
    alone = torch.cat([refine_edges(*pair, 2) for pair in zip(probabilities.split(1), image.split(1), strict=True)])
    torch.testing.assert_close(together, alone)
    normalised = (image - draw(1, 3, 1, 1, seed=2)) / (0.1 + draw(1, 3, 1, 1, seed=3))
    torch.testing.assert_close(refine_edges(probabilities, normalised, 2), together, rtol=1e-3, atol=1e-4)
    assert weigh_neighbours(image).shape == (2, 24, 12, 20)


@pytest.mark.parametrize(
    "method", [IaBN(0.3), TTA(0.3, (0.5, 1.0)), *(STEPS.vary({"trust": trust}) for trust in (0, 0.8, 1))]
)
@pytest.mark.parametrize("half", [False, True])
def test_a_method_refines_what_it_would_predict_without_in_float32(method: Method, half: bool) -> None:
    network, image = TinyNetwork(upsample=False), draw(2, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        plain = method.predict(network, image)
        refined = method.vary({"refine": 3}).predict(network, image)
    assert refined.dtype == torch.float32 and not torch.equal(refined, plain)
    torch.testing.assert_close(refined, refine_edges(plain, image, 3))


@pytest.mark.cuda
def test_views_and_pseudo_labels_on_cuda_agree_with_the_cpu() -> None:
    image = make_images(1, 61, 83)
    for view in make_views((0.25, 0.5, 0.75, 1.0), True, True):
        levels = [IMAGENET.undo(view.apply(x)).cpu() * 255 for x in (image, image.cuda())]
        assert (levels[0] - levels[1]).abs().max() < 1.01
        levels = [view.apply(x, resampling="pillow").cpu() for x in (image, image.cuda())]
        torch.testing.assert_close(*levels, rtol=0, atol=1e-6)  # a GPU divides by way of the reciprocal
    assert torch.equal(pseudo_labels(MAPS.cuda(), 0.7).cpu(), pseudo_labels(MAPS, 0.7))
