"""Locks a folder for one run; the kernel releases the lock however the process ends."""

import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from os import getpid
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

LOCK = ".lock"


class FolderInUseError(OSError):
    """Another run is writing to the folder."""


class FolderLock:
    """A lock on a folder, held from `acquire` until `release` or the death of the process.

    The file `.lock` names the holder. A file left behind by a killed process does not lock the folder.

    Args:
        folder: The folder to lock; `acquire` creates it if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._lock = FileLock(self.path, blocking=False, fallback_to_soft=False)

    def acquire(self) -> None:
        """Locks the folder; on a file system without locks, only warns.

        Raises:
            FolderInUseError: If another run holds the lock, in this process or another; the message names it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._lock.is_locked:
            try:
                self._lock.acquire()
            except Timeout as error:
                with suppress(FileNotFoundError):  # its holder has just released it: try again
                    holder = self.path.read_text(errors="replace").strip() or "an unknown process"
                    raise FolderInUseError(
                        f"another run is writing to {self.path.parent}: {holder}. Expected a separate folder for "
                        "each run: wait until that run has ended, or set another results.folder"
                    ) from error
            except OSError as error:
                rank_zero_warn(
                    f"{self.path.parent} cannot be locked ({error.strerror}): make sure that no other run writes there"
                )
                return
        self.path.write_text(describe_process())

    def release(self) -> None:
        """Unlocks the folder, if it is locked."""
        if self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()  # before unlocking, so that waiting processes see that it is gone
            self._lock.release()


def describe_process() -> str:
    """Returns this process's id, machine, time and command, for the error that other runs get."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    return f"process {getpid()} on {socket.gethostname()}, since {since} ({command})\n"
