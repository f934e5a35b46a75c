import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks import IaBN, Method, SegTTT
from callbacks.method_search import MethodSearch
from callbacks.results import Results
from callbacks.temperature import TemperatureSearch, refine_minimum, sample_pixels, sum_losses
from lightning_modules.probabilities import scale_temperature
from lightning_modules.segmentation import SegmentationModule
from tests.fakes import FakeDataModule, TinyNetwork, Unlabelled, make_images, make_trainer


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


def make_module(temperature: float = 1.0) -> SegmentationModule:
    network = TinyNetwork(19)
    with torch.no_grad():
        network.head.weight.mul_(6)
    return SegmentationModule(network, 19, temperature=temperature)


class Drawn(FakeDataModule):
    """Labels are drawn from the softmax of the logits of `make_module`, halved: temperature 2 is right."""

    def make_dataset(self, split, transform, labelled=True):
        dataset = super().make_dataset(split, transform, labelled)
        network = make_module().network

        def draw(pixels: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
            image, labels = transform(pixels, mask, seed)
            with torch.no_grad():
                probabilities = (network(image[None])[0] / 2).softmax(dim=0).flatten(1).T
            generator = torch.Generator().manual_seed(int(pixels.sum()))
            return image, torch.multinomial(probabilities, 1, generator=generator).reshape(labels.shape)

        dataset.transform = draw
        return dataset


def search(module: SegmentationModule, folder: Path, *methods: Method, **kwargs: Any) -> TemperatureSearch:
    callback = TemperatureSearch(**kwargs)
    trainer = make_trainer(folder, callbacks=[*methods, callback, Results(str(folder), panels=0)])
    trainer.validate(module, datamodule=Drawn(size=(48, 72), eval_batch_size=2), verbose=False)
    return callback


@pytest.mark.parametrize("method", [None, SegTTT(num_steps=1, scales=(0.5,))])
def test_losses_of_a_run_are_the_scores_of_runs_at_each_temperature(method: Method | None, tmp_path: Path) -> None:
    methods = [] if method is None else [method]
    tried = (0.5, 2.0, 8.0)
    found = search(make_module(), tmp_path / "search", *methods, temperatures=tried)
    assert list(found.nll) == [0.5, 1.0, 2.0, 8.0] and 1 < found.best_temperature < 8
    for temperature, nll in found.nll.items():
        again = search(make_module(temperature), tmp_path / f"{temperature}", *methods, temperatures=tried)
        summary = json.loads((tmp_path / f"{temperature}" / "results.json").read_text(encoding="utf-8"))
        assert summary["mean"]["nll"] == pytest.approx(nll, abs=1e-5)
        assert again.best_temperature == pytest.approx(found.best_temperature, rel=1e-4)  # it is the total one


def test_result_is_logged_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TemperatureSearch()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    with caplog.at_level("INFO"):
        trainer.validate(make_module(), datamodule=Drawn(length=8, size=(48, 72)), verbose=False)
    assert callback.best_temperature == pytest.approx(2, rel=0.05)  # 27,648 pixels
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert logged["val/best_temperature"] == pytest.approx(callback.best_temperature)
    assert logged["val/nll_temperature_1"] == pytest.approx(logged["val/nll"], abs=1e-5)
    assert logged["val/nll_best_temperature"] <= min(callback.nll.values()) + 1e-6
    assert f"pass --model.temperature={callback.best_temperature:.4g} to test and predict" in caplog.text
    with pytest.warns(UserWarning, match="the best temperature, 1, is the largest one tried"):
        assert search(make_module(), tmp_path, temperatures=(0.3, 0.5)).best_temperature == 1.0


def test_no_labelled_pixel_is_no_temperature(tmp_path: Path) -> None:
    callback = TemperatureSearch()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    with pytest.raises(ValueError, match="no pixel of blocks is labelled, all are ignored"):
        trainer.validate(make_module(), datamodule=Unlabelled(length=1), verbose=False)
    assert callback.best_temperature is None and "val/best_temperature" not in trainer.callback_metrics


def test_only_validation_may_choose(tmp_path: Path) -> None:
    temperature, alpha = TemperatureSearch(), MethodSearch(IaBN(), {"alpha": [0.0, 0.1]})
    runs = [(temperature, "fit"), (temperature, "test"), (temperature, "predict"), (alpha, "test"), (alpha, "predict")]
    for search, run in runs:
        trainer = make_trainer(tmp_path, callbacks=[search], max_epochs=1)
        with pytest.raises(ValueError, match=f"among the callbacks of a {run} run: expected a validate run"):
            getattr(trainer, run)(make_module(), datamodule=FakeDataModule())


@pytest.mark.parametrize("method", [None, SegTTT(num_steps=1, scales=(0.5,))])
def test_temperature_scales_the_predictions_of_every_method_and_1_is_identical(method: Method | None) -> None:
    image = make_images()
    plain, warm = make_module(), make_module(3.0)
    if method is not None:
        plain.predictor = warm.predictor = method
    unscaled = plain.predictor(plain.network, image)
    assert torch.equal(plain(image), unscaled)
    assert torch.equal(warm(image), scale_temperature(unscaled, 3.0))
    assert warm(image).max() < unscaled.max() and torch.equal(warm(image).argmax(dim=1), unscaled.argmax(dim=1))
    cold, hot = (module.predict_step({"image": image, "name": ["a", "b"]}, 0)["confidence"] for module in (plain, warm))
    assert all((after < before).all() for before, after in zip(cold, hot, strict=True))
