"""Sweeps: what the agent of Weights & Biases runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import wandb.wandb_agent
import yaml

from experiments.sweep.definition import Definition, read_definition
from experiments.sweep.trial import build_arguments
from main import main
from tests import programs
from tests.tiny import DATA, EXPERIMENT, QUIET, ROOT

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

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
