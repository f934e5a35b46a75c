"""Sweeps: what Weights & Biases' agent runs, and the same sweeps on Optuna."""

import json
import logging
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import torch
import wandb.wandb_agent
import yaml

import main as program
from experiments.command_line import drop_options
from experiments.sweep import search
from experiments.sweep.__main__ import run_command
from experiments.sweep.definition import Definition, Parameter, read_definition, read_parameter
from experiments.sweep.report import list_rows
from experiments.sweep.search import POINT, Sweep, hide_password, open_storage, open_sweep
from experiments.sweep.trial import (
    CURRENT,
    ScoreReporter,
    TrialError,
    build_arguments,
    name_folder,
    read_metric,
    restoring_process,
)
from lightning_modules.metrics import Scores
from main import main
from tests import programs
from tests.processes import wait_for
from tests.tiny import DATA, EXPERIMENT, QUIET, ROOT, arguments

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),  # of signs of life
]

SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
IMAGES = 15


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny training run."""
    folder = tmp_path_factory.mktemp("fit")
    main(["fit", *arguments(folder, "--trainer.max_epochs=1", "--data.repeats=2")])
    return folder / "checkpoints" / "best.ckpt"


def fake_main(args: list[str]) -> None:
    """Stands for main.py where only the sweep around it is tested: scores 15 images, the best of them at alpha 0.4."""
    given = dict(argument.lstrip("-").split("=", 1) for argument in args[1:] if "=" in argument)
    own = {name[7:]: json.loads(value) for name, value in given.items() if name.startswith("method.")}
    if "--print_config" in args:
        data = {"choose_on_target": given.get("data.choose_on_target") == "true"}
        method = {"class_path": "callbacks.IaBN", "init_args": own}
        config = {"data": data, "model": {}, "method": method, "trainer": {}, "ckpt_path": given["ckpt_path"]}
        print(json.dumps(config))
        sys.exit()
    folder = Path(given["results.folder"])
    records, hits = folder / "records.jsonl", round(100 - 100 * abs(own["alpha"] - 0.4))
    done = records.read_text().count("\n") if records.exists() else 0
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(json.dumps({"found": done, **given}) + "\n")
    if own["alpha"] > 1:
        print("error: alpha is out of its range", file=sys.stderr)
        sys.exit(2)
    scores = Scores.zeros(2) + Scores.from_record(
        Scores.zeros(2).to_record() | {"intersection": [hits, 0], "union": [100, 0], "pixels": [100, 0]}
    )
    reporter, trainer = ScoreReporter(), SimpleNamespace(world_size=1)
    reporter.on_validation_epoch_start(trainer, None)  # type: ignore[arg-type]
    for number in range(done, IMAGES):
        time.sleep(float(os.environ.get("SECONDS_PER_IMAGE", 0)))
        with records.open("a") as file:
            file.write(json.dumps({"domain": "development", "name": str(number), **scores.to_record()}) + "\n")
        outputs = {"scores": [scores], "domain": "development"}
        reporter.on_validation_batch_end(trainer, None, outputs, None, number)  # type: ignore[arg-type]
    mean = {"miou": hits, "ece": 100 - hits}
    (folder / "results.json").write_text(json.dumps({"mean": mean, "domains": {"development": mean}}))


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Writes a sweep over alpha; None leaves a key out."""
    (folder / "best.ckpt").write_bytes(b"weights")
    content = {
        "program": str(ROOT / "main.py"),
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "parameters": {"method.alpha": {"values": [0.0, 0.2, 0.4, 0.6]}},
        "command": [
            *("${env}", "${interpreter}", "${program}", "validate", "--ckpt_path=${envvar:SEGADAPT_CHECKPOINT}"),
            *("--method=IaBN", "${args}"),
        ],
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The runs of the function that stands for main.py, as a function that reads them."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.delenv("SEGADAPT_EXPERIMENT", raising=False)
    monkeypatch.setenv("SEGADAPT_CHECKPOINT", str(tmp_path / "best.ckpt"))
    monkeypatch.setattr(program, "main", fake_main)
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def list_trials(folder: Path) -> list[tuple[Any, Any, str]]:
    return [(row["values"]["method.alpha"], row["score"], row["state"]) for row in read_outcome(folder)["trials"]]


def sweep(folder: Path, *options: str, more: tuple[str, ...] = ()) -> int:
    """Runs the sweep of a folder, one run per trial."""
    args = [str(folder / "sweep.yaml"), "--separate", "--folder", str(folder / "out"), *options]
    return run_command([*args, *(["--", *more] if more else [])])


# What the agent of Weights & Biases runs.


def build_by_agent(
    path: Path, values: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, checkpoint: Path | None
) -> list[str]:
    """Returns the command line that wandb's agent starts in the folder of main.py; there is no server."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    for name, value in (("SEGADAPT_EXPERIMENT", EXPERIMENT), ("SEGADAPT_CHECKPOINT", checkpoint)):
        monkeypatch.delenv(name, raising=False)
        if checkpoint is not None:
            monkeypatch.setenv(name, str(value))
    start = Mock()
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", start)
    agent = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = yaml.safe_load(path.read_text())["command"]
    args = {name: {"value": value} for name, value in {**read_definition(path).constants, **values}.items()}
    agent._command_run({"type": "run", "run_id": "run1", "program": "main.py", "args": args})
    return start.call_args.kwargs["command"]


def pick_values(definition: Definition, last: bool) -> dict[str, Any]:
    """Returns the first or last value of each parameter."""
    picked = {}
    for parameter in definition.parameters:
        highest = parameter.grid[-1] if parameter.grid else parameter.distribution.high  # type: ignore[union-attr]
        picked[parameter.name] = parameter.to_value(highest) if last else parameter.first
    return picked


@pytest.mark.parametrize(("name", "last"), [("alpha", False), ("joint", True)])
def test_what_the_agent_of_wandb_starts_runs(
    name: str, last: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / "configs" / "sweep" / f"{name}.yaml"
    definition = read_definition(path)
    values = pick_values(definition, last)
    command = build_by_agent(path, values, monkeypatch, checkpoint)
    assert command[:4] == ["/usr/bin/env", "python", "main.py", "validate"]
    place = f"--trainer.logger.init_args.save_dir={tmp_path}"
    main([*command[3:], *DATA, *QUIET, place, "--data.num_val=1"])
    run = tmp_path / "segadapt" / "run1"  # of its own
    assert (run / "config.yaml").exists()
    summary = json.loads((run / "results.json").read_text())
    assert summary["complete"] and list(summary["domains"]) == ["development"]
    wanted = {key.removeprefix("method."): value for key, value in {**definition.constants, **values}.items()}
    assert {key: summary["method"][key] for key in wanted} == wanted
    assert len(list((tmp_path / "wandb").glob("offline-run-*-run1"))) == 1  # WANDB_MODE=offline keeps it so


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_is_that_of_the_agent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = read_definition(path)
    values = pick_values(definition, last=True)
    expected = build_by_agent(path, values, monkeypatch, Path("best.ckpt"))
    assert build_arguments(definition, values, ["--data.num_val=1"]) == [*expected[3:], "--data.num_val=1"]


def test_without_experiment_or_checkpoint_the_run_of_an_agent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = build_by_agent(SWEEPS[0], {"method.alpha": 0.1}, monkeypatch, None)
    with pytest.raises(SystemExit):
        main(command[3:])
    assert "SEGADAPT_EXPERIMENT" in capsys.readouterr().err
    monkeypatch.setenv("SEGADAPT_EXPERIMENT", str(EXPERIMENT))
    command = [f"--config={EXPERIMENT}" if "SEGADAPT_EXPERIMENT" in part else part for part in command]
    with pytest.raises(FileNotFoundError, match="SEGADAPT_CHECKPOINT"):
        main([*command[3:], *DATA, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"])


def test_in_a_sweep_a_target_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = build_by_agent(SWEEPS[0], {"method.alpha": 0.1}, monkeypatch, checkpoint)
    target = ["--data=datamodules.StreetScenesDataModule", "--data.domain=haze", "--data.num_val=1"]
    more = [*QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"]
    with pytest.raises(ValueError, match="target of the protocol"):
        main([*command[3:], *target, *more])
    with pytest.raises(ValueError, match="let a sweep tune on it"):
        main(["test", *command[4:], *DATA, *more])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("logger", ["wandb", "default"])
def test_a_run_of_two_processes_has_one_folder(logger: str, checkpoint: Path, tmp_path: Path) -> None:
    """As of an agent with two GPUs; the first process alone knows where the loggers write."""
    more = [f"--config={ROOT}/configs/trainer/wandb.yaml"] if logger == "wandb" else []
    command = ["main.py", "validate", f"--config={EXPERIMENT}", *more, *DATA, *QUIET]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", f"--ckpt_path={checkpoint}", "--method=IaBN"]
    done = programs.run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.rglob("results.json")
    assert [path.name for path in tmp_path.rglob("config*.yaml") if "wandb" not in path.parts] == ["config.yaml"]
    assert (results.parent / "config.yaml").exists()
    assert json.loads(results.read_text())["complete"]


# What a sweep's file may hold.


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ({"values": [0.1, 0.2]}, [0.1, 0.2]),
        ({"distribution": "categorical", "values": ["a", None, True, 3]}, ["a", None, True, 3]),
        ({"values": [[0.5], [0.5, 1.0]]}, [[0.5], [0.5, 1.0]]),
        ({"min": 1, "max": 3}, [1, 2, 3]),
        ({"distribution": "int_uniform", "min": 1, "max": 2}, [1, 2]),
        ({"min": 0, "max": 1.0}, None),
        ({"distribution": "uniform", "min": 1, "max": 3}, None),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"distribution": "q_uniform", "min": 2, "max": 4}, [2, 3, 4]),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.5}, [0.5]),
        ({"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}, None),
        ({"distribution": "q_log_uniform_values", "min": 3, "max": 12, "q": 5}, [5, 10]),
    ],
)
def test_forms_of_parameters(form: dict[str, Any], values: list[Any] | None) -> None:
    parameter = read_parameter("x", form)
    assert isinstance(parameter, Parameter)
    assert getattr(parameter.distribution, "log", False) == ("log" in form.get("distribution", ""))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [parameter.suggest(study.ask()) for _ in range(30)]
    if values is None:
        assert parameter.grid is None and len(set(drawn)) > 10
        assert all(form["min"] <= value <= form["max"] for value in drawn)
    else:
        assert [repr(parameter.to_value(value)) for value in parameter.grid or ()] == [repr(value) for value in values]
        assert {repr(value) for value in drawn} == {repr(value) for value in values}
    assert repr(parameter.first) == repr(values[0] if values else float(form["min"]))


@pytest.mark.parametrize("form", [{"value": 3}, {"distribution": "constant", "value": [1, 2]}])
def test_a_parameter_with_one_value_is_not_chosen(form: dict[str, Any]) -> None:
    assert read_parameter("x", form) == form["value"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (3, "expected a mapping"),
        ({}, "not supported here: expected value; values; min and max"),
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "'normal' is not supported here: .*log_uniform_values"),
        ({"distribution": ["uniform"], "min": 0, "max": 1}, r"\['uniform'\] is not supported here"),
        ({"distribution": "log_uniform", "min": -3, "max": 0}, "'log_uniform' is not supported"),
        ({"parameters": {"a": {"value": 1}}}, "the form .* is not supported"),
        ({"values": []}, "expected a list of one value or more"),
        ({"values": [1, 1]}, "a value twice"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "probabilities not supported"),
        ({"min": 1}, "max missing"),
        ({"min": 2, "max": 1}, "expected min below max"),
        ({"min": "low", "max": 1}, "expected a finite number"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "expected whole numbers"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "a number above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}, "a number above 0"),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.4, "q": 0.5}, "no multiple of q"),
    ],
)
def test_other_forms_are_refused(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"parameters.method.x.*{message}"):
        read_parameter("method.x", form)


def test_other_ways_to_write_numbers(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, early_terminate={"type": "hyperband", "max_iter": 32, "s": 2, "eta": 4})
    assert read_definition(path).halving == (2, 4)
    odd = {"metric": {"name": "val/miou", "goal": "maximize", "target": 50}, "command": None, "name": 5}
    path = write_sweep(tmp_path, **odd)
    path.write_text(path.read_text() + "command:\nearly_terminate:\n")
    read = read_definition(path)
    assert read.halving is None and read.name == "5" and "${program}" in read.command
    path = write_sweep(tmp_path, early_terminate={"type": "hyperband", "min_iter": 3, "strict": True})
    assert read_definition(path).halving == (3, 3)
    path = write_sweep(tmp_path, command=["${program}", "validate", "--seed_everything", 1, "${args}"])
    assert read_definition(path).command[3] == "1"
    path.write_text(path.read_text().replace("0.2", "1e-3").replace("0.4", "1E+2"))
    assert read_definition(path).parameters[0].grid == (0.0, 0.001, 100.0, 0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": {"name": "test/miou", "goal": "maximize"}}, "Nothing is chosen by scores on targets"),
        ({"metric": {"name": "val/miou"}}, "expected goal: maximize"),
        ({"metric": {"name": "val/ece", "goal": "most"}}, "metric.goal is most, expected .*'maximize', 'minimize'"),
        ({"metric": None}, "metric.name"),
        ({"method": "hyperband"}, "method is hyperband, expected .*'grid', 'random', 'bayes'"),
        ({"method": ["grid"]}, r"method is \['grid'\], expected .*'grid', 'random', 'bayes'"),
        ({"parameters": {"method": {"values": ["IaBN", "TTA"]}}}, "method cannot be chosen by a sweep"),
        ({"parameters": {"ckpt_path": {"values": ["a", "b"]}}}, "ckpt_path cannot be chosen by a sweep"),
        ({"parameter": {"a": 1}}, "parameter.a.* not accepted"),
        ({"parameters": {"method.alpha": {"value": 0.1}}}, "nothing to choose"),
        ({"parameters": {"data.choose_on_target": {"values": [True, False]}}}, "on the development set alone"),
        ({"run_cap": 0}, "run_cap.*v>0"),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type is median, expected .*hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "expected {type: hyperband, min_iter: 10}"),
        ({"command": "validate"}, "command is validate, expected list"),
        ({"command": ["${env}", "${interpreter}", "${program}", "test", "${args}"]}, "nothing is chosen on targets"),
        ({"command": ["${env}", "${interpreter}", "${program}", "fit", "${args}"]}, "it trains a network per trial"),
        ({"command": None}, r"has \$\{args\} after \$\{program\}.*Expected .* validate"),
        ({"command": ["${program}", "validate"]}, r"has no \$\{args\}"),
        ({"command": ["python", "main.py", "validate", "${args}"]}, r"has no \$\{program\}"),
        ({"command": ["${env}", "A=1", "${program}", "validate", "${args}"]}, "begins with .*A=1.*export variables"),
        (
            {"command": ["${program}", "validate", "--config=${envvar:SEGADAPT_EXPERIMENT}", "${args}"]},
            "is not set: expected --experiment EXPERIMENT.yaml, or export SEGADAPT_EXPERIMENT",
        ),
        ({"program": "nowhere.py"}, "start this in the folder of main.py"),
        ({"method": "random"}, "nothing says how many trials random has"),
        ({"parameters": {"method.alpha": {"min": 0.0, "max": 1.0}}}, "has no end of values"),
    ],
)
def test_refusals(
    changes: dict[str, Any], message: str, tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, **changes)
    assert sweep(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "sweep.yaml" in error and re.search(message, error), error
    assert not calls() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("[1, 2]", "found list, expected a mapping"), ("a: [", "is not YAML")],
)
def test_files_that_are_no_sweep(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_definition(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ((), ("--data.choose_on_target=true",), "a sweep never chooses on a target"),
        (("--checkpoint=none.ckpt",), (), "none.ckpt is not there"),
        ((), ("--method.alpha=0.4",), r"error: --method.alpha behind -- would overrule .*sweep\.yaml"),
        ((), ("--method.alpha", "0.4"), "--method.alpha behind -- would overrule"),
        ((), ("--data.seed=1", "--method=TTA"), "--method behind -- would overrule"),
        ((), ("--method", "TTA"), "--method behind -- would overrule"),
    ],
)
def test_options_that_would_spoil_the_choice_are_refused(
    options: tuple[str, ...],
    more: tuple[str, ...],
    message: str,
    tmp_path: Path,
    calls: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, *options, more=more) == 1
    assert re.search(message, capsys.readouterr().err) and not calls()


def test_options_are_dropped_with_their_values() -> None:
    command = ["validate", "--method", "IaBN", "--method.alpha=1", "--methods=2", "--data", "x", "--method.psi", "3"]
    assert drop_options(command, "method") == ["validate", "--methods=2", "--data", "x"]


# The study, with a function in place of main.py.


def open_search(tmp_path: Path, run_trial: search.RunTrial, total: int = 4, alone: bool = False) -> Sweep:
    """Opens the study of a grid as another process would."""
    definition = read_definition(write_sweep(tmp_path))
    study = open_sweep(definition, open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "study", {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Sweep(definition, study, tmp_path, "grid", total, run_trial, alone=alone)


def list_states(study: optuna.Study) -> list[tuple[Any, str]]:
    return [(trial.user_attrs["values"]["method.alpha"], trial.state.name) for trial in study.get_trials()]


def score(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
    return 100 - 100 * abs(values["method.alpha"] - 0.4)


@pytest.mark.parametrize("alone", [False, True])
def test_machines_that_share_a_study_do_nothing_twice(alone: bool, tmp_path: Path) -> None:
    done: dict[str, list[float]] = {"here": [], "there": []}

    def there(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        done["there"].append(values["method.alpha"])
        return score(sweep, values, report)

    def here(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        done["here"].append(values["method.alpha"])
        open_search(tmp_path, there).run()  # all that another machine can do while this trial runs
        return score(sweep, values, report)

    own = open_search(tmp_path, here, alone=alone)
    own.run()
    assert done == {"here": [0.0], "there": [0.2, 0.4, 0.6]}
    assert list_states(own.study) == [(alpha, "COMPLETE") for alpha in (0.0, 0.2, 0.4, 0.6)]


def test_machines_that_come_to_one_point_agree_who_has_it(tmp_path: Path) -> None:
    """Both have queued it before either has taken it: the trial with the lower number goes on."""

    def here(sweep: Sweep, values: Mapping[str, Any], report: Any) -> float:
        sweep.study.enqueue_trial({"method.alpha": 0.0}, {POINT: 0})
        open_search(tmp_path, score, total=2).run()
        return score(sweep, values, report)

    own = open_search(tmp_path, here, total=1)
    own.run()
    assert [(trial.state.name, trial.user_attrs[POINT]) for trial in own.study.trials] == [
        ("COMPLETE", 0),
        ("FAIL", 0),
        ("COMPLETE", 1),
    ]


@pytest.mark.parametrize(("where", "alone"), [("here", False), ("elsewhere", False), ("elsewhere", True)])
def test_a_trial_whose_process_has_died_is_tried_again(
    where: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("HEARTBEAT", 1), ("GRACE", 1), ("WAIT", 0.1)):
        monkeypatch.setattr(search, name, seconds)
    study = open_search(tmp_path, score).study
    study.enqueue_trial({"method.alpha": 0.0}, {POINT: 0})
    trial = study.ask()
    trial.set_user_attr("owner", [socket.gethostname() if where == "here" else "other", str(tmp_path / "lock")])
    trial.set_user_attr("values", {"method.alpha": trial.suggest_categorical("method.alpha", [0.0, 0.2, 0.4, 0.6])})
    if where == "elsewhere":
        study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        open_search(tmp_path, score, total=1).run()
        assert list_states(study) == [(0.0, "RUNNING")]  # it may be alive
        if not alone:
            time.sleep(2.5)
    again = open_search(tmp_path, score, alone=alone)  # alone: waits for it
    again.run()
    assert list_states(again.study)[:2] == [(0.0, "FAIL"), (0.0, "COMPLETE")]
    assert sum(state == "COMPLETE" for _, state in list_states(again.study)) == 4


def test_of_a_point_tried_twice_the_finished_trial_counts(tmp_path: Path) -> None:
    sweep = open_search(tmp_path, score)
    for point, alpha, value in ((0, 0.2, None), (1, 0.2, 80.0), (2, 0.0, 60.0)):
        sweep.study.enqueue_trial({"method.alpha": alpha}, {POINT: point})
        trial = sweep.study.ask()
        trial.suggest_categorical("method.alpha", [0.0, 0.2, 0.4, 0.6])
        trial.set_user_attr("values", {"method.alpha": alpha})
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        sweep.study.tell(trial, value, state)
    rows = [(row["values"]["method.alpha"], row["score"], row["state"]) for row in list_rows(sweep)]
    assert rows == [(0.2, 80.0, "finished"), (0.0, 60.0, "finished")]


def test_handlers_of_other_libraries_are_left_alone(tmp_path: Path) -> None:
    other, logger = logging.NullHandler(), logging.getLogger("pytorch_lightning")  # has no stream to put in place
    logger.addHandler(other)
    try:
        with (tmp_path / "log.txt").open("w") as log, restoring_process([], log):
            assert other in logger.handlers
    finally:
        logger.removeHandler(other)


def test_a_trial_that_chose_on_a_target_has_no_score() -> None:
    summary = {"data": {"development": {"choose_on_target": True}}, "mean": {"miou": 60.0}, "domains": {}}
    with pytest.raises(
        TrialError, match=r"data\.development\.choose_on_target is true: a sweep never chooses on a tar"
    ):
        read_metric(summary, "val/miou")
    summary["data"] = {"development": {"choose_on_target": False}}
    assert read_metric(summary, "val/miou") == 60


def test_a_database_that_another_process_makes_just_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, tries = search.RDBStorage, []

    def make_later(*args: Any, **kwargs: Any) -> optuna.storages.RDBStorage:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("(sqlite3.OperationalError) table studies already exists")
        return make(*args, **kwargs)

    monkeypatch.setattr(search, "RDBStorage", make_later)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    assert open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == [] and len(tries) == 3


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    definition = read_definition(write_sweep(tmp_path))
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    open_sweep(definition, storage, "study", {"weights": "a"})
    with pytest.raises(ValueError, match="weights was a, is now b"):
        open_sweep(definition, storage, "study", {"weights": "b"})
    open_sweep(definition, storage, "other", {"weights": "b"})
    with pytest.raises(ValueError, match=r"cannot be opened.*Expected a database"):
        open_storage("nonsense://somewhere")
    assert hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


# The whole program, with another function in place of main.py.


@pytest.mark.slow
def test_a_sweep_writes_what_came_out(
    tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, more=("--data.num_val=3",)) == 0
    folder = tmp_path / "out"
    outcome = read_outcome(folder)
    assert list_trials(folder) == [
        (alpha, hits, "finished") for alpha, hits in ((0.4, 100), (0.2, 80), (0.6, 80), (0, 60))
    ]
    assert outcome["best"] == {"values": {"method.alpha": 0.4}, "score": 100} and not outcome["one_pass"]
    assert [call["method.alpha"] for call in calls()] == ["0.0", "0.2", "0.4", "0.6"]  # in order
    assert all(call["data.num_val"] == "3" and call["trainer.enable_progress_bar"] == "false" for call in calls())
    method = yaml.safe_load((folder / "best.yaml").read_text())
    assert method == {"class_path": "callbacks.IaBN", "init_args": {"alpha": 0.4}}
    screen = capsys.readouterr().out
    line = next(line.strip() for line in screen.splitlines() if " test " in line)
    expected = ["test", f"--ckpt_path={tmp_path / 'best.ckpt'}", "--data.num_val=3", f"--method={folder / 'best.yaml'}"]
    assert shlex.split(line)[2:] == expected
    assert "| 0.4 | 100.00 |" in screen and "| 0.4 | 100.00 |" in (folder / "sweep.md").read_text()
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG" and "</svg>" in (folder / "sweep.svg").read_text()
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert sweep(tmp_path, more=("--data.num_val=3",)) == 0  # nothing is left
    assert len(calls()) == 4 and len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not list(folder.glob(".running-*"))


@pytest.mark.slow
def test_other_metrics_and_parameters(tmp_path: Path, calls: Any) -> None:
    parameters = {"method.alpha": {"values": [0.2, 0.4]}, "model.temperature": {"values": [1.0, "auto"]}}
    write_sweep(tmp_path, metric={"name": "val/ece", "goal": "minimize"}, parameters=parameters)
    assert sweep(tmp_path) == 0
    outcome = read_outcome(tmp_path / "out")
    assert [row["score"] for row in outcome["trials"]] == [0, 0, 20, 20]
    assert outcome["best"]["values"] == {"method.alpha": 0.4, "model.temperature": 1.0}
    assert "--model.temperature=1.0 --method=" in (tmp_path / "out" / "sweep.md").read_text()
    write_sweep(tmp_path, metric={"name": "val/f1", "goal": "maximize"})
    assert sweep(tmp_path, "--name=other") == 1


@pytest.mark.slow
def test_a_trial_that_fails_does_not_stop_the_sweep_and_is_tried_again(
    tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, parameters={"method.alpha": {"values": [0.2, 7.0, 0.4]}})
    for _ in range(2):
        assert sweep(tmp_path) == 1
        assert re.search("error: alpha=7: alpha is out of its range\n.*same command", capsys.readouterr().err)
        assert list_trials(tmp_path / "out") == [(0.4, 100, "finished"), (0.2, 80, "finished"), (7, None, "failed")]
    assert [call["method.alpha"] for call in calls()] == ["0.2", "7.0", "0.4", "7.0"]
    assert "out of its range" in next((tmp_path / "out" / "trials").glob("*7.0*/log.txt")).read_text()


SPACE = {"method.alpha": {"min": 0.0, "max": 1.0}}


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "trials"), [("grid", 5), ("tpe", 13)])  # TPE draws ten at random
def test_a_sweep_that_is_killed_again_and_again_ends_in_the_same_table(
    sampler: str, trials: int, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"method.alpha": {"values": [0.4, 0.3, 0.5, 0.6, 0.0]}} if sampler == "grid" else SPACE
    code = "import sys, main; from tests.test_sweep import fake_main; main.main = fake_main; "
    code += "from experiments.sweep.__main__ import run_command; sys.exit(run_command(sys.argv[1:]))"
    tables = []
    write_sweep(tmp_path)  # and the checkpoint
    monkeypatch.setenv("SECONDS_PER_IMAGE", "0.01")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for kills in ((), (0.5, 0.8, 1.1)):
        folder = tmp_path / str(len(kills))
        folder.mkdir()
        path = write_sweep(folder, parameters=parameters)
        options = ["--separate", "--folder", str(folder), "--sampler", sampler, "--trials", str(trials)]
        for seconds in kills:
            process = programs.start(["-c", code, str(path), *options], ROOT)
            wait_for(lambda: (folder / "trials").exists(), 60)  # noqa: B023 (called before the next one)
            time.sleep(seconds)
            process.kill()
            process.wait()
        assert programs.run(["-c", code, str(path), *options], ROOT).returncode == 0
        tables.append([row | {"seconds": 0} for row in read_outcome(folder)["trials"]])
    assert tables[0] == tables[1] and len(tables[0]) == trials


@pytest.mark.slow
def test_ctrl_c_ends_tidily_and_the_same_command_goes_on(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path)

    def interrupted(args: list[str]) -> None:
        if "--method.alpha=0.2" in args and len(calls()) == 1:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                sys.exit(1)  # as Lightning does
        fake_main(args)

    monkeypatch.setattr(program, "main", interrupted)
    assert sweep(tmp_path) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert list_trials(tmp_path / "out") == [(0.0, 60, "finished"), (0.2, None, "failed")]
    monkeypatch.setattr(program, "main", fake_main)
    assert sweep(tmp_path) == 0
    assert [call["method.alpha"] for call in calls()] == ["0.0", "0.2", "0.4", "0.6"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options", "stopped"),
    [
        ({}, (), {0.0: 10, 0.55: 15}),
        ({}, ("--no-pruning",), {}),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 5, "eta": 2}},
            (),
            {0.3: 5, 0.5: 5, 0.6: 5, 0.0: 5, 0.45: 10, 0.55: 5},
        ),
    ],
)
def test_hopeless_trials_are_stopped_and_are_never_best(
    changes: dict[str, Any], options: tuple[str, ...], stopped: dict[float, int], tmp_path: Path, calls: Any
) -> None:
    values = [0.4, 0.3, 0.5, 0.6, 0.0, 0.45, 0.55]
    write_sweep(tmp_path, parameters={"method.alpha": {"values": values}}, **changes)
    assert sweep(tmp_path, *options) == 0
    rows = read_outcome(tmp_path / "out")["trials"]
    assert {row["values"]["method.alpha"]: row["stopped_after"] for row in rows if row["state"] == "stopped"} == stopped
    assert all(row["score"] == round(100 - 100 * abs(row["values"]["method.alpha"] - 0.4)) for row in rows)
    assert rows[0]["values"] == {"method.alpha": 0.4}


def test_reports_go_on_where_an_earlier_run_stopped(tmp_path: Path) -> None:
    records, reports = tmp_path / "records.jsonl", []
    own = [
        Scores.from_record(Scores.zeros(2).to_record() | {"intersection": hits, "union": [10, 10]})
        for hits in ([5, 5], [10, 0], [0, 0])
    ]
    records.write_text("".join(json.dumps({"domain": "d", **scores.to_record()}) + "\n" for scores in own[:2]))
    token = CURRENT.set((records, lambda images, miou: reports.append((images, miou))))
    reporter, trainer = ScoreReporter(), SimpleNamespace(world_size=1)
    reporter.every = 1
    reporter.on_validation_epoch_start(trainer, None)  # type: ignore[arg-type]
    reporter.on_validation_batch_end(trainer, None, {"scores": own[2:], "domain": "d"}, None, 0)  # type: ignore[arg-type]
    CURRENT.reset(token)
    assert reports == [(1, 50.0), (2, 50.0), (3, pytest.approx(100 / 3))]  # of summed counts


def test_folders_are_named_by_values() -> None:
    assert name_folder({"method.alpha": 0.3, "data.x": 1}).startswith("method.alpha=0.3,data.x=1-")
    odd = [name_folder({"method.scales": value}) for value in ("a/b", "a:b", ["x"] * 50)]
    assert len(set(odd)) == 3 and all("/" not in name and len(name) <= 120 for name in odd)


# The real program.

PSI: dict[str, Any] = {
    "method.alpha": {"value": 0.3},
    "method.scales": {"value": [0.75, 1.0]},
    "method.lr": {"value": 0.5},
    "method.psi": {"values": [0.05, 0.12]},
    "method.num_steps": {"values": [1, 2]},
}


def sweep_psi(folder: Path, checkpoint: Path, *options: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Runs a small sweep over psi and num_steps; returns what came out."""
    content = yaml.safe_load((ROOT / "configs" / "sweep" / "psi.yaml").read_text())
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**content, "parameters": PSI}))
    given = ["--experiment", str(EXPERIMENT), "--checkpoint", str(checkpoint), "--folder", str(folder), *options]
    own = [*DATA, *QUIET, f"--trainer.logger.init_args.save_dir={folder}", *more]
    assert run_command([str(folder / "sweep.yaml"), *given, "--", *own]) == 0
    return read_outcome(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_pass_and_separate_runs_give_the_scores_of_runs_of_their_own(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, after others in the same process; and what is best can be tested."""
    monkeypatch.chdir(ROOT)
    before = dict(os.environ), sys.argv, torch.are_deterministic_algorithms_enabled()
    one = sweep_psi(tmp_path / "one", checkpoint)
    separate = sweep_psi(tmp_path / "separate", checkpoint, "--separate")
    assert before[1:] == (sys.argv, torch.are_deterministic_algorithms_enabled())
    assert {name for name in os.environ if name not in before[0]} <= {"SEGADAPT_EXPERIMENT", "SEGADAPT_CHECKPOINT"}
    assert one["one_pass"] and not separate["one_pass"] and one["best"]["values"] == separate["best"]["values"]
    scores = [{tuple(row["values"].values()): row["score"] for row in way["trials"]} for way in (one, separate)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9) and len(scores[0]) == 4
    assert len(set(scores[0].values())) > 1  # the settings do matter
    assert len(list((tmp_path / "separate" / "wandb").glob("offline-run-*"))) == 5  # of each trial, and of the sweep

    best = separate["best"]["values"]
    values = {**{name: form["value"] for name, form in PSI.items() if "value" in form}, **best}
    command = ["main.py", "validate", f"--config={EXPERIMENT}", f"--ckpt_path={checkpoint}", "--method=SegTTT"]
    command += [*(f"--{name}={value}" for name, value in values.items()), *DATA, *QUIET, "--trainer.logger=false"]
    done = programs.run([*command, f"--results.folder={tmp_path / 'own'}"], ROOT)
    assert done.returncode == 0, done.stderr
    found = []
    for folder in (tmp_path / "own", tmp_path / "separate" / "trials" / name_folder(best)):
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        found.append([{key: record[key] for key in (*Scores.zeros(2).to_record(), "name")} for record in records])
        found[-1].append(json.loads((folder / "results.json").read_text())["mean"]["miou"])
    assert found[0] == found[1] and found[0][-1] == separate["best"]["score"]
    main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", f"--method={tmp_path / 'separate' / 'best.yaml'}")])
    tested = json.loads((tmp_path / "results" / "results.json").read_text())["method"]
    assert {f"method.{name}": tested[name] for name in ("alpha", "lr", "scales", "psi", "num_steps")} == values


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_on_two_devices_follow_each_other(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = ["-m", "experiments.sweep", "configs/sweep/alpha.yaml", "--trials=2", f"--folder={tmp_path / 'out'}"]
    command += [f"--experiment={EXPERIMENT}", f"--checkpoint={checkpoint}", "--", *DATA, *QUIET]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    done = programs.run(command, ROOT)
    assert done.returncode == 0, done.stderr
    assert [state for _, _, state in list_trials(tmp_path / "out")] == ["finished"] * 2
