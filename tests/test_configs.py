"""Every YAML in configs/ parses and runs one batch."""

from pathlib import Path

import pytest

from main import main
from tests.tiny import EXPERIMENT, ROOT, arguments

CONFIGS = ROOT / "configs"
# Not by limit_train_batches=1, which is an int or a float (1.0: all) depending on what was imported before.
ONE_BATCH = ["--trainer.max_steps=1", "--data.num_val=1", "--data.num_test=1"]


def list_configs(kind: str) -> list[str]:
    """Names the files of one kind."""
    return sorted(path.name for path in (CONFIGS / kind).glob("*.yaml"))


def test_no_kind_of_config_is_forgotten() -> None:
    kinds = {path.parent.name for path in CONFIGS.rglob("*.yaml")}
    assert kinds == {"trainer", "data", "model", "method", "experiment"}


@pytest.mark.parametrize("name", list_configs("experiment"))
def test_experiment_trains_and_tests_one_batch(name: str, tmp_path: Path) -> None:
    weights = "--model.network.init_args.weights=null"  # they cannot be downloaded in a test
    more = [*ONE_BATCH, "--model.network.init_args.width=8", weights]
    args = arguments(tmp_path, *more, experiment=CONFIGS / "experiment" / name)
    cli = main(["fit", *args])
    assert cli.trainer.global_step == 1
    assert main(["test", *args]).trainer.callback_metrics["test/miou"] >= 0


@pytest.mark.parametrize("name", list_configs("model"))
def test_model_trains_one_batch(name: str, tmp_path: Path) -> None:
    more = [f"--model={CONFIGS / 'model' / name}", "--model.network.init_args.weights=null"]
    cli = main(["fit", *arguments(tmp_path, *more, "--model.network.init_args.width=8", *ONE_BATCH)])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("name", list_configs("data"))
def test_data_is_tested_one_batch(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, *ONE_BATCH)
    args.insert(1, f"--data={CONFIGS / 'data' / name}")
    cli = main(["test", *args])
    assert {"test/haze/miou", "test/dusk/miou", "test/dust/miou", "test/miou"} <= set(cli.trainer.callback_metrics)


@pytest.mark.parametrize("name", list_configs("method"))
def test_method_runs_one_batch(name: str, tmp_path: Path) -> None:
    method = f"--method={CONFIGS / 'method' / name}"
    cli = main(["test", *arguments(tmp_path, method, *ONE_BATCH, experiment=EXPERIMENT)])
    assert cli.trainer.callback_metrics["test/miou"] >= 0


def test_ddp_fragment_trains_on_two_processes_as_far_as_a_cpu_can(tmp_path: Path) -> None:
    """The GPU fragment on a CPU: what it says is parsed; devices and SyncBN need GPUs, so one process runs here."""
    more = [f"--config={CONFIGS / 'trainer' / 'ddp.yaml'}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    cli = main(["fit", *arguments(tmp_path, *more, "--trainer.sync_batchnorm=false", *ONE_BATCH)])
    assert type(cli.trainer.strategy).__name__ == "DDPStrategy"
    assert cli.trainer.global_step == 1
