"""Every argument outside its range, and every network that a method cannot take, is a clear error."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from callbacks import TTA, AdaBN, Ensemble, IaBN, MCDropout, SegTTT, Tent
from callbacks.alpha_search import AlphaSearch
from callbacks.iabn import InstanceAdaptiveBatchNorm2d, convert_batch_norm
from callbacks.method_search import MethodSearch
from callbacks.predictions import Predictions
from callbacks.pseudo_labels import fuse_views, pseudo_labels
from callbacks.temperature import TemperatureSearch
from callbacks.views import make_views
from tests.fakes import Snapshot, TinyNetwork, make_images

NAN, INF = math.nan, math.inf
NOT_A_SET = "a set with scales and optionally flip, grayscale and autocontrast"
NO_SETS = [5, [], {"flip": True}, {"scales": [1.0], "rotate": 90}, {"scales": None}, {"scales": [1.0], "flip": "no"}]
NO_SETS += [[{"scales": [1.0]}, {"scale": 1.0}]]
NO_IMAGES = [torch.zeros(size) for size in ((3, 8, 8), (1, 3, 8), (1, 1, 8, 8))]
NO_IMAGES += [torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
BY_LAYER = {"stem_norm": 0.9, "layer3": 0.2, "layer4.1": 0.0}
takes_alpha: list[Callable[[Any], Any]] = [
    partial(InstanceAdaptiveBatchNorm2d, 4),
    partial(InstanceAdaptiveBatchNorm2d.from_batch_norm, nn.BatchNorm2d(4)),
    partial(convert_batch_norm, TinyNetwork()),
    IaBN,
    TTA,
    SegTTT,
    Tent,
    partial(MCDropout, 2),
    partial(Ensemble, ["a.ckpt"]),
    lambda alpha: AlphaSearch([0.1, alpha]),
]
takes_scales: list[Callable[[Any], Any]] = [
    lambda scales: make_views(scales, True, True),
    lambda scales: TTA(scales=scales),
    lambda scales: SegTTT(scales=scales),
    lambda scales: Ensemble(["a.ckpt"], scales=scales),
]
takes_refine: list[Callable[[Any], Any]] = [lambda n, kind=kind: kind(refine=n) for kind in (IaBN, TTA, SegTTT)]

# What is wrong with a value, by the word that the message has about it, and whoever takes the value.
VALUES: list[tuple[str, list[Callable[[Any], Any]], list[Any]]] = [
    (r"alpha is .*\[0, 1\]", takes_alpha, [-0.1, 1.1, NAN, INF, True]),
    ("scales is empty", takes_scales, [(), []]),
    ("expected a list of numbers", takes_scales, [0.5, "0.5"]),
    ("scale of a view is", takes_scales, [(0.5, -0.5), (0.0,), (NAN,), (0.5, INF)]),
    (r"alpha of layer3 is .*\[0, 1\]", [IaBN], [{**BY_LAYER, "layer3": value} for value in (1.2, "much")]),
    ("no views", [partial(fuse_views, nn.Conv2d(3, 4, 1), make_images(1))], [()]),
    ("psi is", [lambda psi: SegTTT(psi=psi), partial(pseudo_labels, torch.ones(1, 2, 3, 3))], [-0.1, 1.01, NAN]),
    ("num_steps is", [lambda steps: SegTTT(num_steps=steps), lambda steps: Tent(num_steps=steps)], [-1, NAN, 1.5]),
    ("num_steps is 0", [lambda steps: Tent(num_steps=steps, episodic=False)], [0]),
    ("time_budget_ms is .*above 0", [lambda budget: SegTTT(time_budget_ms=budget)], [0, -1, NAN, INF]),
    ("lr is", [lambda lr: SegTTT(lr=lr), lambda lr: Tent(lr=lr)], [-0.1, NAN, INF]),
    (r"trust is .*\[0, 1\]", [lambda trust: SegTTT(trust=trust), lambda trust: Tent(trust=trust)], [1.5, -1, "much"]),
    ("refine is .*iterations", takes_refine, [-1, 1.5, True, "3", None]),
    ("semantics is 'mine'", [lambda name: SegTTT(semantics=name)], ["mine"]),
    ("resampling is 'bicubic'", [lambda name: SegTTT(resampling=name), lambda name: TTA(resampling=name)], ["bicubic"]),
    (r"the string 'layer4'.*\['layer4'\]", [lambda names: SegTTT(trainable=names)], ["layer4"]),
    (NOT_A_SET, [lambda one: SegTTT(label_views=one), lambda one: SegTTT(final_views=one)], NO_SETS),
    ("optimizer is 'lbfgs': expected one of adam, sgd", [lambda name: Tent(optimizer=name)], ["lbfgs"]),
    ("one or more of labels, train_ids, overlays", [partial(Predictions, "out")], [[], ["labels", "colours"]]),
    ("passes is", [MCDropout], [0, -1, 1.5]),
    ("prior is", [AdaBN], [-1, NAN, INF]),
    ("expected a list of paths", [Ensemble], [[], "a.ckpt"]),
    ("the grid is empty", [partial(MethodSearch, SegTTT())], [{}]),
    ("psi in the grid is empty", [partial(MethodSearch, SegTTT())], [{"psi": []}]),
    ("SegTTT has no argument phi: expected one of alpha, psi", [partial(MethodSearch, SegTTT())], [{"phi": [1]}]),
    ("psi is 2", [partial(MethodSearch, SegTTT())], [{"psi": [0.5, 2]}]),
    ("alphas is empty", [AlphaSearch], [[]]),
    ("from_epoch is -1", [lambda epoch: AlphaSearch(from_epoch=epoch)], [-1]),
    ("expected a finite number above 0", [TemperatureSearch], [[0.5, value, 2.0] for value in (0.0, -1.0, INF, NAN)]),
    ("expected three or more", [TemperatureSearch], [[1.0, 2.0]]),
    (r"expected \(B, 3, H, W\)", [partial(IaBN().predict, TinyNetwork())], NO_IMAGES),
    ("max_pixels is 0", [lambda pixels: TemperatureSearch(max_pixels=pixels)], [0]),
]


@pytest.mark.parametrize(("message", "makers", "values"), VALUES, ids=[message for message, *_ in VALUES])
def test_a_value_outside_its_range_is_a_clear_error(message: str, makers: list[Any], values: list[Any]) -> None:
    for make in makers:
        for value in values:
            with pytest.raises(ValueError, match=message):
                make(value)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MCDropout(), "no Dropout module .*: train a network with dropout"),
        (Tent(), "TinyNetwork has no (2d BatchNorm|BatchNorm with weight and bias)"),
        (AdaBN(), "TinyNetwork has no 2d BatchNorm"),
        (IaBN(0.1), "TinyNetwork has no 2d BatchNorm"),
        (TTA(0.1), "TinyNetwork has no 2d BatchNorm"),
        (SegTTT(0.1), "TinyNetwork has no 2d BatchNorm"),
        (SegTTT(trainable=["layer"]), "TinyNetwork, such as .*'stem', .*'layer3', 'layer4', .*'head'"),
        (SegTTT(trainable=[]), "expected at least one"),
        (SegTTT(trainable=["head", "nowhere"]), "'nowhere'.* match no parameter"),
        (IaBN({"stem_norm": 0.1}), r"no weight for layer3\.1: .* 3 BatchNorm layers, such as stem_norm, layer3\.1"),
        (IaBN({**BY_LAYER, "layer": 0.1}), "alpha names layer, which matches no BatchNorm"),
    ],
)
def test_a_network_that_a_method_cannot_take_is_a_clear_error(method: Any, message: str) -> None:
    norm = None if "TinyNetwork has no" in message else nn.BatchNorm2d
    network, calls = TinyNetwork(norm=norm), [method.check_network]
    if not isinstance(method, MCDropout):
        calls.append(lambda one: method.predict(one, make_images(1)))
    before = Snapshot(network)
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(network)
    before.check(network)


def test_an_image_of_8_bit_levels_is_warned_of_and_normalised_ones_are_not() -> None:
    network, image = TinyNetwork().eval(), make_images(2)
    method, levels = IaBN(0.3), torch.stack([image[0], torch.full_like(image[1], 255.0)])
    with pytest.warns(
        UserWarning, match=r"absolute values above 160: expected one normalised as in training.*std$"
    ) as caught:
        method.predict(network, levels)
        method.predict(network, levels - 1)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IaBN(0.3).predict(network, 151 * image / image.abs().max())  # 255 - 104, the smallest mean of Caffe's networks


def test_a_method_that_does_not_store_an_argument_is_a_clear_error() -> None:
    class Forgetful(IaBN):
        def __init__(self, alpha: float = 0.1, size: int = 3) -> None:
            super().__init__(alpha)

    with pytest.raises(ValueError, match=r"Forgetful does not store its argument size: expected self.size = size in"):
        Forgetful().settings()
