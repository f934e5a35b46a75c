"""Stages of a prediction, which methods mark and a profiler can observe."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

Observer = Callable[[str], AbstractContextManager[Any]]

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Enters `observer(name)` around each stage that runs within a ``with`` block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def stage(name: str) -> AbstractContextManager[Any]:
    """Marks a stage of a prediction: ``views``, ``fusion``, ``step``, ``final`` or ``restore``."""
    observer = _observer.get()
    return nullcontext() if observer is None else observer(name)
