"""What is replayed is what the network would have said: every way in which it may not be is tried."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from callbacks.frozen import Replay, find_frozen, replaying
from callbacks.iabn import convert_batch_norm
from tests.fakes import NormAct2d, randomize

PASSES = 5


class Counted(nn.Module):
    """A frozen convolution that counts its runs, unseen by hooks."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.runs: list[None] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(None)
        return self.conv(x)


class Act(nn.Module):
    """An activation in place that is another one when applied twice."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(x, 0.3)


class Parts(nn.Module):
    """Frozen and moving layers to make networks of; `wire` says how."""

    def __init__(self, wire: Callable[..., Tensor], **extra: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = Counted(), Counted(), Counted()
        self.act = Act()
        self.norm = nn.BatchNorm2d(4)
        self.moving = nn.Conv2d(4, 4, 1)
        self.wire = wire
        for name, module in extra.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def draw(network: nn.Module) -> None:
    """Draws parameters and buffers of any layer."""
    for tensor, low in [(p, -0.5) for p in network.parameters()] + [(b, 0.2) for b in network.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(low, 0.8)


Outcome = tuple[list[Tensor], dict[str, Tensor], Replay]


def run(make: Callable[[], nn.Module], replayed: bool, train: bool, passes: int = PASSES) -> Outcome:
    """Runs a network several times while what moves moves, the last time without gradients as the prediction is."""
    torch.manual_seed(0)
    network = make()
    draw(network)
    network.requires_grad_(False).train(train)
    own_forwards = [module for module in network.modules() if "forward" in vars(module)]
    moving = [p for name, p in network.named_parameters() if "moving" in name]
    for parameter in moving:
        parameter.requires_grad_(True)
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    outputs = []
    torch.manual_seed(1)
    with replaying(network, moving) if replayed else doing_nothing() as replay:
        for number in range(passes):
            with torch.set_grad_enabled(number < passes - 1), replay.next_pass():
                outputs.append(network(x).detach().clone())
            with torch.no_grad():
                for parameter in moving:
                    parameter.mul_(1.1).add_(0.01)
    outputs.append(torch.rand(3))  # the generator is where it would be
    assert [module for module in network.modules() if "forward" in vars(module)] == own_forwards
    return outputs, {name: buffer.clone() for name, buffer in network.named_buffers()}, replay


@contextmanager
def doing_nothing() -> Iterator[Replay]:
    yield Replay(idle=True)


def check(make: Callable[[], nn.Module], train: bool = False) -> Replay:
    """Checks that each pass is what it is without a replay, to the bit, and that buffers end as they would."""
    plain, buffers, _ = run(make, replayed=False, train=train)
    outputs, replayed_buffers, replay = run(make, replayed=True, train=train)
    assert not torch.equal(plain[0], plain[1]), "nothing moves in this network"
    for number, (one, other) in enumerate(zip(outputs, plain, strict=True)):
        assert torch.equal(one, other), f"pass {number} differs"
    for name, buffer in buffers.items():
        torch.testing.assert_close(replayed_buffers[name], buffer, rtol=1e-5, atol=1e-6)
    return replay


def residual(net: Parts, x: Tensor) -> Tensor:
    x = net.act(net.norm(net.a(x)))
    out = net.b(x)
    out += x
    return net.moving(net.c(net.act(out)))


WIRINGS: dict[str, Callable[[Parts, Tensor], Tensor]] = {
    "sequential": lambda net, x: net.moving(net.c(net.b(net.a(x)))),
    "functional": lambda net, x: net.moving(F.relu(net.b(F.relu(net.a(x))))),
    "functional-in-place": lambda net, x: net.moving(net.b(F.relu_(net.a(x)))),
    "module-in-place": lambda net, x: net.moving(net.b(net.act(net.a(x)))),
    "module-in-place-twice": lambda net, x: net.moving(net.b(net.act(net.act(net.a(x))))),
    "residual": residual,
    "slice": lambda net, x: net.moving(net.b(net.a(x)[:, :, 1:, ::2])),
    "concatenation": lambda net, x: net.moving(net.b(torch.cat([net.a(x), net.c(x)], dim=2))),
    "used-twice": lambda net, x: net.moving(net.a(net.a(x))),
    "used-twice-the-same": lambda net, x: net.moving(net.a(x) + net.a(x)),
    "behind-what-moves": lambda net, x: net.b(net.moving(net.a(x))),
    "between": lambda net, x: net.moving(net.a(net.moving(net.a(x)))),
    "moving-first": lambda net, x: net.a(net.moving(x)) + net.moving(net.a(x)),
    "two-branches": lambda net, x: net.moving(net.a(x)) + net.b(x),
    "no-grad-inside": lambda net, x: net.moving(frozen_in_no_grad(net, x)),
}


def frozen_in_no_grad(net: Parts, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.b(net.a(x))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("wire", WIRINGS.values(), ids=WIRINGS)
def test_passes_are_those_of_the_network(wire: Callable[..., Tensor], train: bool) -> None:
    assert check(lambda: Parts(wire), train).replayed > 0


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("sequential", (1, 1, 1)),
        ("functional", (1, 1, 0)),
        ("module-in-place", (1, 1, 0)),
        ("residual", (1, PASSES, 1)),  # what `+=` changed has to be made anew; what comes of it has not
        ("used-twice", (2, 0, 0)),
        ("used-twice-the-same", (2, 0, 0)),
        ("concatenation", (1, 1, 1)),
        ("behind-what-moves", (1, PASSES, 0)),
        ("between", (PASSES + 1, 0, 0)),
        ("two-branches", (1, 1, 0)),
        ("slice", (1, 1, 0)),
    ],
)
def test_frozen_modules_run_once(name: str, runs: tuple[int, int, int]) -> None:
    network: Any = None

    def make() -> nn.Module:
        nonlocal network
        network = Parts(WIRINGS[name])
        return network

    _, _, replay = run(make, replayed=True, train=False)
    assert (len(network.a.runs), len(network.b.runs), len(network.c.runs)) == runs
    assert replay.replayed >= PASSES - 1


def identity_then_in_place(net: Parts, x: Tensor) -> Tensor:
    kept = x = net.a(x)
    return net.moving(net.act(x) + kept)


def clone_before_in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    kept = x.clone()
    return net.moving(net.act(x) + kept)


def view_before_in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    kept = x.flatten(2)
    return net.moving(net.act(x) + kept.view_as(x))


def detached_before_in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    kept = x.detach() * 2
    return net.moving(net.act(x) + kept)


def functional_in_place_later(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.moving(net.b(x))
    return y + F.relu_(x)


def in_place_on_a_slice(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    net.act(x[:, :2])
    return net.moving(net.b(x))


def in_place_on_the_image(net: Parts, x: Tensor) -> Tensor:
    x = x.clone()
    net.act(x)
    return net.moving(net.a(x))


def in_place_by_what_moves(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    x *= net.moving.weight.detach().mean()
    return net.moving(net.b(x))


def read_by_a_frozen_module_before_in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    return net.moving(net.act(x)) + y


def read_by_a_frozen_module_of_what_moves_before_in_place(net: Parts, x: Tensor) -> Tensor:
    moving = net.moving(x).detach()
    x = net.a(x)
    product = net.multiply(x, moving)
    return net.moving(net.act(x) + product)


def view_by_a_frozen_module_before_in_place(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.unflatten(x) * 1
    return net.moving(net.act(x) + y[:, 0])


def in_place_with_what_moves(net: Parts, x: Tensor) -> Tensor:
    moving = net.moving(x).detach()
    return net.moving(net.add(net.a(x), moving))


def in_place_activation_shared_with_what_moves(net: Parts, x: Tensor) -> Tensor:
    moved = net.act(net.moving(x))
    return net.moving(net.act(net.a(x))) + moved


def in_place_module_whose_result_is_changed(net: Parts, x: Tensor) -> Tensor:
    x, copied = net.both(net.a(x))
    copied += 1
    return net.moving(x + copied)


def in_place_chain_whose_end_is_changed(net: Parts, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.chain(x)
    y += 1
    return net.moving(x + y)


def chunks_in_place(net: Parts, x: Tensor) -> Tensor:
    one, other = net.chunk(net.a(x))
    return net.moving(torch.cat([net.act(one), other], dim=1))


class Multiply(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class AddInPlace(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.add_(y)


class InPlaceAndCopy(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.leaky_relu_(x, 0.3), x.clone()


class Chunk(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return list(x.chunk(2, dim=1))


ALIASING = [
    identity_then_in_place,
    clone_before_in_place,
    view_before_in_place,
    detached_before_in_place,
    functional_in_place_later,
    in_place_on_a_slice,
    in_place_on_the_image,
    in_place_by_what_moves,
    read_by_a_frozen_module_before_in_place,
    read_by_a_frozen_module_of_what_moves_before_in_place,
    view_by_a_frozen_module_before_in_place,
    in_place_with_what_moves,
    in_place_activation_shared_with_what_moves,
    in_place_module_whose_result_is_changed,
    in_place_chain_whose_end_is_changed,
    chunks_in_place,
]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("wire", ALIASING)
def test_what_is_changed_in_place_is_as_it_was_when_it_is_read(wire: Callable[..., Tensor], train: bool) -> None:
    def make() -> nn.Module:
        return Parts(
            wire,
            multiply=Multiply(),
            add=AddInPlace(),
            both=InPlaceAndCopy(),
            chunk=Chunk(),
            unflatten=nn.Unflatten(1, (1, 4)),
            chain=nn.Sequential(Act(), nn.Conv2d(4, 4, 1)),
        )

    check(make, train)


@pytest.mark.parametrize("branch", ["detach", "no_grad"])
def test_a_frozen_module_that_is_fed_by_what_moves_is_run_in_each_pass(branch: str) -> None:
    def wire(net: Parts, x: Tensor) -> Tensor:
        x = net.a(x)
        if branch == "detach":
            return net.moving(net.b(net.moving(x).detach()))
        with torch.no_grad():
            y = net.b(net.moving(x))
        return net.moving(net.c(y))

    check(lambda: Parts(wire))


class Pyramid(nn.Module):
    """Returns a nest, and takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Any, *more: Any, scale: float = 1.0, extra: Any = None) -> Any:
        if isinstance(x, Tensor):
            y = self.conv(x) * scale
            return {"out": y, "list": [y * 2, y * 3], "pair": (y + 1, None), "size": y.shape[-2:], "name": "y"}
        parts = [*x["list"], *more, *(extra or {}).values()]
        return [self.conv(sum(parts)) * scale]


