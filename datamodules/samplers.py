"""Samplers: training orders that depend only on seed and epoch, and evaluation split over processes, unpadded."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffles a data set anew each epoch and yields each index with the number of the pass over the data set.

    The order depends only on the seed and the epoch, so training that resumes after an epoch continues as if it had
    never stopped. Lightning calls `set_epoch`.

    Args:
        size: Number of samples.
        repeats: Number of passes over the data set per epoch (augmented differently each time).
        rank: Rank of this process.
        world_size: Number of processes; each gets an equal share, the remainder is dropped.
        seed: Seed of the order.
    """

    def __init__(self, size: int, repeats: int = 1, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        self.size = size
        self.repeats = repeats
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Returns the number of samples of this process."""
        return self.size * self.repeats // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields (index, number of the pass counted over all epochs)."""
        order = []
        for number in range(self.epoch * self.repeats, (self.epoch + 1) * self.repeats):
            generator = np.random.default_rng([self.seed, number])
            order += [(int(index), number) for index in generator.permutation(self.size)]
        yield from order[self.rank : len(self) * self.world_size : self.world_size]


class UncountedSampler(Sampler[int]):
    """Indices without a length, for runs in which some processes have no batches.

    Lightning skips the whole run of a process whose loaders have length 0, while the other processes wait for its
    scores. It does not skip a loader without a length.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        """Yields the indices in order."""
        return iter(self._indices)


def share_batches(batches: Sequence[Sequence[int]], rank: int, world_size: int) -> list[int]:
    """Returns the indices in the batches of one process; each batch belongs to one, without padding: scores are exact.

    A loader of the same batch size rebuilds the same batches, because only the last batch of a data set may be smaller.
    """
    return [index for batch in batches[rank::world_size] for index in batch]


def limit_batches(batches: Sequence[list[int]], limit: int | float, world_size: int) -> list[list[int]]:
    """Returns the batches left by Lightning's ``limit_test_batches`` or ``limit_val_batches``, in order.

    Args:
        batches: Batches of the whole data set.
        limit: The Trainer's value: a number of batches per process (int), or a fraction of them in [0, 1] (float).
        world_size: Number of processes.
    """
    kept: list[list[int]] = []
    for rank in range(world_size):
        share = batches[rank::world_size]
        kept += share[: limit if isinstance(limit, int) else int(len(share) * limit)]
    return sorted(kept)
