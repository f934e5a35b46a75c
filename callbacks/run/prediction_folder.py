"""The folder that `predict` writes to: which files an image gets, what is done, and what may not be overwritten."""

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from callbacks.run.lock import FolderLock
from callbacks.run.records import read_manifest, read_records, shorten_name, write_file, write_manifest
from callbacks.run.settings import WAYS_OUT

Output = Literal["labels", "train_ids", "overlays", "confidence"]
SUFFIXES: dict[Output, str] = {"labels": ".png", "train_ids": ".png", "overlays": ".jpg", "confidence": ".png"}

MANIFEST = "predictions.json"
RECORDS = "predictions.jsonl"
THREADS = 2
WAITING = 6  # how many images may wait to be written

Key = tuple[str, str]  # domain and name of an image


class PredictionFolder:
    """Outputs by kind, domain and name; a manifest of settings; and a line per image, written before its files.

    An image is done if it has a line and all its files. So files that were not written by `predict` never count, and
    replacing removes nothing else.

    Args:
        root: The folder; need not exist.
        outputs: The kinds of files that each image gets.
    """

    def __init__(self, root: Path, outputs: Sequence[Output]) -> None:
        self.root = root
        self.outputs = outputs
        self.lock = FolderLock(root)

    def records(self, rank: int) -> Path:
        """Returns the file of the lines of a process."""
        return self.root / (RECORDS if rank == 0 else f"predictions.rank{rank}.jsonl")

    def paths(self, domain: str, name: str) -> dict[Output, Path]:
        """Returns the files of an image.

        Raises:
            ValueError: If domain or name lead out of the folder.
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
        """Raises ValueError if the folder lies in one that images are read from: a later run would read its outputs."""
        if source is None:
            return
        inner, outer = self.root.expanduser().resolve(), source.expanduser().resolve()
        if inner.is_relative_to(outer):
            raise ValueError(
                f"the results would be written to {self.root}, which lies in {source}, where images are read: later "
                "runs would take them for images. Set results.folder to one outside of it"
            )

    def check_empty(self) -> None:
        """Raises FileExistsError if there are outputs without a manifest: nobody knows how they were made."""
        for output in self.outputs:
            for path in sorted((self.root / output).rglob(f"*{SUFFIXES[output]}")):
                raise FileExistsError(
                    f"{self.root} holds files like {path.relative_to(self.root)} but no {MANIFEST} that says how they "
                    f"were made: expected {WAYS_OUT} to replace what is there"
                )

    def read_manifest(self, needed: bool = True) -> dict[str, Any] | None:
        """Reads the manifest; None if there is none, or it is spoilt and not needed.

        Raises:
            ValueError: If it is spoilt and needed.
        """
        path = self.root / MANIFEST
        manifest = read_manifest(path)
        if manifest is None and needed and path.exists():
            raise ValueError(f"{path} is no manifest of predictions: expected {WAYS_OUT} to replace what is there")
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest."""
        write_manifest(self.root / MANIFEST, manifest)

    def read_records(self) -> dict[Key, dict[str, Any]]:
        """Returns the last line of each image, of all processes."""
        paths = [self.root / RECORDS, *sorted(self.root.glob("predictions.rank*.jsonl"))]
        records = [record for path in paths if path.exists() for record in read_records(path)]
        return {(record["domain"], record["name"]): record for record in records}

    def merge_records(self) -> None:
        """Leaves one file of lines, sorted, without those that a kill cut off."""
        records = self.read_records()
        text = "".join(json.dumps(records[key]) + "\n" for key in sorted(records))
        write_file(self.root / RECORDS, text.encode())
        for path in self.root.glob("predictions.rank*.jsonl"):
            path.unlink()

    def find_done(self) -> dict[str, set[str]]:
        """Returns the names of the images that are done, by domain."""
        done: dict[str, set[str]] = {}
        for (domain, name), record in self.read_records().items():
            there = all(path.exists() for path in self.paths(domain, name).values())
            if there and not has_changed(record.get("image")):
                done.setdefault(domain, set()).add(name)
        return done

    def remove(self, manifest: Mapping[str, Any] | None) -> None:
        """Removes what earlier runs have written, and nothing else."""
        outputs = manifest["settings"]["outputs"] if manifest else []
        earlier = PredictionFolder(self.root, outputs)
        for domain, name in self.read_records():
            for path in earlier.paths(domain, name).values():
                path.unlink(missing_ok=True)
        for path in (self.root / RECORDS, *self.root.glob("predictions.rank*.jsonl")):
            path.unlink(missing_ok=True)


def describe_image(path: Path | None) -> dict[str, Any] | None:
    """Returns what tells an image file from a later one of the same name; None of what is no file."""
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return {"path": str(path.resolve()), "bytes": found.st_size, "changed_ns": found.st_mtime_ns}


def has_changed(image: Mapping[str, Any] | None) -> bool:
    """Returns whether another image lies where a predicted one lay; one that is gone, or was moved, has not changed."""
    found = None if image is None else describe_image(Path(image["path"]))
    return found is not None and found != image


class Writers:
    """Threads that write while the network predicts.

    A bounded number of jobs waits. The error of a job is raised by a later `add`, at the latest by `finish`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        self._jobs: deque[Future[None]] = deque()

    def add(self, write: Callable[..., None], *args: Any) -> None:
        """Hands over a job; waits if there are too many."""
        while self._jobs and (len(self._jobs) >= WAITING or self._jobs[0].done()):
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(write, *args))

    def finish(self) -> None:
        """Waits for all jobs, and raises the first error."""
        while self._jobs:
            self._jobs.popleft().result()
        self._pool.shutdown()

    def abandon(self) -> None:
        """Waits for all jobs, whatever becomes of them."""
        wait(self._jobs)
        self._jobs.clear()
        self._pool.shutdown()
