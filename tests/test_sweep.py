"""Sweeps: what Weights & Biases' agent runs, and the same sweeps on Optuna."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import wandb.wandb_agent
import yaml
from optuna.trial import TrialState

from experiments.command_line import drop_options
from experiments.sweep import one_pass, search
from experiments.sweep.child import ChildError
from experiments.sweep.command import build_command
from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.one_pass import CLAIM, OnePass, explain_several
from experiments.sweep.parameters import Constant, Parameter, read_parameter
from experiments.sweep.run import find_total, run_command
from experiments.sweep.samplers import FIRST_IMAGES, list_points, make_pruner, make_sampler
from experiments.sweep.search import Search, describe_owner, find_best, hide_password, open_storage, open_study
from experiments.sweep.trial import RunningScores, name_folder
from main import main
from tests import programs
from tests.processes import is_alive, wait_for
from tests.tiny import DATA, EXPERIMENT, QUIET, ROOT, arguments

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
NAMES = [path.stem for path in SWEEPS]

# Stands for main.py where only the sweep around it is tested: scores ten images per argument given, and starts at once.
PROGRAM = """
import json, os, sys, time
from pathlib import Path

given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[2:] if "=" in argument)
if sys.argv[1] != "validate":
    sys.exit(f"error: {sys.argv[1]} is not expected")
method = {"class_path": "callbacks.IaBN", "init_args": {}} if "method" in given else None
for name, value in given.items():
    if name.startswith("method."):
        method["init_args"][name[7:]] = json.loads(value)
if "--print_config" in sys.argv:
    data = {"choose_on_target": given.get("data.choose_on_target") == "true"}
    print(json.dumps({"data": data, "model": {"released": None}, "method": method, "trainer": {},
                      "ckpt_path": given.get("ckpt_path")}))
    sys.exit()
folder = Path(given["results.folder"])
folder.mkdir(parents=True, exist_ok=True)
records = folder / "records.jsonl"
done = records.read_text().count(chr(10)) if records.exists() else 0
with Path(os.environ["CALLS"]).open("a") as calls:
    calls.write(json.dumps({"found": done, **{k: v for k, v in given.items() if "." in k}}) + chr(10))
alpha = float(given["method.alpha"])
if alpha > 1:
    sys.exit("error: alpha is out of its range")
hits = round(100 - 100 * abs(alpha - 0.4))
for number in range(done, 15):
    time.sleep(float(os.environ.get("SECONDS_PER_IMAGE", 0)))
    if number == 12 and os.environ.get("WAIT_FOR"):
        while not Path(os.environ["WAIT_FOR"]).exists():
            time.sleep(0.01)
    sums = {"intersection": [hits, 0], "union": [100, 0], "pixels": [100, 0], "class_gap": [0.0, 0.0], "brier": 0.0}
    sums |= {"bin_pixels": [0] * 15, "bin_correct": [0] * 15, "bin_confidence": [0.0] * 15, "nll": 0.0}
    with records.open("a") as file:
        file.write(json.dumps({"domain": "development", "name": str(number), **sums}) + chr(10))
