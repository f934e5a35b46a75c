"""Searches on the development set: a grid in one pass gives what one run per setting gives; the best temperature."""

import json
import math
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import LambdaCallback
from torch import Tensor, nn

from callbacks import TTA, AdaBN, IaBN, SegTTT, Tent
from callbacks.alpha_search import AlphaSearch
from callbacks.method import Method
from callbacks.method_search import MethodSearch, name_variant
from callbacks.temperature import TemperatureSearch, refine_minimum, sample_pixels, sum_losses
from lightning_modules.networks import DeepLabV3Plus
from lightning_modules.probabilities import scale_temperature
from lightning_modules.segmentation import SegmentationModule
from tests.callbacks.runs import make_module, read_results, run
from tests.fakes import FakeDataModule, TinyNetwork, Unlabelled, make_deeplab, make_images, make_trainer, unchanged

SMALL = {"scales": (0.5, 1.0), "lr": 0.05}


def check_variants(method: Method, network: nn.Module, image: Tensor, variants: list[Method]) -> list[Tensor]:
    """Checks that predictions of all variants at once are bit for bit what each predicts alone, and returns them."""
    found: dict[tuple[int, int], Tensor] = {}
    for number, place, outcome in method.predict_variants(network, image, variants):
        assert (number, place) not in found
        found[number, place] = outcome.probabilities.clone()
    together = [torch.cat([found[number, place] for place in range(len(image))]) for number in range(len(variants))]
    for number, variant in enumerate(variants):
        assert torch.equal(together[number], variant.predict(network, image)), variant.settings()
    return together


FINAL_VIEWS = [{"scales": [1.0, 1.25]}, {"scales": [0.75], "flip": False, "grayscale": True}]
GRIDS: list[tuple[Method, dict[str, list[Any]]]] = [
    (SegTTT(**SMALL), {"psi": [0.6, 0.9], "num_steps": [3, 0, 1]}),
    (SegTTT(**SMALL, semantics="released"), {"num_steps": [1, 2, 4]}),
    (SegTTT(**SMALL, semantics="released"), {"psi": [0.5, 0.8], "num_steps": [2, 1]}),
    (SegTTT(**SMALL, trainable=["head"]), {"num_steps": [1, 3], "lr": [0.01, 0.1]}),
    (SegTTT(**SMALL, num_steps=2), {"alpha": [0.0, 0.4, 1.0]}),
    (SegTTT(**SMALL, num_steps=2), {"scales": [[0.5], [1.0, 0.5]], "flip": [True, False]}),
    (SegTTT(**SMALL, num_steps=2, time_budget_ms=1e9), {"num_steps": [1, 2]}),
    (SegTTT(**SMALL), {"trust": [0.0, 0.5, 1.0], "refine": [0, 2], "num_steps": [1, 3]}),
    (SegTTT(**SMALL, num_steps=2, trainable=["head"]), {"final_views": [None, *FINAL_VIEWS]}),
    (IaBN(), {"alpha": [0.0, 0.5, 1.0]}),
    (TTA(scales=(0.5,)), {"alpha": [0.1, 0.5], "grayscale": [True, False]}),
    (Tent(), {"num_steps": [1, 2]}),
    (AdaBN(), {"prior": [0.0, 4.0]}),
]


