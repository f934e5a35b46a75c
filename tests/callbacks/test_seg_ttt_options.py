"""What makes Seg-TTT cheaper changes nothing, or just what it says; and a time budget is kept."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.adaptation import stopping
from callbacks.adaptation.passes import Passes
from callbacks.adaptation.stopping import Deadline, Pace
from callbacks.stages import observing, stage
from lightning_modules.networks import FCN, DeepLabV1, DeepLabV3Plus, HRNet
from tests.fakes import Snapshot, TinyNetwork, make_deeplab, make_images, randomize

RESNET = {"head": ["head"], "late": ["layer4", "head"], "all": ["backbone", "head"]}

# A network, and what moves: the head, some more, all.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, list[str]]]] = {
    "deeplab-v1-dropout": (lambda: make_deeplab(dropout=0.2), RESNET),
    "deeplab-v1-switchable": (lambda: make_deeplab(norm="ibn_b"), RESNET),
    "deeplab-v3-plus": (
        lambda: DeepLabV3Plus("resnet10", 5, width=8),
        {**RESNET, "all": ["backbone", "aspp", "reduction", "decoder", "head"]},
    ),
    "fcn": (lambda: FCN("resnet10", 5, width=8), RESNET),
    "hrnet": (
        lambda: HRNet(5, "hrnet_w18_small"),
        {"head": ["head"], "late": ["backbone.stage4", "neck", "head"], "all": ["backbone", "neck", "head"]},
    ),
}


@pytest.mark.parametrize("moving", ["head", "late", "all"])
@pytest.mark.parametrize("semantics", ["paper", "released"])
@pytest.mark.parametrize("name", NETWORKS)
def test_stages_that_run_once_change_no_prediction(
    name: str, semantics: Any, moving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, trainable = NETWORKS[name]
    torch.manual_seed(0)
    network, image = make(), make_images(1, 64, 64)
    randomize(network)
    threads, before = torch.get_num_threads(), Snapshot(network)
    method = SegTTT(0.3, 0.5, 3, 0.05, trainable[moving], scales=(0.75, 1.0), semantics=semantics)
    torch.set_num_threads(1)  # several add up in an order of their own, which training mode may multiply a thousandfold
    try:
        found, losses = method.predict(network, image), method.adaptations[0].losses
        before.check(network)
        monkeypatch.setattr("callbacks.adaptation.passes._is_constant", lambda stage, moving: False)
        expected = method.predict(network, image)
    finally:
        torch.set_num_threads(threads)
    before.check(network)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.9999
    assert len(losses) == 3 and losses == pytest.approx(method.adaptations[0].losses, rel=1e-5)
    plain_iabn = IaBN(0.3).predict(network, image)
    assert not torch.allclose(expected, plain_iabn, atol=1e-4)  # there was something to get wrong


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
def test_statistics_of_stages_that_run_once_are_those_of_as_many_passes(momentum: float | None) -> None:
    network = make_deeplab()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
            module.num_batches_tracked.fill_(4)
    expected, image = copy.deepcopy(network).train(), make_images(2, 64, 96)
    with torch.no_grad():
        for _ in range(5):
            expected.backbone(image)
    passes = Passes(network.train(), image, network.head.parameters())
    for _ in range(5):
        passes.compute_loss(torch.zeros(2, 64, 96, dtype=torch.int64))
    passes.move_statistics(5)
    for (name, found), buffer in zip(network.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("semantics", "at_full_size"), [("paper", 1), ("released", 2)])
def test_head_only_runs_the_frozen_layers_once_at_full_size(semantics: str, at_full_size: int) -> None:
    network, image, layers = make_deeplab(), make_images(1, 64, 96), {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module._conv_forward = layers[name] = Mock(side_effect=module._conv_forward)  # whoever calls the layer
    SegTTT(trainable=["head"], num_steps=4, scales=(0.5, 0.75), semantics=semantics).predict(network, image)
    assert layers.pop("head").call_count == 4 + 4 + 1  # views, steps, prediction
    for name, layer in layers.items():  # the released prediction normalises otherwise than the steps
        sizes = [call.args[0].shape[-2:] for call in layer.call_args_list]
        assert sizes.count(sizes[-1]) == at_full_size and len(sizes) == 4 + at_full_size, name


# What is measured on a network that has learned something, so that its predictions are not decided by rounding.


def make_pattern(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of blocks in 5 colours with noise, and their (B, H, W) classes."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randn(5, 3, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(5, (count, 4, 6), generator=generator).repeat_interleave(16, 1).repeat_interleave(16, 2)
    images = colours[labels].permute(0, 3, 1, 2).contiguous() + 0.2 * torch.randn(count, 3, 64, 96, generator=generator)
    return images, labels


@pytest.fixture(scope="module")
def fitted() -> DeepLabV1:
    """A small DeepLabV1 that knows the pattern."""
    torch.manual_seed(0)
    network = DeepLabV1("resnet10", 5, width=8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step in range(60):
        images, labels = make_pattern(4, step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    network.eval()
    images, labels = make_pattern(4, 1000)
    with torch.no_grad():
        assert (network(images).argmax(dim=1) == labels).float().mean() > 0.8
    return network


STEPS = SegTTT(0.1, scales=(0.5, 1.0), num_steps=5)


@pytest.mark.parametrize(
    "method", [IaBN(0.1), TTA(0.1, scales=(0.5, 1.0)), STEPS, STEPS.vary({"semantics": "released"})]
)
def test_channels_last_and_bfloat16_hardly_change_a_label(
    method: Method, fitted: DeepLabV1, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, layouts = make_pattern(3, 2000)[0] * 1.1 + 0.1, []
    handle = fitted.backbone.conv1.register_forward_pre_hook(
        lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    before, expected = Snapshot(fitted), method.predict(fitted, images).argmax(dim=1)
    assert set(layouts) == {True}
    with torch.autocast("cpu", torch.bfloat16):
        half = method.predict(fitted, images).argmax(dim=1)
    assert not any(adaptation.fallback for adaptation in method.adaptations)
    before.check(fitted)
    monkeypatch.setattr(fitted, "channels_last", False)
    layouts.clear()
    contiguous = method.predict(fitted, images).argmax(dim=1)
    assert False in layouts
    handle.remove()
    assert (half == expected).float().mean() > 0.98 and (contiguous == expected).float().mean() >= 0.999


def test_stages_are_observed_also_up_to_an_error_and_not_after_it() -> None:
    seen: list[str] = []
    network, image = TinyNetwork(), make_images(1)
    with pytest.raises(RuntimeError, match="stop"), observing(lambda name: nullcontext(seen.append(name))):
        SegTTT(scales=(0.5, 1.0), num_steps=4).predict(network, image)
        raise RuntimeError("stop")
    with stage("two"):
        pass
    assert set(seen) == {"views", "fusion", "step", "final", "restore"}
    assert (seen.count("views"), seen.count("step"), seen.count("final")) == (4, 4, 1)


# The time budget.

IMAGE = torch.zeros(1, 3, 4, 4)


class Clock:
    """A clock that only moves when told to, and the pace of the images that it has timed."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.pace: Pace = {}

    def work(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1000

    def adapt(
        self, limit: float, steps: Sequence[float] = (30,), final: float = 10, most: int = 10, image: Tensor = IMAGE
    ) -> tuple[int, float]:
        """Runs an image as Seg-TTT does, the last of the steps over and over; returns their number and milliseconds."""
        start, count = self.seconds, 0
        deadline = Deadline(limit, self.pace, image)
        self.work(10)  # views
        while deadline.allows_step() and count < most:
            self.work(steps[min(count, len(steps) - 1)])
            count += 1
        self.work(final)
        deadline.end()
        return count, 1000 * (self.seconds - start)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopping.time, "perf_counter", lambda: clock.seconds)
    return clock


