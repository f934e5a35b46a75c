"""Base classes of all data sets: samples, roles, and loaders independent of workers, processes and restarts."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, default_collate

from datamodules.labels import UNKNOWN, LabelSpace, format_ids, look_up
from datamodules.prefetch import DevicePrefetcher, Loader
from datamodules.samplers import EpochSampler, UncountedSampler, limit_batches, share_batches
from datamodules.transforms import MEAN, STD, EvaluationTransform, Resize, TrainingTransform, Transform

Role = Literal["source", "development", "target"]
Split = Literal["train", "val", "test"]
Done = Mapping[str, Collection[str]]  # names of finished images, by domain


class ProtocolError(ValueError):
    """A run would train or tune on the labels of a target."""


ProblemKind = Literal["missing", "unreadable", "size", "id"]


class DataError(ValueError):
    """A file of a data set is missing or invalid; the message names it and says what to do."""

    def __init__(self, message: str, kind: ProblemKind = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Problem:
    """A problem with the files of an image-label pair.

    Attributes:
        name: Name of the pair.
        kind: A ``missing`` file, an ``unreadable`` file, differing ``size``, or an unknown ``id``.
        message: Names the file, what was found and what was expected.
    """

    name: str
    kind: ProblemKind
    message: str


class SegmentationDataset(Dataset[dict[str, Any]], ABC):
    """Image-label pairs as samples {image, mask, name}, or images alone as {image, size, name}.

    Keys are an index or (index, epoch). The augmentation of a sample depends only on its index, the epoch and the seed.

    Args:
        domain: Name of the data set, under which its scores are reported.
        table: (256,) or (65536,) uint8 lookup from stored ids to labels, see `LabelSpace.table`.
        transform: Transform applied to each pair.
        seed: Seed of the augmentation.
        labelled: Whether samples have a mask.

    Attributes:
        role: Role of the data set in the protocol; tuning on a ``target`` is an error. None lifts this check.
        hint: Advice appended to errors about ids that the data set does not define.
    """

    role: Role | None = None
    hint: str = ""

    def __init__(
        self, domain: str, table: np.ndarray, transform: Transform, seed: int = 0, labelled: bool = True
    ) -> None:
        self.domain = domain
        self.table = table
        self.transform = transform
        self.seed = seed
        self.labelled = labelled

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of pairs."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns the name of a pair, which is unique in the data set and may be a relative path (with /)."""

    @abstractmethod
    def load_image(self, index: int) -> np.ndarray:
        """Returns an (H, W, 3) uint8 RGB image."""

    @abstractmethod
    def load_ids(self, index: int) -> np.ndarray:
        """Returns the (H', W') uint8 or uint16 ids of the pixels as the data set stores them."""

    def load_mask(self, index: int) -> np.ndarray:
        """Returns the (H', W') uint8 labels of the pixels, 255 where ignored.

        Raises:
            DataError: If a pixel has an id that the data set does not define.
        """
        return self.convert_ids(index, self.load_ids(index))

    def convert_ids(self, index: int, ids: np.ndarray) -> np.ndarray:
        """Converts the (H, W) ids of a pair to labels, like `load_mask`."""
        mask = look_up(ids, self.table)
        if (mask == UNKNOWN).any():
            raise DataError(self.explain_ids(index, np.unique(ids[mask == UNKNOWN])), "id")
        return mask

    def load_pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an image and its labels.

        Raises:
            DataError: If the two differ in size, or one of them cannot be read.
        """
        image, mask = self.load_image(index), self.load_mask(index)
        if image.shape[:2] != mask.shape:
            raise DataError(self.explain_sizes(index, image.shape, mask.shape), "size")
        return image, mask

    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes with the images; a resumed run must find the same one."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(f"{self.describe_pair(index)}\n".encode())
        return digest.hexdigest()

    def describe_pair(self, index: int) -> str:
        """Returns text that changes with the pair, without reading its files; here its name."""
        return self.name(index)

    def where(self, index: int) -> str:
        """Returns the location of a pair, for error messages."""
        return f"{self.name(index)} of {self.domain}"

    def explain_ids(self, index: int, found: Iterable[int]) -> str:
        """Returns the message about ids that the data set does not define."""
        known = format_ids(np.flatnonzero(self.table != UNKNOWN))
        message = f"{self.where(index)}: the labels contain the ids {format_ids(found)}, expected only {known}"
        return f"{message}. {self.hint}" if self.hint else message

    def explain_sizes(self, index: int, image: Sequence[int], mask: Sequence[int]) -> str:
        """Returns the message about an image and labels of different (height, width, ...) shapes."""
        return (
            f"{self.where(index)}: the image has {image[1]}x{image[0]} pixels (WxH), its labels have "
            f"{mask[1]}x{mask[0]}: expected the same size"
        )

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Returns ``image`` (3, H, W) float32 normalised, ``mask`` (H', W') int64 and ``name``.

        Without labels, ``size`` (2,) int64 replaces the mask: height and width of the image before resizing.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.domain} has {len(self)} images: there is no image {index}")
        if not self.labelled:
            assert isinstance(self.transform, EvaluationTransform)
            pixels = self.load_image(index)
            image = self.transform.transform_image(pixels)
            return {"image": image, "size": torch.tensor(pixels.shape[:2]), "name": self.name(index)}
        pixels, mask = self.load_pair(index)
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        image, labels = self.transform(pixels, mask, seed)
        return {"image": image, "mask": labels, "name": self.name(index)}


class EvaluationSet(NamedTuple):
    """A data set that a `validate` or `test` run scores.

    Attributes:
        datamodule: The data module it belongs to.
        dataset: The opened data set.
        batches: Sample indices of each batch of the run, over all processes.
    """

    datamodule: "SegmentationDataModule"
    dataset: SegmentationDataset
    batches: list[list[int]]


class SegmentationDataModule(LightningDataModule, ABC):
    """One data set and its role in the protocol.

    Training (`fit`) or tuning (validation in `fit`, `validate`, a sweep) on the labels of a target is an error.

    Args:
        num_classes: 19, or 16 for the classes shared with SYNTHIA.
        batch_size: Images per batch and process in training.
        eval_batch_size: Images per batch and process in validation, test and prediction.
        num_workers: Worker processes per loader.
        crop_size: (height, width) of training crops.
        crop_scale: Range of the crop area as a fraction of the image area.
        blur_sigma: Range of the standard deviation of the training blur in pixels.
        repeats: Number of passes over the data set per training epoch.
        seed: Seed of the sample order and the augmentation.
        classes: Replaces `num_classes`: class names, each with the Cityscapes classes that it merges. Cityscapes
            classes that are not listed are ignored.
        evaluation_resize: How to resize images of more than 1024x2048 pixels for the network, or a (height, width)
            whose pixel count is the limit instead, see `EvaluationTransform`; scores are at ground-truth size.
        choose_on_target: Breaks the protocol: allows training and tuning on a target. Recorded in results.json.

    Attributes:
        role: ``source``, ``development`` or ``target``.
        test_split: The split that `test` and `predict` read.
        normalization: Mean and standard deviation of RGB in [0, 1], used to normalise samples.

    Raises:
        ValueError: If an argument is outside its range.

    Source: paper, Sec. 5 (evaluation protocol).
    """

    role: Role = "source"
    test_split: Split = "test"
    normalization: ClassVar[dict[str, list[float]]] = {"mean": list(MEAN), "std": list(STD)}

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
        classes: dict[str, list[str]] | None = None,
        evaluation_resize: Resize = "protocol",
        choose_on_target: bool = False,
    ) -> None:
        super().__init__()
        require_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size, repeats=repeats)
        require_least(0, num_workers=num_workers)
        self.labels = LabelSpace.of_size(num_classes) if classes is None else LabelSpace.of_classes(classes)
        self.num_classes = len(self.labels.names)
        self.class_names = list(self.labels.names)
        self.colours = list(self.labels.colours)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.repeats = repeats
        self.seed = seed
        self.choose_on_target = choose_on_target
        self.training_transform = TrainingTransform(crop_size, crop_scale, blur_sigma)
        self.evaluation_transform = EvaluationTransform(evaluation_resize)
        self._done: Done | Callable[[], Done] = {}
        self._opened: dict[Split, EvaluationSet] = {}

    def leave_out(self, done: Done | Callable[[], Done]) -> None:
        """Sets the names of finished images by domain; evaluation loaders skip batches of finished images alone.

        Every process calls a function when it creates its loaders, before it opens the data, so it may wait for the
        other processes.
        """
        self._done = done
        self._opened = {}

    def open_evaluated(self, stage: Literal["validate", "test"]) -> list[EvaluationSet]:
        """Opens the data sets that a run scores; its loaders reuse them."""
        split: Split = "val" if stage == "validate" else self.test_split
        dataset = self.make_dataset(split, self.evaluation_transform)
        batches = self._split(dataset)
        if self.trainer is not None:
            limit = self.trainer.limit_val_batches if stage == "validate" else self.trainer.limit_test_batches
            batches = limit_batches(batches, 1.0 if limit is None else limit, self.trainer.world_size)
        self._opened[split] = EvaluationSet(self, dataset, batches)
        return [self._opened[split]]

    @abstractmethod
    def make_dataset(self, split: Split, transform: Transform, labelled: bool = True) -> SegmentationDataset:
        """Opens one split of the data set, with or without its labels."""

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        return {
            "domain": getattr(self, "domain", type(self).__name__),
            "role": self.role,
            "classes": self.num_classes,
            "evaluation_resize": self.evaluation_transform.resize,
            "choose_on_target": self.choose_on_target,
        }

    def train_dataloader(self) -> DataLoader:
        """Returns the loader of augmented, shuffled training crops."""
        self.keep_protocol("train on it")
        if isinstance(self.training_transform, TrainingTransform):
            self.training_transform.prepare()  # here, not in each worker
        dataset = self.make_dataset("train", self.training_transform)
        sampler = EpochSampler(len(dataset), self.repeats, *self._find_rank(), seed=self.seed)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"{dataset.domain} gives this process {len(sampler)} training images, fewer than one batch of "
                f"{self.batch_size}: lower batch_size, or use more images or repeats"
            )
        return self._load(dataset, sampler, self.batch_size, drop_last=True)

    def val_dataloader(self) -> Loader:
        """Returns the loader of the validation split: whole images, in order."""
        self.keep_protocol("tune on it (checkpoint, settings, early stopping)")
        return self._load_for_evaluation("val")

    def test_dataloader(self) -> Loader:
        """Returns the loader of the test split: whole images, in order."""
        if os.environ.get("WANDB_SWEEP_ID"):
            self.keep_protocol("let a sweep tune on it")
        return self._load_for_evaluation(self.test_split)

    def predict_dataloader(self) -> Loader:
        """Returns the loader of the test split without labels: whole images, in order."""
        return self._load_for_evaluation(self.test_split, labelled=False)

    def keep_protocol(self, what: str) -> None:
        """Raises ProtocolError if the data set is a target, and what a run would do with it breaks the protocol."""
        in_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
        if self.role == "target" and (in_sweep or not self.choose_on_target):
            domain = getattr(self, "domain", type(self).__name__)
            way_out = "; in a sweep there is no other way"
            if not in_sweep:
                way_out = ", or, to break the protocol on purpose, set choose_on_target=true"
            raise ProtocolError(
                f"{domain} is a target of the protocol, and this run would {what}: models are trained on a source, "
                "tuned on a development set, and only tested on targets. Use another data set (for your own images, "
                f"set role){way_out}"
            )

    def _load_for_evaluation(self, split: Split, labelled: bool = True) -> Loader:
        done_by_domain = self._done() if callable(self._done) else self._done
        opened = self._opened.pop(split, None) if labelled else None
        dataset = opened.dataset if opened else self.make_dataset(split, self.evaluation_transform, labelled)
        if len(dataset) == 0:
            raise ValueError(f"the {split} split of {dataset.domain} has no images: expected one or more")
        batches = self._split(dataset)
        if done_by_domain:
            done = done_by_domain.get(dataset.domain, ())
            planned = opened.batches if opened else batches  # otherwise Lightning applies the limit
            batches = [batch for batch in planned if not all(dataset.name(index) in done for index in batch)]
        rank, world_size = self._find_rank()
        indices = share_batches(batches, rank, world_size)
        uncounted = labelled and len(batches) < world_size
        loader = self._load(dataset, UncountedSampler(indices) if uncounted else indices, self.eval_batch_size)
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return loader if device is None or device.type != "cuda" else DevicePrefetcher(loader, device)

    def _load(
        self, dataset: SegmentationDataset, sampler: Sampler | list[int], batch_size: int, drop_last: bool = False
    ) -> DataLoader:
        dataset.role = None if self.choose_on_target else self.role
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            drop_last=drop_last,
            persistent_workers=drop_last and self.num_workers > 0,  # training reuses its workers each epoch
            collate_fn=collate,
        )

    def _split(self, dataset: SegmentationDataset) -> list[list[int]]:
        """Splits a data set into batches, in order, the same for any number of processes; the last may be smaller."""
        return list(BatchSampler(range(len(dataset)), self.eval_batch_size, drop_last=False))

    def _find_rank(self) -> tuple[int, int]:
        """Returns (rank, world size) of this process."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def require_least(least: int, **values: int) -> None:
    """Raises ValueError if one of some named values is below the least that is allowed."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples into a batch.

    Raises:
        ValueError: If the samples differ in size.
    """
    for key in ("image", "mask"):
        shapes = sorted({tuple(sample[key].shape[-2:]) for sample in samples if key in sample})
        if len(shapes) > 1:
            raise ValueError(
                f"a batch contains {key}s of different sizes ({', '.join(f'{h}x{w}' for h, w in shapes)}): expected "
                "one size; set eval_batch_size to 1"
            )
    return default_collate(samples)
