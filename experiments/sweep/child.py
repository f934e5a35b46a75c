"""Runs main.py as a process of its own: watched while it runs, ended when its parent stops."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.parent_death import end_with_parent

POLL = 0.3  # seconds between two looks at a child
PATIENCE = ((signal.SIGINT, 20.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))  # how a child is ended, in seconds
LAST_LINES = 15  # of a child that says nothing of an error
OF_AN_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
OFFLINE = ("offline", "dryrun", "disabled")


class ChildError(RuntimeError):
    """main.py ended with an error; the message is its own."""


def make_environment() -> dict[str, str]:
    """Returns the environment of a child: Weights & Biases stays offline, and it is no run of an agent."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_AN_AGENT}
    if environment.get("WANDB_MODE") not in OFFLINE:
        environment["WANDB_MODE"] = "offline"
    return environment | {"WANDB_SILENT": "true"}


def run_child(
    command: Sequence[str], log: Path, watch: Callable[[], None], environment: Mapping[str, str] | None = None
) -> None:
    """Runs a command to its end.

    Args:
        command: What to run.
        log: Where its output goes, behind that of earlier runs.
        watch: Called while it runs, and once at its end. If it raises, or on Ctrl-C, the child is ended first.
        environment: Of the child.

    Raises:
        ChildError: If it ends with an error; has the child's message.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment or make_environment()),
            process_group=0,  # a Ctrl-C in the terminal does not reach it: it is sent on, once
            preexec_fn=end_with_parent(),
        )
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
            watch()
        watch()
    except BaseException:
        end(process)
        raise
    if process.returncode != 0:
        with log.open("rb") as said:
            said.seek(start)
            raise ChildError(read_error(said.read().decode(errors="replace")) or f"exit code {process.returncode}")


def end(process: subprocess.Popen) -> None:
    """Ends a child and its own children: by Ctrl-C, so that it writes what it has; else less kindly."""
    for number, seconds in PATIENCE:
        send(process, number)
        try:
            process.wait(seconds)
            break
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: no more patience with this way
            continue
    send(process, signal.SIGKILL)  # to what is left of its group


def send(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a child and its own children, if there are any left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def read_error(output: str) -> str:
    """Returns what main.py says of an error, or its last lines."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if re.match(r"(\S+: )?error: ", line)]
    said = lines[starts[-1] :] if starts else lines[-LAST_LINES:]
    return re.sub(r"^(\S+: )?error: ", "", "\n".join(said))
