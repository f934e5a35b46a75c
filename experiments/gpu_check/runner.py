"""Runs steps one after another, whatever becomes of each, and writes what is known after every row."""

import faulthandler
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from callbacks.run.records import to_plain, write_file

Row = dict[str, Any]
LEAST_SECONDS = 3.0  # that are left for a step to start
GRACE = 20.0  # seconds after which a step that cannot be interrupted ends the process


class OutOfTimeError(BaseException):
    """A step has reached its limit; no `Exception`, so that nothing on the way takes it for a fault of its own."""


@dataclass(frozen=True)
class Step:
    """One thing to check or to time.

    Attributes:
        name: For `--only`, and in the table.
        run: Yields rows as they are known. A row with ``ok`` is a check, one without it a measurement.
        seconds: Limit.
        timing: Whether a failure leaves the exit status alone, as nothing is wrong but that a figure is missing.
    """

    name: str
    run: Callable[[], Iterator[Row]]
    seconds: float
    timing: bool = False


@dataclass
class Outcome:
    """What became of a step.

    Attributes:
        name: Of the step.
        limit: In seconds.
        timing: As in `Step`.
        state: ``running`` (in a file that is left so the process was killed), ``ok``, ``FAILED``, ``out of time`` or
            ``not run``.
        seconds: That it took.
        rows: What it yielded.
        error: The last line of the traceback; None without one.
        traceback: All of it.
    """

    name: str
    limit: float
    timing: bool
    state: str = "running"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    error: str | None = None
    traceback: str | None = None

    @property
    def ok(self) -> bool | None:
        """Whether all went well; None if the step has not ended."""
        return None if self.state in ("running", "not run") else self.state == "ok"


class Runner:
    """Runs steps, prints as it goes, and keeps `gpu_check.json` and `gpu_check.md` up to date.

    Args:
        folder: For the two files.
        machine: What the figures were measured on.
        seconds: For all steps together.
        start: Time of `time.monotonic` from which they count; None is now.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any], seconds: float, start: float | None = None) -> None:
        self.folder = folder
        self.machine = dict(machine)
        self.outcomes: list[Outcome] = []
        self._start = time.monotonic() if start is None else start
        self._seconds = seconds
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed, or did not end."""
        return [outcome.name for outcome in self.outcomes if outcome.ok is False and not outcome.timing]

    def run_all(self, steps: Sequence[Step]) -> None:
        """Runs steps in their order while there is time; the rest is listed as not run."""
        for step in steps:
            left = self._seconds - (time.monotonic() - self._start)
            outcome = Outcome(step.name, round(min(step.seconds, left), 1), step.timing)
            self.outcomes.append(outcome)
            if left < LEAST_SECONDS:
                outcome.state, outcome.error = "not run", "out of time"
                self._print(f"not run  {step.name}: out of time")
            else:
                self._run(step, outcome)
            self.write()

    def _run(self, step: Step, outcome: Outcome) -> None:
        self._print(f"start    {step.name} (at most {outcome.limit:.0f} s)")
        self.write()
        start = time.monotonic()
        try:
            with limited(outcome.limit):
                for row in step.run():
                    outcome.rows.append(row)
                    self._print(f"         {format_row(row)}")
                    self.write()
            outcome.state = "ok" if all(row.get("ok", True) for row in outcome.rows) else "FAILED"
        except OutOfTimeError:
            outcome.state, outcome.error = "out of time", f"it takes more than its {outcome.limit:.0f} s"
            outcome.traceback = traceback.format_exc()
        except Exception as error:  # whatever it is, the other steps can still tell something
            outcome.state, outcome.error = "FAILED", traceback.format_exception_only(error)[-1].strip()
            outcome.traceback = traceback.format_exc()
        except BaseException as error:  # somebody stops the process: what is known stays
            outcome.state, outcome.error = "FAILED", f"stopped by {type(error).__name__}"
            outcome.traceback = traceback.format_exc()
            raise
        finally:
            outcome.seconds = round(time.monotonic() - start, 2)
            self.write()
            reason = f": {outcome.error}" if outcome.error else ""
            self._print(f"{outcome.state:<8} {step.name} ({outcome.seconds:.1f} s){reason}")

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)

    def write(self) -> None:
        """Writes both files."""
        steps = [{**asdict(outcome), "ok": outcome.ok} for outcome in self.outcomes]
        data = {"machine": self.machine, "failed": self.failed, "steps": steps}
        write_file(self.folder / "gpu_check.json", json.dumps(to_plain(data), indent=1, default=str).encode())
        write_file(self.folder / "gpu_check.md", format_page(self.machine, self.outcomes).encode())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `OutOfTimeError` in the main thread after some seconds; ends the process should that have no effect."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

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


def format_page(machine: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Formats all that is known as Markdown: the machine, the steps, and a table of the rows of each."""
    lines = ["# GPU check", "", *(f"- {key}: {format_value(value)}" for key, value in machine.items()), ""]
    lines += format_table(
        [
            {"step": outcome.name, "result": outcome.state, "seconds": outcome.seconds, "error": outcome.error}
            for outcome in outcomes
        ]
    )
    for outcome in outcomes:
        if outcome.rows:
            lines += ["", f"## {outcome.name}", "", *format_table(outcome.rows)]
        if outcome.traceback:
            lines += ["", f"Traceback of {outcome.name}:", "", "```text", outcome.traceback.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def format_table(rows: Sequence[Row]) -> list[str]:
    """Formats rows as a Markdown table with a column per key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[format_value(row.get(key)).replace("|", "\\|").replace("\n", " ") for key in keys] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (keys, ["---"] * len(keys), *cells)]
