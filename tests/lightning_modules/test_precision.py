import time
import warnings
from pathlib import Path

import pytest
import torch

from lightning_modules import precision
from lightning_modules.precision import time_convolution, warn_of_slow_bf16
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer

CPU = torch.device("cpu")


def fake_times(monkeypatch: pytest.MonkeyPatch, float32: float, bf16: float) -> None:
    """Makes convolutions take so many milliseconds."""
    times = {torch.float32: float32, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "time_convolution", times.__getitem__)


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_bf16_that_does_not_pay_is_warned_of_at_the_start_of_every_run(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, 1.25, 5.5)
    module, data = SegmentationModule(TinyNetwork(19), 19), FakeDataModule(length=2)
    trainer = make_trainer(tmp_path, precision="bf16-mixed", max_epochs=1)
    with pytest.warns(UserWarning, match=r"5\.50 ms in bf16 and 1\.25 ms in float32.*trainer\.precision=32-true"):
        getattr(trainer, stage)(module, datamodule=data)


@pytest.mark.parametrize(
    ("name", "device", "bf16"),
    [("bf16-mixed", CPU, 0.5), ("32-true", CPU, 5.5), ("bf16-mixed", torch.device("cuda"), 5.5)],
    ids=["pays", "float32", "gpu"],
)
def test_there_is_no_warning_elsewhere(
    name: str, device: torch.device, bf16: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_times(monkeypatch, 1.25, bf16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_bf16(name, device)


def test_the_probe_takes_milliseconds_and_draws_no_random_number() -> None:
    time_convolution.cache_clear()
    before = torch.get_rng_state()
    start = time.perf_counter()
    assert time_convolution(torch.float32) > 0 and time_convolution(torch.bfloat16) > 0
    assert time.perf_counter() - start < 2  # some milliseconds, but for a machine that does other things as well
    assert torch.equal(torch.get_rng_state(), before)
