"""Sweeps: the whole program, with the real main.py and with a function in its place; and what an agent runs."""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import wandb.wandb_agent
import yaml

import main as program
from experiments.sweep.__main__ import run_command
from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.trial import ScoreReporter, build_arguments, name_trial_folder
from lightning_modules.metrics import Scores
from main import main
from tests import programs
from tests.processes import wait_for
from tests.sweep.given import fake_main, list_trials, make_scores, read_outcome, sweep, write_sweep
from tests.tiny import DATA, EXPERIMENT, QUIET, ROOT, arguments, read_results

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),  # of signs of life
]


@pytest.mark.slow
def test_a_sweep_writes_what_came_out(
    tmp_path: Path, calls: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(tmp_path)
    assert sweep(tmp_path, more=("--data.num_val=3",)) is None
    folder = tmp_path / "out"
    outcome = read_outcome(folder)
    finished = ((0.4, 100), (0.2, 80), (0.6, 80), (0, 60))
    assert list_trials(folder) == [(alpha, hits, "finished") for alpha, hits in finished]
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
    assert sweep(tmp_path, more=("--data.num_val=3",)) is None  # nothing is left
    assert len(calls()) == 4 and len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not list(folder.glob(".running-*"))


@pytest.mark.slow
def test_other_metrics_and_parameters(tmp_path: Path, calls: Any) -> None:
    parameters = {"method.alpha": {"values": [0.2, 0.4]}, "model.temperature": {"values": [1.0, "auto"]}}
    write_sweep(tmp_path, metric={"name": "val/ece", "goal": "minimize"}, parameters=parameters)
    assert sweep(tmp_path) is None
    outcome = read_outcome(tmp_path / "out")
    assert [row["score"] for row in outcome["trials"]] == [0, 0, 20, 20]
    assert outcome["best"]["values"] == {"method.alpha": 0.4, "model.temperature": 1.0}
    assert "--model.temperature=1.0 --method=" in (tmp_path / "out" / "sweep.md").read_text()
    write_sweep(tmp_path, metric={"name": "val/f1", "goal": "maximize"})
    assert "no val/f1: expected one of val/miou, val/ece" in (sweep(tmp_path, "--name=other") or "")


@pytest.mark.slow
def test_a_trial_that_fails_does_not_stop_the_sweep_and_is_tried_again(tmp_path: Path, calls: Any) -> None:
    write_sweep(tmp_path, parameters={"method.alpha": {"values": [0.2, 7.0, 0.4]}})
    for _ in range(2):
        assert re.match("alpha=7: alpha is out of its range.*same command", sweep(tmp_path) or "")
        assert list_trials(tmp_path / "out") == [(0.4, 100, "finished"), (0.2, 80, "finished"), (7, None, "failed")]
    assert [call["method.alpha"] for call in calls()] == ["0.2", "7.0", "0.4", "7.0"]
    assert "out of its range" in next((tmp_path / "out" / "trials").glob("*7.0*/log.txt")).read_text()


@pytest.mark.slow
def test_values_drawn_twice_run_once(tmp_path: Path, calls: Any) -> None:
    write_sweep(tmp_path, parameters={"method.alpha": {"values": [0.2, 0.4]}})
    assert sweep(tmp_path, "--sampler=random", "--trials=8") is None
    assert list_trials(tmp_path / "out") == [(0.4, 100, "finished"), (0.2, 80, "finished")] and len(calls()) == 2


SPACE = {"method.alpha": {"min": 0.0, "max": 1.0}}


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "trials"), [("grid", 5), ("tpe", 13)])  # TPE draws ten at random
def test_a_sweep_that_is_killed_again_and_again_ends_in_the_same_table(
    sampler: str, trials: int, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"method.alpha": {"values": [0.4, 0.3, 0.5, 0.6, 0.0]}} if sampler == "grid" else SPACE
    code = "import sys, main; from tests.sweep.given import fake_main; main.main = fake_main; "
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
        programs.run(["-c", code, str(path), *options], ROOT)
        tables.append([row | {"seconds": 0} for row in read_outcome(folder)["trials"]])
    assert tables[0] == tables[1] and len(tables[0]) == trials