@pytest.mark.parametrize("method, grid", GRIDS)
def test_variants_are_bit_for_bit_what_each_predicts_alone(method: Method, grid: dict[str, list[Any]]) -> None:
    network = make_deeplab(dropout=0.3)  # live in the steps of released semantics
    variants = [method.vary(dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    with unchanged(network):
        found = check_variants(method, network, make_images(2, 48, 64), variants)
    assert any(not torch.equal(one, found[0]) for one in found)  # the grid makes a difference


def test_live_dropout_in_several_places_draws_the_same_numbers_in_one_run_of_steps() -> None:
    network, method = DeepLabV3Plus("resnet10", 5, width=8, dropout=0.3).eval(), SegTTT(**SMALL, semantics="released")
    check_variants(method, network, make_images(1, 48, 64), [method.vary({"num_steps": count}) for count in (3, 1)])


def test_in_float16_each_number_of_steps_has_the_loss_scale_that_it_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.adaptation.steps.HALF_LOSS_SCALES", (2.0**16, 1.0))  # too much for the later steps
    method = SegTTT(0.3, 0.6, lr=2.0, scales=(0.5,))
    with torch.autocast("cpu", torch.float16):
        check_variants(method, TinyNetwork(), make_images(1), [method.vary({"num_steps": count}) for count in (1, 6)])


def test_the_network_is_put_back_when_a_search_is_left_midway() -> None:
    network, method = make_deeplab(), SegTTT(**SMALL)
    variants = [method.vary({"num_steps": count}) for count in (1, 3)]
    with unchanged(network), closing(method.predict_variants(network, make_images(1, 48, 64), variants)) as found:
        next(found)
        assert torch.is_inference_mode_enabled() is False and torch.is_grad_enabled()


def test_an_image_that_falls_back_does_so_at_every_point() -> None:
    image, method = make_images(3, 48, 64), SegTTT(**SMALL)
    image[1, 0, 0, 0] = float("nan")
    variants: list[Method] = [method.vary({"num_steps": count, "lr": lr}) for count in (1, 2) for lr in (0.05, 1e30)]
    assert all(one.isfinite().all() for one in check_variants(method, make_deeplab(), image, variants))
    assert [adaptation.fallback for adaptation in variants[3].adaptations] == [True, True, True]


def test_ten_numbers_of_steps_cost_one_run_of_steps_and_one_set_of_views() -> None:
    network, method, passes = make_deeplab(), SegTTT(**SMALL), []
    variants: list[Method] = [method.vary({"num_steps": count}) for count in range(1, 11)]
    variants.append(method.vary({"refine": 2}))
    network.head.register_forward_pre_hook(lambda *_: passes.append(1))
    assert len(list(method.predict_variants(network, make_images(1, 48, 64), variants))) == 11
    assert len(passes) == 4 + 10 + 10  # views, steps, predictions


def test_a_pass_over_a_grid_equals_a_run_per_point(tmp_path: Path) -> None:
    method = SegTTT(scales=(0.5,), lr=0.1)
    grid = {"psi": [0.5, 0.9], "num_steps": [2, 0]}
    search = MethodSearch(method, grid)
    module, data = make_module(), FakeDataModule(eval_batch_size=2)
    with unchanged(module.network):
        _, logged = run(tmp_path / "out", search, stage="validate", module=module, data=data)
    report = json.loads((tmp_path / "out" / "search.json").read_text())
    assert name_variant({**search.points[0], "flip": True}) == "psi_0.5_num_steps_2_flip_True"  # for logs
    assert (report["method"], report["settings"]["lr"], report["parameters"]) == ("SegTTT", 0.1, ["psi", "num_steps"])
    assert [point["values"] for point in report["points"]] == search.points
    for point in report["points"]:
        separate = make_trainer(tmp_path, callbacks=[method.vary(point["values"])])
        (scores,) = separate.validate(module, datamodule=FakeDataModule(), verbose=False)
        assert point["miou"] == pytest.approx(scores["val/miou"], rel=1e-6)
    best = max(report["points"], key=lambda point: point["miou"])
    assert report["best"] == best and search.best == best["values"]
    assert logged["val/miou_best"] == pytest.approx(best["miou"], rel=1e-6)
    assert logged["val/best_psi"] == pytest.approx(best["values"]["psi"])
    assert report["seconds"] > 0 and report["images"] == len(data.val_dataloader().dataset)


def test_the_first_of_equal_points_is_the_best(tmp_path: Path) -> None:
    search, module = MethodSearch(SegTTT(scales=(0.5,), lr=0.0), {"num_steps": [2, 1]}), make_module()
    module.network.head.weight.data.zero_()
    run(tmp_path / "out", search, stage="validate", module=module, data=FakeDataModule())
    assert search.best == {"num_steps": 2}


def test_alpha_search_without_batch_norm_tries_alpha_0_alone_if_it_is_not_required(tmp_path: Path) -> None:
    search = AlphaSearch(required=False)
    module, data = make_module(norm=None), FakeDataModule()
    _, logged = run(tmp_path / "out", search, stage="validate", module=module, data=data)
    assert search.alphas == [0.0] and search.best_alpha == 0.0
    assert logged["val/miou_best_alpha"] == logged["val/miou"]


@pytest.mark.parametrize("epochs, searched", [(1, 1), (2, 1), (4, 1), (5, 1), (10, 2)])
def test_alpha_search_begins_after_a_share_of_the_epochs(epochs: int, searched: int, tmp_path: Path) -> None:
    search, values = AlphaSearch([0.0, 0.5], from_epoch=0.8), []
    watch = LambdaCallback(on_train_epoch_end=lambda *_: values.append(bool(search.miou)))  # validation comes before
    trainer = make_trainer(tmp_path, callbacks=[search, watch], max_epochs=epochs)
    trainer.fit(make_module(), datamodule=FakeDataModule())
    assert values == [False] * (epochs - searched) + [True] * searched


# The temperature.


def test_losses_are_the_cross_entropy_of_the_scaled_logits_in_any_order() -> None:
    logits, labels = 6 * torch.randn(19, 500), torch.randint(19, (500,))
    temperatures = (0.5, 1.0, 3.0)
    whole = sum_losses(logits, labels, temperatures)
    expected = [F.cross_entropy((logits.double() / t).T, labels).item() for t in temperatures]
    assert (whole / 500).tolist() == pytest.approx(expected, abs=1e-6)
    parts = sum(sum_losses(logits[:, chosen], labels[chosen], temperatures) for chosen in torch.randperm(500).split(77))
    assert torch.equal(parts, whole)


def test_parabola_has_its_lowest_point_where_it_was_put() -> None:
    temperatures = [1.0, 1.5, 2.0, 4.0, 7.0]  # not evenly spaced
    losses = [0.3 + 2 * (math.log(t) - math.log(2.3)) ** 2 for t in temperatures]
    assert refine_minimum(temperatures, losses) == (pytest.approx(2.3), pytest.approx(0.3))
    assert refine_minimum([1.0, 2.0, 4.0], [5.0, 5.0, 5.0]) == (1.0, 5.0)
    assert refine_minimum([1.0, 2.0, 4.0, 8.0], [6.0, 5.0, 5.0, 5.0])[0] == pytest.approx(2 * math.sqrt(2))
    assert refine_minimum([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == (1.0, 1.0)
    assert refine_minimum([1.0, 2.0, 4.0], [3.0, 2.0, 1.0]) == (4.0, 1.0)


def test_pixels_are_drawn_among_the_labelled_ones_and_always_the_same() -> None:
    probabilities = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    mask = torch.arange(600).reshape(20, 30) % 4
    mask[:10] = 255
    every, labels = sample_pixels(probabilities, mask, 300)
    assert torch.equal(every, probabilities[:, 10:].flatten(1)) and torch.equal(labels, mask[10:].flatten())
    some, drawn = sample_pixels(probabilities, mask, 50)
    assert torch.equal(some, sample_pixels(probabilities, mask, 50)[0])
    places = [torch.nonzero((column == every.T).all(dim=1)).item() for column in some.T]
    assert len(set(places)) == 50 and torch.equal(labels[places], drawn)
    probabilities[2, 15, 3] = float("nan")
    assert sample_pixels(probabilities, mask, 300)[0].shape == (4, 299)
    assert sample_pixels(probabilities, torch.full((20, 30), 255), 300)[0].shape == (4, 0)
    assert sample_pixels(every.view(4, 10, 30), torch.zeros(40, 60, dtype=torch.int64), 2400)[0].shape == (4, 2400)


def make_confident(temperature: float = 1.0) -> SegmentationModule:
    module = make_module(temperature)
    module.network.head.weight.data.mul_(6)
    return module


class Drawn(FakeDataModule):
    """Labels are drawn from the softmax of the logits of `make_confident`, halved: temperature 2 is right."""

    def make_dataset(self, split, transform, labelled=True):
        dataset = super().make_dataset(split, transform, labelled)
        network = make_confident().network

        def draw(pixels: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
            image, labels = transform(pixels, mask, seed)
            with torch.no_grad():
                probabilities = (network(image[None])[0] / 2).softmax(dim=0).flatten(1).T
            generator = torch.Generator().manual_seed(int(pixels.sum()))
            return image, torch.multinomial(probabilities, 1, generator=generator).reshape(labels.shape)

        dataset.transform = draw
        return dataset


def fit_temperature(folder: Path, *callbacks: Any, temperature: float = 1.0, **data: Any) -> dict[str, float]:
    """Runs a search on a network of this temperature; returns what is logged."""
    drawn = Drawn(size=(48, 72), **data)
    _, logged = run(folder, *callbacks, stage="validate", module=make_confident(temperature), data=drawn)
    return logged


@pytest.mark.parametrize("methods", [[], [SegTTT(num_steps=1, scales=(0.5,))]])
def test_losses_of_a_run_are_the_scores_of_runs_at_each_temperature(methods: list[Method], tmp_path: Path) -> None:
    found, again = (TemperatureSearch(temperatures=(0.5, 2.0, 8.0)) for _ in range(2))
    fit_temperature(tmp_path / "search", *methods, found, eval_batch_size=2)
    assert list(found.nll) == [0.5, 1.0, 2.0, 8.0] and 1 < found.best_temperature < 8
    for temperature, nll in found.nll.items():
        fit_temperature(tmp_path / f"{temperature}", *methods, again, temperature=temperature, eval_batch_size=2)
        assert read_results(tmp_path / f"{temperature}")["mean"]["nll"] == pytest.approx(nll, abs=1e-5)
        assert again.best_temperature == pytest.approx(found.best_temperature, rel=1e-4)  # it is the total one


def test_result_is_logged_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search, narrow = TemperatureSearch(), TemperatureSearch(temperatures=(0.3, 0.5))
    with caplog.at_level("INFO"):
        logged = fit_temperature(tmp_path / "out", search, length=8)
    assert search.best_temperature == pytest.approx(2, rel=0.05)  # 27,648 pixels
    assert logged["val/best_temperature"] == pytest.approx(search.best_temperature)
    assert logged["val/nll_temperature_1"] == pytest.approx(logged["val/nll"], abs=1e-5)
    assert logged["val/nll_best_temperature"] <= min(search.nll.values()) + 1e-6
    assert f"pass --model.temperature={search.best_temperature:.4g} to test and predict" in caplog.text
    with pytest.warns(UserWarning, match="the best temperature, 1, is the largest one tried"):
        fit_temperature(tmp_path / "narrow", narrow)
    assert narrow.best_temperature == 1.0


def test_no_labelled_pixel_is_no_temperature(tmp_path: Path) -> None:
    callback = TemperatureSearch()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    with pytest.raises(ValueError, match="no pixel of blocks is labelled, all are ignored"):
        trainer.validate(make_confident(), datamodule=Unlabelled(length=1), verbose=False)
    assert callback.best_temperature is None and "val/best_temperature" not in trainer.callback_metrics


def test_only_validation_may_choose(tmp_path: Path) -> None:
    temperature, alpha = TemperatureSearch(), MethodSearch(IaBN(), {"alpha": [0.0, 0.1]})
    pairs = [(temperature, "fit"), (temperature, "test"), (temperature, "predict"), (alpha, "test"), (alpha, "predict")]
    for search, stage in pairs:
        trainer = make_trainer(tmp_path, callbacks=[search], max_epochs=1)
        with pytest.raises(ValueError, match=f"among the callbacks of a {stage} run: expected a validate run"):
            getattr(trainer, stage)(make_module(), datamodule=FakeDataModule())


@pytest.mark.parametrize("method", [None, SegTTT(num_steps=1, scales=(0.5,))])
def test_temperature_scales_the_predictions_of_every_method_and_1_is_identical(method: Method | None) -> None:
    image = make_images()
    plain, warm = make_confident(), make_confident(3.0)
    if method is not None:
        plain.predictor = warm.predictor = method
    unscaled = plain.predictor(plain.network, image)
    assert torch.equal(plain(image), unscaled)
    assert torch.equal(warm(image), scale_temperature(unscaled, 3.0))
    assert warm(image).max() < unscaled.max() and torch.equal(warm(image).argmax(dim=1), unscaled.argmax(dim=1))
    cold, hot = (module.predict_step({"image": image, "name": ["a", "b"]}, 0)["confidence"] for module in (plain, warm))
    assert all((after < before).all() for before, after in zip(cold, hot, strict=True))
