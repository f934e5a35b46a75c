"""Covariances between the channels of a map: their sensitivity to photometric changes, and the whitening loss."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.processes import average_over_processes
from lightning_modules.training.method import record_outputs

EPS = 1e-5  # added to the diagonal


def compute_covariances(features: Tensor) -> Tensor:
    """Returns the (B, C, C) covariances between the channels of (B, C, H, W) features whose means are 0, in float32.

    Source: Choi et al. (2021), Eq. 2.
    """
    values = features.flatten(2)
    values = values if values.dtype == torch.float64 else values.float()
    identity = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    return values @ values.mT / max(values.shape[2] - 1, 1) + EPS * identity


def measure_whitening(features: Tensor, mask: Tensor) -> Tensor:
    """Returns the () mean over images of the mean absolute covariance over a (C, C) bool mask.

    Source: Choi et al. (2021), Eq. 14.
    """
    with torch.autocast(features.device.type, enabled=False):
        covariances = compute_covariances(features)
        return (covariances.abs() * mask).sum(dim=(1, 2)).mean() / mask.sum().clamp_min(1)


def measure_variances(network: nn.Module, maps: Sequence[str], pairs: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Measures the variance of maps' covariances between images and changed copies of them.

    Args:
        network: The network, in evaluation mode.
        maps: Names of its modules whose outputs are whitened.
        pairs: (B, 3, H, W) images and their copies.

    Returns:
        For each map, the (C, C) variances of its covariances, averaged over all images.

    Raises:
        ValueError: If there are no images.

    Source: Choi et al. (2021), Sec. 3.3.
    """
    sums: list[Tensor] = []
    count = 0
    for versions in pairs:
        covariances = []
        for version in versions:
            with record_outputs(network, maps) as outputs:
                network(version)
            covariances.append([compute_covariances(outputs[name]) for name in maps])
        found = [((first - second) / 2).square().sum(dim=0) for first, second in zip(*covariances, strict=True)]
        sums = [total + one for total, one in zip(sums, found, strict=True)] if sums else found
        count += len(versions[0])
    if not count:
        raise ValueError("there are no source images to choose the covariances for ISW: expected one batch or more")
    return [average_over_processes(total / count) for total in sums]


def choose_covariances(variances: Tensor, clusters: int, semantics: str = "paper") -> Tensor:
    """Selects the covariances above the diagonal whose variances are not in the lowest of `clusters` groups.

    Args:
        variances: (C, C) float.
        clusters: Number of groups, formed by one-dimensional k-means.
        semantics: ``paper`` groups the entries above the diagonal; ``released`` all entries, with 0 for the others.

    Returns:
        (C, C) bool mask.

    Source: Choi et al. (2021), Eq. 12 and 13.
    """
    above = torch.ones_like(variances, dtype=torch.bool).triu(diagonal=1)
    values = variances[above] if semantics == "paper" else variances.triu(diagonal=1).flatten()
    groups = divide_into_groups(values.double().cpu().numpy(), clusters)
    high = torch.from_numpy(groups > 0).to(variances.device)
    if semantics == "released":
        return high.reshape(variances.shape) & above
    mask = torch.zeros_like(above)
    mask[above] = high
    return mask


def divide_into_groups(values: np.ndarray, count: int) -> np.ndarray:
    """Divides (N,) float64 numbers into groups by optimal k-means; returns their (N,) groups, the lowest as 0."""
    import kmeans1d  # not installed on every machine that runs the GPU check

    groups, _ = kmeans1d.cluster(values, min(count, len(np.unique(values))))
    return np.asarray(groups)
