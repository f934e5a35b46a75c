"""Labels lie where the image has what they name."""

import numpy as np
import pytest
import torch

from datamodules.transforms import MEAN, STD, EvaluationTransform, Resize, TrainingTransform


@pytest.mark.parametrize(("source", "crop"), [(512, 64), (64, 224)])
def test_labels_of_a_crop_lie_where_its_edges_are(source: int, crop: int) -> None:
    transform = TrainingTransform((crop, crop), blur_sigma=(0.1, 0.11))
    shifts = []
    for edge in range(source // 4, 3 * source // 4, source // 16):
        mask = np.zeros((source, source), dtype=np.uint8)
        mask[edge:] = 1
        for seed in range(20):
            image, labels = transform(np.stack([mask * 255] * 3, axis=-1), mask, seed)
            bright, column = image[0, :, crop // 2], labels[:, crop // 2]
            if 0 < column.sum() < crop and bright.max() > bright.min():
                bright = (bright - bright.min()) / (bright.max() - bright.min())
                shifts.append(float((column == 0).sum() - (1 - bright).sum()))
    assert len(shifts) > 50 and abs(np.mean(shifts)) < 0.1  # pixels of the crop


@pytest.mark.parametrize(
    ("policy", "size"),
    [("protocol", (1024, 2048)), ("keep_aspect", (1117, 1877)), ("none", (1250, 2100)), ((500, 800), (487, 819))],
)
def test_large_images_are_resized_and_their_masks_are_not(policy: Resize, size: tuple[int, int]) -> None:
    transform = EvaluationTransform(policy)
    levels, ids = np.full((1250, 2100, 3), (10, 120, 250), np.uint8), np.arange(1250 * 2100).reshape(1250, 2100) % 19
    image, mask = transform(levels, ids.astype(np.uint8))
    assert image.shape[1:] == size and np.array_equal(mask.numpy(), ids)
    assert (image == image[:, :1, :1]).all()
    assert [array.shape[-2:] for array in transform(levels[:30, :50], ids[:30, :50])] == [(30, 50), (30, 50)]


def test_an_image_is_cropped_and_flipped_with_its_labels_and_always_blurred() -> None:
    mask = np.repeat([[3, 18]], 64, axis=1).repeat(64, axis=0).astype(np.uint8)  # the right half is bright
    pixels = np.stack([(mask == 18) * np.uint8(255)] * 3, axis=-1)
    flips = set()
    for size, scale in (((64, 128), (1.0, 1.0)), ((128, 100), (1.0, 1.0)), ((32, 48), (0.1, 1.0))):
        transform = TrainingTransform(size, scale, (1.5, 2.0))
        for seed in range(20):
            image, labels = transform(pixels, mask, seed)
            assert image.shape == (3, *size) and image.dtype == torch.float32 and image.is_contiguous()
            assert labels.shape == size and labels.dtype == torch.int64 and image.isfinite().all()
            assert set(labels.unique().tolist()) <= {3, 18}  # nothing in between
            gray = image.mean(dim=0)
            if len(labels.unique()) == 2:
                assert gray[labels == 18].mean() > gray[labels == 3].mean()
                assert gray.diff(dim=1).abs().max() < 0.5 * (gray.max() - gray.min())  # no edge is left
                flips.add(labels[0, 0].item())
    assert flips == {3, 18}


def test_about_a_tenth_of_crops_is_gray_and_about_half_keep_their_colours() -> None:
    image, mask = np.full((40, 40, 3), (200, 100, 50), dtype=np.uint8), np.zeros((40, 40), dtype=np.uint8)
    transform = TrainingTransform((16, 16))
    middles = [transform(image, mask, seed)[0][:, 8, 8].numpy() for seed in range(300)]
    colours = [tuple((255 * (middle * STD + MEAN)).round().astype(int)) for middle in middles]
    assert 12 <= sum(red == green == blue for red, green, blue in colours) <= 54
    assert 100 <= colours.count((200, 100, 50)) <= 175
