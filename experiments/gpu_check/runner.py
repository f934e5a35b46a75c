"""Runs checks one after another, even if some fail, and saves the results after every row."""

import faulthandler
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from callbacks.run.records import write_file, write_json
from experiments.benchmark.subject import Subject, make_subject
from experiments.pages import format_markdown

Row = dict[str, Any]
LEAST_SECONDS = 3.0  # least time left for a check to start
GRACE = 20.0  # seconds past its limit after which a check that cannot be interrupted ends the process


class OutOfTimeError(BaseException):
    """A check has exceeded its time limit; not an `Exception`, so that no `except Exception` catches it."""


@dataclass(frozen=True)
class Setup:
    """Device to check, and whether networks and images are tiny."""

    device: torch.device
    tiny: bool

    @property
    def network(self) -> str:
        """Name of a network in configs/model."""
        return "deeplabv1_resnet10_small" if self.tiny else "deeplabv1_resnet50"

    def make_subject(self, device: str | torch.device = "cpu", **arguments: Any) -> Subject:
        """Makes a subject with this network, on the device or on the CPU."""
        return make_subject(self.network, (64, 128) if self.tiny else (512, 1024), device, **arguments)


@dataclass(frozen=True)
class Check:
    """One thing to check or to time.

    Attributes:
        name: Name for `--only` and the table.
        run: Yields rows one by one. A row with ``ok`` is a check, one without it a measurement.
        seconds: Time limit.
        proves: What holds if it passes; None for a timing, whose failure does not affect the exit status.
    """

    name: str
    run: Callable[[Setup], Iterator[Row]]
    seconds: float
    proves: str | None = None


class Report:
    """The results so far: printed row by row, and kept up to date in `gpu_check.json` and `gpu_check.md`.

    The ``state`` of a step is ``running`` (the process was killed if the file still says so), ``ok``, ``FAILED``,
    ``out of time`` or ``not run``.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self.folder, self.machine, self.start = folder, machine, time.monotonic()
        self.steps: list[dict[str, Any]] = []

    def list_checks(self, *states: str) -> list[str]:
        """Lists the names of the checks, but not timings, in one of some states."""
        return [step["name"] for step in self.steps if step["state"] in states and not step["timing"]]

    def run_all(self, checks: Sequence[Check], setup: Setup, seconds: float) -> None:
        """Runs checks in order while there is time; the rest are recorded as not run."""
        for check in checks:
            step = {"name": check.name, "timing": check.proves is None, "state": "not run", "error": "out of time"}
            step |= {"seconds": 0.0, "rows": [], "traceback": None}
            self.steps.append(step)
            left = seconds - (time.monotonic() - self.start)
            if left >= LEAST_SECONDS:
                self._run(check, setup, step, min(check.seconds, left))
            self._save()

    def _run(self, check: Check, setup: Setup, step: dict[str, Any], limit: float) -> None:
        step |= {"state": "running", "error": None}
        self._save(f"start    {check.name} (at most {limit:.0f} s){f': {check.proves}' if check.proves else ''}")
        start = time.monotonic()
        try:
            with limited(limit):
                for row in check.run(setup):
                    step["rows"].append(row)
                    self._save(f"         {format_row(row)}")
            step["state"] = "ok" if all(row.get("ok", True) for row in step["rows"]) else "FAILED"
        except BaseException as error:  # keep the rows so far, and run the other checks
            step["state"] = "out of time" if isinstance(error, OutOfTimeError) else "FAILED"
            step["error"] = traceback.format_exception_only(error)[-1].strip()
            step["traceback"] = traceback.format_exc()
            if not isinstance(error, Exception | OutOfTimeError):  # the process is being stopped
                raise
        finally:
            step["seconds"] = round(time.monotonic() - start, 2)
            reason = f": {step['error']}" if step["error"] else ""
            self._save(f"{step['state']:<8} {check.name} ({step['seconds']:.1f} s){reason}")

    def _save(self, line: str | None = None) -> None:
        """Prints a line, and writes both files."""
        if line is not None:
            print(f"[{time.monotonic() - self.start:6.1f} s] {line}", flush=True)
        checks = {"failed": self.list_checks("FAILED", "out of time"), "not_run": self.list_checks("not run")}
        write_json(self.folder / "gpu_check.json", {"machine": self.machine, **checks, "steps": self.steps})
        write_file(self.folder / "gpu_check.md", format_checks(self.machine, self.steps).encode())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OutOfTimeError` in the main thread after some seconds; ends the process if that has no effect."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"it exceeded its limit of {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def format_cell(value: Any) -> str:
    """Formats a value of a row: floats with about four digits, booleans as ``yes`` and ``NO``."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return "" if value is None else str(value)


def format_row(row: Row) -> str:
    """Formats a row for the terminal."""
    cells = [f"{key} {format_cell(value)}" for key, value in row.items() if key != "ok" and value is not None]
    return ("" if row.get("ok", True) else "WRONG: ") + ", ".join(cells)


def format_checks(machine: Mapping[str, Any], steps: Sequence[Row]) -> str:
    """Formats the report as Markdown: the machine, the checks, and a table of each check's rows."""
    parts = ["# GPU check", "\n".join(f"- {key}: {format_cell(value)}" for key, value in machine.items())]
    parts.append(format_rows([{key: step[key] for key in ("name", "state", "seconds", "error")} for step in steps]))
    for step in steps:
        if step["rows"]:
            parts += [f"## {step['name']}", format_rows(step["rows"])]
        if step["traceback"]:
            parts += [f"Traceback of {step['name']}:", f"```text\n{step['traceback'].rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def format_rows(rows: Sequence[Row]) -> str:
    """Formats rows as a Markdown table with a column per key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[format_cell(row.get(key)).replace("|", "\\|").replace("\n", " ") for key in keys] for row in rows]
    return format_markdown(keys, cells)