def nests(net: Parts, x: Tensor) -> Tensor:
    features = net.pyramid(net.a(x), scale=2.0)
    assert list(features) == ["out", "list", "pair", "size", "name"] and features["size"] == x.shape[-2:]
    features["list"].append(features["pair"][0])  # a list of one's own each time, or it would grow
    (y,) = net.top(features, features["out"], extra={"a": features["out"]}, scale=0.5)
    assert len(features["list"]) == 3
    return net.moving(y)


def test_nests_of_tensors_go_in_and_out() -> None:
    network: Any = None

    def make() -> nn.Module:
        nonlocal network
        network = Parts(nests, pyramid=Pyramid(), top=Pyramid())
        return network

    replay = check(make)
    assert len(network.a.runs) == 1 and replay.replayed == (PASSES - 1) * 3


def test_arguments_that_change_are_noticed() -> None:
    steps = iter(range(1000))

    def wire(net: Parts, x: Tensor) -> Tensor:
        (y,) = net.top({"list": [net.a(x)]}, scale=1.0 + next(steps) % PASSES)
        (z,) = net.top({"list": [net.a(x)] * (1 + next(steps) % 2)})
        return net.moving(y + z)

    check(lambda: Parts(wire, top=Pyramid()))


class Pops(nn.Module):
    """Changes the list that it is given."""

    def forward(self, features: list[Tensor]) -> Tensor:
        features[0] = features[0] * 2
        return features.pop()


