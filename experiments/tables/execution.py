"""Runs the missing trainings, selections of settings and tests, each once, optionally several in parallel."""

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from callbacks.run.processes import PROGRAM, watch_parent
from callbacks.run.records import write_file
from experiments.command_line import is_interrupt, quieten
from experiments.protocol import Protocol
from experiments.study import ONLY_SCORES, QUIET
from experiments.tables.results import is_done, read_results
from experiments.tables.runs import Plan, Run, read_defaults, read_method

KINDS = ("train", "select", "test")  # in order of execution; test includes `validate`
KILLED = "its process, or that of a parallel step, was killed: out of memory? Try fewer --jobs"
QUICK = (
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
)  # fmt: skip


class Task(NamedTuple):
    """A training, a selection of settings, or a test."""

    kind: str  # one of KINDS
    experiment: str  # that trains the network
    run: Run | None = None  # of a test

    @property
    def title(self) -> str:
        """Title for display."""
        if self.run is not None:
            return f"{self.experiment}: {'testing' if self.run.stage == 'test' else 'validating'} {self.run.name}"
        return f"{self.experiment}: {'training' if self.kind == 'train' else 'choosing settings'}"

    def list_needed(self, plan: Plan) -> list["Task"]:
        """Returns the tasks that must be done first."""
        if self.run is None:
            return [Task("train", self.experiment)] if self.kind == "select" else []
        needed = [Task("train", network) for network in plan.list_networks(self.run)]
        return needed + [Task("select", self.experiment)] * plan.needs_selection(self.run)


def list_tasks(plan: Plan, runs: Sequence[Run]) -> list[Task]:
    """Lists the tasks for the runs that have no results: trainings first, then selections, then tests."""
    missing = [run for run in sorted(runs, key=lambda run: run.experiment) if not is_done(plan, run)]
    tests = [Task("test", run.experiment, run) for run in missing]
    needed = dict.fromkeys(task for test in tests for task in test.list_needed(plan))
    return sorted([*needed, *tests], key=lambda task: KINDS.index(task.kind))


def run_tasks(plan: Plan, tasks: Sequence[Task], jobs: int) -> list[str]:
    """Runs all tasks, which are sorted by kind, in a number of processes that share the cores.

    Returns:
        The failed tasks with their errors. A failure skips only the tasks that depend on it.
    """
    failed: dict[Task, str] = {}
    begin, left = time.monotonic(), len(tasks)
    with open_pool(plan, jobs) as pool:
        for _, group in groupby(tasks, key=lambda task: task.kind):
            ready = []
            for task in group:
                if failed.keys() & task.list_needed(plan):
                    failed[task] = "a step that it needs failed"
                    left -= 1
                else:
                    ready.append(task)
            for task, error in zip(ready, perform_all(plan, ready, pool), strict=True):
                left -= 1
                if error is not None:
                    failed[task] = error
                minutes, seconds = divmod(int(time.monotonic() - begin), 60)
                outcome = "failed" if error else "done"
                print(f"[{minutes:3d}:{seconds:02d}]  {task.title}: {outcome}; {left} steps left", flush=True)
    return [f"{task.title}: {error}" for task, error in failed.items()]


def perform_all(plan: Plan, tasks: Sequence[Task], pool: Executor | None) -> Iterator[str | None]:
    """Runs independent tasks; yields for each, in order, its error message, or None if it succeeded."""
    done = 0
    try:
        for error in (map if pool is None else pool.map)(partial(perform, plan), tasks):
            done += 1
            yield error
    except BrokenProcessPool:  # fails all remaining tasks; a new start resumes from their files
        yield from [KILLED] * (len(tasks) - done)


@contextmanager
def open_pool(plan: Plan, jobs: int) -> Iterator[Executor | None]:
    """Opens a pool of worker processes, None for one job; kills them and their trainings if this process stops."""
    if jobs == 1:
        yield None
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))  # for torch in the workers
    os.environ[PROGRAM] = str(os.getpid())  # they end with this process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, prepare_worker, (plan.folder / "log.txt",)) as pool:
        try:
            yield pool
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.kill()  # also ends its training, which leaves a checkpoint to resume from
            raise
        finally:
            del os.environ[PROGRAM]


def prepare_worker(log: Path) -> None:
    """Redirects the output of a worker process to a log file, and ends it when its parent ends."""
    watch_parent()
    os.setsid()  # Ctrl-C reaches only the parent
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def perform(plan: Plan, task: Task) -> str | None:
    """Runs one task; returns its error message, or None if it succeeded."""
    quieten()
    os.environ.setdefault("WANDB_MODE", "offline")
    print(f"{task.title} ...", flush=True)
    try:
        protocol = make_protocol(plan, task.experiment)
        if task.kind == "train":
            protocol.train()
        elif task.kind == "select":
            protocol.select()
        elif task.run is not None:
            test(plan, task.run, protocol)
    except (Exception, SystemExit) as error:
        if is_interrupt(error):
            raise
        path = plan.folder / task.experiment / "error.txt"
        write_file(path, traceback.format_exc().encode())
        return f"{type(error).__name__}: {error} (traceback in {path})"
    return None


def make_protocol(plan: Plan, experiment: str) -> Protocol:
    """Builds the protocol of an experiment."""
    options = [*QUIET, *plan.options, *plan.world.list_arguments(experiment)]
    return Protocol(plan.folder / experiment, plan.world.find_config(experiment), options, plan.world.grids)


def list_departures(plan: Plan, run: Run) -> list[str]:
    """Lists the selected settings that a run deliberately does not use."""
    if run.method is None:
        return []
    known, used = read_defaults(read_method(run.method)[0]), plan.list_selected(run)
    return [name for name in plan.read_selection(run.experiment) or {} if name in known and name not in used]


def test(plan: Plan, run: Run, protocol: Protocol) -> None:
    """Tests or validates one run; its network must be trained, and its settings selected if it needs them.

    Raises:
        ValueError: If the run's results cannot be used afterwards.
    """
    members = [str(make_protocol(plan, network).train()) for network in plan.list_networks(run)]
    arguments = [*plan.list_arguments(run, members), *ONLY_SCORES]
    name = plan.find_results(run).name
    if run.stage == "validate":
        protocol.validate(name, arguments)
    else:
        pictured = run.name == "seg_ttt"  # the full Seg-TTT, as the paper shows it
        arguments += [f"--results.panels={int(pictured)}", f"--results.report={json.dumps(pictured)}"]
        arguments += [f"--results.baseline={json.dumps(pictured)}"] if run.method is not None else []
        if plan.needs_selection(run):
            departures = list_departures(plan, run)
            arguments += [f"--results.departures={json.dumps(departures)}"] if departures else []
            protocol.test_selected(name, arguments)
        else:
            protocol.test(name, arguments)
    read_results(plan, run)
