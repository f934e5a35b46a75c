"""A `validate` or `test` run in its folder: the images to score, and those that are scored already."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.run.folder import Key, Line, RunFolder, open_folder, set_aside
from callbacks.run.records import describe_run, write_json
from callbacks.run.settings import find_stage, keeps_knowledge


@dataclass
class ScoringRun:
    """The images of a run, and their records in its folder.

    Attributes:
        batches: The images (domain and name) of each batch, over all processes, in order.
        available: Number of images in the data sets, before any limit on batches.
        resumable: Whether images that are scored already can be skipped.
        folder: The run's folder, locked by the first process from `open` on.
        done: Names of the images that were scored before this run, by domain.
    """

    batches: list[list[Key]]
    available: int
    resumable: bool
    folder: RunFolder = field(default_factory=lambda: RunFolder(Path()))
    done: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, evaluated: Sequence[Any]) -> "ScoringRun":
        """Builds a run from the data sets that the datamodule opened, see `describe_evaluation`."""
        batches = [
            [(dataset.domain, dataset.name(index)) for index in batch]
            for _, dataset, indices in evaluated
            for batch in indices
        ]
        images = list(chain(*batches))
        domains = [dataset.domain for _, dataset, _ in evaluated]
        distinct = len(set(images)) == len(images) and len(set(domains)) == len(domains)
        return cls(batches, sum(len(dataset) for _, dataset, _ in evaluated), bool(images) and distinct)

    @property
    def images(self) -> list[Key]:
        """All images, in order."""
        return list(chain(*self.batches))

    @property
    def nothing_left(self) -> bool:
        """Whether all images were scored before this run."""
        return bool(self.done) and sum(map(len, self.done.values())) == len(self.images)

    def open(
        self, trainer: Trainer, module: LightningModule, own: Path, given: bool, overwrite: bool, settings: Any
    ) -> None:
        """Opens the folder on the first process (see `open_folder`), finds finished images, writes the manifest."""
        self.folder, runs = open_folder(own, given, overwrite, settings)
        try:
            lines = self.folder.read_lines()
            done = self.find_done(lines) if self.resumable else []
            reason = self.explain_restart(trainer, lines, done)
            if reason is not None:
                rank_zero_warn(
                    f"{self.folder.root}: {len(lines)} images are already scored, but {reason}: all are predicted again"
                )
                set_aside(self.folder.root)
                runs, done = [], []
            self.folder.merge(done)
            if done:
                rank_zero_info(f"{self.folder.root}: {len(done)} of {len(self.images)} images are already scored")
            manifest = {"settings": settings, "runs": [*runs, describe_run(trainer, module, len(done))]}
            write_json(self.folder.manifest, manifest)
        except BaseException:
            self.folder.lock.release()
            raise
        for (domain, name), _ in done:
            self.done.setdefault(domain, set()).add(name)

    def find_done(self, lines: Sequence[Line]) -> list[Line]:
        """Returns the records of complete batches, in order; partly scored batches are predicted again."""
        found = dict(lines)
        done = [batch for batch in self.batches if all(image in found for image in batch)]
        return [(image, found[image]) for image in chain(*done)]

    def explain_restart(self, trainer: Trainer, lines: Sequence[Line], done: Sequence[Line]) -> str | None:
        """Explains why the existing records cannot be kept; None if they can, or if there are none.

        Args:
            trainer: The run's Trainer.
            lines: All records.
            done: The records of complete batches.
        """
        if not lines:
            return None
        if not self.resumable:
            return "these data cannot skip them (expected a datamodule of this project, with distinct names)"
        stage = find_stage(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if stage in getattr(callback, "needs_every_image", ()):
                return f"{type(callback).__name__} needs every image in the run"
            if keeps_knowledge(callback) and len(done) < len(self.images):
                return f"{type(callback).__name__} KEEPS KNOWLEDGE between images, which was lost when the run stopped"
        return None

    def share(self, trainer: Trainer) -> None:
        """Broadcasts the folder and the finished images from the first process to the others."""
        root, self.done = trainer.strategy.broadcast((self.folder.root, self.done))
        if not trainer.is_global_zero:
            self.folder = RunFolder(root)

    def read_lines(self) -> list[Line]:
        """Returns the records of the run's images, in order; sorted by name if several processes wrote in any order."""
        lines = self.folder.read_lines()
        if not self.resumable:
            return sorted(lines, key=lambda line: line[0]) if self.folder.list_rank_files() else lines
        found = dict(lines)
        return [(image, found[image]) for image in self.images if image in found]

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the records of the run's images, parsed, in order."""
        return (json.loads(line) for _, line in self.read_lines())

    def merge(self, trainer: Trainer) -> bool:
        """Merges the records of all processes into one file; returns whether every image has one.

        Raises:
            FileNotFoundError: If the first process does not see the file of another process.
        """
        for path in map(self.folder.records, range(trainer.world_size)):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} does not exist: expected a results.folder that is visible on all machines"
                )
        lines = self.read_lines()
        self.folder.merge(lines)
        return not self.resumable or len(lines) == len(self.images)

    def describe_limit(self) -> dict[str, int] | None:
        """Returns how many of the available images a limit on batches leaves; None if it leaves all."""
        images = len(self.images)
        return {"images": images, "of": self.available} if images < self.available else None
