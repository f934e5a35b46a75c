import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from callbacks import TTA, SegTTT
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.views import IMAGENET, Normalization, View, make_views
from tests.fakes import make_images

RESAMPLINGS = ["device", "pillow"]


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("flip", [False, True])
def test_view_at_scale_1_inverts_exactly(flip: bool, resampling) -> None:
    image = make_images(2)
    view = View(1.0, flip)
    applied = view.apply(image, resampling=resampling)
    assert torch.equal(applied, image.flip(-1) if flip else image)
    assert torch.equal(view.invert(applied, (32, 48)), image)
    maps = torch.rand(2, 7, 32, 48)
    assert torch.equal(view.invert(maps.flip(-1) if flip else maps, (32, 48)), maps)


@pytest.mark.parametrize("flip", [False, True])
def test_linear_map_is_inverted_exactly_with_corners_aligned(flip: bool) -> None:
    def ramp(height: int, width: int) -> Tensor:
        return torch.linspace(0, 1, height)[:, None] * 0.3 + torch.linspace(0, 1, width)[None] * 0.7

    small = ramp(8, 12)[None, None]
    undone = View(0.25, flip).invert(small.flip(-1) if flip else small, (32, 48))
    torch.testing.assert_close(undone[0, 0], ramp(32, 48), rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", make_views((0.25, 0.5, 0.75, 1.0, 1.4), flip=True, grayscale=True), ids=str)
def test_device_and_pillow_differ_by_one_grey_level_at_most(view: View) -> None:
    image = make_images(1, 61, 83) * 0.5
    image = IMAGENET.apply((IMAGENET.undo(image).clamp(0, 1) * 255).round() / 255)
    levels = [(IMAGENET.undo(view.apply(image, resampling=name)) * 255).round() for name in RESAMPLINGS]
    assert (levels[0] - levels[1]).abs().max() <= 1


def test_grayscale_is_pillows_luma_repeated() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = IMAGENET.apply(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    for resampling in RESAMPLINGS:
        levels = (IMAGENET.undo(View(grayscale=True).apply(image, resampling=resampling)) * 255).round()[0]
        assert np.array_equal(levels.numpy(), np.broadcast_to(expected, (3, 20, 30)))


def test_autocontrast_is_pillows_with_one_percent_cut_off_at_both_ends() -> None:
    pixels = np.random.default_rng(0).normal([90, 120, 200], [20, 5, 40], (20, 30, 3)).clip(0, 255).astype(np.uint8)
    pixels[..., 2] = 7  # nothing to stretch
    image = IMAGENET.apply(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(pixels), 1))
    assert expected[..., :2].min() == 0 and expected[..., :2].max() == 255 and (expected[..., 2] == 7).all()
    for resampling in RESAMPLINGS:
        for view in (View(autocontrast=True), View(1.0, True, False, True)):
            made = view.invert(view.apply(image, resampling=resampling), (20, 30))
            levels = (IMAGENET.undo(made) * 255).round()[0].permute(1, 2, 0)
            assert np.abs(levels.numpy() - expected).max() <= 1 and np.mean(levels.numpy() != expected) < 0.01


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


@pytest.mark.parametrize(
    "make", [lambda s: make_views(s, True, True), lambda s: TTA(scales=s), lambda s: SegTTT(scales=s)]
)
def test_no_scales_and_scales_that_are_not_positive_are_errors(make) -> None:
    with pytest.raises(ValueError, match="scales is empty"):
        make(())
    for scale in (-0.5, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale of a view is"):
            make((0.5, scale))


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
    network, image = nn.Conv2d(3, 4, 1).requires_grad_(False), make_images(2)
    views = (View(), View(1.0, flip=True), View(0.5), View(0.5, True, True))
    undone = [view.invert(network(view.apply(image)).softmax(dim=1), (32, 48)) for view in views]
    torch.testing.assert_close(fuse_views(network, image, views), torch.stack(undone).mean(dim=0))
    torch.testing.assert_close(  # a network that looks at single pixels does not see the flip
        fuse_views(network, image, views[:2]), network(image).softmax(dim=1)
    )
    with pytest.raises(ValueError, match="no views"):
        fuse_views(network, image, ())


def loop_over_pixels(probabilities: np.ndarray, psi: float, strict: bool) -> np.ndarray:
    """Eq. 6-8, pixel by pixel."""
    classes, height, width = probabilities.shape
    labels = np.full((height, width), 255)
    for row in range(height):
        for column in range(width):
            best = max(range(classes), key=lambda c: probabilities[c, row, column])
            threshold = np.float64(psi) * probabilities[best].max()
            value = probabilities[best, row, column]
            if value > threshold or (value == threshold and not strict):
                labels[row, column] = best
    return labels


@pytest.fixture
def maps() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (2 * torch.randn(2, 4, 9, 11, generator=generator, dtype=torch.float64)).softmax(dim=1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("psi", [0.0, 0.3, 0.7, 1.0])
def test_pseudo_labels_follow_the_formula_per_class_and_per_sample(maps: Tensor, psi: float, strict: bool) -> None:
    labels = pseudo_labels(maps, psi, strict)
    assert labels.dtype == torch.int64
    for single, label in zip(maps, labels, strict=True):
        assert np.array_equal(label.numpy(), loop_over_pixels(single.numpy(), psi, strict))
        assert torch.equal(pseudo_labels(single, psi, strict), label)


@pytest.mark.parametrize("psi", [-0.1, 1.01, float("nan")])
def test_psi_outside_0_to_1_is_an_error(maps: Tensor, psi: float) -> None:
    for call in (lambda: pseudo_labels(maps, psi), lambda: SegTTT(psi=psi)):
        with pytest.raises(ValueError, match="psi is"):
            call()


@pytest.mark.cuda
def test_views_and_pseudo_labels_on_cuda_agree_with_the_cpu(maps: Tensor) -> None:
    image = make_images(1, 61, 83)
    for view in make_views((0.25, 0.5, 0.75, 1.0), True, True):
        levels = [IMAGENET.undo(view.apply(x)).cpu() * 255 for x in (image, image.cuda())]
        assert (levels[0] - levels[1]).abs().max() < 1.01
        levels = [view.apply(x, resampling="pillow").cpu() for x in (image, image.cuda())]
        torch.testing.assert_close(*levels, rtol=0, atol=1e-6)  # a GPU divides by way of the reciprocal
    assert torch.equal(pseudo_labels(maps.cuda(), 0.7).cpu(), pseudo_labels(maps, 0.7))
