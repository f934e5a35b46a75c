"""What all data sets share: samples, roles, and loaders that do not depend on workers, processes or restarts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.labels import LabelSpace
from datamodules.transforms import EvaluationTransform, TrainingTransform, Transform

Role = Literal["source", "development", "target"]
Split = Literal["train", "val", "test"]


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Pairs of image and labels as samples {image, mask, name}.

    Items are asked for by index, or by (index, epoch): the augmentation of a sample depends on its index, the epoch and
    the seed, and on nothing else.

    Args:
        domain: Name of the data set, under which its scores are reported.
        labels: The label space masks are brought to.
        transform: What happens to each pair.
        seed: Of the augmentation.
    """

    def __init__(self, domain: str, labels: LabelSpace, transform: Transform, seed: int = 0) -> None:
        self.domain = domain
        self.labels = labels
        self.transform = transform
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of pairs."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns a name for a pair that is unique in the data set and can be a file name."""

    @abstractmethod
    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an (H, W, 3) uint8 RGB image and its (H', W') uint8 train ids of 19 classes, 255 where ignored."""

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Returns ``image`` (3, H, W) float32 normalised, ``mask`` (H', W') int64 and ``name``."""
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.domain} has {len(self)} images: there is no image {index}")
        pixels, train_ids = self.load(index)
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        image, mask = self.transform(pixels, self.labels.from_train_ids[train_ids], seed)
        return {"image": image, "mask": mask, "name": self.name(index)}


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
    """Deals a data set out over processes, each sample exactly once: no padding, so scores are exact."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self._indices = range(rank, size, world_size)

    def __len__(self) -> int:
        """Returns the number of samples of this process."""
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        """Yields the indices of this process, in order."""
        return iter(self._indices)


class SegmentationDataModule(LightningDataModule, ABC):
    """One data set and its role in the protocol.

    Args:
        num_classes: 19, or 16 for what SYNTHIA knows.
        batch_size: Images per batch and process in training.
        eval_batch_size: Images per batch and process in validation, test and prediction.
        num_workers: Worker processes per loader.
        crop_size: (height, width) of training crops.
        crop_scale: Range of a crop's share of the image's area.
        blur_sigma: Range of the training blur's deviation in pixels.
        repeats: How many times a training epoch goes through the data set.
        seed: Of order and augmentation.
    """

    role: Role = "source"

    def __init__(
        self,
        num_classes: int = 19,
        batch_size: int = 4,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        crop_size: tuple[int, int] = (512, 512),
        crop_scale: tuple[float, float] = (0.08, 1.0),
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        repeats: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("repeats", repeats, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}: expected {least} or more")
        self.labels = LabelSpace.of_size(num_classes)
        self.num_classes = num_classes
        self.class_names = list(self.labels.names)
        self.colours = list(self.labels.colours)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.repeats = repeats
        self.seed = seed
        self.training_transform = TrainingTransform(crop_size, crop_scale, blur_sigma)
        self.evaluation_transform = EvaluationTransform()

    @abstractmethod
    def make_dataset(self, split: Split, transform: Transform) -> SegmentationDataset:
        """Opens one split of the data set."""

    def train_dataloader(self) -> DataLoader:
        """Returns augmented, shuffled training crops."""
        dataset = self.make_dataset("train", self.training_transform)
        sampler = EpochSampler(len(dataset), self.repeats, *self._place(), seed=self.seed)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"{dataset.domain} gives this process {len(sampler)} training images, fewer than one batch of "
                f"{self.batch_size}: lower batch_size, or use more images or repeats"
            )
        return self._load(dataset, sampler, self.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Returns the validation split, whole images in order."""
        return self._load_for_evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """Returns the test split, whole images in order."""
        return self._load_for_evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """Returns the test split, whole images in order."""
        return self._load_for_evaluation("test")

    def _load_for_evaluation(self, split: Split) -> DataLoader:
        dataset = self.make_dataset(split, self.evaluation_transform)
        if len(dataset) == 0:
            raise ValueError(f"the {split} split of {dataset.domain} has no images: expected one or more")
        return self._load(dataset, ShareSampler(len(dataset), *self._place()), self.eval_batch_size)

    def _load(
        self, dataset: SegmentationDataset, sampler: Sampler, batch_size: int, drop_last: bool = False
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            drop_last=drop_last,
            persistent_workers=drop_last and self.num_workers > 0,  # training comes back to its workers each epoch
        )

    def _place(self) -> tuple[int, int]:
        """Returns (rank, world size) of this process."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
