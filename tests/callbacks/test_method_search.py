"""A grid of settings in one pass gives exactly what one run per setting gives, and shares what it can."""

import json
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch import Tensor, nn

from callbacks import TTA, AdaBN, IaBN, SegTTT, Tent
from callbacks.alpha_search import AlphaSearch
from callbacks.method import Method
from callbacks.method_search import MethodSearch, name_variant
from lightning_modules.networks import DeepLabV3Plus
from tests.callbacks.runs import make_module, run
from tests.fakes import FakeDataModule, TinyNetwork, make_deeplab, make_images, make_trainer, unchanged

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
    network = make_deeplab()
    variants = [method.vary(dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    with unchanged(network):
        found = check_variants(method, network, make_images(2, 48, 64), variants)
    assert any(not torch.equal(one, found[0]) for one in found)  # the grid makes a difference


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        (make_deeplab(dropout=0.3), [1, 2, 3]),
        (DeepLabV3Plus("resnet10", 5, width=8, dropout=0.3).eval(), [3, 1]),
    ],
)
def test_live_dropout_draws_the_same_numbers_in_one_run_of_steps(network: nn.Module, counts: list[int]) -> None:
    method = SegTTT(**SMALL, semantics="released")
    check_variants(method, network, make_images(1, 48, 64), [method.vary({"num_steps": count}) for count in counts])


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
    module = make_module()
    module.network.head.weight.data.zero_()
    search = MethodSearch(SegTTT(scales=(0.5,), lr=0.0), {"num_steps": [2, 1]})
    make_trainer(tmp_path, callbacks=[search]).validate(module, datamodule=FakeDataModule(), verbose=False)
    assert search.best == {"num_steps": 2}


def test_alpha_search_without_batch_norm_tries_alpha_0_alone_if_it_is_not_required(tmp_path: Path) -> None:
    search = AlphaSearch(required=False)
    trainer = make_trainer(tmp_path, callbacks=[search])
    trainer.validate(make_module(norm=None), datamodule=FakeDataModule(), verbose=False)
    assert search.alphas == [0.0] and search.best_alpha == 0.0
    assert trainer.callback_metrics["val/miou_best_alpha"] == trainer.callback_metrics["val/miou"]


@pytest.mark.parametrize("epochs, searched", [(1, 1), (2, 1), (4, 1), (5, 1), (10, 2)])
def test_alpha_search_begins_after_a_share_of_the_epochs(epochs: int, searched: int, tmp_path: Path) -> None:
    search, values = AlphaSearch([0.0, 0.5], from_epoch=0.8), []
    watch = LambdaCallback(on_train_epoch_end=lambda *_: values.append(bool(search.miou)))  # validation comes before
    trainer = make_trainer(tmp_path, callbacks=[search, watch], max_epochs=epochs)
    trainer.fit(make_module(), datamodule=FakeDataModule())
    assert values == [False] * (epochs - searched) + [True] * searched
