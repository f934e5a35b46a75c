import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, SegTTT
from callbacks.adaptation.steps import take_step
from callbacks.iabn import convert_batch_norm
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.seg_ttt import select_parameters
from callbacks.views import make_views
from lightning_modules.predictor import predict_plainly
from tests.fakes import TinyNetwork, make_images, unchanged

ALL = ("layer3", "layer4", "head")
both_semantics = pytest.mark.parametrize("semantics", ["paper", "released"])


def adapt_a_copy(method: SegTTT, network: nn.Module, image: Tensor) -> tuple[nn.Module, list[float]]:
    """Seg-TTT written out once more, with torch's own optimizer; returns the adapted copy and the losses."""
    copied = convert_batch_norm(copy.deepcopy(network), method.alpha).eval()
    with torch.no_grad():
        fused = fuse_views(copied, image, method.views, method.normalization, method.resampling)
    target = pseudo_labels(fused, method.psi, strict=method.semantics == "released")
    moving = [p for n, p in copied.named_parameters() if n.split(".")[0] in method.trainable]
    optimizer = torch.optim.SGD(moving, lr=method.lr)
    losses = []
    for _ in range(method.num_steps):
        copied.train(method.semantics == "released")
        loss = F.cross_entropy(copied(image), target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return copied.eval(), losses


@both_semantics
@pytest.mark.parametrize(("trainable", "num_steps"), [(ALL, 4), (("head",), 1), (("stem_norm", "layer4"), 4)])
def test_prediction_is_that_of_a_copy_trained_with_torchs_sgd(
    trainable: tuple[str, ...], num_steps: int, semantics: Any
) -> None:
    network, image = TinyNetwork(), make_images(1)
    method = SegTTT(0.3, 0.6, num_steps, 0.3, trainable, scales=(0.5, 1.0), semantics=semantics)
    copied, losses = adapt_a_copy(method, network, image)
    torch.testing.assert_close(method.predict(network, image), predict_plainly(copied, image), rtol=1e-3, atol=1e-5)
    (adaptation,) = method.adaptations
    assert adaptation.steps == num_steps
    assert (adaptation.losses[0], adaptation.losses[-1]) == pytest.approx((losses[0], losses[-1]), abs=1e-5)


@both_semantics
def test_several_numbers_of_steps_under_autocast_are_those_of_copies(semantics: Any) -> None:
    """A cast that autocast keeps of a weight that has moved makes one pass and each setting alone equally wrong."""
    network, image = TinyNetwork(), make_images(1)
    method = SegTTT(0.3, 0.6, 6, 0.5, ALL, scales=(0.5, 1.0), semantics=semantics)
    variants = [method.vary({"num_steps": count}) for count in (1, 3, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        network(image)  # fills the cache of casts
        outcomes = method.predict_variants(network, image, variants)
        found = {number: outcome.probabilities.clone() for number, _, outcome in outcomes}
    labels = []
    for number, variant in enumerate(variants):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            copied, _ = adapt_a_copy(variant, network, image)
            expected = predict_plainly(copied, image)
        torch.testing.assert_close(found[number], expected.float(), rtol=0, atol=0.03)
        labels.append(expected.argmax(dim=1))
    assert (labels[0] != labels[2]).float().mean() > 0.05  # the steps make a difference


def test_without_steps_or_rate_it_is_iabn_and_with_alpha_0_the_plain_forward() -> None:
    network, without, images = TinyNetwork(), TinyNetwork(norm=None), make_images(2)
    for adapted, alpha, expected in (
        (network, 0.3, IaBN(0.3).predict(network, images)),
        (network, 0.0, predict_plainly(network, images)),
        (without, 0.0, predict_plainly(without, images)),
    ):
        for num_steps in (0, 1, 3):
            method = SegTTT(alpha, lr=0.0, num_steps=num_steps, scales=(0.5,))
            torch.testing.assert_close(method.predict(adapted, images), expected, rtol=1e-4, atol=1e-6)
            adaptation = method.adaptations[0]
            assert (len(adaptation.losses), adaptation.fallback, adaptation.note) == (num_steps, False, None)
    tta = TTA(0.2, scales=(1.0,), flip=False, grayscale=False)
    assert torch.equal(tta.predict(network, images), IaBN(0.2).predict(network, images))


def test_default_trainable_is_the_networks_own_choice_else_layer3_layer4_head_frozen_or_not() -> None:
    network, image = TinyNetwork(), make_images(1)
    by_name = SegTTT(trainable=ALL, scales=(0.5,)).predict(network, image)
    frozen = TinyNetwork().requires_grad_(False)
    for one in (network, frozen):
        assert torch.equal(SegTTT(scales=(0.5,)).predict(one, image), by_name)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    network.adapted_layers = ("head",)
    by_network = SegTTT(scales=(0.5,)).predict(network, image)
    assert torch.equal(by_network, SegTTT(trainable=("head",), scales=(0.5,)).predict(network, image))
    assert not torch.equal(by_network, by_name)


def test_trainable_names_match_whole_parts_of_paths_anywhere() -> None:
    backbone = nn.ModuleDict({"layer1": nn.Conv2d(3, 3, 1), "layer10": nn.Conv2d(3, 3, 1)})
    network = nn.ModuleDict({"backbone": backbone, "head": nn.Conv2d(3, 3, 1)})
    assert select_parameters(network, ["layer1"]) == ["backbone.layer1.weight", "backbone.layer1.bias"]
    layer10 = ["backbone.layer10.weight", "backbone.layer10.bias"]
    assert select_parameters(network, ["backbone.layer10", "head.bias"]) == [*layer10, "head.bias"]
    assert len(select_parameters(network, ["backbone", "layer1"])) == 4
    shared = TinyNetwork(shared=True)  # a layer that is used twice can be named by either name
    assert select_parameters(shared, ["layer4.1"]) == select_parameters(shared, ["layer3.1"])


def test_views_are_made_on_the_device_but_for_released_semantics() -> None:
    assert SegTTT().settings()["resampling"] == TTA().settings()["resampling"] == "device"
    assert SegTTT(semantics="released").settings()["resampling"] == "pillow"


def test_float16_retries_with_a_smaller_loss_scale_where_gradients_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = TinyNetwork(), make_images(1)
    method = SegTTT(num_steps=2, scales=(0.5,))
    expected = method.predict(network, image)
    monkeypatch.setattr("callbacks.adaptation.steps.HALF_LOSS_SCALES", (2.0**120, 1.0))
    with torch.autocast("cpu", torch.float16):
        probabilities = method.predict(network, image)
    assert not method.adaptations[0].fallback
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=0.05)


def test_a_scaled_loss_takes_the_same_step() -> None:
    for scale in (1.0, 64.0):
        parameter = nn.Parameter(torch.tensor([3.0]))
        take_step(parameter.square().sum(), [parameter], torch.optim.SGD([parameter], lr=0.1), scale)
        assert parameter.item() == pytest.approx(3.0 - 0.1 * 6.0)


@both_semantics
def test_the_prediction_is_fused_over_views_of_its_own(semantics: Any) -> None:
    network, image = TinyNetwork(), make_images(1)
    with unchanged(network):
        plain = SegTTT(0.3, 0.6, 3, 0.3, ALL, scales=(0.5,), semantics=semantics)
        alone = plain.vary({"final_views": {"scales": [1.0], "flip": False}})
        torch.testing.assert_close(alone.predict(network, image), plain.predict(network, image), rtol=1e-4, atol=1e-6)
        fused = plain.vary({"final_views": {"scales": [0.75, 1.0, 1.25]}})
        found = fused.predict(network, image)
    (adapted,) = fused.adaptations
    assert adapted.steps == 3 and not torch.allclose(found, plain.predict(network, image), atol=1e-3)
    copied, _ = adapt_a_copy(fused, network, image)
    with torch.no_grad():
        expected = fuse_views(copied, image, make_views((0.75, 1.0, 1.25), True, False), resampling=plain.resampling)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_labels_are_made_of_all_sets_of_views() -> None:
    sets = [{"scales": [0.5, 1.0], "grayscale": True}, {"scales": [1.25], "flip": False, "autocontrast": True}]
    method = SegTTT(0.3, label_views=sets)
    assert method.views == (*make_views((0.5, 1.0), True, True), *make_views((1.25,), False, False, True))
    assert SegTTT(0.3, label_views=sets[1]).views == method.views[4:]
    network, image = TinyNetwork(), make_images(1)
    same = SegTTT(0.3, 0.6, 2, 0.3, ("head",), label_views={"scales": [0.5, 0.75], "grayscale": True})
    usual = SegTTT(0.3, 0.6, 2, 0.3, ("head",), scales=(0.5, 0.75))
    assert torch.equal(same.predict(network, image), usual.predict(network, image))


@both_semantics
def test_trust_mixes_the_adapted_prediction_with_iabns(semantics: Any) -> None:
    network, image = TinyNetwork(), make_images(2)
    with unchanged(network):
        method = SegTTT(0.3, 0.6, 3, 0.3, ALL, scales=(0.5,), semantics=semantics)
        own, adapted = IaBN(0.3).predict(network, image), method.predict(network, image)
        half = method.vary({"trust": 0.5})
        found = half.predict(network, image)
    torch.testing.assert_close(found, (own + adapted) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.vary({"trust": 0.0}).predict(network, image), own, rtol=0, atol=0)
    classes = [one.argmax(dim=1) for one in (own, adapted, found)]
    for place, outcome in enumerate(half.adaptations):
        record = outcome.to_record()
        assert record["relabelled"] == (classes[0] != classes[2])[place].double().mean().item() > 0
        held = (classes[0] != classes[1]) & (classes[0] == classes[2])
        assert record["held_back"] == held[place].double().mean().item() > 0
    assert "relabelled" not in method.adaptations[0].to_record()
    both = method.predict_variants(network, image, [half, method])
    assert {one.relabelled for number, _, one in both if number == 1} == {None}
