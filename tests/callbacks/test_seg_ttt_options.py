"""What makes Seg-TTT cheaper changes nothing, or just what it says."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, Method, SegTTT
from callbacks.adaptation.passes import Passes
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


def count_runs(module: nn.Module) -> list[tuple[int, ...]]:
    """Keeps the sizes that a convolution is run with, whoever calls it."""
    sizes: list[tuple[int, ...]] = []
    run = module._conv_forward
    module._conv_forward = lambda x, *args: (sizes.append(tuple(x.shape[-2:])), run(x, *args))[1]
    return sizes


@pytest.mark.parametrize(("semantics", "at_full_size"), [("paper", 1), ("released", 2)])
def test_head_only_runs_the_frozen_layers_once_at_full_size(semantics: str, at_full_size: int) -> None:
    network = make_deeplab()
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    counts = {name: count_runs(module) for name, module in layers}
    head, image = counts.pop("head"), make_images(1, 64, 96)
    SegTTT(trainable=["head"], num_steps=4, scales=(0.5, 0.75), semantics=semantics).predict(network, image)
    assert len(head) == 4 + 4 + 1  # views, steps, prediction
    for name, sizes in counts.items():  # the released prediction normalises otherwise than the steps
        assert sum(size == sizes[-1] for size in sizes) == at_full_size, name
        assert len(sizes) == 4 + at_full_size, name


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