@pytest.mark.parametrize(
    ("limit", "first", "later"),
    [(1, 0, 0), (49, 1, 0), (51, 1, 1), (81, 2, 2), (201, 6, 6), (319, 9, 9), (321, 10, 10), (10_000, 10, 10)],
)
def test_as_many_steps_are_taken_as_fit(clock: Clock, limit: float, first: int, later: int) -> None:
    found, took = clock.adapt(limit)
    assert found == first  # the first step of the very first image is taken on trust
    assert took <= max(limit, 51)  # views, this one step, and the prediction
    for _ in range(4):
        found, took = clock.adapt(limit)
        assert found == later and took <= max(limit, 20.1)


def test_number_of_steps_settles(clock: Clock) -> None:
    for limit in range(20, 400, 7):
        for most in (1, 2, 10):
            numbers = [clock.adapt(limit, most=most)[0] for _ in range(6)]
            assert len(set(numbers[2:])) == 1, (limit, most, numbers)


def test_a_slow_step_does_not_stop_adaptation_for_ever_and_slow_steps_are_not_tried_over_and_over(clock: Clock) -> None:
    for before, slow, steps in ((0, [5000, 30], 1), (2, [30, 3000, 30], 2)):  # the first step, a later one
        clock.pace.clear()
        assert [clock.adapt(201)[0] for _ in range(before)] == [6] * before
        assert clock.adapt(201, slow)[0] == steps
        assert [clock.adapt(201)[0] for _ in range(3)][-2:] == [6, 6]
    clock.pace.clear()
    assert [clock.adapt(50, [300], final=100)[0] for _ in range(5)] == [1, 0, 0, 0, 0]


def test_each_size_has_a_pace_of_its_own(clock: Clock) -> None:
    for _ in range(2):
        assert clock.adapt(201)[0] == 6
        assert clock.adapt(201, [100], image=torch.zeros(1, 3, 8, 8))[0] == 1
    assert clock.pace == {(1, 3, 4, 4): pytest.approx((30, 10)), (1, 3, 8, 8): pytest.approx((100, 10))}


@pytest.mark.parametrize("semantics", ["paper", "released"])
@pytest.mark.parametrize("budget", [300, 500])
def test_images_of_a_slow_network_end_within_the_budget(budget: float, semantics: Any, clock: Clock) -> None:
    network = TinyNetwork()
    network.register_forward_pre_hook(lambda *_: clock.work(40))  # however busy the machine is
    method = SegTTT(scales=(0.5,), time_budget_ms=budget, semantics=semantics, num_steps=50)
    for image in make_images(3).split(1):
        start = clock.seconds
        method.predict(network, image)
        assert 1000 * (clock.seconds - start) <= budget + 40  # what the last pass takes is a guess in the first image
        (adaptation,) = method.adaptations
        assert 1 <= adaptation.steps <= (budget + 40) / 40 - 3  # two views and the prediction are passes too
        assert adaptation.to_record()["steps"] == adaptation.steps