def test_a_module_that_changes_a_list_it_is_given_is_run_in_each_pass() -> None:
    def wire(net: Parts, x: Tensor) -> Tensor:
        features = [net.a(x), net.b(x), net.c(x)]
        y = net.pops(features)
        assert len(features) == 2
        return net.moving(features[0] + features[1] + y)

    check(lambda: Parts(wire, pops=Pops()))


class Drops(nn.Module):
    """Dropout as a function, and no dropout module to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, training=True)


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "functional-dropout": Drops,
    "dropout": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5)),
    "dropout2d-in-place": lambda: nn.Dropout2d(0.5, inplace=True),
    "alpha-dropout": lambda: nn.AlphaDropout(0.5),
    "rrelu": lambda: nn.RReLU(inplace=True),
    "fractional-pooling": lambda: nn.FractionalMaxPool2d(2, output_size=(6, 5)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_layers_draw_anew_in_each_pass(name: str) -> None:
    def wire(net: Parts, x: Tensor) -> Tensor:
        if name == "fractional-pooling":
            x = F.interpolate(x, scale_factor=2)
        return net.moving(net.b(net.random(net.a(x))))

    check(lambda: Parts(wire, random=RANDOM[name]()), train=True)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.0), nn.Dropout(0.5)])
def test_dropout_that_does_nothing_is_replayed(dropout: nn.Module) -> None:
    network: Any = None

    def make() -> nn.Module:
        nonlocal network
        network = Parts(lambda net, x: net.moving(net.block(net.a(x))), block=nn.Sequential(Counted(), dropout))
        return network

    check(make, train=dropout.p == 0)
    assert len(network.block[0].runs) == 1


class OwnNorm(nn.Module):
    """Moves buffers of its own, by a function that does not count a new version."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training, momentum=0.3)


