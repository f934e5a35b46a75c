"""The demo on a tiny budget."""

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.demo import METHODS, average_runs, format_runs, run_demo


@pytest.mark.slow
def test_demo_writes_its_table_chart_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_demo(["--quick", "--folder", str(tmp_path / "demo")])
    report = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [row["method"] for row in report["rows"]] == list(METHODS)
    for row in report["rows"]:
        assert list(row["miou"]) == ["haze", "dusk", "dust", "mean"]
        assert row["ms_per_image"] > 0
        assert 0 <= row["ece"] <= 100
    assert (tmp_path / "demo" / "miou.png").exists()
    for target in ("haze", "dusk", "dust"):
        assert Image.open(tmp_path / "demo" / f"{target}.png").size == (4 * 256 + 3 * 4, 128)


def test_table_averages_over_seeds() -> None:
    def run(miou: float) -> dict:
        summary = {"domains": {"haze": {"miou": miou}}, "mean": {"miou": miou, "ece": 1.0, "ms_per_image": 2.0}}
        return {"methods": dict.fromkeys(METHODS, summary)}

    runs = [run(40.0), run(44.0)]
    rows = average_runs(runs)
    assert rows[0]["miou"] == {"haze": 42.0, "mean": 42.0}
    assert rows[0]["miou_spread"]["haze"] == pytest.approx(2.828, abs=1e-3)
    assert "| t-BN | 42.0 ± 2.8 | 42.0 ± 2.8 | 1.0 | 2 |" in format_runs(runs)
