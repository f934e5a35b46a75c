"""Runs checks one after another, whatever becomes of each, and writes what is known after every row."""

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
LEAST_SECONDS = 3.0  # that are left for a check to start
GRACE = 20.0  # seconds after which a check that cannot be interrupted ends the process
TITLES = {"step": "name", "result": "state", "seconds": "seconds", "error": "error"}  # of the first table


class OutOfTimeError(BaseException):
    """A check has reached its limit; no `Exception`, so that nothing on the way takes it for a fault of its own."""


@dataclass(frozen=True)
class Check:
    """One thing to check or to time.

    Attributes:
        name: For `--only`, and in the table.
        run: Yields rows as they are known. A row with ``ok`` is a check, one without it a measurement.
        seconds: Limit.
        proves: What is right if it passes; None where it only measures, so that a failure leaves the exit status alone.
    """

    name: str
    run: Callable[[Setup], Iterator[Row]]
    seconds: float
    proves: str | None = None


class Report:
    """What is known: printed as it comes, and kept up to date in `gpu_check.json` and `gpu_check.md`.

    Args:
        folder: For the two files.
        machine: What the figures were measured on.
        start: Time of `time.monotonic` from which seconds count; None is now.

    Attributes:
        steps: What became of each check, as the file has it. Its ``state`` is ``running`` (in a file that is left so,
            the process was killed), ``ok``, ``FAILED``, ``out of time`` or ``not run``.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any], start: float | None = None) -> None:
        self.folder = folder
        self.machine = dict(machine)
        self.steps: list[dict[str, Any]] = []
        self._start = time.monotonic() if start is None else start

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed, or did not end."""
        return [step["name"] for step in self.steps if step["ok"] is False and not step["timing"]]

    def run_all(self, checks: Sequence[Check], setup: Setup, seconds: float) -> None:
        """Runs checks in their order while there is time; the rest is listed as not run."""
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
        except BaseException as error:  # what is known stays, and the other checks can still tell something
            step |= {"ok": False, "state": "out of time" if isinstance(error, OutOfTimeError) else "FAILED"}
            step["error"] = traceback.format_exception_only(error)[-1].strip()
            step["traceback"] = traceback.format_exc()
            if not isinstance(error, Exception | OutOfTimeError):  # somebody stops the process
                raise
        finally:
            step["seconds"] = round(time.monotonic() - start, 2)
            self._write()
            reason = f": {step['error']}" if step["error"] else ""
            self._print(f"{step['state']:<8} {check.name} ({step['seconds']:.1f} s){reason}")

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)

    def _write(self) -> None:
        data = {"machine": self.machine, "failed": self.failed, "steps": self.steps}
        write_json(self.folder / "gpu_check.json", data)
        write_file(self.folder / "gpu_check.md", format_page(self.machine, self.steps).encode())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OutOfTimeError` in the main thread after some seconds; ends the process should that have no effect."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"it takes more than its {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def format_value(value: Any) -> str:
    """Formats a value of a row: three or four digits of a number, ``yes`` and ``NO`` for a truth."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return "" if value is None else str(value)


def format_row(row: Row) -> str:
    """Formats a row for the terminal."""
    cells = [f"{key} {format_value(value)}" for key, value in row.items() if key != "ok" and value is not None]
    return ("" if row.get("ok", True) else "WRONG: ") + ", ".join(cells)


def format_page(machine: Mapping[str, Any], steps: Sequence[Row]) -> str:
    """Formats all that is known as Markdown: the machine, the checks, and a table of the rows of each."""
    parts = ["# GPU check", "\n".join(f"- {key}: {format_value(value)}" for key, value in machine.items())]
    parts.append(format_table([{title: step[key] for title, key in TITLES.items()} for step in steps]))
    for step in steps:
        if step["rows"]:
            parts += [f"## {step['name']}", format_table(step["rows"])]
        if step["traceback"]:
            parts += [f"Traceback of {step['name']}:", f"```text\n{step['traceback'].rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def format_table(rows: Sequence[Row]) -> str:
    """Formats rows as a Markdown table with a column per key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[format_value(row.get(key)).replace("|", "\\|").replace("\n", " ") for key in keys] for row in rows]
    return format_markdown(keys, cells)
