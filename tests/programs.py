"""Runs main.py and the programs of experiments/ in processes of their own that start at once.

Importing what they import takes longer than most of these runs. So multiprocessing's fork server imports it once for
each test process, and forks for every program. A forked program has what `python main.py ...` has: arguments, folder,
environment, output, Ctrl-C, exit code. The processes that Lightning starts for `--trainer.devices=2` are forked from
the program that starts them.
"""

import atexit
import contextlib
import functools
import multiprocessing.forkserver
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

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(command: Sequence[str], folder: Path, output: Path = Path(os.devnull), **options: Any) -> Process:
    """Starts in a folder what would follow `python`: `main.py ARGUMENT ...`, `-m experiments.NAME ...` or `-c CODE`.

    Stdout is added to `output`, stderr too, or to the option `errors`. `new_session=True` makes it lead a group of
    processes; `environment` replaces this process's.
    """
    request = {"command": command, "folder": folder, "output": output, "environment": dict(os.environ), **options}
    process = _start_server().Process(target=run_here, args=(request,))
    process.start()
    return Process(process.pid, lambda _: process.exitcode)


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
def _start_server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main"])  # which is what takes so long
    with contextlib.chdir(ROOT):
        multiprocessing.forkserver.ensure_running()
    return context


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


def collect(pid: int) -> int | None:
    """Returns the exit code of a child, negative if a signal ended it, or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def run_program(command: Sequence[str]) -> None:
    """Runs what `python COMMAND` runs; the processes that Lightning starts are forked from this one."""
    import torch
    from pytorch_lightning.strategies.launchers import subprocess_script

    torch.set_num_threads(1)  # a process with more cannot be forked safely

    def popen(words: Sequence[str], env: Mapping[str, str], cwd: None) -> Process:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            run_here({"command": words[1:], "environment": env})
        return Process(pid, collect)

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
