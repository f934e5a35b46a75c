"""A contrastive loss between patches: attention pooling over chunks of a map, and InfoNCE with a queue of keys."""

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_attention(features: Tensor) -> Tensor:
    """Computes (B, 1, H, W) weights of 0 or more: the similarity of each position's features to the image's mean.

    Args:
        features: (B, C, H, W); they get no gradient from the weights.

    Source: Chen et al. (2021), Eq. 4.
    """
    features = features.detach()
    return (features * features.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True).clamp_min(0)


def pool_chunks(features: Tensor, attention: Tensor, chunks: int) -> Tensor:
    """Averages features over chunks of a map, weighted by attention.

    Args:
        features: (B, C, H, W).
        attention: (B, 1, H, W) weights of 0 or more.
        chunks: Number of rows, and of columns, of chunks; at most those of the map are used.

    Returns:
        (B * rows * columns, C), ordered by image, then row, then column.
    """
    rows, columns = min(chunks, features.shape[2]), min(chunks, features.shape[3])
    weights = attention + 1e-6  # a chunk without attention is averaged evenly
    total = F.adaptive_avg_pool2d(features * weights, (rows, columns))
    pooled = total / F.adaptive_avg_pool2d(weights, (rows, columns))
    return pooled.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])


def contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Computes the () mean InfoNCE loss: the cross-entropy of telling a query's own key from those of the queue.

    Args:
        queries: (N, D), normalised.
        keys: (N, D), normalised: the key of each query.
        queue: (Q, D), normalised: the negative keys.
        temperature: Divides the similarities.

    Source: Chen et al. (2021), Eq. 1.
    """
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
