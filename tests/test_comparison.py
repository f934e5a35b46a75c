"""The comparison of all methods and networks, on a tiny budget."""

import json
import re
from pathlib import Path

import pytest

from experiments.comparison import BASE, DROPOUT, OTHERS, format_comparison, format_rows, run_comparison
from tests.tiny import ROOT


def test_every_network_has_a_config() -> None:
    for contender in (BASE, DROPOUT, *OTHERS):
        assert (ROOT / "configs" / "model" / f"{contender.model}.yaml").is_file(), contender.name


def make_row(method: str, worse: float | None) -> dict:
    miou = {"miou.haze": 38.0, "miou.dusk": 40.0, "miou.dust": 42.0, "miou.mean": 40.0}
    means = {"ece": 5.0, "classwise_ece": 20.0, "brier": 0.4, "nll": 1.0, "ms_per_image": 7.4}
    return {"network": "DeepLabv1", "method": method, **miou, **means} | ({} if worse is None else {"lower": worse})


def test_table_has_every_score() -> None:
    lines = format_rows([make_row("t-BN", None), make_row("IaBN", 12.4)]).splitlines()
    assert lines[2] == "| DeepLabv1 | t-BN | 38.0 | 40.0 | 42.0 | 40.0 | 5.0 | 20.0 | 0.400 | 1.000 | 7 |  |"
    assert lines[3].endswith("| 7 | 12 % |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_unknown_network_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_comparison(["--folder", str(tmp_path), "--only", "VGG"])
    assert re.search("invalid choice: 'VGG' .choose from '?DeepLabv1", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["DeepLabv1, SN", "DeepLabv1, dropout", "DeepLabv1"])
def test_comparison_writes_its_page_and_does_nothing_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--quick", "--folder", "comparison", "--page", "page.md", "--only", name]
    args += ["--", "--data.num_val=1", "--data.num_test=1", "--data.height=64", "--data.width=128"]
    report = run_comparison(args)
    methods = [row["method"] for row in report["rows"]]
    assert len(methods) == len(set(methods)) == {"DeepLabv1": 28, "DeepLabv1, dropout": 6, "DeepLabv1, SN": 3}[name]
    for row in report["rows"]:
        assert {"miou.haze", "miou.dusk", "miou.dust"} <= row.keys() and row["ms_per_image"] > 0
        assert row["lower"] >= 0
    page = (tmp_path / "page.md").read_text()
    assert format_comparison(report) in page
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    runs |= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("test/*/results.json")}
    assert json.loads(json.dumps(run_comparison(args)["rows"])) == json.loads(json.dumps(report["rows"]))
    assert (tmp_path / "page.md").read_text() == page
    assert all(path.stat().st_mtime_ns == time for path, time in runs.items())
