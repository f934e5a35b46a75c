"""One run per folder: a lock that the kernel releases, however the process ends."""

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
    """Another run is writing into a folder."""


class FolderLock:
    """A lock on a folder, held from `acquire` to `release` or to the death of the process.

    The file `.lock` says who holds it. Left behind by a killed process it locks nobody out.

    Args:
        folder: To lock; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._lock = FileLock(self.path, blocking=False, fallback_to_soft=False)

    def acquire(self) -> None:
        """Locks the folder; on a file system without locks, warns and goes on.

        Raises:
            FolderInUseError: If another run holds it, in this process or another; says which.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._lock.is_locked:
            try:
                self._lock.acquire()
            except Timeout as error:
                with suppress(FileNotFoundError):  # its holder has just released it: try again
                    holder = self.path.read_text(errors="replace").strip() or "a process that did not say who"
                    raise FolderInUseError(
                        f"another run is writing into {self.path.parent}: {holder}. Expected a folder of its own for "
                        "each run: wait until that one has ended, or set another results.folder"
                    ) from error
            except OSError as error:
                rank_zero_warn(
                    f"{self.path.parent} cannot be locked ({error.strerror}): see to it that no second run writes there"
                )
                return
        self.path.write_text(describe_process())

    def release(self) -> None:
        """Unlocks the folder, if it is locked."""
        if self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()  # while it is locked: whoever waits for it sees that it is gone
            self._lock.release()


def describe_process() -> str:
    """Returns process, machine, time and command, for the error of those who find a folder locked."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    return f"process {getpid()} on {socket.gethostname()}, since {since} ({command})\n"
