"""One run per folder: a lock that the kernel releases, however the process ends."""

import fcntl
import os
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

LOCK = ".lock"

_held: set[int] = set()


class FolderInUseError(OSError):
    """Another run is writing into a folder."""


class FolderLock:
    """A lock on a folder, held from `acquire` to `release` or to the death of the process.

    The file `.lock` says who holds it. Left behind by a killed process it locks nobody out: what counts is the lock of
    the kernel on it (`flock`), not the file.

    Args:
        folder: To lock; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Locks the folder; on a file system without locks, warns and goes on.

        Raises:
            FolderInUseError: If another run holds it, in this process or another; says which.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "a process that did not say who"
                os.close(descriptor)
                raise FolderInUseError(
                    f"another run is writing into {self.path.parent}: {holder}. Expected a folder of its own for each "
                    "run: wait until that one has ended, or set another results.folder"
                ) from error
            except OSError as error:
                rank_zero_warn(
                    f"{self.path.parent} cannot be locked ({error.strerror}): see to it that no second run writes there"
                )
            if self._is_current(descriptor):
                self._descriptor = descriptor
                _held.add(descriptor)
            else:
                os.close(descriptor)  # its holder removed the file in between
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, describe_process().encode(), 0)

    def release(self) -> None:
        """Unlocks the folder, if it is locked."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            self.path.unlink()  # while it is locked: whoever has opened it looks whether it is still there
        os.close(self._descriptor)
        _held.discard(self._descriptor)
        self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        """Returns whether the file that was opened is still the one in the folder."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False


def describe_process() -> str:
    """Returns process, machine, time and command, for the error of those who find a folder locked."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
    return f"process {os.getpid()} on {socket.gethostname()}, since {since} ({command})\n"


def _close_in_child() -> None:
    """Gives up the copies in a forked process, such as a loader's: they would hold a lock beyond the run's death."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
