"""The comparison of trainings for generalisation, on a tiny budget."""

from pathlib import Path
from typing import Any

import pytest

from experiments.generalization import WORLDS, format_rows, list_training, run_generalization
from experiments.pages import make_marks


def make_row(training: str, seed: int, miou: float) -> dict[str, Any]:
    scores = {"haze": miou, "dusk": miou + 2}
    methods = {"t-BN": scores, "IaBN": scores, "Seg-TTT": {domain: value + 3 for domain, value in scores.items()}}
    return {
        "training": training,
        "seed": seed,
        "alpha": 0.1 * seed,
        "development": 40.0,
        "seconds": 60 + miou,
        **methods,
    }


def test_rows_are_means_over_seeds_beside_plain_training() -> None:
    rows = [make_row("plain", 1, 30), make_row("plain", 2, 32), make_row("isw", 1, 33), make_row("isw", 2, 31)]
    lines = format_rows(rows).splitlines()
    assert lines[2] == "| plain | t-BN | 31.0 ± 1.4 | 33.0 ± 1.4 | 32.0 ± 1.4 | +0.0 |  |  |  |"
    assert lines[6] == "| isw | IaBN | 32.0 ± 1.4 | 34.0 ± 1.4 | 33.0 ± 1.4 | +1.0 | 0.1, 0.2 | 40.0 ± 0.0 | 1.0 |"
    assert "| isw | Seg-TTT | 36.0 | 38.0 | 37.0 |  |" in format_rows(rows[2:3])  # nothing to compare with


@pytest.mark.parametrize("world", WORLDS)
def test_every_training_has_a_config(world: str) -> None:
    assert WORLDS[world].config.is_file()
    for name in WORLDS[world].trainings:
        given = [argument for argument in list_training(name) if argument.startswith("--training=")]
        assert [Path(argument.partition("=")[2]).is_file() for argument in given] == [True] * (name != "plain")


def test_unknown_training_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown trainings \['asg'\]: expected some of \['plain', 'photometric'"):
        run_generalization(["street_scenes", "--folder", str(tmp_path), "--only", "asg"])


@pytest.mark.slow
def test_trainings_are_compared_and_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text("\n".join(make_marks("generalization street_scenes")))
    args = ["street_scenes", "--quick", "--only", "plain", "isw", "--page", "page.md", "--"]
    args += ["--data.num_val=1", "--data.num_test=1", "--data.height=64", "--data.width=128"]
    rows = run_generalization(args)
    assert [row["training"] for row in rows] == ["plain", "isw"]
    assert all(list(row["t-BN"]) == ["haze", "dusk", "dust"] for row in rows)
    assert format_rows(rows) in (tmp_path / "page.md").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert len(made) == 2 * 4  # the choice of alpha and three tests
    assert run_generalization(args) == rows
    assert {path: path.stat().st_mtime_ns for path in made} == made
