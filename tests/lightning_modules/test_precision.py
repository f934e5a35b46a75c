import warnings
from pathlib import Path

import pytest
import torch

from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, make_trainer


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_bf16_on_a_cpu_without_instructions_for_it_is_warned_of(
    precision: str, able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able, "amx_bf16": False})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(tmp_path, precision=precision)
        trainer.predict(SegmentationModule(TinyNetwork(19), 19), datamodule=FakeDataModule(length=2))
    found = [str(one.message) for one in caught if "trainer.precision=32-true" in str(one.message)]
    assert bool(found) == (precision == "bf16-mixed" and not able)
