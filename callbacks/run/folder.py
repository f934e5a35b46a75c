"""The folder that `validate` and `test` write to: resumes unfinished runs and never overwrites earlier results."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from callbacks.run.lock import FolderInUseError, FolderLock
from callbacks.run.records import number_files, read_mapping, write_file
from callbacks.run.settings import check_settings, find_differences

RECORDS = "records.jsonl"
SUMMARY = "results.json"
RELIABILITY = "reliability.png"
MANIFEST = "run.json"
PANELS = "panels"
GALLERY = "gallery"
REPORT = "report.html"
SEARCH = "search.json"

Key = tuple[str, str]  # domain and name of an image
Line = tuple[Key, bytes]  # an image's record as it stands in a file, with the line break


class RunFolder:
    """A folder with `run.json` (settings and runs), a record per image, and `results.json`, which is written last.

    An image is done if it has a record. Each process writes its own file of records; they are merged when a run ends,
    or when the next one begins. All files are written atomically, except that a kill can cut off a record, which is
    then ignored.

    Args:
        root: The folder; it need not exist.

    Attributes:
        records_name: Name of the file of records.
        manifest_name: Name of the file of settings and runs.
    """

    records_name = RECORDS
    manifest_name = MANIFEST

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = FolderLock(root)

    def records(self, rank: int) -> Path:
        """Returns the path of a process's file of records."""
        path = self.root / self.records_name
        return path if rank == 0 else path.with_suffix(f".rank{rank}.jsonl")

    @property
    def manifest(self) -> Path:
        """The path of the file of settings and runs."""
        return self.root / self.manifest_name

    def read_manifest(self) -> dict[str, Any] | None:
        """Reads the settings and runs; None if there is no valid manifest."""
        manifest = read_mapping(self.manifest)
        return manifest if {"settings", "runs"} <= manifest.keys() else None

    def is_finished(self) -> bool:
        """Returns whether the folder holds the summary of a complete run."""
        return read_mapping(self.root / SUMMARY).get("complete") is True

    def is_unfinished_run_of(self, settings: Mapping[str, Any]) -> bool:
        """Returns whether the folder holds an unfinished run with these settings."""
        manifest = self.read_manifest()
        if manifest is None or find_differences(manifest["settings"], settings):
            return False
        return not self.is_finished()

    def read_lines(self) -> list[Line]:
        """Returns the records of all processes, in file order; skips invalid and truncated lines."""
        paths = [self.records(0), *self.list_rank_files()]
        return [line for path in paths if path.exists() for line in read_valid_lines(path)]

    def list_rank_files(self) -> list[Path]:
        """Lists the record files of all processes but the first, without those that `set_aside` renamed."""
        pattern = Path(self.records_name).with_suffix(".rank*.jsonl")
        return sorted(path for path in self.root.glob(str(pattern)) if path.name.count(".") == 2)

    def merge(self, lines: Iterable[Line]) -> None:
        """Makes these records, in this order, the content of one file, safely against a kill."""
        path, data = self.records(0), b"".join(line for _, line in lines)
        if not path.exists() or path.read_bytes() != data:
            write_file(path, data)
        for other in self.list_rank_files():
            other.unlink()


def open_folder(
    own: Path, given: bool, overwrite: bool, settings: Mapping[str, Any]
) -> tuple["RunFolder", list[dict[str, Any]]]:
    """Chooses and locks the folder of a run; renames the results in it if they belong to another run.

    Args:
        own: The folder that the user chose, or the logger's.
        given: Whether the user chose it. If not, an unfinished run with the same settings is resumed: the one in this
            folder or, if the logger numbers its folders, the newest one next to it. Runs in progress do not count.
        overwrite: Whether to start over in any case.
        settings: Settings of this run.

    Returns:
        The folder, and the earlier runs that this one resumes, as the manifest describes them.

    Raises:
        FolderInUseError: If another run is writing to the folder.
        ValueError: If the user chose a folder with records of other settings.
    """
    folder = RunFolder(own)
    unfinished = None if given or overwrite else find_unfinished([own, *list_siblings(own)], settings)
    if unfinished is None:
        folder.lock.acquire()
    else:
        folder = unfinished
    try:
        return folder, prepare_folder(folder, given, overwrite, settings)
    except BaseException:
        folder.lock.release()
        raise


def find_unfinished(places: Iterable[Path], settings: Mapping[str, Any]) -> "RunFolder | None":
    """Finds and locks the first folder with an unfinished run of these settings that is not in progress."""
    for folder in map(RunFolder, places):
        if not folder.is_unfinished_run_of(settings):
            continue
        try:
            folder.lock.acquire()
        except FolderInUseError:
            continue
        if folder.is_unfinished_run_of(settings):  # checked again under the lock
            return folder
        folder.lock.release()
    return None


def prepare_folder(
    folder: RunFolder, given: bool, overwrite: bool, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Renames the results in a locked folder unless this run resumes them; returns the earlier runs that it resumes."""
    manifest = folder.read_manifest()
    if manifest is None or overwrite:
        set_aside(folder.root)
        return []
    same = not find_differences(manifest["settings"], settings)
    if given and not same and folder.read_lines():  # without records, other settings do no harm
        check_settings(folder.root, "results", manifest["settings"], settings)
    if not same or (folder.is_finished() and not given):
        set_aside(folder.root)
        return []
    return manifest["runs"]


def list_siblings(folder: Path) -> list[Path]:
    """Lists the other folders that a logger has numbered (``version_3``), newest first."""
    numbered = re.compile(r"version_(\d+)")
    if not numbered.fullmatch(folder.name):
        return []
    others = [path for path in folder.parent.iterdir() if path != folder] if folder.parent.is_dir() else []
    found = {int(match[1]): path for path in others if (match := numbered.fullmatch(path.name))}
    return [found[number] for number in sorted(found, reverse=True)]


def read_valid_lines(path: Path) -> Iterator[Line]:
    """Yields a file's records with the domain and name of their images; skips invalid and truncated lines."""
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line) if line.endswith(b"\n") else {}
                yield (record["domain"], record["name"]), line


def set_aside(folder: Path) -> None:
    """Adds a number to the names of an earlier run's results in a folder, so that they are not overwritten."""
    names = (RECORDS, SUMMARY, RELIABILITY, MANIFEST, PANELS, GALLERY, REPORT, SEARCH)
    old = [path for path in map(folder.joinpath, names) if path.exists()] + RunFolder(folder).list_rank_files()
    old.sort(key=lambda path: path.name != MANIFEST)  # goes first: without it there is no run to resume
    number = number_files(old)
    if number is None:
        return
    rank_zero_info(f"{folder} had results of an earlier run: they are renamed with the number {number}")
