"""Chooses the trust in an adaptation by conformal risk control on the images of the development set.

Source: Angelopoulos et al. (2024), Conformal Risk Control, Sec. 2: the bound on the risk of a new image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from experiments.scores import MARGIN

TRUSTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # below 0.5 little is gained, and no fewer images are hurt


def choose_trust(miou: Mapping[float, Sequence[float]], most_hurt: float) -> dict[str, Any]:
    """Chooses the largest trust up to which every trust tried has a risk bound of at most `most_hurt`.

    A new image from the domain of the development images is hurt with probability at most `most_hurt`, provided that
    the share of images hurt rises with trust and nothing else was chosen on these images. On a target, which is another
    domain, this is an expectation, not a guarantee.

    Args:
        miou: Mean IoU in percent of each development image, by trust; trust 0 is the unadapted prediction.
        most_hurt: The share of images that may be hurt, in (0, 1).

    Returns:
        ``trust``; the number of labelled ``images``; ``most_hurt``; ``margin``; and ``tried``, which has for each trust
        the share of images ``hurt``, the ``bound`` on the risk of a new image, and the mean ``gain`` in points.

    Raises:
        ValueError: If there are too few labelled images to guarantee `most_hurt` at any trust.
    """
    places = [place for place, value in enumerate(miou[0.0]) if not math.isnan(value)]  # NaN without a labelled pixel
    n, least = len(places), math.ceil(1 / most_hurt) - 1
    if n < least:
        raise ValueError(
            f"the development set has {n} labelled images: expected {least} or more to guarantee that at most "
            f"{100 * most_hurt:g} % of new images are hurt. Use more images, or raise --most-hurt"
        )
    chosen, tried, fine = 0.0, {}, True
    for trust in sorted(miou):
        gains = [miou[trust][place] - miou[0.0][place] for place in places]
        hurt = sum(gain < -MARGIN for gain in gains)
        bound = (hurt + 1) / (n + 1)  # n / (n + 1) * share + 1 / (n + 1), rounded once
        fine = fine and bound <= most_hurt
        chosen = trust if fine else chosen
        tried[trust] = {"hurt": hurt / n, "bound": bound, "gain": sum(gains) / n}
    return {"trust": chosen, "images": n, "most_hurt": most_hurt, "margin": MARGIN, "tried": tried}


def score_images(records: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Computes the mean IoU in percent of each image at every point of a search, from the records of its run."""
    scores = []
    for record in records:
        overlap = torch.tensor(record["search"]["overlap"], dtype=torch.float64)  # points, 2, classes
        scores.append((100 * overlap[:, 0] / overlap[:, 1]).nanmean(dim=1).tolist())
    return scores