(folder / "results.json").write_text(json.dumps({
    "complete": True, "data": {}, "mean": {"miou": hits, "ece": 100 - hits}, "domains": {"development": {"miou": hits}},
}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny training run."""
    folder = tmp_path_factory.mktemp("fit")
    main(["fit", *arguments(folder, "--trainer.max_epochs=1", "--data.repeats=2")])
    return folder / "checkpoints" / "best.ckpt"


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Writes a sweep over alpha whose program stands for main.py; None leaves a key out."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "best.ckpt").write_bytes(b"weights")
    command = ["${env}", "${interpreter}", "${program}", "validate", "--ckpt_path=${envvar:SEGADAPT_CHECKPOINT}"]
    content = {
        "program": str(folder / "program.py"),
        "method": "grid",
        "metric": {"name": "val/miou", "goal": "maximize"},
        "parameters": {"method.alpha": {"values": [0.0, 0.2, 0.4, 0.6]}},
        "command": [*command, "--method=IaBN", "${args}"],
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The runs of the program that stands for main.py, as a function that reads them."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.setenv("SEGADAPT_CHECKPOINT", str(tmp_path / "best.ckpt"))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def sweep(folder: Path, *options: str, more: tuple[str, ...] = ()) -> int:
    """Runs the sweep of a folder, one run per trial."""
    args = [str(folder / "sweep.yaml"), "--separate", "--folder", str(folder / "out"), *options]
    return run_command([*args, *(["--", *more] if more else [])])


# What the agent of Weights & Biases runs.


def make_agent(path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path | None) -> Any:
    """An agent of wandb that has fetched a sweep; there is no server."""
    for name, value in (("SEGADAPT_EXPERIMENT", EXPERIMENT), ("SEGADAPT_CHECKPOINT", checkpoint)):
        if checkpoint is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    agent = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = yaml.safe_load(path.read_text())["command"]
    return agent


def start_run(agent: Any, path: Path, run: str, values: Mapping[str, Any]) -> None:
    """Lets an agent start the run that a server would ask for."""
    args = {name: {"value": value} for name, value in read_definition(path).complete(values).items()}
    agent._command_run(
        {"type": "run", "run_id": run, "program": yaml.safe_load(path.read_text())["program"], "args": args}
    )


def build_by_agent(
    path: Path, values: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, checkpoint: Path | None
) -> list[str]:
    """Returns the command line that wandb's agent starts."""
    started: list[list[str]] = []
    agent = make_agent(path, monkeypatch, checkpoint)

    def keep(command: list[str], **_: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace()

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", keep)
    start_run(agent, path, "run1", values)
    return started[0]


def pick_values(definition: Definition, last: bool) -> dict[str, Any]:
    """Returns the first or last value of each parameter."""
    picked = {}
    for parameter in definition.parameters:
        ends = parameter.values or [
            parameter.to_value(end) for end in (parameter.distribution.low, parameter.distribution.high)
        ]  # type: ignore[attr-defined]
        picked[parameter.name] = ends[-1 if last else 0]
    return picked


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_agent_of_wandb_starts_runs(
    name: str, last: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
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
    wanted = {key.removeprefix("method."): value for key, value in definition.complete(values).items()}
    assert {key: summary["method"][key] for key in wanted} == wanted
    assert len(list((tmp_path / "wandb").glob("offline-run-*-run1"))) == 1  # WANDB_MODE=offline keeps it so


def test_the_command_is_that_of_the_agent(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path in SWEEPS:
        definition = read_definition(path)
        values = pick_values(definition, last=True)
        expected = build_by_agent(path, values, monkeypatch, checkpoint)
        built = build_command(definition, values, ["--data.num_val=1"])
        assert built == [expected[0], sys.executable, *expected[2:], "--data.num_val=1"]


def test_without_experiment_or_checkpoint_the_run_of_an_agent_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = build_by_agent(SWEEPS[0], {"method.alpha": 0.1}, monkeypatch, None)
    with pytest.raises(SystemExit):
        main(command[3:])
    assert "SEGADAPT_EXPERIMENT" in capsys.readouterr().err
    monkeypatch.setenv("SEGADAPT_EXPERIMENT", str(EXPERIMENT))
    command = [f"--config={EXPERIMENT}" if "SEGADAPT_EXPERIMENT" in part else part for part in command]
    with pytest.raises(FileNotFoundError, match="SEGADAPT_CHECKPOINT"):
        main([*command[3:], *DATA, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"])


def test_in_a_sweep_a_target_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = build_by_agent(SWEEPS[0], {"method.alpha": 0.1}, monkeypatch, checkpoint)
    target = ["--data=datamodules.StreetScenesDataModule", "--data.domain=haze", "--data.num_val=1"]
    more = [*QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"]
    with pytest.raises(ValueError, match="target of the protocol"):
        main([*command[3:], *target, *more])
    with pytest.raises(ValueError, match="let a sweep tune on it"):
        main(["test", *command[4:], *DATA, *more])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_agents_on_one_machine_do_not_clash(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real agents start real processes, at the same moment, in the same folder."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "alpha.yaml"
    content = yaml.safe_load(SWEEPS[0].read_text())
    content["command"] += [*DATA, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"]
    path.write_text(yaml.safe_dump(content))
    processes = []
    for run, alpha in (("run1", 0.1), ("run2", 0.2)):
        agent = make_agent(path, monkeypatch, checkpoint)
        start_run(agent, path, run, {"method.alpha": alpha})
        processes += agent._run_processes.values()
    try:
        for process in processes:
            process.wait(800)
    finally:
        for process in processes:
            process.kill()
    assert [process.poll() for process in processes] == [0, 0]
    for run, alpha in (("run1", 0.1), ("run2", 0.2)):
        summary = json.loads((tmp_path / "segadapt" / run / "results.json").read_text())
        assert summary["complete"] and summary["method"]["alpha"] == alpha
        assert f"alpha: {alpha}" in (tmp_path / "segadapt" / run / "config.yaml").read_text()


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


# Forms of parameters.


@pytest.mark.parametrize(
    ("form", "distribution", "grid"),
    [
        ({"values": [0.1, 0.2]}, optuna.distributions.CategoricalDistribution([0.1, 0.2]), [0.1, 0.2]),
        (
            {"distribution": "categorical", "values": ["a", None, True, 3]},
            optuna.distributions.CategoricalDistribution(["a", None, True, 3]),
            ["a", None, True, 3],
        ),
        (
            {"values": [[0.5], [0.5, 1.0]]},
            optuna.distributions.CategoricalDistribution(["[0.5]", "[0.5, 1.0]"]),
            [[0.5], [0.5, 1.0]],
        ),
        ({"min": 1, "max": 3}, optuna.distributions.IntDistribution(1, 3), [1, 2, 3]),
        ({"distribution": "int_uniform", "min": 1, "max": 2}, optuna.distributions.IntDistribution(1, 2), [1, 2]),
        ({"min": 0, "max": 1.0}, optuna.distributions.FloatDistribution(0.0, 1.0), None),
        ({"distribution": "uniform", "min": 1, "max": 3}, optuna.distributions.FloatDistribution(1.0, 3.0), None),
        (
            {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1},
            optuna.distributions.FloatDistribution(0.0, 0.3),
            [0.0, 0.1, 0.2, 0.3],
        ),
        ({"distribution": "q_uniform", "min": 2, "max": 4}, optuna.distributions.FloatDistribution(2, 4), [2, 3, 4]),
        (
            {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
            optuna.distributions.FloatDistribution(0.001, 0.1, log=True),
            None,
        ),
        (
            {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 5},
            optuna.distributions.FloatDistribution(1, 100, log=True),
            None,
        ),
        (
            {"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.5},
            optuna.distributions.FloatDistribution(0.1, 0.9),
            [0.5],
        ),
    ],
)
def test_forms_of_parameters(
    form: dict[str, Any], distribution: optuna.distributions.BaseDistribution, grid: list[Any] | None
) -> None:
    parameter = read_parameter("x", form)
    assert isinstance(parameter, Parameter)
    assert parameter.distribution == distribution and parameter.values == grid
    assert grid is None or [type(value) for value in parameter.values or []] == [type(value) for value in grid]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [parameter.suggest(study.ask()) for _ in range(30)]
    if grid is not None:
        assert all(value in grid for value in drawn) and len({repr(value) for value in drawn}) == len(grid)
    else:
        assert len(set(drawn)) > 10 and all(form["min"] <= value <= form["max"] for value in drawn)
    if "q" in form:
        assert all(abs(value / form["q"] - round(value / form["q"])) < 1e-9 for value in drawn)


@pytest.mark.parametrize("form", [{"value": 3}, {"distribution": "constant", "value": [1, 2]}])
def test_a_parameter_with_one_value_is_not_chosen(form: dict[str, Any]) -> None:
    assert read_parameter("x", form) == Constant(form["value"])


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (3, "expected a mapping"),
        ({}, "not supported here: expected value; values; min and max"),
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "'normal' is not supported here: .*log_uniform_values"),
        ({"distribution": ["uniform"], "min": 0, "max": 1}, r"\['uniform'\] is not supported here"),
        ({"distribution": "log_uniform", "min": -3, "max": 0}, "'log_uniform' is not supported"),
        ({"parameters": {"a": {"value": 1}}}, "nested parameters is not supported"),
        ({"values": []}, "expected a list of one value or more"),
        ({"values": [1, 1]}, "a value twice"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "probabilities not supported"),
        ({"values": ["1e-3", "1e-2"]}, r"the text '1e-3', which YAML does not take for a number: write 0\.001"),
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
    with pytest.raises(ValueError, match=message):
        read_parameter("method.x", form)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": {"name": "test/miou", "goal": "maximize"}}, "Nothing is chosen by scores on targets"),
        ({"metric": {"name": "val/miou"}}, "expected goal: maximize"),
        ({"metric": {"name": "val/ece", "goal": "most"}}, "expected maximize or minimize"),
        ({"metric": None}, "metric is missing"),
        ({"method": "hyperband"}, "expected one of grid, random, bayes"),
        ({"method": ["grid"]}, r"method is \['grid'\]: expected one of grid, random, bayes"),
        (
            {"parameters": {"method": {"values": ["IaBN", "TTA"]}}},
            "method cannot be chosen by a sweep",
        ),
        ({"parameters": {"ckpt_path": {"values": ["a", "b"]}}}, "ckpt_path cannot be chosen by a sweep"),
        ({"parameter": {}}, "unknown key parameter"),
        ({"parameters": {"method.alpha": {"value": 0.1}}}, "nothing to choose"),
        ({"parameters": {"data.choose_on_target": {"values": [True, False]}}}, "on the development set alone"),
        ({"run_cap": 0}, "run_cap is 0"),
        ({"early_terminate": {"type": "median"}}, "expected {type: hyperband"),
        ({"command": ["${env}", "${interpreter}", "${program}", "test", "${args}"]}, "nothing is chosen on targets"),
        ({"command": ["${env}", "${interpreter}", "${program}", "fit", "${args}"]}, "it trains a network per trial"),
        ({"command": None}, r"has \$\{args\} after \$\{program\}. Expected validate there"),
        ({"command": ["${program}", "validate"]}, r"has no \$\{args\}"),
        ({"command": ["python", "main.py", "validate", "${args}"]}, r"has no \$\{program\}"),
        ({"command": ["${program}", "validate", "${args_json_file}", "${args}"]}, "main.py cannot read"),
        ({"command": ["${program}", "validate", "--config=${envvar:SEGADAPT_NOT_SET}", "${args}"]}, "is not set"),
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
    assert error.startswith("error: ") and re.search(message, error), error
    assert not calls() and not (tmp_path / "out").exists()


def test_a_database_that_another_process_makes_just_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, tries = optuna.storages.RDBStorage, []

    def make_later(*args: Any, **kwargs: Any) -> optuna.storages.RDBStorage:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("(sqlite3.OperationalError) table studies already exists")
        return make(*args, **kwargs)

    monkeypatch.setattr(optuna.storages, "RDBStorage", make_later)
    monkeypatch.setattr(search.time, "sleep", lambda seconds: None)
    assert open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == [] and len(tries) == 3
    monkeypatch.setattr(optuna.storages, "RDBStorage", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="cannot be opened: division by zero"):
        open_storage("sqlite:///x.db")


def test_files_that_are_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, message in (
        ("missing.yaml", None, "cannot be read"),
        ("list.yaml", "[1, 2]", "holds list, no sweep"),
        ("broken.yaml", "a: [", "is not YAML"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        assert run_command([str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


def test_choosing_on_a_target_and_a_missing_checkpoint_are_refused(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, more=("--data.choose_on_target=true",)) == 1
    assert "a sweep never chooses on a target" in capsys.readouterr().err
    assert sweep(tmp_path, "--checkpoint", str(tmp_path / "none.ckpt")) == 1
    assert "none.ckpt is not there" in capsys.readouterr().err
    monkeypatch.delenv("SEGADAPT_CHECKPOINT")
    assert sweep(tmp_path) == 1
    assert "expected --checkpoint best.ckpt, or export SEGADAPT_CHECKPOINT" in capsys.readouterr().err
    assert not calls()


@pytest.mark.parametrize(
    "more", [("--method.alpha=0.4",), ("--method.alpha", "0.4"), ("--data.seed=1", "--method=TTA"), ("--method", "TTA")]
)
def test_arguments_that_would_overrule_the_sweep_are_refused(
    more: tuple[str, ...], tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, more=more) == 1
    assert re.search(r"error: --method(\.alpha)? behind -- would overrule .*sweep\.yaml", capsys.readouterr().err)
    assert not calls()
    assert sweep(tmp_path, more=("--method.psi=1",)) == 0  # not chosen by this sweep


# The study, with a function in place of main.py.


def make_definition(tmp_path: Path, **changes: Any) -> Definition:
    return read_definition(write_sweep(tmp_path, **changes))


def open_search(
    tmp_path: Path, run_trial: search.RunTrial, sampler: str = "grid", total: int | None = None, **changes: Any
) -> Search:
    """Opens the study of a sweep as another process would."""
    definition = make_definition(tmp_path, **changes)
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = open_study(definition, storage, "study", {"of": "a test"})
    study.sampler = make_sampler(sampler, definition, 0)
    study.pruner = make_pruner(definition, True)
    total = total or find_total(definition, sampler, None)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Search(definition, study, run_trial, total, show=False)


def list_states(study: optuna.Study) -> list[tuple[Any, str]]:
    return [(trial.user_attrs["values"]["method.alpha"], trial.state.name) for trial in study.get_trials()]


def score(values: Mapping[str, Any], report: Any) -> float:
    return 100 - 100 * abs(values["method.alpha"] - 0.4)


def test_a_grid_runs_in_order_and_only_once(tmp_path: Path) -> None:
    first = open_search(tmp_path, score)
    first.run()
    assert list_states(first.study) == [(alpha, "COMPLETE") for alpha in (0.0, 0.2, 0.4, 0.6)]
    best = find_best(first.study)
    assert best is not None and (best.user_attrs["values"], best.value) == ({"method.alpha": 0.4}, 100)
    again = open_search(tmp_path, score)
    again.run()
    assert (first.new, again.new, len(again.study.trials)) == (4, 0, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ChildError("bad settings")])
def test_a_trial_that_is_broken_off_is_tried_again_first(error: Any, tmp_path: Path) -> None:
    def stop(values: Mapping[str, Any], report: Any) -> float:
        if values["method.alpha"] == 0.2:
            raise error
        return score(values, report)

    with pytest.raises((KeyboardInterrupt, ChildError)):
        open_search(tmp_path, stop).run()
    again = open_search(tmp_path, score)
    again.run()
    expected = [(0.0, "COMPLETE"), (0.2, "FAIL"), (0.2, "COMPLETE"), (0.4, "COMPLETE"), (0.6, "COMPLETE")]
    assert list_states(again.study) == expected


def test_machines_that_share_a_study_do_nothing_twice(tmp_path: Path) -> None:
    done: dict[str, list[float]] = {"here": [], "there": []}

    def there(values: Mapping[str, Any], report: Any) -> float:
        done["there"].append(values["method.alpha"])
        return score(values, report)

    def here(values: Mapping[str, Any], report: Any) -> float:
        done["here"].append(values["method.alpha"])
        open_search(tmp_path, there).run()  # all that another machine can do while this trial runs
        return score(values, report)

    own = open_search(tmp_path, here)
    own.run()
    assert done == {"here": [0.0], "there": [0.2, 0.4, 0.6]}
    assert {state for _, state in list_states(own.study)} == {"COMPLETE"} and len(own.study.trials) == 4


def test_machines_that_come_to_one_point_agree_who_has_it(tmp_path: Path) -> None:
    """Both have chosen before either has said so: the trial with the lower number goes on."""
    own = open_search(tmp_path, score)
    first, second = own.study.ask(), own.study.ask(fixed_distributions={})
    alpha = own.definition.parameters[0]
    bar = SimpleNamespace(set_description=lambda text: None, set_postfix_str=lambda text: None)
    first.set_user_attr("values", {"method.alpha": alpha.suggest(first)})
    own.study.sampler._next[second.number] = {"method.alpha": 0.0}  # type: ignore[attr-defined]
    with pytest.raises(search.TakenError):
        own._score(second, bar)
    assert own._score(first, bar) == score({"method.alpha": 0.0}, None)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_trial_whose_process_has_died_is_tried_again(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "HEARTBEAT", 1)
    monkeypatch.setattr(search, "GRACE", 1)
    dead = open_search(tmp_path, score)
    trial = dead.study.ask()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    owner = {**describe_owner(), "pid": process.pid} if where == "here" else {"host": "other", "pid": 1, "started": "2"}
    trial.set_user_attr("values", {"method.alpha": dead.definition.parameters[0].suggest(trial)})
    trial.set_user_attr("owner", owner)
    if where == "elsewhere":
        dead.study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        open_search(tmp_path, score, total=1).run()
        assert list_states(dead.study) == [(0.0, "RUNNING")]  # it may be alive
        time.sleep(2.5)
    again = open_search(tmp_path, score)
    again.run()
    assert list_states(again.study)[:2] == [(0.0, "FAIL"), (0.0, "COMPLETE")]
    assert sum(state == "COMPLETE" for _, state in list_states(again.study)) == 4


def report_all(value: float, images: int, report: Any) -> float:
    for number in range(1, images + 1):
        report(number, value)
    return value


def test_hopeless_trials_are_stopped_and_are_never_best(tmp_path: Path) -> None:
    values = {0.0: 50.0, 0.1: 60.0, 0.2: 70.0, 0.3: 80.0, 0.4: 55.0, 0.5: 40.0, 0.6: 65.0}
    seen: dict[float, int] = {}

    def run(given: Mapping[str, Any], report: Any) -> float:
        def count(images: int, value: float) -> None:
            seen[given["method.alpha"]] = images
            report(images, value)

        return report_all(values[given["method.alpha"]], 20, count)

    parameters = {"method.alpha": {"values": list(values)}}
    own = open_search(tmp_path, run, parameters=parameters)
    own.run()
    assert {alpha: state for alpha, state in list_states(own.study) if state != "COMPLETE"} == {
        0.4: "PRUNED",
        0.5: "PRUNED",
    }
    assert seen[0.4] == seen[0.5] == FIRST_IMAGES and seen[0.6] == 20
    best = find_best(own.study)
    assert best is not None and best.value == 80
    everything = tmp_path / "everything"
    everything.mkdir()
    unpruned = open_search(everything, run, parameters=parameters)
    unpruned.study.pruner = make_pruner(unpruned.definition, False)
    unpruned.run()
    assert {state for _, state in list_states(unpruned.study)} == {"COMPLETE"}


def test_a_stopped_trial_is_not_best_even_if_it_led(tmp_path: Path) -> None:
    def run(given: Mapping[str, Any], report: Any) -> float:
        report(10, 99.0)
        if given["method.alpha"] == 0.2:
            raise optuna.TrialPruned
        return score(given, report)

    own = open_search(tmp_path, run)
    own.run()
    best = find_best(own.study)
    assert best is not None and best.user_attrs["values"] == {"method.alpha": 0.4}


def test_early_terminate_is_successive_halving_over_images(tmp_path: Path) -> None:
    for rule, first in (({"min_iter": 3}, 3), ({"max_iter": 27, "s": 2}, 3), ({"min_iter": 4, "eta": 2}, 4)):
        definition = make_definition(tmp_path, early_terminate={"type": "hyperband", **rule})
        assert definition.early_terminate == {"first": first, "eta": rule.get("eta", 3)}
    seen = {}

    def run(given: Mapping[str, Any], report: Any) -> float:
        for number in range(1, 21):
            seen[given["method.alpha"]] = number
            report(number, given["method.alpha"])
        return given["method.alpha"]

    rule = {"type": "hyperband", "min_iter": 5, "eta": 2}
    open_search(tmp_path, run, early_terminate=rule, parameters={"method.alpha": {"values": [0.6, 0.4, 0.2]}}).run()
    assert seen[0.6] == 20 and seen[0.2] == 5


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_goes_on_draws_what_one_in_one_go_would(sampler: str, tmp_path: Path) -> None:
    changes = {"parameters": {"method.alpha": {"min": 0.0, "max": 1.0}}}
    outcomes = []
    count = 12 if sampler == "tpe" else 6  # TPE draws ten at random before it learns from them
    for totals in ((count,), (count // 2, count - 1, count)):
        folder = tmp_path / str(len(totals))
        folder.mkdir()
        for total in totals:
            own = open_search(folder, score, sampler, total, **changes)
            own.run()
        outcomes.append(list_states(own.study))
    assert outcomes[0] == outcomes[1] and len({alpha for alpha, _ in outcomes[0]}) == count


def test_the_same_values_are_not_scored_twice(tmp_path: Path) -> None:
    runs = []

    def run(values: Mapping[str, Any], report: Any) -> float:
        runs.append(values["method.alpha"])
        return score(values, report)

    own = open_search(tmp_path, run, "random", 12)
    own.run()
    assert sorted(runs) == [0.0, 0.2, 0.4, 0.6] and len(own.study.trials) == 12


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    definition = make_definition(tmp_path)
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    open_study(definition, storage, "study", {"weights": "a"})
    with pytest.raises(ValueError, match="weights was a, is now b"):
        open_study(definition, storage, "study", {"weights": "b"})
    open_study(definition, storage, "other", {"weights": "b"})
    with pytest.raises(ValueError, match=r"cannot be opened.*Expected a database"):
        open_storage("nonsense://somewhere")
    assert hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


# The whole program, with another one in place of main.py.


def test_a_sweep_writes_what_came_out(
    tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, more=("--data.num_val=3",)) == 0
    folder = tmp_path / "out"
    outcome = read_outcome(folder)
    assert [(row["values"]["method.alpha"], row["score"]) for row in outcome["trials"]] == [
        (0.4, 100),
        (0.2, 80),
        (0.6, 80),
        (0.0, 60),
    ]
    assert outcome["best"] == {"values": {"method.alpha": 0.4}, "score": 100} and not outcome["one_pass"]
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such signal")
@pytest.mark.parametrize(
    "start",
    [
        "from experiments.sweep.child import run_child; run_child(command, Path('log.txt'), print)",
        "from experiments.study import run_training; run_training(command)",
    ],
    ids=["trial", "training"],
)
def test_a_kill_of_the_parent_ends_the_child(start: str, tmp_path: Path) -> None:
    child = "import os, pathlib, time; pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'pid'); "
    child += "time.sleep(600)"
    program = f"import sys; from pathlib import Path; command = [sys.executable, '-c', {child!r}]; {start}"
    parent = programs.start(["-c", program], tmp_path)
    try:
        wait_for(lambda: (tmp_path / "pid").exists() or parent.poll() is not None)
        pid = int((tmp_path / "pid").read_text())
    finally:
        parent.kill()
        parent.wait()
    try:
        wait_for(lambda: not is_alive(pid), 20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_ends_the_child_and_the_same_command_goes_on(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path)
    waiting = tmp_path / "go on"
    monkeypatch.setenv("WAIT_FOR", str(waiting))
    place = tmp_path / "out" / "trials" / name_folder({"method.alpha": 0.0})

    def interrupt() -> None:
        records = place / "records.jsonl"
        while not (records.exists() and records.read_bytes().count(b"\n") == 12):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert sweep(tmp_path) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert "the same command goes on" in capsys.readouterr().err
    assert read_outcome(tmp_path / "out")["best"] is None
    waiting.touch()
    assert sweep(tmp_path) == 0
    assert [call["found"] for call in calls()] == [0, 12, 0, 0, 0]  # in the same folder, with what was there
    assert {call["results.folder"] for call in calls()[:2]} == {str(place)}
    assert len(read_outcome(tmp_path / "out")["trials"]) == 4


def test_a_failing_trial_stops_the_sweep_with_its_message(
    tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, parameters={"method.alpha": {"values": [0.2, 7.0, 0.4]}})
    assert sweep(tmp_path) == 1
    assert "main.py says: alpha is out of its range" in capsys.readouterr().err
    outcome = read_outcome(tmp_path / "out")
    assert [(row["values"]["method.alpha"], row["state"]) for row in outcome["trials"]] == [
        (0.2, "finished"),
        (7, "failed"),
    ]
    assert outcome["best"]["score"] == 80 and (tmp_path / "out" / "best.yaml").exists()


def test_a_hopeless_run_is_ended_before_its_last_image(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path, parameters={"method.alpha": {"values": [0.4, 0.3, 0.5, 0.6, 0.0]}})
    done = {"runs": 0}

    def build(*args: Any, **kwargs: Any) -> list[str]:
        done["runs"] += 1
        if done["runs"] == 6:  # the last trial: it does not end by itself
            monkeypatch.setenv("WAIT_FOR", str(tmp_path / "never"))
        return build_command(*args, **kwargs)

    monkeypatch.setattr("experiments.sweep.trial.build_command", build)
    done["runs"] = 1
    assert sweep(tmp_path) == 0
    outcome = read_outcome(tmp_path / "out")
    assert outcome["trials"][-1] | {"seconds": 0} == {
        "number": 4,
        "values": {"method.alpha": 0.0},
        "score": 60,
        "state": "stopped",
        "stopped_after": 10,
        "seconds": 0,
    }
    assert outcome["best"]["values"] == {"method.alpha": 0.4}


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


def test_running_scores_follow_a_file_that_grows(tmp_path: Path) -> None:
    sums = {"union": [10, 10], "pixels": [10, 10], "class_gap": [0.0, 0.0], "brier": 0.0, "nll": 0.0}
    sums |= {"bin_pixels": [0] * 15, "bin_correct": [0] * 15, "bin_confidence": [0.0] * 15}
    path = tmp_path / "records.jsonl"
    scores = RunningScores(path)
    assert list(scores.read_new()) == []
    lines = [json.dumps({"domain": "d", "intersection": hits, **sums}) + "\n" for hits in ([5, 5], [10, 0], [0, 0])]
    path.write_text(lines[0] + lines[1][:20])
    assert list(scores.read_new()) == [(1, 50.0)]
    path.write_text(lines[0] + lines[1])
    assert list(scores.read_new()) == [(2, 50.0)]  # of summed counts: (15 / 20 + 5 / 20) / 2
    path.write_text(lines[2])
    assert list(scores.read_new()) == [(1, 0.0)]


def test_folders_are_named_by_values() -> None:
    assert name_folder({"method.alpha": 0.3, "data.x": 1}) == "method.alpha=0.3,data.x=1"
    odd = [name_folder({"method.scales": value}) for value in ("a/b", "a:b", ["x"] * 50)]
    assert len(set(odd)) == 3 and all("/" not in name and len(name) <= 120 for name in odd)


def test_options_are_dropped_with_their_values() -> None:
    command = ["validate", "--method", "IaBN", "--method.alpha=1", "--methods=2", "--data", "x", "--method.psi", "3"]
    assert drop_options(command, "method") == ["validate", "--methods=2", "--data", "x"]


# One pass.


def test_what_is_one_pass(tmp_path: Path) -> None:
    config = {"method": {"class_path": "callbacks.IaBN"}}
    definition = make_definition(tmp_path)
    assert explain_several(definition, "grid", 4, config) is None
    assert "only part" in str(explain_several(definition, "grid", 3, config))
    assert "no --method" in str(explain_several(definition, "grid", 4, {}))
    assert "random" in str(explain_several(definition, "random", 4, config))
    other = make_definition(tmp_path, parameters={"model.temperature": {"values": [1, 2]}})
    assert "model.temperature is no argument" in str(explain_several(other, "grid", 2, config))
    other = make_definition(tmp_path, metric={"name": "val/ece", "goal": "minimize"})
    assert "val/ece" in str(explain_several(other, "grid", 4, config))


def open_one_pass(tmp_path: Path) -> OnePass:
    own = open_search(tmp_path, score)
    return OnePass(own.definition, own.study, tmp_path, {"method": {"class_path": "x", "init_args": {}}}, show=False)


def test_one_machine_does_the_pass_and_another_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGADAPT_CHECKPOINT", "best.ckpt")
    runs = []

    def run_child(command: list[str], log: Path, watch: Callable[[], None]) -> None:
        runs.append(command)
        watch()
        points = [{"values": {"alpha": alpha}, "miou": 10 * alpha} for alpha in (0.0, 0.2, 0.4, 0.6)]
        log.parent.mkdir(parents=True, exist_ok=True)
        (log.parent / "search.json").write_text(json.dumps({"points": points}))

    monkeypatch.setattr(one_pass, "run_child", run_child)
    own = open_one_pass(tmp_path)
    other = {"owner": {"host": "other", "pid": 1, "started": "2"}, "time": time.time()}
    own.study.set_user_attr(CLAIM, other)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:  # the other one gives no sign of life any more
            own.study.set_user_attr(CLAIM, {**other, "time": time.time() - 1000})

    monkeypatch.setattr(one_pass, "time", SimpleNamespace(time=time.time, sleep=sleep))
    own.run()
    assert len(runs) == 1 and len(slept) >= 2 and own.study.user_attrs[CLAIM] is None
    assert [(trial.user_attrs["values"]["method.alpha"], trial.value) for trial in own.study.trials] == [
        (0.0, 0.0),
        (0.2, 2.0),
        (0.4, 4.0),
        (0.6, 6.0),
    ]
    assert {trial.state for trial in own.study.trials} == {TrialState.COMPLETE}
    assert not any(argument.startswith(("--method=IaBN", "--method.alpha")) for argument in runs[0])
    assert "--method=null" in runs[0]
    again = open_one_pass(tmp_path)
    again.run()
    assert len(runs) == 1 and again.new == 0
    later = open_search(tmp_path, score)  # one run per trial has nothing to add
    later.run()
    assert later.new == 0 and len(list_points(later.definition.parameters)) == 4


PSI = {
    "method.alpha": {"value": 0.3},
    "method.scales": {"value": [0.75, 1.0]},
    "method.lr": {"value": 0.5},
    "method.psi": {"values": [0.05, 0.12]},
    "method.num_steps": {"values": [1, 2]},
}


def sweep_psi(folder: Path, checkpoint: Path, *options: str) -> dict[str, Any]:
    """Runs a small sweep over psi and num_steps by the real command; returns what came out."""
    content = yaml.safe_load((ROOT / "configs" / "sweep" / "psi.yaml").read_text())
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**content, "parameters": PSI}))
    given = ["--experiment", str(EXPERIMENT), "--checkpoint", str(checkpoint), "--folder", str(folder), *options]
    more = [*DATA, *QUIET, f"--trainer.logger.init_args.save_dir={folder}"]
    assert run_command([str(folder / "sweep.yaml"), *given, "--", *more]) == 0
    return read_outcome(folder)


def test_one_pass_and_separate_runs_give_the_same_scores(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real commands, in this process: starting one takes longer than all of them."""
    monkeypatch.chdir(ROOT)

    def resolve(command: list[str]) -> dict[str, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*command[3:], "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    def run_child(command: list[str], log: Path, watch: Callable[[], None]) -> None:
        main(command[3:])
        watch()

    monkeypatch.setattr("experiments.sweep.run.resolve", resolve)
    monkeypatch.setattr("experiments.sweep.trial.run_child", run_child)
    monkeypatch.setattr(one_pass, "run_child", run_child)
    one = sweep_psi(tmp_path / "one", checkpoint)
    separate = sweep_psi(tmp_path / "separate", checkpoint, "--separate")
    assert one["one_pass"] and not separate["one_pass"]
    scores = [{tuple(row["values"].values()): row["score"] for row in way["trials"]} for way in (one, separate)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9) and len(scores[0]) == 4
    assert len(set(scores[0].values())) > 1  # the settings do matter
    assert one["best"]["values"] == separate["best"]["values"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_a_real_sweep_has_chosen_can_be_tested(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    best = sweep_psi(tmp_path / "sweep", checkpoint)["best"]["values"]
    file = tmp_path / "sweep" / "best.yaml"
    method = yaml.safe_load(file.read_text())["init_args"]
    assert (method["alpha"], method["lr"], method["scales"]) == (0.3, 0.5, [0.75, 1.0])
    main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", f"--method={file}")])
    tested = json.loads((tmp_path / "results" / "results.json").read_text())["method"]
    assert (tested["psi"], tested["num_steps"]) == (best["method.psi"], best["method.num_steps"])