class Averages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.mean(dim=(0, 2, 3)), 0.5)
        return x - self.mean[:, None, None]


class Reassigns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x * self.count


class Counts(nn.Module):
    def __init__(self, start: Any = 0) -> None:
        super().__init__()
        self.count = start

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x * self.count


class CountsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.count.add_(1)


STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "own-norm": OwnNorm,
    "averages": Averages,
    "reassigned-buffer": Reassigns,
    "counter": Counts,
    "counter-inside": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), Counts()),
    "tensor-counter": lambda: Counts(torch.zeros(())),
    "tensor-counter-in-place": CountsInPlace,
    "instance-norm": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "spectral-norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_module_that_moves_state_of_its_own_is_run_in_each_pass(name: str) -> None:
    wire = lambda net, x: net.moving(net.b(net.stateful(net.a(x)))) + net.stateful.training  # noqa: E731
    check(lambda: Parts(wire, stateful=STATEFUL[name]()), train=True)


def test_a_buffer_that_others_move_is_noticed() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    def wire(net: Parts, x: Tensor) -> Tensor:
        net.scale.factor.mul_(0.9)
        return net.moving(net.scale(net.a(x)))

    check(lambda: Parts(wire, scale=Scale()))


class UsesTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x) + 1)


def make_norm(**arguments: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4, **arguments)


def without(norm: nn.Module, *names: str) -> nn.Module:
    for name in names:
        setattr(norm, name, None)
    return norm


