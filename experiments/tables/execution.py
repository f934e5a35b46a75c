"""Runs what the tables lack: each training, each selection and each test once, several at a time if wanted."""

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments.tables.results import read_results, read_selection
from experiments.tables.runs import PICTURED, Plan, Run, read_defaults, read_method

LOG = "log.txt"
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
QUICK = (
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A step of the work.

    Attributes:
        kind: ``train``, ``select`` or ``test`` (which includes `validate`).
        experiment: Whose network it is.
        run: Of tests.
    """

    kind: str
    experiment: str
    run: Run | None = None

    @property
    def title(self) -> str:
        """For the reader."""
        if self.run is not None:
            return f"{self.experiment}: {'testing' if self.run.stage == 'test' else 'validating'} {self.run.name}"
        return f"{self.experiment}: {'training' if self.kind == 'train' else 'choosing settings'}"

    def list_needed(self, plan: Plan) -> set["Task"]:
        """Lists what has to be done before."""
        if self.kind == "train":
            return set()
        needed = {Task("train", self.experiment)}
        if self.run is not None:
            if plan.needs_selection(self.run):
                needed.add(Task("select", self.experiment))
            if self.run.is_ensemble:
                needed |= {Task("train", member) for member in plan.world.list_members(self.experiment)}
        return needed


def list_tasks(plan: Plan, runs: Sequence[Run]) -> list[Task]:
    """Lists what has to be done for some runs, in an order that works: what an experiment needs comes together."""
    tasks: dict[Task, None] = {}
    for run in sorted(runs, key=lambda run: run.experiment):
        if read_results(plan, run).summary is not None:
            continue
        task = Task("test", run.experiment, run)
        for needed in sorted(task.list_needed(plan), key=lambda task: (task.kind != "train", task.experiment)):
            tasks[needed] = None
        tasks[task] = None
    return list(tasks)


def run_tasks(plan: Plan, tasks: Sequence[Task], jobs: int) -> list[str]:
    """Does all that there is to do; a failure stops only what depends on it.

    Args:
        plan: Of the runs.
        tasks: In an order that works.
        jobs: How many at a time, each in a process of its own with a share of the cores; 1 works in this process.

    Returns:
        What failed, and why.
    """
    progress = Progress(len(tasks))
    failed: dict[Task, str] = {}
    waiting = list(tasks)
    done: set[Task] = set()

    def take() -> Task | None:
        for task in [task for task in waiting if any(needed in failed for needed in task.list_needed(plan))]:
            waiting.remove(task)
            failed[task] = "what it needs failed"
            progress.finish(task, "left out, what it needs failed")
        ready = [task for task in waiting if all(needed in done for needed in task.list_needed(plan))]
        if not ready:
            return None
        waiting.remove(ready[0])
        return ready[0]

    def settle(task: Task, error: str | None) -> None:
        if error is None:
            done.add(task)
        else:
            failed[task] = error
        progress.finish(task, "failed" if error else "")

    if jobs == 1:
        while (task := take()) is not None:
            progress.start(task)
            settle(task, perform(plan, task))
        return [f"{task.title}: {error}" for task, error in failed.items()]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    with writer, ProcessPoolExecutor(jobs, context, prepare_worker, (reader, threads, plan.folder / LOG)) as pool:
        running: dict[Future[str | None], Task] = {}
        try:
            while True:
                while len(running) < jobs and (task := take()) is not None:
                    progress.start(task)
                    running[pool.submit(perform, plan, task)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.result()
                    settle(running.pop(future), error)
        except BrokenProcessPool:  # ends the others too; what is written goes on when it is started again
            for task in running.values():
                settle(task, "its process was killed, or that of a step beside it: out of memory? Try fewer --jobs")
        except BaseException:
            writer.close()  # ends the workers, which the pool would wait for
            raise
    return [f"{task.title}: {error}" for task, error in failed.items()]


class Progress:
    """Says what runs and how much is left.

    Args:
        total: Number of tasks.
    """

    def __init__(self, total: int) -> None:
        self.left = total
        self.begin = time.monotonic()
        self._started: dict[Task, float] = {}

    def start(self, task: Task) -> None:
        """Says that a task begins."""
        self._started[task] = time.monotonic()
        print(f"{self._clock()}  {task.title} ...", flush=True)

    def finish(self, task: Task, remark: str = "") -> None:
        """Says that a task ended."""
        self.left -= 1
        seconds = time.monotonic() - self._started.get(task, time.monotonic())
        remark = remark or f"{seconds:.0f} s"
        print(f"{self._clock()}  {task.title}: {remark}; {self.left} of the steps left", flush=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.begin), 60)
        return f"[{minutes:3d}:{seconds:02d}]"


def prepare_worker(parent: Connection, threads: int, log: Path) -> None:
    """Prepares a worker process: its share of the cores, a file for what it prints, an end when its parent ends.

    Args:
        parent: Closed by the parent, or by its end.
        threads: Of torch.
        log: What the worker prints goes there.
    """

    def watch() -> None:
        with suppress(EOFError, OSError):
            parent.recv()
        os.killpg(0, signal.SIGTERM)  # a training too, which ends with a checkpoint to go on from
        os._exit(1)

    os.setsid()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    threading.Thread(target=watch, daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def perform(plan: Plan, task: Task) -> str | None:
    """Does one step; returns why it failed, None if it did not."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_MODE", "offline")
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    try:
        if task.kind == "train":
            make_protocol(plan, task.experiment).train()
        elif task.kind == "select":
            make_protocol(plan, task.experiment).select()
        else:
            assert task.run is not None
            test(plan, task.run)
    except (Exception, SystemExit) as error:
        if is_interrupt(error):
            raise
        path = plan.folder / task.experiment / "error.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error} (more in {path})"
    return None


