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
from callbacks.results import Results
from callbacks.temperature import TEMPERATURES, TemperatureSearch, refine_minimum, sample_pixels, sum_losses
from lightning_modules.probabilities import SMALLEST, scale_temperature
from lightning_modules.segmentation import SegmentationModule
from main import main
from tests.fakes import FakeDataModule, TinyNetwork, make_images, make_trainer
from tests.tiny import arguments

SEARCH = "--trainer.callbacks+=callbacks.temperature.TemperatureSearch"


def draw_pixels(count: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws (19, N) logits z, and labels from softmax(z / T)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(19, count, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(dim=0).T, 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.6, 3.3])
def test_known_temperature_is_found(temperature: float) -> None:
    logits, labels = draw_pixels(25_000, temperature)
    seen = logits.softmax(dim=0).clamp_min(SMALLEST).log()
    losses = (sum_losses(seen, labels, TEMPERATURES) / len(labels)).tolist()
    found, loss = refine_minimum(TEMPERATURES, losses)
    assert found == pytest.approx(temperature, rel=0.04)
    direct = F.cross_entropy((logits.double() / found).T, labels).item()
    assert loss == pytest.approx(direct, abs=1e-4) and loss <= min(losses)


def test_pixels_are_drawn_among_the_labelled_ones_and_always_the_same() -> None:
    probabilities = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    mask = torch.arange(600).reshape(20, 30) % 4
    mask[:10] = 255
    every, labels = sample_pixels(probabilities, mask, 300)
    assert torch.equal(every, probabilities[:, 10:].flatten(1)) and torch.equal(labels, mask[10:].flatten())
    some, drawn = sample_pixels(probabilities, mask, 50)
    known = {tuple(column): label for column, label in zip(every.T.tolist(), labels.tolist(), strict=True)}
    assert len({tuple(column) for column in some.T.tolist()}) == 50
    assert [known[tuple(column)] for column in some.T.tolist()] == drawn.tolist()
    assert torch.equal(some, sample_pixels(probabilities, mask, 50)[0])
    probabilities[2, 15, 3] = float("nan")
    assert sample_pixels(probabilities, mask, 300)[0].shape == (4, 299)


def make_module(temperature: float = 1.0) -> SegmentationModule:
    """Makes a module whose predictions are sharp."""
    network = TinyNetwork(19)
    network.head.weight.data.mul_(6)
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
    trainer = make_trainer(folder, callbacks=[*methods, callback, Results(str(folder), panels=0, report=False)])
    trainer.validate(module, datamodule=Drawn(size=(48, 72), eval_batch_size=2), verbose=False)
    return callback


def test_losses_of_a_run_are_the_scores_of_runs_at_each_temperature(tmp_path: Path) -> None:
    method, tried = SegTTT(num_steps=1, scales=(0.5,)), (0.5, 2.0, 8.0)
    found = search(make_module(), tmp_path / "search", method, temperatures=tried)
    assert list(found.nll) == [0.5, 1.0, 2.0, 8.0] and 1 < found.best_temperature < 8
    for temperature, nll in found.nll.items():
        again = search(make_module(temperature), tmp_path / f"{temperature}", method, temperatures=tried)
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
    assert f"--model.temperature={callback.best_temperature:.4g} in test and predict" in caplog.text


def test_best_value_at_an_end_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the best temperature, 1, is the largest of those tried"):
        found = search(make_module(), tmp_path, temperatures=(0.3, 0.5))
    assert found.best_temperature == 1.0


def test_no_labelled_pixel_is_no_temperature(tmp_path: Path) -> None:
    class Unlabelled(FakeDataModule):
        def make_dataset(self, *args: Any, **kwargs: Any) -> Any:
            dataset = super().make_dataset(*args, **kwargs)
            dataset.load_ids = lambda index: np.full(self.size, 255, np.uint8)
            return dataset

    callback = TemperatureSearch()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    with pytest.raises(ValueError, match="no pixel of blocks is labelled, all are ignored"):
        trainer.validate(make_module(), datamodule=Unlabelled(length=1), verbose=False)
    assert callback.best_temperature is None and "val/best_temperature" not in trainer.callback_metrics


def test_only_validation_may_choose(tmp_path: Path) -> None:
    for run in ("fit", "test", "predict"):
        trainer = make_trainer(tmp_path, callbacks=[TemperatureSearch()], max_epochs=1)
        with pytest.raises(ValueError, match=f"among the callbacks of a {run} run: expected a validate run"):
            getattr(trainer, run)(make_module(), datamodule=FakeDataModule())


def test_arguments_are_checked() -> None:
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="expected a finite number above 0"):
            TemperatureSearch([0.5, wrong, 2.0])
    with pytest.raises(ValueError, match="expected three or more"):
        TemperatureSearch([1.0, 2.0])
    with pytest.raises(ValueError, match="max_pixels is 0"):
        TemperatureSearch(max_pixels=0)
    assert len(TEMPERATURES) == 49 and (TEMPERATURES[0], TEMPERATURES[-1]) == (0.125, 8) and 1 in TEMPERATURES


def test_temperature_scales_the_predictions_of_a_method_and_1_is_identical() -> None:
    image, plain, warm = make_images(), make_module(), make_module(3.0)
    plain.predictor = warm.predictor = IaBN(0.3)
    unscaled = plain.predictor(plain.network, image)
    assert torch.equal(plain(image), unscaled)
    assert torch.equal(warm(image), scale_temperature(unscaled, 3.0))
    assert warm(image).max() < unscaled.max() and torch.equal(warm(image).argmax(dim=1), unscaled.argmax(dim=1))
    batch = {"image": image, "name": ["a", "b"]}
    for cold, hot in zip(
        plain.predict_step(batch, 0)["confidence"], warm.predict_step(batch, 0)["confidence"], strict=True
    ):
        assert (hot < cold).all()


@pytest.mark.slow
def test_searched_temperature_lowers_the_likelihood_loss_on_the_command_line(tmp_path: Path) -> None:
    train = arguments(tmp_path, "--trainer.max_epochs=1")
    main(["fit", *train])
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    method = ["--method=IaBN", "--method.alpha=0.5", "--results.overwrite=true"]
    args = arguments(tmp_path, f"--ckpt_path={checkpoint}", *method)
    cli = main(["validate", *args, SEARCH])
    found = cli.trainer.callback_metrics["val/best_temperature"].item()
    before = cli.trainer.callback_metrics["val/nll"].item()
    again = main(["validate", *args, f"--model.temperature={found}"]).trainer.callback_metrics
    assert again["val/nll"].item() <= before
    assert again["val/nll"].item() == pytest.approx(
        cli.trainer.callback_metrics["val/nll_best_temperature"].item(), abs=1e-4
    )
    assert again["val/miou"].item() == pytest.approx(cli.trainer.callback_metrics["val/miou"].item())
    tested = main(["test", *args, f"--model.temperature={found}"]).trainer.callback_metrics
    assert math.isfinite(tested["test/nll"].item()) and 0 < tested["test/haze/brier"].item() < 2
