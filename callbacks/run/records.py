"""Building blocks of every run's records: provenance, JSON values, and files that are written atomically."""

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.method import Method


def find_method(trainer: Trainer) -> Method | None:
    """Returns the method among a trainer's callbacks, if there is one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Method)), None)  # type: ignore[attr-defined]


def leave_out(trainer: Trainer, done: Mapping[str, set[str]] | Callable[[], Mapping[str, set[str]]]) -> None:
    """Tells the datamodule which images to skip, if it supports that, see `SegmentationDataModule.leave_out`."""
    tell = getattr(getattr(trainer, "datamodule", None), "leave_out", None)
    if tell is not None:
        tell(done)


def find_folder(trainer: Trainer, folder: str | None) -> Path:
    """Returns a run's folder: the given one, else the logger's, else `outputs/results`; every process must call it."""
    return Path(trainer.strategy.broadcast(str(folder or find_log_folder(trainer) or "outputs/results")))


def find_log_folder(trainer: Trainer) -> Path | None:
    """Returns the run's own folder of its first logger, where the checkpoints also are; None without a logger.

    Weights & Biases' logger has one folder for all runs, with a subfolder per project and run. The function does not
    communicate, so the first process may call it alone; only the result there is valid.
    """
    if not trainer.loggers:
        return None
    logger = trainer.loggers[0]
    if logger.log_dir is not None:
        return Path(logger.log_dir)
    place = Path(logger.save_dir or trainer.default_root_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return place / str(logger.name) / version


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads one record per line; skips a last line that a kill cut off.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records


def write_file(path: Path, data: bytes) -> None:
    """Writes a file atomically: a kill at any moment leaves no partial file.

    Raises:
        OSError: If the file cannot be written; the message says which file and why.
    """
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; the file atomically replaces `path` at the end of the ``with`` block.

    Raises:
        OSError: If the file cannot be written; the message says which file and why.
    """
    part = path.with_name(f".{shorten_name(path.name)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(
            f"{path} cannot be written ({error.strerror}): expected a writable folder on a disk with free space. "
            "Earlier output is kept: free some space, then run the same command again, or choose another folder"
        ) from error


def shorten_name(name: str) -> str:
    """Shortens an image name for use as a file name: file systems allow 255 bytes, including the suffix.

    Args:
        name: Name of the image; a last component of 200 bytes or more is cut, and a hash of it is appended.
    """
    folder, slash, last = name.rpartition("/")
    if len(last.encode()) < 200:
        return name
    return f"{folder}{slash}{last.encode()[:160].decode(errors='ignore')}-{hashlib.sha1(last.encode()).hexdigest()}"


def number_files(paths: Sequence[Path]) -> int | None:
    """Renames files of an earlier run, in order: inserts the same unused number before the suffix of each.

    Args:
        paths: Existing files and folders.

    Returns:
        The number; None without files.
    """
    if not paths:
        return None
    number = 1
    while any(path.with_suffix(f".{number}{path.suffix}").exists() for path in paths):
        number += 1
    for path in paths:
        path.rename(path.with_suffix(f".{number}{path.suffix}"))
    return number


def to_plain(value: Any) -> Any:
    """Converts a value to types of strict JSON: NaN and infinity become None, unknown objects strings."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def describe_run(trainer: Trainer, module: LightningModule, found: int) -> dict[str, Any]:
    """Returns a run's entry in the manifest: date, commit, versions, device, processes and checkpoint.

    Args:
        trainer: The run's Trainer.
        module: The run's module, on its device.
        found: Number of images that were done before this run.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": find_commit(),
        "versions": {"torch": torch.__version__, "pytorch_lightning": pytorch_lightning.__version__},
        "device": name_device(module),
        "processes": trainer.world_size,
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "found": found,
    }


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if the file is missing or invalid."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Writes a value as strict JSON (see `to_plain`), atomically."""
    write_file(path, (json.dumps(to_plain(value), indent=1) + "\n").encode())


def find_commit() -> str | None:
    """Returns the commit of the checkout, with a + if it has uncommitted changes; None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def name_device(module: LightningModule) -> str:
    """Returns the name of the GPU that a module is on, or the device type and the number of CPU threads."""
    if module.device.type == "cuda":
        return torch.cuda.get_device_name(module.device)
    threads = torch.get_num_threads()
    return f"{module.device.type}, {threads} thread{'s' if threads > 1 else ''}"
