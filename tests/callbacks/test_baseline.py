"""What a test run says of the unadapted network beside the method, and the pictures and the page it leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from callbacks import IaBN, SegTTT
from callbacks.report.summary import gain_of_image, summarize_records
from callbacks.results import Results, read_records
from callbacks.run.folder import RunFolder
from callbacks.run.training_folder import find_written
from lightning_modules.metrics import Scores
from tests.callbacks import runs
from tests.callbacks.runs import make_module, make_targets, read_results
from tests.fakes import FakeDataModule, Unlabelled, make_trainer, unchanged


def run(folder: Path, *callbacks: Any, stage: str = "test", module: Any = None, **results: Any) -> dict[str, Any]:
    data = make_targets() if stage == "test" else FakeDataModule()
    runs.run(folder, *callbacks, stage=stage, data=data, module=module, results={"panels": 4, **results})
    return read_results(folder)


def test_the_baseline_beside_a_method_is_the_run_without_it(tmp_path: Path) -> None:
    module = make_module(temperature=2.0)  # which holds for the baseline, too
    with unchanged(module.network):
        adapted = run(tmp_path / "iabn", IaBN(0.5), module=module)
    plain = run(tmp_path / "plain", module=module)
    records = read_records(tmp_path / "iabn" / "records.jsonl")
    own = [Scores.from_record(record).to_record() for record in read_records(tmp_path / "plain" / "records.jsonl")]
    assert [record["baseline"] for record in records] == own
    for domain, scores in adapted["domains"].items():
        gains = [gain_of_image(record) for record in records if record["domain"] == domain]
        assert scores["baseline_miou"] == pytest.approx(plain["domains"][domain]["miou"], rel=1e-12)
        assert scores["miou"] != pytest.approx(scores["baseline_miou"], rel=1e-3)
        assert scores["worse_than_baseline"] == pytest.approx(100 * sum(gain < 0 for gain in gains) / len(gains))
    assert all(scores["baseline_miou"] is None for scores in plain["domains"].values())


def test_images_without_labels_are_none_that_got_worse() -> None:
    zeros = Scores.zeros(3).to_record()
    right = {**zeros, "intersection": [4, 0, 0], "union": [8, 0, 0], "pixels": [8, 0, 0]}
    wrong = {**right, "intersection": [2, 0, 0]}
    pairs = [(wrong, right), (right, wrong), (zeros, zeros), (zeros, zeros)]
    for chosen, worse in ((pairs, 50.0), (pairs[2:], None)):
        records = [
            {"domain": "d", "name": "", "milliseconds": 1.0, "adaptation": None, "baseline": plain, **own}
            for own, plain in chosen
        ]
        assert summarize_records(records, list("abc"))["domains"]["d"]["worse_than_baseline"] == worse


def test_what_trust_below_one_did_is_summed_up(tmp_path: Path) -> None:
    full = run(tmp_path / "full", IaBN())
    half = run(tmp_path / "half", SegTTT(0.3, num_steps=1, lr=1.0, scales=[0.5], trust=0.5), report=True)
    records = read_records(tmp_path / "half" / "records.jsonl")
    for domain, scores in half["domains"].items():
        assert not {"relabelled", "held_back"} & full["domains"][domain].keys()
        shares = [record["adaptation"] for record in records if record["domain"] == domain]
        for key in ("relabelled", "held_back"):
            assert scores[key] == pytest.approx(100 * sum(share[key] for share in shares) / len(shares))
        said = f"{domain}: adaptation changed the class of {scores['relabelled']:.1f} % of the pixels; "
        said += f"with full trust it would have changed another {scores['held_back']:.1f} %"
        assert said in (tmp_path / "half" / "report.html").read_text()


@pytest.mark.parametrize(
    "stage, callbacks, baseline", [("validate", [IaBN()], True), ("test", [], True), ("test", [IaBN()], False)]
)
def test_runs_without_a_baseline(stage: str, callbacks: list[Any], baseline: bool, tmp_path: Path) -> None:
    summary = run(tmp_path / "out", *callbacks, stage=stage, baseline=baseline)
    assert all("baseline" not in record for record in read_records(tmp_path / "out" / "records.jsonl"))
    assert all(scores["baseline_miou"] is None for scores in summary["domains"].values())


def test_a_test_run_leaves_pictures_and_a_page(tmp_path: Path) -> None:
    run(tmp_path / "out", IaBN(0.5), panels=1, report=True)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "IaBN" in page and "t-BN" in page
    shown = {path.name for path in (tmp_path / "out" / "gallery").rglob("*")}
    assert {"near_0.image.jpg", "near_0.truth.png", "near_0.baseline.png", "near_0.prediction.png"} <= shown
    run(tmp_path / "none", IaBN(0.5))
    assert not (tmp_path / "none" / "report.html").exists() and not (tmp_path / "none" / "gallery").exists()


def test_report_and_dashboard_do_not_read_the_records_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = RunFolder.read_lines
    monkeypatch.setattr(RunFolder, "read_lines", lambda self: reads.append(self.root) or read(self))
    run(tmp_path / "without", IaBN(0.5))
    count = len(reads)
    run(tmp_path / "with", IaBN(0.5), report=True)
    assert (tmp_path / "with" / "report.html").exists() and len(reads) == 2 * count


def test_a_page_that_cannot_be_made_loses_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: Any) -> Path:
        raise OSError("no room")

    monkeypatch.setattr("callbacks.report.finish.write_report", fail)
    with pytest.warns(UserWarning, match=r"could not be created \(OSError: no room\).*python -m experiments\.report"):
        assert run(tmp_path / "out", IaBN(), report=True)["complete"]


def test_a_training_leaves_its_curves_beside_its_log(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="fit", version="run")
    options = {"logger": logger, "max_epochs": 2, "log_every_n_steps": 1}
    for results in (Results(), Results(str(tmp_path / "results"))):
        make_trainer(tmp_path, callbacks=[results], **options).fit(make_module(), datamodule=FakeDataModule())
    page = (tmp_path / "fit" / "run" / "training.html").read_text(encoding="utf-8")
    assert "best mean IoU (development)" in page
    assert not list(tmp_path.rglob("*.json*"))


def test_the_checkpoint_that_fit_names_lies_in_its_own_folder(tmp_path: Path) -> None:
    callback, paths = (
        ModelCheckpoint(tmp_path / "own"),
        [tmp_path / "other" / "best.ckpt", tmp_path / "own" / "last.ckpt"],
    )
    trainer: Any = SimpleNamespace(checkpoint_callback=callback)
    callback.best_model_path, callback.last_model_path = map(str, paths)
    assert find_written(trainer) is None
    for path in paths:
        path.parent.mkdir()
        path.touch()
    assert find_written(trainer) == paths[1]


def test_results_hold_brier_nll_reliability_and_temperature_and_draw_the_diagram(tmp_path: Path) -> None:
    _, logged = runs.run(tmp_path / "out", module=make_module(temperature=1.5), data=make_targets())
    summary = read_results(tmp_path / "out")
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
    with Image.open(tmp_path / "out" / "reliability.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100


def test_run_without_labels_has_no_diagram(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pixel of blocks is labelled, all are ignored"):
        runs.run(tmp_path / "out", data=Unlabelled(length=1))
    summary = read_results(tmp_path / "out")
    assert not summary["complete"] and summary["domains"]["blocks"]["nll"] is None
    assert not (tmp_path / "out" / "reliability.png").exists()


def test_weights_and_biases_get_the_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[Any, ...]] = []
    monkeypatch.setattr("callbacks.report.dashboard.log_dashboard", lambda *args: logged.append(args))
    logger, folder = WandbLogger(save_dir=tmp_path, offline=True), tmp_path / "out"
    runs.run(folder, stage="validate", data=FakeDataModule(length=1), logger=logger)
    ((experiment, shown),) = logged
    assert experiment is logger.experiment and shown.folder == folder and shown.images == 1