@pytest.mark.slow
def test_ctrl_c_ends_tidily_and_the_same_goes_on(tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path)

    def interrupted(args: list[str]) -> None:
        if "--method.alpha=0.2" in args and len(calls()) == 1:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                sys.exit(1)  # as Lightning does
        fake_main(args)

    monkeypatch.setattr(program, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path)
    assert list_trials(tmp_path / "out") == [(0.0, 60, "finished"), (0.2, None, "failed")]
    monkeypatch.setattr(program, "main", fake_main)
    assert sweep(tmp_path) is None
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
    assert sweep(tmp_path, *options) is None
    rows = read_outcome(tmp_path / "out")["trials"]
    assert {row["values"]["method.alpha"]: row["stopped_after"] for row in rows if row["state"] == "stopped"} == stopped
    assert all(row["score"] == round(100 - 100 * abs(row["values"]["method.alpha"] - 0.4)) for row in rows)
    assert rows[0]["values"] == {"method.alpha": 0.4}


def test_reports_go_on_where_an_earlier_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, reports = tmp_path / "records.jsonl", []
    own = [make_scores(hits, [10, 10]) for hits in ([5, 5], [10, 0], [0, 0])]
    records.write_text("".join(json.dumps({"domain": "d", **scores.to_record()}) + "\n" for scores in own[:2]))
    monkeypatch.setattr(ScoreReporter, "current", (records, lambda images, miou: reports.append((images, miou))))
    monkeypatch.setattr(ScoreReporter, "every", 1)
    reporter, trainer = ScoreReporter(), SimpleNamespace(world_size=1)
    reporter.on_validation_epoch_start(trainer, None)  # type: ignore[arg-type]
    reporter.on_validation_batch_end(trainer, None, {"scores": own[2:], "domain": "d"})  # type: ignore[arg-type]
    assert reports == [(1, 50.0), (2, 50.0), (3, pytest.approx(100 / 3))]  # of summed counts


def test_folders_are_named_by_values() -> None:
    assert name_trial_folder({"method.alpha": 0.3, "data.x": 1}).startswith("method.alpha=0.3,data.x=1-")
    odd = [name_trial_folder({"method.scales": value}) for value in ("a/b", "a:b", ["x"] * 50)]
    assert len(set(odd)) == 3 and all("/" not in name and len(name) <= 120 for name in odd)


# The real program.

PSI: dict[str, Any] = {
    "method.alpha": {"value": 0.9},  # which the command line replaces
    "method.scales": {"value": [0.75, 1.0]},
    "method.lr": {"value": 0.5},
    "method.psi": {"values": [0.05, 0.12]},
    "method.num_steps": {"values": [1, 2]},
}


