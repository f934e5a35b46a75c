"""The protocol in one datamodule: train on a source, choose on a development set, test on several targets.

Source: paper, Sec. 5 (evaluation protocol).
"""

from collections.abc import Sequence

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.base import SegmentationDataModule


class TargetsDataModule(LightningDataModule):
    """Serves `fit` from the source and the development set, `validate` from the latter, `test` from all targets.

    Args:
        targets: One or more, tested in one run and reported each and as their mean.
        source: What `fit` trains on; not needed for anything else.
        development: What `fit` and `validate` choose on.

    Raises:
        ValueError: If there is no target, or the data sets disagree on the number of classes.
    """

    def __init__(
        self,
        targets: Sequence[SegmentationDataModule],
        source: SegmentationDataModule | None = None,
        development: SegmentationDataModule | None = None,
    ) -> None:
        super().__init__()
        self.targets = list(targets)
        self.source = source
        self.development = development
        if not self.targets:
            raise ValueError("targets is empty: expected one target data set or more")
        members = self._members()
        sizes = sorted({member.num_classes for member in members})
        if len(sizes) > 1:
            raise ValueError(f"the data sets disagree on num_classes ({sizes}): give all of them 19, or all of them 16")
        self.num_classes = members[0].num_classes
        self.class_names = members[0].class_names
        self.colours = members[0].colours

    def _members(self) -> list[SegmentationDataModule]:
        return [member for member in (self.source, self.development, *self.targets) if member is not None]

    def setup(self, stage: str) -> None:
        """Hands the trainer on to the data sets, which ask it for their share."""
        for member in self._members():
            member.trainer = self.trainer
            member.setup(stage)

    def train_dataloader(self) -> DataLoader:
        """Returns the source's training crops."""
        return self._required("source").train_dataloader()

    def val_dataloader(self) -> DataLoader:
        """Returns the development set."""
        return self._required("development").val_dataloader()

    def test_dataloader(self) -> list[DataLoader]:
        """Returns the test split of each target."""
        return [target.test_dataloader() for target in self.targets]

    def predict_dataloader(self) -> list[DataLoader]:
        """Returns the images of each target."""
        return [target.predict_dataloader() for target in self.targets]

    def _required(self, role: str) -> SegmentationDataModule:
        member = getattr(self, role)
        if member is None:
            raise ValueError(f"there is no {role} data set: set data.init_args.{role}")
        return member
