"""Runs main.py and the programs of experiments/ in processes of their own that start at once.

Importing what they import takes longer than most of these runs. A server imports it once for each test process, and
forks for every program. A forked program has what `python main.py ...` has: arguments, folder, environment, output,
Ctrl-C, exit code. The processes that Lightning starts for `--trainer.devices=2` are forked from the program that starts
them.
"""

import atexit
import functools
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np

ROOT = Path(__file__).parent.parent


class Process:
    """A forked program, with the words of subprocess.Popen."""

    def __init__(self, pid: int, look: Callable[[int], int | None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._look = look

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._look(self.pid)
        return self.returncode

    def wait(self, timeout: float = 280) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# What tests call.


def start(command: Sequence[str], folder: Path, output: Path = Path(os.devnull), **options: Any) -> Process:
    """Starts a program.

    Args:
        command: What would follow `python`: `main.py ARGUMENT ...`, `-m experiments.NAME ARGUMENT ...` or `-c CODE`.
        folder: The working directory.
        output: The file that stdout is added to, and stderr.
        **options: `errors`, the file that stderr is added to instead; `new_session=True`, to lead a group of processes;
            `environment`, in place of this process's.
    """
    request = {"command": list(command), "folder": str(folder), "output": str(output), "environment": dict(os.environ)}
    request |= {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return Process(_ask(request), _ask)


def run(command: Sequence[str], folder: Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, as subprocess.run does with `capture_output` and `text`; asserts its exit code."""
    with TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        process = start(command, folder, output, errors=errors)
        try:
            found = process.wait(280)
        finally:
            process.kill()
        texts = [file.read_text(encoding="utf-8") for file in (output, errors)]
    assert code in (found, None), texts[1]
    return subprocess.CompletedProcess(list(command), found, *texts)


@functools.cache
def _start_server() -> subprocess.Popen[str]:
    command, environment = [sys.executable, "-m", "tests.programs"], os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)  # ends with its stdin


def _ask(request: Any) -> Any:
    server = _start_server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


# The server, and the programs that it forks.


def serve() -> None:
    """Answers each line: forks for a request, and says of the number of a process whether it has ended, and how."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else is to write among the answers
    for line in sys.stdin:
        request = json.loads(line)
        answer = collect(request) if isinstance(request, int) else fork(request)
        print(json.dumps(answer), file=answers, flush=True)


def collect(pid: int) -> int | None:
    """Returns the exit code of a child, negative if a signal ended it, or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def fork(request: Mapping[str, Any]) -> int:
    """Forks a process that carries out a request; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        run_here(request)
    return pid


def run_here(request: Mapping[str, Any]) -> NoReturn:
    """Makes this process the program of a request, from its start to its exit."""
    code: Any = 0
    try:
        if request.get("new_session"):
            os.setsid()
        if "folder" in request:
            os.chdir(request["folder"])
            output, append = request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(output, append), 1)
            os.dup2(os.open(request.get("errors", output), append), 2)
            os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(request["environment"])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
        random.seed()
        np.random.seed()
        run_program(request["command"])
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_program(command: Sequence[str]) -> None:
    """Runs what `python COMMAND` runs; the processes that Lightning starts are forked from this one."""
    from pytorch_lightning.strategies.launchers import subprocess_script

    def popen(words: Sequence[str], env: Mapping[str, str], cwd: None) -> Process:
        return Process(fork({"command": words[1:], "environment": dict(env)}), collect)

    subprocess_script.subprocess = type("Forks", (), {"Popen": staticmethod(popen)})  # type: ignore[assignment]
    kind, *rest = command
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / kind), *rest]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    import torch

    import main  # noqa: F401 (this is what takes so long)

    torch.set_num_threads(1)  # a process with more cannot be forked safely
    from tests import programs  # the functions of a module that stays, whatever a program makes of `__main__`

    programs.serve()
