"""Forked programs behave as those that `python` starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.tiny import ROOT


def test_a_forked_program_has_its_own_arguments_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_HERE", "1")
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['ONLY_HERE'], __name__); sys.exit(7)"
    done = programs.run(["-c", code, "a", "b c"], tmp_path)
    assert done.stdout == f"['-c', 'a', 'b c'] {tmp_path} 1 __main__\n" and not done.stderr
    assert done.returncode == 7 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("sys.exit('error: no')", 1, "error: no"),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("os.kill(os.getpid(), 15)", -15, ""),
        ("atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
    ],
)
def test_a_forked_program_ends_as_it_would(end: str, code: int, message: str, tmp_path: Path) -> None:
    done = programs.run(["-c", f"import atexit, os, sys; {end}"], tmp_path)
    assert done.returncode == code and done.stderr.strip().splitlines()[-1:] == ([message] if message else [])


def test_a_group_of_programs_is_ended_by_one_signal(tmp_path: Path) -> None:
    process = programs.start(["-c", "import time; time.sleep(60)"], tmp_path, new_session=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("command", [["main.py", "test", "--method=Foo"], ["-m", "experiments.protocol"]], ids=" ".join)
def test_python_and_a_fork_say_the_same(command: list[str], tmp_path: Path) -> None:
    forked = programs.run(command, tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, *([str(ROOT / command[0]), *command[1:]] if command[0] == "main.py" else command)]
    real = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (forked.returncode, forked.stdout) == (real.returncode, real.stdout)
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]
