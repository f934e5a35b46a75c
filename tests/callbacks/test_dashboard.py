import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from callbacks.report.dashboard import log_dashboard
from callbacks.report.gallery import locate_pictures
from callbacks.report.run_data import read_run
from tests.fake_results import CLASSES, make_search, write_results


class Config(dict[str, Any]):
    def update(self, values: Any, allow_val_change: bool = False) -> None:  # type: ignore[override]
        super().update(values)


class Run:
    """Keeps what is logged and, if there is a run of Weights & Biases, hands it on."""

    def __init__(self, real: Any = None) -> None:
        self.real = real
        self.config = real.config if real else Config()
        self.summary = real.summary if real else {}
        self.logged: dict[str, Any] = {}

    def log(self, entries: dict[str, Any]) -> None:
        self.logged |= entries
        if self.real:
            self.real.log(entries)

    def read_table(self, key: str) -> list[dict[str, Any]]:
        table = self.logged[f"results/{key}"]
        return [dict(zip(table.columns, line, strict=True)) for line in table.data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    selection = {"file": "selection.yaml", "sha256": "ab12"}
    folder = write_results(tmp_path_factory.mktemp("results"), images=8, selection=selection)
    (folder / "search.json").write_text(json.dumps(make_search("psi")), encoding="utf-8")
    return folder


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_run_shows_scores_charts_and_masks(folder: Path, tmp_path: Path, is_real: bool) -> None:
    options: Any = {"project": "segadapt", "mode": "offline", "dir": str(tmp_path), "reinit": "finish_previous"}
    run = Run(wandb.init(**options) if is_real else None)
    log_dashboard(run, read_run(folder))
    summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    shown, data, logged = dict(run.summary), read_run(folder), run.logged

    for domain, scores in summary["domains"].items():
        for key in ("miou", "ece", "classwise_ece", "accuracy", "ms_per_image", "baseline_miou", "worse_than_baseline"):
            assert shown[f"results/{domain}/{key}"] == scores[key]
        assert shown[f"results/{domain}/gain"] == scores["miou"] - scores["baseline_miou"]
        assert shown[f"results/{domain}/iou/car"] == scores["iou"]["car"]
        assert f"results/{domain}/iou/rider" not in shown  # absent
        milliseconds = [row.milliseconds for row in data.domains[domain].rows]
        for key, values in (("difference", data.domains[domain].gains), ("milliseconds", milliseconds)):
            histogram = logged[f"results/{key}/{domain}"]
            assert sum(histogram.histogram) == len(values) == 8
            assert histogram.bins[0] == pytest.approx(min(values)) and histogram.bins[-1] == pytest.approx(max(values))
    assert shown["results/mean/miou"] == summary["mean"]["miou"]
    origin = run.config["provenance"]
    assert (origin["commit"], origin["selection"]["sha256"]) == ("0123456789abcdef", "ab12")
    assert origin["method"]["psi"] == 0.7

    lines = {(line["domain"], line["class"]): line["Seg-TTT"] for line in run.read_table("class_iou")}
    assert len(lines) == 2 * len(CLASSES) and lines["far", "sky"] == summary["domains"]["far"]["iou"]["sky"]
    assert lines["near", "rider"] is None and len(run.read_table("reliability")) == 2 * 15
    for key in ("miou", "class_iou", "difference", "milliseconds", "reliability", "loss_per_step", "search"):
        assert min(logged[f"results/{key}_figure"].image.size) > 100
    means = [sum(1.0 / (step + 1) + 0.01 * number for number in range(8)) / 8 for step in range(3)]
    losses = logged["results/loss_per_step"].table.data
    assert [value for _, name, value in losses if name == "near"] == pytest.approx(means)
    search = [(line["psi"], line["mean IoU (%)"]) for line in run.read_table("search")]
    assert search == [(0.0, 40.0), (0.1, 41.0), (0.2, 42.0)]
    assert {"results/search_line", "results/class_iou_bars"} <= logged.keys()

    pictured = [row for row in data.rows if data.pictures(row)]
    ranked = [domain.rank() for domain in data.domains.values()]
    best, worst = ([row for pair in ranked for row in pair[number]] for number in (0, 1))
    for key, rows in (("images", pictured), ("best", best), ("worst", worst)):
        for line, row in zip(run.read_table(key), rows, strict=True):
            assert (line["domain"], line["name"]) == (row.domain, row.name)
            assert (line["mIoU t-BN"], line["mIoU Seg-TTT"], line["delta"]) == (row.baseline_miou, row.miou, row.gain)
            assert all(isinstance(line[column], wandb.Image) for column in ("image", "truth", "t-BN", "Seg-TTT"))
    far = [row.name for row in pictured if row.domain == "far"]
    images = dict(zip(far, logged["results/pictures/far"], strict=True))
    for name, image in images.items() if is_real else ():  # the masks that a run has written are those of the gallery
        written, paths = image.to_json(run.real), locate_pictures(folder, "far", name)
        assert written["caption"] == name
        for title, layer in (("truth", "truth"), ("t-BN", "baseline"), ("Seg-TTT", "prediction")):
            place = Path(run.real.dir) / written["masks"][title]["path"]
            with Image.open(place) as mask, Image.open(paths[layer]) as labels:
                assert np.array_equal(np.asarray(mask), np.asarray(labels))


def test_results_without_method_baseline_and_pictures_are_shown_too_and_another_folder_is_an_error(
    tmp_path: Path,
) -> None:
    run = Run()
    log_dashboard(run, read_run(write_results(tmp_path, images=2, method=None, baseline=False, first=0)))
    assert "results/near/miou" in run.summary and "results/near/gain" not in run.summary
    assert {"results/class_iou", "results/reliability", "results/milliseconds/far"} <= run.logged.keys()
    assert not [key for key in run.logged if "difference" in key or "loss" in key or "images" in key]
    assert set(run.read_table("class_iou")[0]) == {"domain", "class", "t-BN"}
    for name in ("records.jsonl", "run.json"):
        (tmp_path / name).unlink()
    alone = Run()
    log_dashboard(alone, read_run(tmp_path))
    assert alone.summary == run.summary and {"results/class_iou", "results/reliability"} <= alone.logged.keys()
    with pytest.raises(FileNotFoundError, match="expected the folder of a test or validate run"):
        read_run(tmp_path / "nowhere")
