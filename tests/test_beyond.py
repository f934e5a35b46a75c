"""The study beyond the paper, on a tiny budget."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

import callbacks
from callbacks.run.folder import MANIFEST
from experiments.beyond import BEST, FAST, REFERENCE, TRUSTED, choose_elsewhere, format_rows, list_methods, run_beyond
from experiments.pages import make_marks
from experiments.worlds import WORLDS
from tests.tiny import ROOT


def make_row(method: str, miou: float, over: float, worse: float) -> dict[str, Any]:
    scores = {"miou.haze": miou, "miou.dusk": miou + 4, "miou.mean": miou + 2, "ece": 5.0, "ms_per_image": 10.0}
    return {"method": method, **scores, "worse": worse, "gain": miou - 40, "over": over}


def test_lines_are_means_over_seeds() -> None:
    rows = [make_row("IaBN", 40, -4, 0), make_row(BEST, 47, 3, 1)]
    rows += [make_row("IaBN", 42, -3, 0), make_row(BEST, 48, 3, 2)]
    expected = "47.5 ± 0.7 | 51.5 ± 0.7 | 49.5 ± 0.7 | +3.0 | 1.5 % | +7.5 | 5.0 |"
    assert format_rows(rows).splitlines()[3] == f"| {BEST} | {expected}"


def test_nothing_is_chosen_where_it_is_scored() -> None:
    first = {"method": "A", "seed": 0, "miou.x": 90.0, "miou.y": 10.0, "miou.z": 30.0, "miou.mean": 43.3}
    second = {"method": "B", "seed": 0, "miou.x": 10.0, "miou.y": 20.0, "miou.z": 40.0, "miou.mean": 23.3}
    row = choose_elsewhere([first, second])
    assert row["chosen"] == {"x": "B", "y": "A", "z": "A"}  # by y + z, x + z, x + y
    assert [row[key] for key in ("miou.x", "miou.y", "miou.z")] == [10, 10, 30]
    assert row["miou.mean"] == pytest.approx(50 / 3)


def test_presets_say_what_the_study_measures() -> None:
    rows = list_methods(WORLDS["street_scenes"], 0.1, "alpha.yaml")
    for preset, row in (("best", BEST), ("fast", FAST)):
        content = yaml.safe_load((ROOT / "configs" / "method" / f"{preset}.yaml").read_text())
        method = getattr(callbacks, content["class_path"].rpartition(".")[2])
        name, settings = rows[row]
        assert name == method.__name__
        known = inspect.signature(method).parameters
        given = {key: parameter.default for key, parameter in known.items()} | settings
        preset_settings = {key: parameter.default for key, parameter in known.items()} | content["init_args"]
        assert preset_settings == given
    assert next(iter(rows)) == REFERENCE


@pytest.mark.slow
def test_every_row_is_tested_and_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text("\n".join(make_marks("beyond street_scenes")))
    args = ["street_scenes", "--quick", "--page", "page.md", "--", "--data.num_val=2", "--data.num_test=1"]
    args += ["--data.height=64", "--data.width=128", "--data.num_train=8"]
    rows = run_beyond(args)
    assert [row["method"] for row in rows][-1] == TRUSTED and len(rows) == 14
    assert rows[-1]["risk"]["images"] == 2
    assert rows[0]["gain"] == rows[0]["worse"] == 0
    assert [row["over"] for row in rows if row["method"] == "Seg-TTT"] == [0]
    assert format_rows(rows) in (tmp_path / "page.md").read_text()
    made = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.rglob("*.json*")
        if path.name not in ("report.json", MANIFEST)
    }
    assert run_beyond(args) == rows
    assert {path: path.stat().st_mtime_ns for path in made} == made