def is_interrupt(error: BaseException) -> bool:
    """Returns whether an error is what Lightning makes of Ctrl-C and SIGTERM: the end of all, not of one step."""
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    return isinstance(error, KeyboardInterrupt | SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt)


def make_protocol(plan: Plan, experiment: str) -> Any:
    """Makes the protocol of an experiment."""
    from experiments.protocol import Grids, Protocol

    config, folder = plan.world.find_config(experiment), plan.folder / experiment
    options = [*QUIET, *plan.options, *plan.world.list_arguments(experiment)]
    return Protocol(config, folder, options, Grids(**plan.world.grids))


def list_departures(plan: Plan, run: Run, values: Sequence[str]) -> list[str]:
    """Lists the settings that a selection chose and a run does not take from it."""
    if run.method is None:
        return []
    known = read_defaults(read_method(run.method)[0])
    return [name for name in values if name in known and name not in plan.list_selected(run)]


def test(plan: Plan, run: Run) -> None:
    """Makes the results of a run whose network is trained, and its settings chosen if it needs that."""
    protocol = make_protocol(plan, run.experiment)
    folder = plan.find_results(run)
    chosen = read_selection(plan, run.experiment) if plan.needs_selection(run) else None
    members = []
    if run.is_ensemble:
        members = [str(make_protocol(plan, member).train()) for member in plan.world.list_members(run.experiment)]
    arguments = [*plan.list_arguments(run, chosen, members), "--trainer.logger=false"]
    pictured = json.dumps(run.pictured)
    if run.stage == "test":
        arguments += [f"--results.panels={PICTURED if run.pictured else 0}", f"--results.report={pictured}"]
        arguments += [f"--results.baseline={pictured}"] if run.method is not None else []
    if chosen is not None and run.stage == "test":
        departures = list_departures(plan, run, list(chosen))
        arguments += [f"--results.departures={json.dumps(departures)}"] if departures else []
        protocol.test(folder.name, arguments)
        return
    from main import main

    stage = "test" if run.stage == "test" else "validate"
    common = [f"--config={plan.world.find_config(run.experiment)}", *QUIET, *plan.options]
    common += [f"--ckpt_path={protocol.train()}", f"--results.folder={folder}", "--verbose=false"]
    main([stage, *common, *arguments])
