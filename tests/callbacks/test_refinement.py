"""Edge refinement: the formula, what it leaves alone, and that methods apply it to what they would predict anyway."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks import TTA, IaBN, SegTTT
from callbacks.adaptation.refinement import refine_edges, weigh_neighbours
from callbacks.method import Method
from tests.fakes import TinyNetwork

STEPS: dict[str, Any] = {"num_steps": 2, "lr": 0.1, "scales": (0.5, 1.0)}


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
    expected = refine_slowly(probabilities[0].double().numpy(), image[0].double().numpy())
    np.testing.assert_allclose(refine_edges(probabilities, image, 1)[0].numpy(), expected, atol=1e-5)
    twice = refine_slowly(expected, image[0].double().numpy())
    np.testing.assert_allclose(refine_edges(probabilities, image, 2)[0].numpy(), twice, atol=1e-5)


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
    "method", [IaBN(0.3), TTA(0.3, (0.5, 1.0)), *(SegTTT(0.3, **STEPS, trust=trust) for trust in (0, 0.8, 1))]
)
@pytest.mark.parametrize("half", [False, True])
def test_a_method_refines_what_it_would_predict_without_in_float32(method: Method, half: bool) -> None:
    network, image = TinyNetwork(upsample=False), draw(2, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        plain = method.predict(network, image)
        refined = method.vary({"refine": 3}).predict(network, image)
    assert refined.dtype == torch.float32 and not torch.equal(refined, plain)
    torch.testing.assert_close(refined, refine_edges(plain, image, 3))
