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
from types import FrameType
from typing import Any

from callbacks.run.records import write_file, write_json
from experiments.gpu_check.subjects import Setup
from experiments.pages import format_markdown

Row = dict[str, Any]
LEAST_SECONDS = 3.0  # least time left for a check to start
GRACE = 20.0  # seconds past its limit after which a check that cannot be interrupted ends the process
TITLES = {"step": "name", "result": "state", "seconds": "seconds", "error": "error"}  # columns of the first table


class OutOfTimeError(BaseException):
    """A check has exceeded its time limit; not an `Exception`, so that no `except Exception` catches it."""


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

    Args:
        folder: Folder of the two files.
        machine: Description of the machine.
        start: Start of the time limit, as a value of `time.monotonic`; None for now.

    Attributes:
        steps: The result of each check, as in the file. Its ``state`` is ``running`` (the process was killed if the
            file still says so), ``ok``, ``FAILED``, ``out of time`` or ``not run``.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any], start: float | None = None) -> None:
        self.folder = folder
        self.machine = dict(machine)
        self.steps: list[dict[str, Any]] = []
        self._start = time.monotonic() if start is None else start

    @property
    def failed(self) -> list[str]:
        """Names of the checks, but not timings, that failed or ran out of time."""
        return [step["name"] for step in self.steps if step["ok"] is False and not step["timing"]]

    @property
    def not_run(self) -> list[str]:
        """Names of the checks, but not timings, that were not run because no time was left."""
        return [step["name"] for step in self.steps if step["state"] == "not run" and not step["timing"]]

    def run_all(self, checks: Sequence[Check], setup: Setup, seconds: float) -> None:
        """Runs checks in order while there is time; the rest are recorded as not run."""
        for check in checks:
            left = seconds - (time.monotonic() - self._start)
            step: dict[str, Any] = {"name": check.name, "limit": round(min(check.seconds, left), 1)}
            step |= {"timing": check.proves is None, "state": "running", "seconds": 0.0, "rows": []}
            step |= {"error": None, "traceback": None, "ok": None}
            self.steps.append(step)
            if left < LEAST_SECONDS:
                step |= {"state": "not run", "error": "out of time"}
            else:
                self._run(check, setup, step)
            self._write()

    def _run(self, check: Check, setup: Setup, step: dict[str, Any]) -> None:
        proves = f": {check.proves}" if check.proves else ""
        self._print(f"start    {check.name} (at most {step['limit']:.0f} s){proves}")
        self._write()
        start = time.monotonic()
        try:
            with limited(step["limit"]):
                for row in check.run(setup):
                    step["rows"].append(row)
                    self._print(f"         {format_row(row)}")
                    self._write()
            step["ok"] = all(row.get("ok", True) for row in step["rows"])
            step["state"] = "ok" if step["ok"] else "FAILED"
        except BaseException as error:  # keep the rows so far, and run the other checks
            step |= {"ok": False, "state": "out of time" if isinstance(error, OutOfTimeError) else "FAILED"}
            step["error"] = traceback.format_exception_only(error)[-1].strip()
            step["traceback"] = traceback.format_exc()
            if not isinstance(error, Exception | OutOfTimeError):  # the process is being stopped
                raise
        finally:
            step["seconds"] = round(time.monotonic() - start, 2)
            self._write()
            reason = f": {step['error']}" if step["error"] else ""
            self._print(f"{step['state']:<8} {check.name} ({step['seconds']:.1f} s){reason}")

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)

    def _write(self) -> None:
        data = {"machine": self.machine, "failed": self.failed, "not_run": self.not_run, "steps": self.steps}
        write_json(self.folder / "gpu_check.json", data)
        write_file(self.folder / "gpu_check.md", format_checks(self.machine, self.steps).encode())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OutOfTimeError` in the main thread after some seconds; ends the process if that has no effect."""

    def stop(number: int, frame: FrameType | None) -> None:
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
    parts.append(format_check_rows([{title: step[key] for title, key in TITLES.items()} for step in steps]))
    for step in steps:
        if step["rows"]:
            parts += [f"## {step['name']}", format_check_rows(step["rows"])]
        if step["traceback"]:
            parts += [f"Traceback of {step['name']}:", f"```text\n{step['traceback'].rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def format_check_rows(rows: Sequence[Row]) -> str:
    """Formats rows as a Markdown table with a column per key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[format_cell(row.get(key)).replace("|", "\\|").replace("\n", " ") for key in keys] for row in rows]
    return format_markdown(keys, cells)
