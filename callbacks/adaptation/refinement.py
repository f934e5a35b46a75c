"""Edge refinement: spreads a prediction between neighbouring pixels of similar colour.

Source: pixel-adaptive mask refinement of Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels",
CVPR 2020. There it refines the masks that a network learns from; here the prediction of a test image.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.stages import stage

DILATIONS = (1, 2, 4)  # distances of the neighbours in pixels
BANDWIDTH = 0.1  # colour difference, in local standard deviations, that lowers a neighbour's weight by a factor of e
EPS = 1e-6  # avoids a division by 0 in areas of one colour


def refine_edges(probabilities: Tensor, image: Tensor, iterations: int) -> Tensor:
    """Replaces the prediction of each pixel, repeatedly, by a weighted mean over its neighbours'.

    The neighbours are the 8 pixels at each distance in `DILATIONS`, see `weigh_neighbours`.

    Args:
        probabilities: (B, K, H, W) float in [0, 1].
        image: (B, 3, H, W) float. Scaling or shifting a channel, as normalisation does, changes nothing.
        iterations: Number of repetitions; 0 returns the prediction as it is.

    Returns:
        (B, K, H, W) probabilities.
    """
    if not iterations:
        return probabilities
    with stage("refinement"):
        weights = weigh_neighbours(image.float())
        for _ in range(iterations):
            refined = torch.zeros_like(probabilities)
            for number, neighbour in enumerate(shift_to_neighbours(probabilities)):
                refined.addcmul_(neighbour, weights[:, number : number + 1])
            probabilities = refined
        return probabilities


def weigh_neighbours(image: Tensor) -> Tensor:
    """Computes the (B, N, H, W) weights of each pixel's N neighbours in a (B, 3, H, W) image; per pixel they sum to 1.

    They are the softmax over the negative colour differences. A difference is absolute, divided by `BANDWIDTH` times
    the channel's standard deviation over the pixel and its neighbours, and averaged over the channels.
    """
    count = 1 + 8 * len(DILATIONS)
    mean = sum(shift_to_neighbours(image), image) / count
    squares = sum(((neighbour - mean).square() for neighbour in shift_to_neighbours(image)), (image - mean).square())
    scale = BANDWIDTH * (squares / count).sqrt() + EPS
    likeness = [-((neighbour - image).abs() / scale).mean(dim=1) for neighbour in shift_to_neighbours(image)]
    return torch.stack(likeness, dim=1).softmax(dim=1)


def shift_to_neighbours(values: Tensor) -> Iterator[Tensor]:
    """Yields (B, C, H, W) values at each neighbour of every pixel; beyond the border, those of the nearest pixel."""
    height, width = values.shape[-2:]
    for distance in DILATIONS:
        padded = F.pad(values, (distance,) * 4, mode="replicate")
        for row, column in product((0, distance, 2 * distance), repeat=2):
            if (row, column) != (distance, distance):
                yield padded[..., row : row + height, column : column + width]
