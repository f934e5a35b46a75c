"""Norms against their formulas, in place in the networks, and with IaBN on top; and dropout after every ReLU."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from callbacks import TTA, IaBN, SegTTT
from callbacks.iabn import adaptive_batch_norm
from lightning_modules.networks import DeepLabV1, HRNet
from lightning_modules.networks.norms import (
    BatchInstanceNorm2d,
    InstanceBatchNorm2d,
    InstanceNorm2d,
    NormalizedSum,
    SwitchableNorm2d,
    make_norm,
)
from lightning_modules.networks.replacement import add_dropout, replace_norms
from tests.fakes import NormAct2d, TinyNetwork, draw, make_images, unchanged

KINDS = (SwitchableNorm2d, BatchInstanceNorm2d, InstanceBatchNorm2d, InstanceNorm2d, NormalizedSum, nn.BatchNorm2d)


def randomize(norm: nn.Module) -> nn.Module:
    """Draws every parameter and running statistic, in float64."""
    norm = norm.double()
    for seed, (name, tensor) in enumerate([*norm.named_parameters(), *norm.named_buffers()]):
        if tensor.is_floating_point():
            values = draw(*tensor.shape, seed=seed)
            tensor.data.copy_(values.abs() + 0.2 if "var" in name and "weight" not in name else values)
            if name == "gate":
                tensor.data.sigmoid_()
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_switchable_norm_is_its_formula_and_stands_large_means_in_float32(training: bool) -> None:
    norm = randomize(SwitchableNorm2d(4)).train(training)
    for shape in ((3, 4, 5, 7), (1, 4, 5, 7), (2, 4, 1, 3)):
        x, axes = 3 * draw(*shape) + 1, ((2, 3), (1, 2, 3), (0, 2, 3))
        means = [x.mean(dim=dims, keepdim=True) for dims in axes]
        variances = [x.var(dim=dims, keepdim=True, correction=0) for dims in axes]
        if not training:
            means[2], variances[2] = norm.running_mean[None, :, None, None], norm.running_var[None, :, None, None]
        mean = sum(share * value for share, value in zip(norm.mean_weight.softmax(0), means, strict=True))
        var = sum(share * value for share, value in zip(norm.var_weight.softmax(0), variances, strict=True))
        expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(norm(x), expected)
    norm, x = SwitchableNorm2d(4).train(training), (draw(2, 4, 8, 8) + 1000).float()
    torch.testing.assert_close(norm(x).double(), copy.deepcopy(norm).double()(x.double()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("make", [SwitchableNorm2d, BatchInstanceNorm2d])
def test_running_statistics_are_those_of_batch_norm(make: type[nn.Module]) -> None:
    norm, reference = make(4).double(), nn.BatchNorm2d(4).double()
    for seed in range(5):
        x = 2 * draw(3, 4, 5, 7, seed=seed) + seed
        norm(x), reference(x)
    owner = norm.batch_norm if make is BatchInstanceNorm2d else norm
    torch.testing.assert_close(owner.running_mean, reference.running_mean)
    torch.testing.assert_close(owner.running_var, reference.running_var)
    before = owner.running_mean.clone()
    norm.eval()(draw(3, 4, 5, 7))
    assert torch.equal(owner.running_mean, before)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3])
def test_batch_instance_norm_is_its_formula_also_with_blended_statistics(alpha: float | None) -> None:
    norm, x = randomize(BatchInstanceNorm2d(4)).train(alpha is None), 3 * draw(3, 4, 5, 7) + 1
    own = norm.batch_norm
    if alpha is None:
        batch = F.batch_norm(x, own.running_mean.clone(), own.running_var.clone(), training=True)
    else:
        mean = alpha * x.mean(dim=(2, 3)) + (1 - alpha) * own.running_mean
        var = alpha * x.var(dim=(2, 3), correction=0) + (1 - alpha) * own.running_var
        batch = (x - mean[..., None, None]) / (var + own.eps).sqrt()[..., None, None]
    mixed = norm.gate[:, None, None] * batch + (1 - norm.gate[:, None, None]) * F.instance_norm(x)
    expected = mixed * norm.weight[:, None, None] + norm.bias[:, None, None]
    with adaptive_batch_norm(norm, alpha) if alpha else nullcontext():
        torch.testing.assert_close(norm(x), expected)


def test_gates_stay_between_0_and_1_and_adaptation_leaves_them() -> None:
    norm, x = BatchInstanceNorm2d(3), torch.randn(2, 3, 4, 4)
    norm.gate.data.copy_(torch.tensor([-0.5, 0.5, 1.5]))
    evaluated = norm.eval()(x)
    norm.gate.data.copy_(torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(norm(x), evaluated)
    norm.gate.data.copy_(torch.tensor([-0.5, 0.5, 1.5]))
    (norm.train()(x) * torch.randn_like(x)).sum().backward()
    assert norm.gate.tolist() == [0.0, 0.5, 1.0]
    assert norm.gate.grad.isfinite().all() and (norm.gate.grad != 0).all()  # none is stuck at its bound
    norm.gate.grad = None
    y = torch.randn(2, 3, 4, 4, requires_grad=True)
    (norm(norm(norm(y))) * torch.randn_like(y)).sum().backward()  # called often before one backward
    assert y.grad.isfinite().all() and norm.gate.grad.isfinite().all()
    network = DeepLabV1("resnet10", 5, width=4, norm="batch_instance").eval()
    for module in network.modules():
        if isinstance(module, BatchInstanceNorm2d):
            module.gate.data.fill_(1.2)  # as the last update of training may
    with unchanged(network):
        for semantics in ("paper", "released"):
            SegTTT(0.1, num_steps=2, scales=(0.5, 1.0), semantics=semantics).predict(network, make_images(1))


def test_ibn_a_is_instance_norm_on_half_the_channels_and_batch_norm_on_the_rest() -> None:
    norm, x = randomize(InstanceBatchNorm2d(5)).eval(), draw(2, 5, 4, 6)
    own, half = norm.batch_norm, norm.instance_norm
    first = F.instance_norm(x[:, :2], weight=half.weight, bias=half.bias)
    rest = F.batch_norm(x[:, 2:], own.running_mean, own.running_var, own.weight, own.bias)
    torch.testing.assert_close(norm(x), torch.cat([first, rest], dim=1))


@pytest.mark.parametrize("backbone", ["resnet10", "resnet50"])
def test_ibn_b_normalises_behind_the_addition(backbone: str) -> None:
    plain = DeepLabV1(backbone, 5, width=4).double().eval().backbone.layer1[-1]
    block, x = NormalizedSum(copy.deepcopy(plain)).double().eval(), draw(1, 4 if backbone == "resnet10" else 16, 6, 8)
    out = plain.bn1(plain.conv1(x)).relu()
    out = plain.bn2(plain.conv2(out))
    if backbone == "resnet50":
        out = plain.bn3(plain.conv3(out.relu()))
    torch.testing.assert_close(block(x), F.instance_norm(out + x).relu())
    assert {*plain.state_dict(), "instance_norm.weight", "instance_norm.bias"} == set(block.state_dict())


@pytest.mark.parametrize("make", [SwitchableNorm2d, BatchInstanceNorm2d, InstanceBatchNorm2d, InstanceNorm2d])
def test_weights_and_statistics_are_taken_over(make: type) -> None:
    layer, x = nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), torch.randn(2, 4, 6, 6)
    for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
        tensor.copy_(torch.rand(4) + 0.1)
    norm, expected = make_norm(make, layer).eval(), layer.eval()(x)
    if make is BatchInstanceNorm2d:  # it starts as the BatchNorm it replaces
        torch.testing.assert_close(norm(x), expected)
    elif make is InstanceBatchNorm2d:
        torch.testing.assert_close(norm(x)[:, 2:], expected[:, 2:])
        assert norm.batch_norm.momentum == 0.2 and torch.equal(norm.instance_norm.weight, layer.weight[:2])
    else:
        assert torch.equal(norm.weight, layer.weight) and torch.equal(norm.bias, layer.bias) and norm.eps == 1e-3
    if make is SwitchableNorm2d:
        assert torch.equal(norm.running_var, layer.running_var) and norm.momentum == 0.2
        assert norm.mean_weight.softmax(0).tolist() == norm.var_weight.softmax(0).tolist() == [pytest.approx(1 / 3)] * 3


@pytest.mark.parametrize("backbone", ["resnet10", "resnet50"])
def test_norms_sit_where_they_belong(backbone: str) -> None:
    blocks = (1, 1, 1, 1) if backbone == "resnet10" else (3, 4, 6, 3)
    plain = DeepLabV1(backbone, 5, width=4).backbone
    count = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    for norm, expected in {
        "switchable": {SwitchableNorm2d: count},
        "batch_instance": {BatchInstanceNorm2d: count, nn.BatchNorm2d: count},
        "ibn_a": {InstanceBatchNorm2d: sum(blocks[:3]), InstanceNorm2d: sum(blocks[:3]), nn.BatchNorm2d: count},
        "ibn_b": {NormalizedSum: 2, InstanceNorm2d: 3, nn.BatchNorm2d: count - 1},
    }.items():
        kinds = {name: type(module) for name, module in DeepLabV1(backbone, 5, width=4, norm=norm).named_modules()}
        found = Counter(kinds.values())
        assert {kind: found[kind] for kind in KINDS if found[kind]} == expected
        if norm == "ibn_a":
            assert all(kinds[f"backbone.layer{stage}.0.bn1"] is InstanceBatchNorm2d for stage in (1, 2, 3))
        if norm == "ibn_b":
            assert kinds["backbone.bn1"] is InstanceNorm2d
            assert all(kinds[f"backbone.layer{n}.{blocks[n - 1] - 1}"] is NormalizedSum for n in (1, 2))


def test_ibn_in_hrnet_sits_at_the_stem_and_in_every_branch() -> None:
    network = HRNet(5, "hrnet_w18_small", norm="ibn_b")
    assert isinstance(network.backbone.bn2, InstanceNorm2d) and isinstance(network.backbone.bn1, nn.BatchNorm2d)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(InstanceNorm2d) == 1 + 1 + 2  # the stem, layer1, and both branches of stage2
    network = HRNet(5, "hrnet_w18_small", norm="ibn_a")
    of_stages = {name.split(".")[1] for name, one in network.named_modules() if isinstance(one, InstanceBatchNorm2d)}
    assert "stage3" in of_stages and "stage4" not in of_stages


@pytest.mark.parametrize("norm", ["switchable", "batch_instance", "ibn_a", "ibn_b"])
def test_a_copy_is_equal_and_iabn_and_sync_batch_norm_take_the_batch_norm_that_is_left(norm: str) -> None:
    network, images = DeepLabV1("resnet10", 5, width=4, norm=norm).eval(), make_images(3)
    with torch.no_grad():
        singles = torch.cat([network(image) for image in images.split(1)])
        torch.testing.assert_close(network(images), singles)
        assert torch.equal(copy.deepcopy(network)(images), network(images))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images).float().softmax(dim=1)
        torch.testing.assert_close(half, singles.softmax(dim=1), atol=0.1, rtol=0)
    if norm == "switchable":
        with pytest.raises(ValueError, match="Switchable Norms blend in the image's own statistics"):
            IaBN(0.1).check_network(network)
        assert TTA(0.0, scales=(0.5, 1.0)).predict(network, images[:1]).isfinite().all()
    else:
        plain, adapted = IaBN(0.0).predict(network, images[:1]), IaBN(0.5).predict(network, images[:1])
        assert adapted.isfinite().all() and not torch.allclose(plain, adapted)
    kinds = {type(module) for module in nn.SyncBatchNorm.convert_sync_batchnorm(network).modules()}
    assert nn.BatchNorm2d not in kinds and (nn.SyncBatchNorm in kinds) == (norm != "switchable")


def test_activations_of_other_norms_stay() -> None:
    layer = BatchNormAct2d(4).eval()
    network = nn.Sequential(layer)
    replace_norms(network, "batch_instance", ())
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(network.eval()(x), layer(x))
    add_dropout(network, 0.5)
    assert not torch.equal(network.train()(x), network(x))  # the activation behind the norm has got one, too
    tiny = TinyNetwork(shared=True)
    replace_norms(tiny, "switchable", ())
    assert tiny.layer3[1] is tiny.layer4[1]  # one that is shared stays one


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace_norms(TinyNetwork(), "group", ()), "norm is 'group': expected one of batch, switchable"),
        (lambda: replace_norms(TinyNetwork(norm=None), "switchable", ()), "TinyNetwork has no 2d BatchNorm to replace"),
        (lambda: replace_norms(TinyNetwork(norm=NormAct2d), "switchable", ()), "NormAct2d differs from BatchNorm2d"),
        (lambda: InstanceBatchNorm2d(1), "IBN-a with 1 channel"),
        (lambda: add_dropout(TinyNetwork(), 0.5), "TinyNetwork has no ReLU module"),
        (lambda: add_dropout(nn.ReLU(), -0.1), "expected a probability of 0 or more and below 1"),
        (lambda: add_dropout(nn.ReLU(), 1.0), "expected a probability of 0 or more and below 1"),
        (lambda: add_dropout(nn.ReLU(), math.nan), "expected a probability of 0 or more and below 1"),
    ],
)
def test_what_cannot_be_replaced_is_a_clear_error(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_relu_gets_a_dropout_that_is_called_as_often_and_scales_what_it_leaves() -> None:
    network = DeepLabV1("resnet50", 5, width=4, dropout=0.25)
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(dropouts) == 17 and all(layer.p == 0.25 for layer in dropouts)
    block, calls = network.backbone.layer1[0], []
    block.relu[1].register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(1, 4, 8, 8))
    assert len(calls) == 3
    network = nn.Sequential(nn.ReLU(inplace=True))
    add_dropout(network, 0.25)
    torch.manual_seed(0)
    y = network.train()(torch.ones(1, 1, 100, 100))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    network = DeepLabV1("resnet10", 5, width=4, dropout=0.0)
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())