def sweep_psi(folder: Path, checkpoint: Path, *options: str) -> dict[str, Any]:
    """Runs a small sweep over psi and num_steps; returns what came out."""
    content = yaml.safe_load((ROOT / "configs" / "sweep" / "psi.yaml").read_text())
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**content, "parameters": PSI}))
    given = ["--experiment", str(EXPERIMENT), "--checkpoint", str(checkpoint), "--folder", str(folder), *options]
    own = [*DATA, *QUIET, f"--trainer.logger.init_args.save_dir={folder}", "--method.alpha=0.3"]
    run_command([str(folder / "sweep.yaml"), *given, "--", *own])
    return read_outcome(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_pass_and_single_runs_are_equal(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    values = {**{name: form["value"] for name, form in PSI.items() if "value" in form}, "method.alpha": 0.3, **best}
    command = ["main.py", "validate", f"--config={EXPERIMENT}", f"--ckpt_path={checkpoint}", "--method=SegTTT"]
    command += [*(f"--{name}={value}" for name, value in values.items()), *DATA, *QUIET, "--trainer.logger=false"]
    programs.run([*command, f"--results.folder={tmp_path / 'own'}"], ROOT)
    found = []
    for folder in (tmp_path / "own", tmp_path / "separate" / "trials" / name_trial_folder(best)):
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        found.append([{key: record[key] for key in (*Scores.zeros(2).to_record(), "name")} for record in records])
        found[-1].append(json.loads((folder / "results.json").read_text())["mean"]["miou"])
    assert found[0] == found[1] and found[0][-1] == separate["best"]["score"]
    main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", f"--method={tmp_path / 'separate' / 'best.yaml'}")])
    tested = read_results(tmp_path)["method"]
    assert {f"method.{name}": tested[name] for name in ("alpha", "lr", "scales", "psi", "num_steps")} == values


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_on_two_devices_take_turns(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = ["-m", "experiments.sweep", "configs/sweep/alpha.yaml", "--trials=2", f"--folder={tmp_path / 'out'}"]
    command += [f"--experiment={EXPERIMENT}", f"--checkpoint={checkpoint}", "--", *DATA, *QUIET]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    programs.run(command, ROOT)
    assert [state for _, _, state in list_trials(tmp_path / "out")] == ["finished"] * 2


# What the agent of Weights & Biases runs

SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
GIVEN = {"SEGADAPT_EXPERIMENT": EXPERIMENT}


def build_by_agent(path: Path, values: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[str]:
    """Returns the command line that wandb's agent starts in the folder of main.py; there is no server."""
    monkeypatch.chdir(ROOT)
    for name in ("SEGADAPT_EXPERIMENT", "SEGADAPT_CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WANDB_SWEEP_ID": "sweep1", **given}.items():
        monkeypatch.setenv(name, str(value))
    start = Mock()
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", start)
    agent = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = yaml.safe_load(path.read_text())["command"]
    args = {name: {"value": value} for name, value in {**read_definition(path).constants, **values}.items()}
    agent._command_run({"type": "run", "run_id": "run1", "program": "main.py", "args": args})
    return start.call_args.kwargs["command"]


def find_first(definition: Definition) -> dict[str, Any]:
    return {parameter.name: parameter.first for parameter in definition.chosen}


@pytest.mark.parametrize("name", ["alpha", "joint"])
def test_an_agents_command_runs(name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "configs" / "sweep" / f"{name}.yaml"
    definition = read_definition(path)
    values = find_first(definition)
    command = build_by_agent(path, values, monkeypatch, **GIVEN, SEGADAPT_CHECKPOINT=checkpoint)
    assert command[:4] == ["/usr/bin/env", "python", "main.py", "validate"]
    main([*command[3:], *DATA, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}", "--data.num_val=1"])
    run = tmp_path / "segadapt" / "run1"  # of its own
    summary = json.loads((run / "results.json").read_text())
    assert (run / "config.yaml").exists() and summary["complete"] and list(summary["domains"]) == ["development"]
    wanted = {key.removeprefix("method."): value for key, value in {**definition.constants, **values}.items()}
    assert {key: summary["method"][key] for key in wanted} == wanted
    assert len(list((tmp_path / "wandb").glob("offline-run-*-run1"))) == 1  # WANDB_MODE=offline keeps it so


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_is_that_of_the_agent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = read_definition(path)
    values = find_first(definition)
    expected = build_by_agent(path, values, monkeypatch, **GIVEN, SEGADAPT_CHECKPOINT="best.ckpt")
    assert build_arguments(definition, values, ["--data.num_val=1"]) == [*expected[3:], "--data.num_val=1"]


def test_without_experiment_or_checkpoint_the_run_of_an_agent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = build_by_agent(SWEEPS[0], {"method.alpha": 0.1}, monkeypatch)
    with pytest.raises(SystemExit):
        main(command[3:])
    assert "SEGADAPT_EXPERIMENT" in capsys.readouterr().err
    monkeypatch.setenv("SEGADAPT_EXPERIMENT", str(EXPERIMENT))
    command = [f"--config={EXPERIMENT}" if "SEGADAPT_EXPERIMENT" in part else part for part in command]
    with pytest.raises(FileNotFoundError, match="SEGADAPT_CHECKPOINT"):
        main([*command[3:], *DATA, *QUIET, f"--trainer.logger.init_args.save_dir={tmp_path}"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("logger", ["wandb", "default"])
def test_a_run_of_two_processes_has_one_folder(logger: str, checkpoint: Path, tmp_path: Path) -> None:
    """As of an agent with two GPUs; the first process alone knows where the loggers write."""
    more = [f"--config={ROOT}/configs/trainer/wandb.yaml"] if logger == "wandb" else []
    command = ["main.py", "validate", f"--config={EXPERIMENT}", *more, *DATA, *QUIET]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", f"--ckpt_path={checkpoint}", "--method=IaBN"]
    programs.run(command, tmp_path)
    (results,) = tmp_path.rglob("results.json")
    assert [path.name for path in tmp_path.rglob("config*.yaml") if "wandb" not in path.parts] == ["config.yaml"]
    assert (results.parent / "config.yaml").exists()
    assert json.loads(results.read_text())["complete"]
