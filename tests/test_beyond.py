"""The study beyond the paper, on a tiny budget."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

import callbacks
from experiments.beyond import BEST, REFERENCE, format_report, list_rows, run_beyond
from experiments.generalization import WORLDS
from experiments.pages import make_marks
from tests.tiny import ROOT


def make_row(miou: float, ms: float, worse: float) -> dict[str, Any]:
    return {"miou": {"haze": miou, "dusk": miou + 4}, "ece": 5.0, "ms": ms, "worse": worse, "gain": miou - 40}


def test_rows_are_compared_with_seg_ttt_seed_by_seed() -> None:
    seeds = [
        {"rows": {"IaBN": make_row(40, 10, 0), "Seg-TTT": make_row(44, 200, 8), BEST: make_row(47, 300, 1)}},
        {"rows": {"IaBN": make_row(42, 10, 0), "Seg-TTT": make_row(45, 200, 6), BEST: make_row(48, 400, 2)}},
    ]
    lines = format_report(seeds).splitlines()
    expected = "47.5 ± 0.7 | 51.5 ± 0.7 | 49.5 ± 0.7 | +3.0 | 1.5 % | +7.5 | 5.0 | 1.75 |"
    assert lines[4] == f"| {BEST} | {expected}"


def test_presets_say_what_the_study_measures() -> None:
    rows = list_rows(WORLDS["street_scenes"], 0.1, "alpha.yaml")
    for preset, row in (("best", BEST), ("fast", "TTA, final views (fast)")):
        content = yaml.safe_load((ROOT / "configs" / "method" / f"{preset}.yaml").read_text())
        method = getattr(callbacks, content["class_path"].rpartition(".")[2])
        name, settings = rows[row]
        assert name == method.__name__
        known = inspect.signature(method).parameters
        given = {key: parameter.default for key, parameter in known.items()} | settings
        preset_settings = {key: parameter.default for key, parameter in known.items()} | content["init_args"]
        if preset == "best":  # label_views are in their place
            given.pop("scales"), preset_settings.pop("scales")
        assert preset_settings == given
    assert next(iter(rows)) == REFERENCE


@pytest.mark.slow
def test_every_row_is_tested_and_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text("\n".join(make_marks("beyond street_scenes")))
    args = ["street_scenes", "--quick", "--page", "page.md", "--", "--data.num_val=2", "--data.num_test=1"]
    args += ["--data.height=64", "--data.width=128", "--data.num_train=8"]
    (found,) = run_beyond(args)
    assert found["risk"]["images"] == 2 and len(found["rows"]) == 9
    assert all(list(row["miou"]) == ["haze", "dusk", "dust"] for row in found["rows"].values())
    assert format_report([found]) in (tmp_path / "page.md").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*") if path.name != "report.json"}
    assert run_beyond(args) == [found]
    assert {path: path.stat().st_mtime_ns for path in made} == made
