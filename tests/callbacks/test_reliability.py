import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from callbacks.report.figures import draw_reliability
from callbacks.report.summary import summarize_records
from callbacks.run.records import to_plain
from datamodules import TargetsDataModule
from lightning_modules.metrics import Scores, score_image
from lightning_modules.segmentation import SegmentationModule
from tests.callbacks.runs import read_json, run
from tests.fakes import FakeDataModule, TinyNetwork, Unlabelled

CLASSES = 5


def summarize(domains: dict[str, float]) -> dict[str, Any]:
    """Scores random predictions of each domain, whose logits have the deviation given."""
    records = []
    for number, (domain, deviation) in enumerate(domains.items()):
        generator = torch.Generator().manual_seed(number)
        logits = deviation * torch.randn(CLASSES, 20, 30, generator=generator)
        mask = torch.randint(0, CLASSES, (20, 30), generator=generator)
        record = score_image(logits.softmax(dim=0), mask).to_record()
        records.append({"domain": domain, "name": "0", "milliseconds": 1.0, "adaptation": None, **record})
    return summarize_records(records, [str(number) for number in range(CLASSES)])["domains"]


@pytest.mark.parametrize("domains", [{"haze": 2.0}, {"a": 0.1, "b": 3.0, "c": 30.0, "d": 1.0, "e": 1.0}])
def test_bars_are_accuracy_gap_and_share_of_each_bin_that_is_not_empty(domains: dict[str, float]) -> None:
    summaries = json.loads(json.dumps(to_plain(summarize(domains))))  # as results.json holds them
    unlabelled = {"domain": "none", "name": "", "milliseconds": 1.0, **Scores.zeros(CLASSES).to_record()}
    figure = draw_reliability(summarize_records([unlabelled], list("abcde"))["domains"] | summaries)
    assert len(figure.axes) == 2 * len(domains)
    for number, (domain, summary) in enumerate(summaries.items()):
        accuracy, share = figure.axes[2 * number : 2 * number + 2]
        assert accuracy.get_title() == f"{domain}\nECE {summary['ece']:.1f} %"
        (bars, gaps), (shares,) = accuracy.containers, share.containers
        bins = [values for values in zip(*summary["reliability"].values(), range(15), strict=True) if values[0]]
        total = 0.0
        for (pixels, confidence, right, place), bar, gap, part in zip(bins, bars, gaps, shares, strict=True):
            for patch in (bar, gap, part):
                assert patch.get_x() + patch.get_width() / 2 == pytest.approx((place + 0.5) * 100 / 15)
            assert bar.get_height() == gap.get_y() == pytest.approx(100 * right)
            assert gap.get_y() + gap.get_height() == pytest.approx(100 * confidence)
            assert part.get_height() == pytest.approx(100 * pixels / 600)
            total += part.get_height() / 100 * abs(gap.get_height())
        assert total == pytest.approx(summary["ece"])


def make_module() -> SegmentationModule:
    return SegmentationModule(TinyNetwork(19), 19, temperature=1.5)


def test_results_hold_brier_nll_reliability_and_temperature_and_draw_the_diagram(tmp_path: Path) -> None:
    data = TargetsDataModule([FakeDataModule("near", 3), FakeDataModule("far", 2)])
    folder = tmp_path / "out"
    _, logged = run(folder, module=make_module(), data=data)
    summary = read_json(folder / "results.json")
    assert summary["temperature"] == 1.5
    for key in ("brier", "nll"):
        values = {f"test/{domain}/{key}": scores[key] for domain, scores in summary["domains"].items()}
        values[f"test/{key}"] = sum(values.values()) / 2
        assert summary["mean"][key] == pytest.approx(values[f"test/{key}"])
        assert {name: logged[name] for name in values} == pytest.approx(values, rel=1e-5)
    reliability = summary["domains"]["near"]["reliability"]
    assert sum(reliability["pixels"]) == 3 * (24 * 36 - 3)
    for pixels, confidence, _ in zip(*reliability.values(), strict=True):
        assert (pixels == 0) == (confidence is None)
    with Image.open(folder / "reliability.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100


def test_run_without_labels_has_no_diagram(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="no pixel of blocks is labelled, all are ignored"):
        run(folder, module=make_module(), data=Unlabelled(length=1))
    summary = read_json(folder / "results.json")
    assert not summary["complete"] and summary["domains"]["blocks"]["nll"] is None
    assert not (folder / "reliability.png").exists()


def test_weights_and_biases_get_the_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[Any, ...]] = []
    monkeypatch.setattr("callbacks.report.dashboard.log_dashboard", lambda *args: logged.append(args))
    logger, folder = WandbLogger(save_dir=tmp_path, offline=True), tmp_path / "out"
    run(folder, stage="validate", module=make_module(), data=FakeDataModule(length=1), logger=logger)
    assert logged == [(logger.experiment, folder)]
