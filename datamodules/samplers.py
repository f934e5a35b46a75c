"""Which samples come when: orders that depend on seed and epoch alone, and shares of processes without padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffles a data set anew each epoch and tells its samples which epoch it is.

    The order depends on the seed and the epoch alone, so training that resumes after an epoch goes on as if it had
    never stopped. Lightning calls `set_epoch`.

    Args:
        size: Number of samples.
        repeats: How many times an epoch goes through the data set (augmented differently each time).
        rank: This process.
        world_size: Number of processes; each gets an equal share, a remainder is left out.
        seed: Of the order.
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
        """Says which epoch the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields (index, pass number over all epochs)."""
        order = []
        for number in range(self.epoch * self.repeats, (self.epoch + 1) * self.repeats):
            generator = np.random.default_rng([self.seed, number])
            order += [(int(index), number) for index in generator.permutation(self.size)]
        yield from order[self.rank : len(self) * self.world_size : self.world_size]


class ShareSampler(Sampler[int]):
    """Deals the batches of a data set out over processes, each exactly once: no padding, so scores are exact.

    Yields single indices. A loader of the same batch size puts them together again as they were, because only the last
    batch of a data set may be smaller.

    Args:
        batches: Indices of the samples of each batch.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, batches: Sequence[Sequence[int]], rank: int = 0, world_size: int = 1) -> None:
        self._indices = [index for batch in batches[rank::world_size] for index in batch]

    def __len__(self) -> int:
        """Returns the number of samples of this process."""
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        """Yields the indices of this process, in order."""
        return iter(self._indices)


class UncountedSampler(Sampler[int]):
    """A share without a length, for when some processes have nothing to do.

    Lightning skips the whole run of a process whose loaders are empty, while the others wait for it and its scores. It
    cannot know that of a loader without a length.

    Args:
        share: Of this process.
    """

    def __init__(self, share: ShareSampler) -> None:
        self._share = share

    def __iter__(self) -> Iterator[int]:
        """Yields the indices of this process, in order."""
        return iter(self._share)


def split_batches(length: int, batch_size: int) -> list[range]:
    """Cuts the indices of a data set into batches, in order; only the last may be smaller.

    What is in a batch thus depends neither on the number of processes nor on what an earlier run has done.
    """
    return [range(start, min(start + batch_size, length)) for start in range(0, length, batch_size)]


def limit_batches(batches: Sequence[range], limit: int | float, world_size: int) -> list[range]:
    """Returns the batches that a run has under ``limit_test_batches`` (or ``val``), in order.

    Args:
        batches: Of the whole data set.
        limit: As the Trainer takes it: a number of batches of each process, or a share of its batches in [0, 1].
        world_size: Number of processes.
    """
    kept: list[range] = []
    for rank in range(world_size):
        share = batches[rank::world_size]
        kept += share[: limit if isinstance(limit, int) else int(len(share) * limit)]
    return sorted(kept, key=lambda batch: batch.start)
