"""Runs `main.py validate` for a sweep, in this process: once per trial, or once for all points of a grid."""

import gc
import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, TextIO

import optuna
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import main
from callbacks.report.search_figure import format_value
from callbacks.results import RECORDS, SUMMARY, read_records
from callbacks.run.folder import SEARCH
from callbacks.run.processes import explain_error
from callbacks.run.settings import WAYS_OUT
from experiments.command_line import drop_options, is_interrupt
from experiments.study import QUIET
from experiments.sweep.definition import Definition
from lightning_modules.metrics import Scores

WATCHED = "--trainer.callbacks+=experiments.sweep.trial.ScoreReporter"
PREFIX = "method."
ReportProgress = Callable[[int, float], None]


class TrialError(RuntimeError):
    """Raised when main.py ends with an error; carries its message."""


def build_arguments(definition: Definition, values: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Builds the main.py arguments of a trial; Weights & Biases' own functions expand the macros."""
    arguments = {name: {"value": value} for name, value in {**definition.constants, **values}.items()}
    macros = create_sweep_command_args({"args": arguments})
    command = create_sweep_command(list(definition.command))
    own: list[str] = []
    for chunk in command[command.index("${program}") + 1 :]:
        own += macros[chunk[2:-1]] if chunk.startswith("${args") else [chunk]
    return [*own, *more]


def resolve_config(args: Sequence[str]) -> dict[str, Any]:
    """Returns the full configuration that main.py builds from its arguments, including defaults and config files."""
    output = StringIO()
    call_main([*args, "--print_config"], output, StringIO())
    return yaml.safe_load(output.getvalue())


def run_trial(args: Sequence[str], place: Path, report: ReportProgress) -> dict[str, Any]:
    """Runs main.py with its results in a folder, resuming an earlier run there; appends its output to `log.txt`.

    Args:
        args: Arguments of main.py.
        place: The folder.
        report: Called every few images with the number of images scored so far, including those of earlier runs, and
            the mean IoU over them in percent; may raise to end the run.

    Returns:
        The run's summary, `results.json`.
    """
    place.mkdir(parents=True, exist_ok=True)
    ScoreReporter.current = place / RECORDS, report
    with (place / "log.txt").open("a+", encoding="utf-8") as log:
        call_main([*args, f"--results.folder={place}", *QUIET, WATCHED], log, log)
    return json.loads((place / SUMMARY).read_text(encoding="utf-8"))


def explain_several(definition: Definition, sampler: str, total: int, config: Mapping[str, Any]) -> str | None:
    """Explains why a sweep needs several runs; None if one pass suffices."""
    if sampler != "grid":
        return f"the sampler is {sampler}, not grid"
    if total < len(definition.list_grid()):
        return "only part of the grid is requested"
    names = [parameter.name for parameter in definition.chosen]
    if others := [name for name in names if not name.startswith(PREFIX) or name.count(".") > 1]:
        return f"{', '.join(others)} is not an argument of the method"
    if not config.get("method"):
        return "the command has no --method"
    return None if definition.metric.name == "val/miou" else f"the metric is {definition.metric.name}, not val/miou"


def run_one_pass(
    definition: Definition, args: Sequence[str], config: Mapping[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Scores a grid of arguments of the method in one run, which resumes like a trial; returns rows for the report."""
    grid = {own.name.removeprefix(PREFIX): list(map(own.to_value, own.list_draws() or ())) for own in definition.chosen}
    init_args = {"method": config["method"], "grid": grid}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": init_args}
    own = [*drop_options(args, "method"), "--method=null", f"--trainer.callbacks+={json.dumps(search)}"]
    with tqdm(unit="image", desc="all points in one pass") as bar:
        try:
            run_trial(own, folder, lambda images, miou: bar.update(images - bar.n))
        except TrialError as error:  # the folder is the sweep's
            raise TrialError(str(error).replace(WAYS_OUT, "another --folder or --name")) from error
    points = json.loads((folder / SEARCH).read_text(encoding="utf-8"))["points"]
    if points[0]["miou"] is None:
        raise TrialError(f"{folder / SEARCH} has no score: expected labels in the development set")
    rows = []
    for number, point in enumerate(points):
        values = {f"{PREFIX}{name}": value for name, value in point["values"].items()}
        row = {"number": number, "values": values, "score": point["miou"], "state": "finished"}
        rows.append({**row, "stopped_after": None, "seconds": None})
    return rows


def call_main(args: Sequence[str], output: TextIO, log: TextIO) -> None:
    """Runs main.py in this process, with its messages in a log that can be read; Ctrl-C raises KeyboardInterrupt.

    Raises:
        TrialError: If it ends with an error.
    """
    start = log.tell()
    with redirect_stdout(output), redirect_stderr(log), acting_as_main(args):
        try:
            main.main(list(args))
        except SystemExit as end:
            if is_interrupt(end):
                raise KeyboardInterrupt from None
            if end.code:
                log.seek(start)
                raise TrialError(log.read().rpartition("error: ")[2].strip() or f"exit code {end.code}") from None
        except optuna.TrialPruned:
            raise
        except Exception as error:
            traceback.print_exc()
            raise TrialError(explain_error(error) or type(error).__name__) from error


@contextmanager
def acting_as_main(args: Sequence[str]) -> Iterator[None]:
    """Makes this process look like `python main.py ...`, from which Lightning can launch one process per device."""
    program: Any = sys.modules["__main__"]
    environment, argv, spec = dict(os.environ), sys.argv, program.__spec__
    sys.argv, program.__spec__ = [str(main.__file__), *args], None
    try:
        yield
    finally:
        sys.argv, program.__spec__ = argv, spec
        os.environ.clear()
        os.environ.update(environment)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        gc.collect()


class ScoreReporter(Callback):
    """Reports the mean IoU over the images so far to the current trial; does nothing on several devices.

    Attributes:
        current: File of the trial's records, and the function to report to.
    """

    every = 5  # images
    current: ClassVar[tuple[Path, ReportProgress] | None] = None

    def __init__(self) -> None:
        self._images = 0
        self._sums: dict[str, Scores] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the images that an earlier run has scored."""
        if self.current is not None and self.current[0].exists():
            for record in read_records(self.current[0]):
                self._add(trainer, record["domain"], Scores.from_record(record))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Adds the images of a batch."""
        for scores in outputs["scores"]:
            self._add(trainer, outputs["domain"], scores)

    def _add(self, trainer: Trainer, domain: str, scores: Scores) -> None:
        if self.current is None or trainer.world_size > 1:
            return
        self._sums[domain] = self._sums[domain] + scores if domain in self._sums else scores
        self._images += 1
        if self._images % self.every == 0:
            miou = [sums.summarize()["miou"] for sums in self._sums.values()]
            self.current[1](self._images, 100 * sum(miou) / len(miou))


def read_metric(summary: Mapping[str, Any], metric: str) -> float:
    """Reads a score of a finished run: ``val/miou`` (the mean over the domains) or ``val/development/ece``."""
    refuse_targets(summary.get("data"))
    groups = {"": summary["mean"], **{f"{domain}/": own for domain, own in summary["domains"].items()}}
    scores = {f"val/{group}{name}": score for group, own in groups.items() for name, score in own.items()}
    if not isinstance(scores.get(metric), int | float):
        names = [name for name, score in scores.items() if isinstance(score, int | float)]
        raise TrialError(f"the results have no {metric}: expected one of {', '.join(names)}")
    return float(scores[metric])


def refuse_targets(data: Any, place: str = "data") -> None:
    """Raises TrialError if ``choose_on_target`` is set anywhere in the data settings."""
    members = dict(enumerate(data)) if isinstance(data, list) else data
    if isinstance(members, Mapping):
        if members.get("choose_on_target"):
            raise TrialError(
                f"{place}.choose_on_target is true: a sweep never chooses on a target. Use the development set, and "
                "test once with the chosen settings"
            )
        for name, member in members.items():
            refuse_targets(member, f"{place}.{name}")


def name_point(values: Mapping[str, Any]) -> str:
    """Formats values for display: ``alpha=0.3, psi=0.7``."""
    return ", ".join(f"{name.removeprefix('method.')}={format_value(value)}" for name, value in values.items())


def name_trial_folder(values: Mapping[str, Any]) -> str:
    """Returns the folder name for values; the same values get the same folder, so that a trial can be resumed."""
    text = ",".join(f"{name}={value!r}" for name, value in values.items())
    short = re.sub(r"[^\w=,.-]", "_", text)[:100]
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
