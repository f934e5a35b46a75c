"""Methods, results, pictures and the search for alpha under plain trainer.test, validate and predict."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import LambdaCallback
from torch import nn

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.alpha_search import AlphaSearch
from callbacks.report.panels import draw_panel, make_palette
from callbacks.results import Results, read_records, summarize_records, to_plain
from callbacks.views import IMAGENET
from datamodules import TargetsDataModule
from lightning_modules.metrics import Scores, score_image
from lightning_modules.predictor import predict_plainly
from lightning_modules.segmentation import SegmentationModule
from tests.callbacks.runs import Stop, make_module, make_targets, read_results, run
from tests.fakes import FakeDataModule, make_trainer, unchanged

KEYS = ("miou", "accuracy", "ece", "classwise_ece")


@pytest.fixture
def module() -> SegmentationModule:
    return make_module()


def test_predictions_of_a_run_are_those_of_the_method_outside_of_it_and_are_written(module, tmp_path: Path) -> None:
    method, out = SegTTT(num_steps=2, lr=0.2, scales=(0.5,)), tmp_path / "run"
    with unchanged(module.network):
        trainer = make_trainer(tmp_path, callbacks=[method, Results(str(out), outputs=["labels"])])
        outputs = trainer.predict(module, datamodule=make_targets())
    assert module.predictor is predict_plainly
    for batches, loader in zip(outputs, make_targets().predict_dataloader(), strict=True):
        for output, batch in zip(batches, loader, strict=True):
            expected = method.vary({}).predict(module.network, batch["image"]).argmax(dim=1)
            assert output["name"] == batch["name"]
            assert torch.equal(output["labels"][0], expected[0].to(torch.uint8))
            with Image.open(out / "labels" / output["domain"] / f"{output['name'][0]}.png") as picture:
                assert picture.mode == "P" and np.array_equal(np.asarray(picture), output["labels"][0].numpy())
    assert sorted(path.name for path in out.iterdir()) == ["labels", "predictions.json", "predictions.jsonl"]


def test_scores_do_not_depend_on_the_batch_size(module, tmp_path: Path) -> None:
    logged = []
    for size in (1, 3):
        method, data = SegTTT(num_steps=2, scales=(0.5,)), make_targets(eval_batch_size=size)
        logged.append(run(tmp_path / str(size), method, module=module, data=data, precision="bf16-mixed")[1])
    assert logged[0] == logged[1] and {"test/miou", "test/near/miou", "test/far/ece"} <= logged[0].keys()


def test_method_is_removed_after_an_exception_and_another_can_follow(module, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    handle = module.network.head.register_forward_hook(fail)
    with unchanged(module.network):
        for stage in ("test", "validate", "predict"):
            with pytest.raises(RuntimeError, match="broken"):
                getattr(make_trainer(tmp_path, callbacks=[IaBN()]), stage)(module, datamodule=make_targets())
            assert module.predictor is predict_plainly
    handle.remove()
    make_trainer(tmp_path, callbacks=[TTA(scales=(0.5,))]).test(module, datamodule=make_targets(), verbose=False)


@pytest.mark.parametrize(
    ("norm", "methods", "message"),
    [
        (nn.BatchNorm2d, [IaBN(), TTA()], "IaBN is already installed, so TTA cannot be"),
        (None, [IaBN(0.1)], "TinyNetwork"),
        (None, [SegTTT(0.0, trainable=["nowhere"])], "TinyNetwork"),
    ],
    ids=["two", "no-norm", "no-match"],
)
def test_methods_that_do_not_suit_are_an_error_before_the_first_image(
    norm: Any, methods: list[Method], message: str, tmp_path: Path
) -> None:
    module, stop = make_module(norm=norm), Stop()
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, callbacks=[stop, *methods]).test(module, datamodule=make_targets())
    assert not stop.names and module.predictor is predict_plainly


def test_method_serves_the_validation_inside_fit_and_leaves_the_training_alone(tmp_path: Path) -> None:
    def fit(callbacks: list[Callback]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = make_module()
        module.network.train()
        data = TargetsDataModule([FakeDataModule()], FakeDataModule("source"), FakeDataModule("dev", 2))
        make_trainer(tmp_path, callbacks=callbacks, max_epochs=2, num_sanity_val_steps=1).fit(module, datamodule=data)
        assert module.predictor is predict_plainly and all(m.training for m in module.network.modules())
        return module.network.state_dict()

    plain, predictors = fit([]), []
    watch = LambdaCallback(on_validation_batch_start=lambda trainer, module, *_: predictors.append(module.predictor))
    with_method = fit([watch, SegTTT(num_steps=1, scales=(0.5,), semantics="released"), AlphaSearch([0.0, 0.5])])
    assert len(predictors) == 5 and all(predictor is not predict_plainly for predictor in predictors)
    assert all(torch.equal(value, with_method[key]) for key, value in plain.items())


def test_results_hold_one_record_per_image_that_sum_to_what_is_logged(module, tmp_path: Path) -> None:
    method, data = SegTTT(0.2, num_steps=2, scales=(0.5,)), make_targets(eval_batch_size=2)
    (shown,), logged = run(tmp_path / "run", method, module=module, data=data)
    assert shown.keys() == logged.keys()  # once, not per data set
    records = read_records(tmp_path / "run" / "records.jsonl")
    assert sorted(r["name"] for r in records) == ["far_0", "far_1", "near_0", "near_1", "near_2"]
    summary = read_results(tmp_path / "run")
    assert summary["complete"] is True and summary["stage"] == "test" and list(summary["domains"]) == ["near", "far"]
    assert summary["method"]["name"] == "SegTTT" and summary["method"]["alpha"] == 0.2
    assert summary["precision"] == "32-true" and summary["versions"]["torch"] == torch.__version__
    assert (summary["data"], summary["plain_formula"]) == (data.describe(), {})
    for domain, images in (("near", 3), ("far", 2)):
        mine = [record for record in records if record["domain"] == domain]
        total = sum((Scores.from_record(record) for record in mine), Scores.zeros(19)).summarize()
        result = summary["domains"][domain]
        assert (result["images"], result["fallbacks"], result["notes"]) == (images, 0, [])
        for key in KEYS:
            assert result[key] == 100 * total[key]
            assert logged[f"test/{domain}/{key}"] == pytest.approx(result[key], rel=1e-5)
        for name, iou in zip(module.class_names, total["iou"], strict=True):
            assert result["iou"][name] == (None if math.isnan(iou) else 100 * iou)
        assert result["ms_per_image"] == pytest.approx(np.median([record["milliseconds"] for record in mine]))
    for key in KEYS:
        mean = (summary["domains"]["near"][key] + summary["domains"]["far"][key]) / 2
        assert summary["mean"][key] == pytest.approx(mean)
        assert logged[f"test/{key}"] == pytest.approx(mean, rel=1e-5)
    for record in records:
        assert record["milliseconds"] > 0
        adaptation = record["adaptation"]
        assert adaptation["steps"] == 2 and adaptation["loss_first"] > adaptation["loss_last"] > 0
        assert adaptation["note"] is None and adaptation["fallback"] is False


def test_record_of_an_image_is_the_score_of_its_prediction(module, tmp_path: Path) -> None:
    folder, data = tmp_path / "run", FakeDataModule()
    run(folder, stage="validate", module=module, data=data)
    records = read_records(folder / "records.jsonl")
    for batch, record in zip(data.val_dataloader(), records, strict=True):
        expected = score_image(predict_plainly(module.network, batch["image"])[0], batch["mask"][0]).to_record()
        assert record["name"] == batch["name"][0] and record["adaptation"] is None
        assert {name: record[name] for name in expected} == expected
    summary = read_results(folder)
    assert (summary["method"], summary["stage"], summary["data"]) == (None, "validate", data.describe())


def test_fallbacks_are_counted_and_reported(module, tmp_path: Path) -> None:
    folder, data = tmp_path / "run", FakeDataModule(length=4, spoilt=1, eval_batch_size=2)
    with pytest.warns(UserWarning, match="falling back"):
        run(folder, SegTTT(num_steps=1, scales=(0.5,)), module=module, data=data, results={"panels": 4})
    records = read_records(folder / "records.jsonl")
    assert [record["adaptation"]["fallback"] for record in records] == [False, True, False, False]
    result = read_results(folder)["domains"]["blocks"]
    assert (result["fallbacks"], result["images_with_notes"], result["images"]) == (1, 1, 4)
    assert result["notes"] == ["the image contains NaN or infinity"]
    assert len(list((folder / "panels").glob("*/*.png"))) == 4


@pytest.mark.parametrize(("error", "done"), [(KeyboardInterrupt, 2), (RuntimeError, 0)])
def test_interrupted_run_leaves_the_records_it_finished(
    error: type[BaseException], done: int, module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # or Lightning ignores Ctrl-C from a KeyboardInterrupt on
    folder = tmp_path / "run"
    with unchanged(module.network), pytest.raises((SystemExit, KeyboardInterrupt, RuntimeError)):
        run(folder, IaBN(), Stop(done, error), module=module, data=FakeDataModule())
    names = [record["name"] for record in read_records(folder / "records.jsonl")]
    assert names == [f"blocks_{number}" for number in range(done)]
    summary = read_results(folder)
    assert summary["complete"] is False and bool(summary["mean"]) == bool(done)
    assert [scores["images"] for scores in summary["domains"].values()] == ([done] if done else [])
    assert module.predictor is predict_plainly


def test_numbers_that_a_callback_logs_per_data_set_keep_their_columns(tmp_path: Path) -> None:
    def log(trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, number: int) -> None:
        module.log("speed", 10.0 * (number + 1), on_step=False, on_epoch=True, batch_size=1)

    shown, _ = run(tmp_path / "run", LambdaCallback(on_test_batch_end=log), data=make_targets())
    assert [values[f"speed/dataloader_idx_{number}"] for number, values in enumerate(shown)] == [10.0, 20.0]


def test_records_reach_the_disk_as_soon_as_their_batch_is_scored(tmp_path: Path) -> None:
    path, lines = tmp_path / "run" / "records.jsonl", []
    count = LambdaCallback(on_test_batch_start=lambda *_: lines.append(len(read_records(path))))
    run(tmp_path / "run", count, data=FakeDataModule(length=3))
    assert lines == [0, 1, 2]


def test_summary_of_no_records_is_empty_and_keeps_the_order_of_domains() -> None:
    assert summarize_records([], ["a", "b"], ["x"]) == {"domains": {}, "mean": {}}
    record = {"name": "image", "milliseconds": 1.0, "adaptation": None, **Scores.zeros(2).to_record()}
    summary = summarize_records([{**record, "domain": d} for d in "zyx"], ["a", "b"], ["x", "y"])
    assert list(summary["domains"]) == ["x", "y", "z"]
    assert to_plain(summary)["domains"]["x"]["miou"] is None  # nothing was scored


def test_alpha_search_sorts_its_alphas_and_logs_each(tmp_path: Path) -> None:
    search = AlphaSearch([0.6, 0.0, 1.0, 0.2])
    trainer = make_trainer(tmp_path, callbacks=[search])
    trainer.validate(make_module(), datamodule=FakeDataModule(), verbose=False)
    scores, logged = search.miou_by_alpha, trainer.callback_metrics
    assert list(scores) == [0.0, 0.2, 0.6, 1.0] and len(set(scores.values())) > 1
    assert [logged[f"val/miou_alpha_{alpha:g}"].item() for alpha in scores] == pytest.approx(list(scores.values()))
    assert scores[search.best_alpha] == max(scores.values())
    assert logged["val/miou_best_alpha"].item() == pytest.approx(scores[search.best_alpha])
    assert logged["val/best_alpha"].item() == pytest.approx(search.best_alpha)
    with pytest.raises(ValueError, match="no 2d BatchNorm"):
        make_trainer(tmp_path, callbacks=[search]).validate(make_module(norm=None), datamodule=FakeDataModule())


def test_panels_are_drawn_per_domain_at_the_size_of_the_image(module, tmp_path: Path) -> None:
    run(tmp_path / "run", IaBN(), module=module, data=make_targets(), results={"panels": 2})
    panels = sorted((tmp_path / "run" / "panels").glob("*/*.png"))
    assert [path.name for path in panels] == ["far_0.png", "far_1.png", "near_0.png", "near_1.png"]
    for path in panels:
        with Image.open(path) as picture:
            assert picture.size == (4 * 36 + 3 * 4, 24) and picture.mode == "RGB"  # image | truth | t-BN | prediction
    (batch, *_) = make_targets().test_dataloader()[0]
    photograph = np.asarray(Image.open(panels[2]))[:, :36]
    levels = (IMAGENET.undo(batch["image"])[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(photograph - levels).max() <= 1


def test_panel_shows_truth_and_predictions_in_the_colours_of_the_palette() -> None:
    usual, palette = make_palette(19), make_palette(3, [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert len({tuple(colour) for colour in usual[:19].tolist()}) == 19 and (usual[19:] == 0).all()
    image = IMAGENET.apply(torch.zeros(1, 3, 8, 10))[0]
    truth = torch.full((16, 20), 2)
    truth[:8] = 255
    probabilities = torch.tensor([0.1, 0.8, 0.1])[:, None, None].expand(3, 4, 5)
    panel = draw_panel(image, [truth, probabilities, torch.zeros(8, 10, dtype=torch.uint8)], palette)
    assert panel.shape == (8, 4 * 10 + 3 * 4, 3)
    assert (panel[:, :10] == 0).all() and (panel[:, 10:14] == 255).all()
    assert (panel[:4, 14:24] == 0).all() and (panel[4:, 14:24] == [0, 0, 166]).all()
    assert (panel[:, 28:38] == [0, 166, 0]).all() and (panel[:, 42:52] == [166, 0, 0]).all()
    assert draw_panel(image * float("nan"), [truth], palette).shape == (8, 2 * 10 + 4, 3)


@pytest.mark.filterwarnings("ignore:IaBN uses its plain formula")
def test_kernels_that_fail_their_check_are_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.blended_norm._served", {})
    monkeypatch.setattr("callbacks.blended_norm._find_fault", lambda *_: "a reason")
    run(tmp_path / "run", IaBN(), data=make_targets())
    found = read_results(tmp_path / "run")["plain_formula"]
    assert {key.rpartition(" ")[0]: reason for key, reason in found.items()} == {"cpu torch.float32": "a reason"}


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_run_on_cuda_scores_as_on_the_cpu(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    miou = []
    for kwargs in ({}, {"accelerator": "cuda", "precision": precision}):
        folder = tmp_path / str(len(miou))
        run(folder, SegTTT(num_steps=2, scales=(0.5,)), data=make_targets(), **kwargs)
        summary = read_results(folder)
        assert all(result["fallbacks"] == 0 for result in summary["domains"].values())
        assert all(record["milliseconds"] > 0 for record in read_records(folder / "records.jsonl"))
        miou.append(summary["mean"]["miou"])
    assert miou[1] == pytest.approx(miou[0], abs=0.5 if precision == "32-true" else 2.0)  # a pixel is 0.05
    assert torch.cuda.get_device_name() == summary["device"]