class HasALayer(nn.BatchNorm2d):
    """Has an attribute of the name that adaptive twins have."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.layer = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(super().forward(x))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "alone": make_norm,
    "in-a-block": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), make_norm(), nn.ReLU(inplace=True)),
    "two-in-a-block": lambda: nn.Sequential(make_norm(), nn.Conv2d(4, 4, 1), make_norm(momentum=0.5)),
    "no-momentum": lambda: make_norm(momentum=None),
    "no-momentum-in-a-block": lambda: nn.Sequential(make_norm(momentum=None), nn.Conv2d(4, 4, 1)),
    "no-affine": lambda: make_norm(affine=False),
    "no-statistics": lambda: make_norm(track_running_stats=False),
    "statistics-taken-out": lambda: without(make_norm(), "running_mean", "running_var"),
    "no-counter": lambda: without(make_norm(), "num_batches_tracked"),
    "no-counter-in-a-block": lambda: nn.Sequential(without(make_norm(), "num_batches_tracked"), nn.ReLU()),
    "used-twice": UsesTwice,
    "subclass": lambda: NormAct2d(4),
    "subclass-in-a-block": lambda: nn.Sequential(NormAct2d(4), nn.Conv2d(4, 4, 1)),
    "subclass-with-a-layer": lambda: nn.Sequential(HasALayer(4)),
    "timm": lambda: BatchNormAct2d(4),
    "timm-in-a-block": lambda: nn.Sequential(BatchNormAct2d(4), nn.Conv2d(4, 4, 1)),
    "adaptive": lambda: convert_batch_norm(nn.Sequential(make_norm()), 0.3),
    "adaptive-alone": lambda: convert_batch_norm(make_norm(), 0.3),
    "adaptive-subclass": lambda: convert_batch_norm(nn.Sequential(NormAct2d(4), nn.Conv2d(4, 4, 1)), 0.3),
    "adaptive-timm": lambda: convert_batch_norm(nn.Sequential(BatchNormAct2d(4)), 0.3),
    "adaptive-used-twice": lambda: convert_batch_norm(UsesTwice(), 0.3),
}


def norm_then_moving(net: Parts, x: Tensor) -> Tensor:
    return net.moving(net.b(net.test_norm(net.a(x))))


def norm_of_both(net: Parts, x: Tensor) -> Tensor:
    """The norm is called for what is frozen, for what moves, and for what is frozen once more."""
    first = net.test_norm(net.a(x))
    return net.test_norm(net.moving(first)) + net.test_norm(net.b(first))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("wire", [norm_then_moving, norm_of_both])
@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_move_as_they_would(name: str, wire: Callable[..., Tensor], train: bool) -> None:
    plain, buffers, _ = run(lambda: Parts(wire, test_norm=NORMS[name]()), False, train)
    outputs, moved, replay = run(lambda: Parts(wire, test_norm=NORMS[name]()), True, train)
    assert all(torch.equal(one, other) for one, other in zip(outputs, plain, strict=True))
    assert moved.keys() == buffers.keys() and replay.replayed > 0
    for key, buffer in buffers.items():
        torch.testing.assert_close(moved[key], buffer, rtol=1e-5, atol=1e-6)
        if "num_batches" in key:
            assert torch.equal(moved[key], buffer)


@pytest.mark.parametrize("name", ["alone", "in-a-block", "no-momentum", "adaptive", "adaptive-subclass", "timm"])
def test_training_norms_are_replayed_too(name: str) -> None:
    network: Any = None

    def make() -> nn.Module:
        nonlocal network
        network = Parts(lambda net, x: net.moving(net.b(net.test_norm(net.a(x)))), test_norm=NORMS[name]())
        return network

    _, _, replay = run(make, True, train=True)
    assert replay.replayed == (PASSES - 1) * 3 and len(network.b.runs) == 1


def test_a_norm_in_training_mode_is_left_with_its_momentum_when_the_first_pass_fails() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("stop")

    network = nn.Sequential(nn.Sequential(nn.BatchNorm2d(4, momentum=0.2), Fails()), nn.Conv2d(4, 4, 1)).train()
    buffers = {name: id(buffer) for name, buffer in network.named_buffers()}
    moving = list(network[1].parameters())
    with pytest.raises(RuntimeError, match="stop"), replaying(network, moving) as replay, replay.next_pass():
        network(torch.randn(2, 4, 5, 5))
    assert network[0][0].momentum == 0.2
    assert not any("forward" in vars(module) for module in network.modules())
    assert {name: id(buffer) for name, buffer in network.named_buffers()} == buffers


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("number", [0, 1])
def test_modules_have_their_forward_back_after_an_exception(number: int, exception: type[BaseException]) -> None:
    def wire(net: Parts, x: Tensor) -> Tensor:
        if net.passes == number:
            raise exception("stop")
        net.passes += 1
        return net.moving(net.a(x))

    network = Parts(wire)
    network.passes = 0
    forwards = {name: module.forward for name, module in network.named_modules()}
    with pytest.raises(exception, match="stop"), replaying(network, list(network.moving.parameters())) as replay:
        assert "forward" in vars(network.a)
        for _ in range(2):
            with replay.next_pass():
                network(torch.randn(2, 4, 5, 5))
    assert not any("forward" in vars(module) for module in network.modules())
    assert all(module.forward == forwards[name] for name, module in network.named_modules())


def test_a_forward_that_somebody_else_put_in_place_stays_and_is_called() -> None:
    def make() -> nn.Module:
        network = Parts(lambda net, x: net.moving(net.b(net.a(x))))
        network.b.forward = lambda x, forward=network.b.forward: forward(x) * 3
        return network

    torch.manual_seed(0)
    network = make()
    own = network.b.forward
    x = torch.randn(2, 4, 5, 5)
    expected = network(x)
    with replaying(network, list(network.moving.parameters())) as replay:
        for _ in range(3):
            with replay.next_pass():
                assert torch.equal(network(x), expected)
    assert network.b.forward is own and "forward" not in vars(network.a)


def test_scripted_modules_are_left_alone() -> None:
    def make() -> nn.Module:
        block = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
        return Parts(lambda net, x: net.moving(net.b(net.outer(net.a(x)))), outer=nn.Sequential(block))

    check(make)
    check(make, train=True)
    assert find_frozen(torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1))), set()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_networks_are_left_alone(whole: bool) -> None:
    network = Parts(WIRINGS["sequential"])
    if whole:
        network = torch.compile(network, backend="eager")
    else:
        network.a = torch.compile(network.a, backend="eager")
    assert find_frozen(network, set()) == []
    with replaying(network, []) as replay, replay.next_pass():
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None  # nothing is watched for nothing
        assert not any("Forward" in type(vars(module).get("forward")).__name__ for module in network.modules())


def test_hooks_inside_frozen_modules_fire_in_each_pass() -> None:
    network = Parts(lambda net, x: net.moving(net.block(net.a(x))), block=nn.Sequential(nn.Sequential(Counted())))
    network.requires_grad_(False)
    network.moving.requires_grad_(True)
    fired: list[str] = []
    inner = network.block[0][0].conv
    inner.register_forward_hook(lambda *_: fired.append("inner"))
    inner.register_forward_pre_hook(lambda *_: fired.append("inner before"))
    network.block.register_forward_hook(lambda *_: fired.append("outer"))
    network.a.register_forward_pre_hook(lambda *_: fired.append("a before"))
    with replaying(network, list(network.moving.parameters())) as replay:
        for _ in range(3):
            with replay.next_pass():
                network(torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert fired == ["a before", "inner before", "inner", "outer"] * 3
    assert len(network.a.runs) == 1 and len(network.block[0][0].runs) == 3


def test_a_hook_that_changes_what_a_frozen_module_is_given_or_returns_is_heard() -> None:
    steps = iter(range(1000))

    def make() -> nn.Module:
        network = Parts(WIRINGS["sequential"])
        network.b.register_forward_pre_hook(lambda module, inputs: (inputs[0] * (1 + next(steps) % PASSES),))
        network.c.register_forward_hook(lambda module, inputs, output: output + 1)
        return network

    check(make)


def test_buffers_and_parameters_that_are_inference_tensors() -> None:
    def make() -> nn.Module:
        with torch.inference_mode():
            block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), OwnNorm())
            block.requires_grad_(False)
            randomize(block)
        assert next(block.buffers()).is_inference()
        network = nn.Sequential(block, nn.Conv2d(4, 4, 1))
        network[1].requires_grad_(True)
        return network.eval()

    torch.manual_seed(0)
    network = make()
    x = torch.randn(2, 4, 5, 5)
    expected = network(x)
    with replaying(network, list(network[1].parameters())) as replay:
        for _ in range(3):
            with replay.next_pass():
                assert torch.equal(network(x), expected)
    assert replay.replayed == 2


def test_another_image_is_never_given_what_was_said_of_the_first() -> None:
    network = Parts(WIRINGS["sequential"]).requires_grad_(False)
    images = torch.randn(4, 2, 4, 5, 5)
    expected = [network(image) for image in images]
    with replaying(network, list(network.moving.parameters())) as replay:
        for index in (0, 1, 0, 2, 3):
            with replay.next_pass():
                assert torch.equal(network(images[index]), expected[index])
        for other in (images[0].double(), images[0][:, :, 1:], images[0][:1]):
            with replay.next_pass():
                if other.dtype == torch.float64:
                    with pytest.raises(RuntimeError):
                        network(other)
                else:
                    network(other)


def test_an_image_that_is_written_between_passes_is_noticed() -> None:
    network, image = Parts(WIRINGS["sequential"]).requires_grad_(False), torch.randn(2, 4, 5, 5)
    with replaying(network, list(network.moving.parameters())) as replay:
        with replay.next_pass():
            network(image)
        image.mul_(2)
        with replay.next_pass():
            output = network(image)
    assert torch.equal(output, network(image))


def test_an_equal_image_is_as_good() -> None:
    network, image = Parts(WIRINGS["sequential"]).requires_grad_(False), torch.randn(2, 4, 5, 5)
    with replaying(network, list(network.moving.parameters())) as replay:
        for _ in range(3):
            with replay.next_pass():
                network(image.clone())
    assert replay.replayed == 6 and len(network.a.runs) == 1


def test_what_moves_is_found_by_identity_wherever_it_is() -> None:
    shared = nn.Conv2d(4, 4, 1)
    network = nn.ModuleDict(
        {
            "a": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
            "b": nn.Sequential(shared, nn.ReLU()),
            "c": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ModuleList([nn.Sequential(shared)])),
        }
    )
    frozen = find_frozen(network, {id(shared.weight)})
    assert frozen == [network["a"], network["a"][0], network["a"][1], network["b"][1], network["c"][0]]
    network.apply(lambda module: module.train())
    network["a"].append(nn.Dropout(0.1))
    assert network["a"] not in find_frozen(network, set()) and network["a"][0] in find_frozen(network, set())
    network.eval()
    assert network["a"] in find_frozen(network, set())


def test_checkpointed_blocks_are_computed_anew_in_the_backward_pass() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradients(replayed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        network = Parts(
            lambda net, x: checkpoint(lambda x: net.moving(net.b(net.norm(net.a(x)))), x, use_reentrant=False)
        )
        network.requires_grad_(False).train()
        network.moving.requires_grad_(True)
        x, found = torch.randn(2, 4, 5, 5), []
        with replaying(network, network.moving.parameters()) if replayed else doing_nothing() as replay:
            for _ in range(3):
                with replay.next_pass():
                    loss = network(x).square().mean()
                found += torch.autograd.grad(loss, list(network.moving.parameters()))
        return [*found, network.norm.running_mean, network.norm.running_var]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
