"""The folder that `predict` writes to: the files of each image, finished images, and protection of earlier outputs."""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from callbacks.run.folder import Key, RunFolder
from callbacks.run.records import shorten_name
from callbacks.run.settings import WAYS_OUT, check_settings

Output = Literal["labels", "train_ids", "overlays", "confidence"]
SUFFIXES: dict[Output, str] = {"labels": ".png", "train_ids": ".png", "overlays": ".jpg", "confidence": ".png"}

THREADS = 2
WAITING = 6  # images that may be queued for writing


class PredictionFolder(RunFolder):
    """A folder with outputs by kind, domain and name, a manifest, and a record per image, written before its files.

    An image is done if it has a record and all its files. Files that `predict` did not write therefore never count,
    and overwriting does not delete them.

    Args:
        root: The folder; it need not exist.
        outputs: The kinds of files to write for each image.
    """

    records_name = "predictions.jsonl"
    manifest_name = "predictions.json"

    def __init__(self, root: Path, outputs: Sequence[Output]) -> None:
        super().__init__(root)
        self.outputs = outputs

    def paths(self, domain: str, name: str) -> dict[Output, Path]:
        """Returns the paths of an image's files, by kind.

        Raises:
            ValueError: If the domain or the name leads out of the folder.
        """
        parts = PurePosixPath(name).parts
        if (
            not parts
            or ".." in parts
            or name.startswith("/")
            or len(PurePosixPath(domain).parts) != 1
            or domain == ".."
        ):
            raise ValueError(
                f"image {name!r} of {domain!r} cannot be a file in {self.root}: expected a domain without / and a name "
                "that is a relative path"
            )
        file = shorten_name(name)
        return {output: self.root / output / domain / f"{file}{SUFFIXES[output]}" for output in self.outputs}

    def check_apart(self, source: Path | None) -> None:
        """Raises ValueError if the folder lies inside the images' folder, as later runs would read its outputs."""
        if source is None:
            return
        inner, outer = self.root.expanduser().resolve(), source.expanduser().resolve()
        if inner.is_relative_to(outer):
            raise ValueError(
                f"the results would be written to {self.root}, inside {source}, from which images are read: later runs "
                "would read them as images. Set results.folder to a folder outside of it"
            )

    def prepare(self, settings: Mapping[str, Any], overwrite: bool, keeps_knowledge: bool) -> list[dict[str, Any]]:
        """Prepares the folder for a run, which replaces earlier predictions or resumes them.

        Args:
            settings: Settings of this run.
            overwrite: Whether to delete earlier predictions.
            keeps_knowledge: Whether a prediction depends on the images before it.

        Returns:
            The earlier runs that this one resumes, as the manifest describes them.

        Raises:
            ValueError: If the manifest is invalid, or the predictions have other settings or cannot be resumed.
            FileExistsError: If there are outputs without a manifest, so that their settings are unknown.
        """
        manifest, path = self.read_manifest(), self.manifest
        if overwrite:
            self.remove(manifest)
            return []
        if manifest is None:
            if path.exists():
                raise ValueError(f"{path} is not a manifest of predictions: expected {WAYS_OUT} to replace it")
            for output in self.outputs:
                for found in sorted((self.root / output).rglob(f"*{SUFFIXES[output]}")):
                    raise FileExistsError(
                        f"{self.root} has files like {found.relative_to(self.root)} but no {path.name} that says how "
                        f"they were made: expected {WAYS_OUT} to replace what is there"
                    )
            return []
        if not self.read_records():
            return []  # nothing was predicted, so other settings do no harm
        check_settings(self.root, "predictions", manifest["settings"], settings)
        if keeps_knowledge and not manifest.get("complete"):
            raise ValueError(
                f"{self.root} has predictions of an interrupted run of a method that keeps knowledge between "
                f"images, which is lost, so it cannot be resumed. Expected {WAYS_OUT} to start over"
            )
        return manifest["runs"]

    def read_records(self) -> dict[Key, dict[str, Any]]:
        """Returns the last record of each image, from all processes."""
        return {image: json.loads(line) for image, line in self.read_lines()}

    def merge_records(self) -> None:
        """Merges the last record of each image into one sorted file."""
        self.merge(sorted(dict(self.read_lines()).items()))

    def find_done(self) -> dict[str, set[str]]:
        """Returns the names of the finished images by domain, without those whose input file has changed since."""
        done: dict[str, set[str]] = {}
        for (domain, name), record in self.read_records().items():
            there = all(path.exists() for path in self.paths(domain, name).values())
            if there and not has_changed(record.get("image")):
                done.setdefault(domain, set()).add(name)
        return done

    def remove(self, manifest: Mapping[str, Any] | None) -> None:
        """Deletes the outputs and records of earlier runs, and nothing else."""
        outputs = manifest["settings"]["outputs"] if manifest else []
        earlier = PredictionFolder(self.root, outputs)
        for domain, name in self.read_records():
            for path in earlier.paths(domain, name).values():
                path.unlink(missing_ok=True)
        for path in (self.records(0), *self.list_rank_files()):
            path.unlink(missing_ok=True)


def describe_image(path: Path | None) -> dict[str, Any] | None:
    """Returns path, size and modification time of an image file, to detect later changes; None if it is no file."""
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return {"path": str(path.resolve()), "bytes": found.st_size, "changed_ns": found.st_mtime_ns}


def has_changed(image: Mapping[str, Any] | None) -> bool:
    """Returns whether an image file changed since its prediction; a missing or moved file counts as unchanged."""
    found = None if image is None else describe_image(Path(image["path"]))
    return found is not None and found != image


class Writers:
    """Threads that write files while the network predicts.

    The queue of jobs is bounded. The error of a job is raised by a later `add`, or at the latest by `finish`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        self._jobs: deque[Future[None]] = deque()

    def add(self, write: Callable[..., None], *args: Any) -> None:
        """Queues a job; waits while the queue is full."""
        while self._jobs and (len(self._jobs) >= WAITING or self._jobs[0].done()):
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(write, *args))

    def finish(self) -> None:
        """Waits for all jobs and raises the first error."""
        while self._jobs:
            self._jobs.popleft().result()
        self._pool.shutdown()

    def abandon(self) -> None:
        """Waits for all jobs and ignores their errors."""
        wait(self._jobs)
        self._jobs.clear()
        self._pool.shutdown()
