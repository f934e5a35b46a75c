"""The protocol in one data module: train on a source, tune on a development set, test on several targets.

Source: paper, Sec. 5 (evaluation protocol).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.base import EvaluationSet, SegmentationDataModule, require_least
from datamodules.files import Broken, FilesDataModule
from datamodules.prefetch import Loader
from datamodules.transforms import EvaluationTransform, Resize


class TargetsDataModule(LightningDataModule):
    """Provides source and development set for `fit`, the latter for `validate`, targets for `test` and `predict`.

    Args:
        targets: One or more data sets, tested in one run; scores are reported per target and as their mean.
        source: Data set that `fit` trains on; needed only for `fit`.
        development: Data set that `fit` and `validate` tune on.
        root: Folder with one folder per data set, for data sets without a root of their own; None is
            ``$SEGADAPT_DATA``.
        broken: Overrides the value of every data set, see `FilesDataModule`; None keeps them.
        eval_batch_size: Overrides the value of every data set, see `SegmentationDataModule`; None keeps them.
        evaluation_resize: Overrides the value of every data set, see `EvaluationTransform`; None keeps them.

    Raises:
        ProtocolError: If the source or the development set has the role of a target, without `choose_on_target`.
        ValueError: If there is no target, the data sets disagree on their classes, or an argument is outside its range.
    """

    def __init__(
        self,
        targets: Sequence[SegmentationDataModule],
        source: SegmentationDataModule | None = None,
        development: SegmentationDataModule | None = None,
        root: str | None = None,
        broken: Broken | None = None,
        eval_batch_size: int | None = None,
        evaluation_resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.targets = list(targets)
        self.source = source
        self.development = development
        if not self.targets:
            raise ValueError("targets is empty: expected one target data set or more")
        given = {"source": source, "development": development}
        self._chosen = {place: member for place, member in given.items() if member is not None}
        for place, member in self._chosen.items():
            member.keep_protocol(f"use it as the {place} data set")
        self._members = members = [*self._chosen.values(), *self.targets]
        spaces = {member.labels.names for member in members}
        if len(spaces) > 1:
            found = "; ".join(sorted(f"{len(names)} ({', '.join(names[:3])}, ...)" for names in spaces))
            raise ValueError(
                f"the data sets disagree on their classes: {found}. Give all of them the same num_classes (19 or 16), "
                "or the same classes"
            )
        folders = [target.domain for target in self.targets if isinstance(target, FilesDataModule)]
        repeated = sorted({domain for domain in folders if folders.count(domain) > 1})
        if repeated:
            raise ValueError(
                f"{folders.count(repeated[0])} targets are called {repeated[0]}: expected different names, to tell "
                "their scores apart. Set the domain of each"
            )
        self.normalization = members[0].normalization
        self.num_classes = members[0].num_classes
        self.class_names = members[0].class_names
        self.colours = members[0].colours
        if broken not in (None, *get_args(Broken)):
            raise ValueError(f"broken is {broken!r}: expected one of {', '.join(get_args(Broken))}")
        for member in members:
            if root is not None and getattr(member, "root", root) is None:
                member.root = root  # type: ignore[attr-defined]
            if broken is not None and isinstance(member, FilesDataModule):
                member.broken = broken
            if eval_batch_size is not None:
                require_least(1, eval_batch_size=eval_batch_size)
                member.eval_batch_size = eval_batch_size
            if evaluation_resize is not None:
                member.evaluation_transform = EvaluationTransform(evaluation_resize)

    def setup(self, stage: str) -> None:
        """Passes the trainer to the data sets, which need its rank, limits and device."""
        for member in self._members:
            member.trainer = self.trainer
            member.setup(stage)

    def describe(self) -> dict[str, Any]:
        """Returns a description of the data for reports, in JSON types."""
        described: dict[str, Any] = {place: member.describe() for place, member in self._chosen.items()}
        return described | {"targets": [target.describe() for target in self.targets]}

    def leave_out(self, done: Mapping[str, Collection[str]]) -> None:
        """Sets the finished images that evaluation loaders skip, see `SegmentationDataModule.leave_out`."""
        for member in self._members:
            member.leave_out(done)

    def open_evaluated(self, stage: Literal["validate", "test"]) -> list[EvaluationSet]:
        """Opens the data sets that a run scores: the development set, or all targets."""
        members = [self._choose("development")] if stage == "validate" else self.targets
        return [opened for member in members for opened in member.open_evaluated(stage)]

    def train_dataloader(self) -> DataLoader:
        """Returns the training loader of the source."""
        return self._choose("source").train_dataloader()

    def val_dataloader(self) -> Loader:
        """Returns the validation loader of the development set."""
        return self._choose("development").val_dataloader()

    def test_dataloader(self) -> list[Loader]:
        """Returns the test loader of each target."""
        return [target.test_dataloader() for target in self.targets]

    def predict_dataloader(self) -> list[Loader]:
        """Returns the prediction loader of each target."""
        return [target.predict_dataloader() for target in self.targets]

    def _choose(self, place: str) -> SegmentationDataModule:
        if place not in self._chosen:
            raise ValueError(f"there is no {place} data set: set data.init_args.{place}")
        return self._chosen[place]
