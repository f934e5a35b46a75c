"""One pass over a grid and a run for each of its points are measured, and have to agree."""

import pytest

from experiments import search_speed


@pytest.mark.slow
def test_both_ways_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    method, settings, argument, _ = search_speed.GRIDS["10 step counts of Seg-TTT"]
    monkeypatch.setattr(search_speed, "GRIDS", {"few": (method, settings, argument, [1, 3])})
    (row,) = search_speed.run_search_speed(["--images", "1"])
    assert row["points"] == 2 and row["one_pass"] > 0
    assert row["ratio"] == pytest.approx(row["separate"] / row["one_pass"])
    assert "| few |" in capsys.readouterr().out
