"""The comparison of trainings for generalisation, on a tiny budget."""

from pathlib import Path
from typing import Any

import pytest

from experiments.generalization import compare_with_plain, format_rows, run_generalization
from experiments.pages import make_marks
from experiments.worlds import WORLDS, list_training


def make_rows(training: str, seed: int, miou: float) -> list[dict[str, Any]]:
    words = {"training": training, "seed": seed}
    rows = [
        words | {"method": method, "miou.haze": score, "miou.dusk": score + 2, "miou.mean": score + 1}
        for method, score in (("t-BN", miou), ("IaBN", miou), ("Seg-TTT", miou + 3))
    ]
    rows[1] |= {"alpha": 0.1 * seed, "development": 40.0, "seconds": 60 + miou}
    return rows


def test_rows_are_means_over_seeds_beside_plain_training() -> None:
    rows = [*make_rows("plain", 1, 30), *make_rows("plain", 2, 32), *make_rows("isw", 1, 33), *make_rows("isw", 2, 31)]
    compare_with_plain(rows)
    lines = format_rows(rows).splitlines()
    assert lines[2] == "| plain | t-BN | 31.0 ± 1.4 | 33.0 ± 1.4 | 32.0 ± 1.4 | +0.0 |  |  |  |"
    assert lines[6] == "| isw | IaBN | 32.0 ± 1.4 | 34.0 ± 1.4 | 33.0 ± 1.4 | +1.0 | 0.15 | 40.0 ± 0.0 | 1.0 |"
    alone = make_rows("isw", 1, 33)
    compare_with_plain(alone)
    assert "| isw | Seg-TTT | 36.0 | 38.0 | 37.0 |  |" in format_rows(alone)  # nothing to compare with


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
    assert [row["training"] for row in rows] == ["plain"] * 3 + ["isw"] * 3
    assert all({"miou.haze", "miou.dusk", "miou.dust"} <= row.keys() for row in rows)
    assert format_rows(rows) in (tmp_path / "page.md").read_text()
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert len(made) == 2 * 4  # the choice of alpha and three tests
    assert run_generalization(args) == rows
    assert {path: path.stat().st_mtime_ns for path in made} == made
