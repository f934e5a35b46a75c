"""Ends a child process when its parent is killed in a way that leaves it no time to do so itself."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> Callable[[], None] | None:
    """Returns a `preexec_fn` of subprocess by which Linux sends SIGTERM to the child once its parent has died.

    A run then stops as soon as it can and leaves its folder to the same command started again. The parent is the
    thread that started the child: it has to wait for it.

    Returns:
        None on systems that have no such signal: there the child works on to its end.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
