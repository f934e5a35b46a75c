"""Error handling across the processes of a run: an error on one ends all, and none outlives its parent."""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NoReturn

import torch.distributed
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from lightning_modules.processes import are_several

PARENT = "SEGADAPT_PARENT"  # id of the process that starts the other processes of a run
PROGRAM = "SEGADAPT_PROGRAM"  # id of a program that starts a training
GRACE = 10.0  # seconds a process has to stop by itself once its parent is gone


class OtherProcessError(RuntimeError):
    """An error occurred on another process of the run."""


@contextmanager
def all_or_none(trainer: Trainer) -> Iterator[None]:
    """Runs a block on every process of a run, then synchronises them: an error on one is raised on all.

    Every process must enter the block, and the block must not wait for another process.

    Raises:
        OtherProcessError: On processes without an error of their own, with the message of the first that failed.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if are_several():
        texts: list[str | None] = [None] * trainer.world_size
        torch.distributed.all_gather_object(texts, None if error is None else str(error) or type(error).__name__)
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if failed and error is None:
            raise OtherProcessError(f"{texts[failed[0]]} (on rank {failed[0]}; ranks 0 to {trainer.world_size - 1})")
    if error is not None:
        raise error


def gather_sets(sets: dict[str, set[str]]) -> dict[str, set[str]]:
    """Returns the union of the sets of all processes, by key; every process must call it."""
    if not are_several():
        return sets
    found: list[dict[str, set[str]]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(found, sets)
    return {key: set().union(*(each.get(key, set()) for each in found)) for key in {*chain(*found)}}


def watch_parent() -> None:
    """Ends this process when its parent ends, if it was started as part of a run or as a training.

    It first gets SIGTERM, on which it saves its results. If it does not stop, for example because it waits for a
    process that is gone, it is killed `GRACE` seconds later.
    """
    program = os.environ.pop(PROGRAM, None)  # removed: children of this process may outlive it
    if "LOCAL_RANK" in os.environ:
        parent: str | None = os.environ.get(PARENT, str(os.getppid()))  # torchrun does not set it
    else:
        parent, os.environ[PARENT] = program, str(os.getpid())
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True, name="parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


SAYING = (  # errors whose message needs no traceback
    ValueError, TypeError, OSError, ModuleNotFoundError, MisconfigurationException, OtherProcessError,
)  # fmt: skip


NO_SHARED_MEMORY = r"out of shared memory|allocate shared memory|unable to write to file </torch_"  # torch's messages
WAYS_TO_SHARE = (
    "the data loader's workers ran out of shared memory (/dev/shm): expected space for a few batches per worker. "
    "Start Docker with --shm-size=8g or --ipc=host, or use no workers: --data.num_workers=0"
)


def run_to_end(program: Callable[[], object]) -> None:
    """Runs the program of this process; on an error, prints a message and exits with a non-zero status."""
    watch_parent()
    try:
        program()
    except SIGTERMException:  # results are saved; uncaught, it would exit with 0
        end(143)  # 128 + SIGTERM
    except SAYING as error:
        sys.stderr.write(f"error: {explain_error(error)}\n")  # in one piece: other processes write there too
        end(1)
    except Exception as error:
        if re.search(NO_SHARED_MEMORY, str(error)):
            print(f"error: {WAYS_TO_SHARE}", file=sys.stderr)
            end(1)
        traceback.print_exc()
        end(1)


def explain_error(error: Exception) -> str:
    """Returns an error's message, without the traceback that a data loader's worker puts before it."""
    return re.sub(r"(?s)^Caught (\w+) in .*\n\S*\b\1: ", "", str(error)).strip()


def end(code: int) -> NoReturn:
    """Exits this process; at once if it is one of several, because cleaning up could wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if are_several():
        os._exit(code)
    sys.exit(code)
