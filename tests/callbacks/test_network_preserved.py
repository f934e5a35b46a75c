"""Whatever a method does, and however it ends, the network stays as it was and no image hears of another."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks import TTA, AdaBN, IaBN, MCDropout, Method, SegTTT, Tent
from callbacks.iabn import convert_batch_norm
from callbacks.seg_ttt import UNLABELLED
from lightning_modules.predictor import predict_plainly
from tests.fakes import NormAct2d, TinyNetwork, make_images, unchanged


class Counter(TinyNetwork):
    """Puts another buffer in the place of its own in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return super().forward(image)


LATE = ("layer3", "layer4", "head")
METHODS: dict[str, Method] = {
    "IaBN": IaBN(0.3),
    "IaBN-alpha-0": IaBN(0.0),
    "TTA": TTA(0.3, scales=(0.5, 1.0)),
    "SegTTT-paper": SegTTT(0.3, num_steps=3, lr=0.2, scales=(0.5, 1.0)),
    "SegTTT-released": SegTTT(0.3, num_steps=3, lr=0.2, scales=(0.5, 1.0), semantics="released"),
    "SegTTT-all-moves": SegTTT(0.3, num_steps=2, lr=0.2, scales=(0.5,), trainable=["stem", "stem_norm", *LATE]),
    "SegTTT-options": SegTTT(
        0.3, num_steps=3, lr=0.2, scales=(0.5,), time_budget_ms=1e6, trainable=["head"], grayscale=False
    ),
    "Tent": Tent(num_steps=3, lr=0.1),
    "MCDropout": MCDropout(3, alpha=0.3),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": TinyNetwork,
    "SyncBatchNorm": lambda: TinyNetwork(norm=nn.SyncBatchNorm),
    "NormAct2d": lambda: TinyNetwork(norm=NormAct2d),
    "shared-layer": lambda: TinyNetwork(shared=True),
    "dropout": lambda: TinyNetwork(dropout=0.5),
    "converted": lambda: convert_batch_norm(TinyNetwork(), 0.6),
    "other-buffers": Counter,
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param].vary({})


# Every method on one network, and every network with what does most to it.
PAIRS = [(name, "BatchNorm2d") for name in METHODS] + [("SegTTT-released", kind) for kind in list(NETWORKS)[1:]]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[Method, nn.Module]:
    name, kind = request.param
    return METHODS[name].vary({}), NETWORKS[kind]()


def test_network_is_bit_identical_after_a_method(pair: tuple[Method, nn.Module]) -> None:
    method, network = pair
    network.train()
    network.layer4.eval()  # a mixture of modes comes back as a mixture
    network.stem.weight.requires_grad_(False)
    network.layer4[0].weight.requires_grad_(False)
    with unchanged(network):
        probabilities = method.predict(network, make_images(2))
    assert probabilities.shape == (2, 5, 32, 48) and probabilities.dtype == torch.float32
    assert not probabilities.requires_grad and not probabilities.is_inference()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 32, 48))


class InterruptionError(KeyboardInterrupt):
    """Raised inside a network on purpose: Ctrl-C, which is no Exception."""


@pytest.mark.parametrize(("layer", "calls"), [("", 1), ("layer3.0", 3), ("head", 5), ("head", 6)])
def test_network_is_bit_identical_after_an_exception_inside_it(method: Method, layer: str, calls: int) -> None:
    network, numbers = TinyNetwork().train(), count(1)
    generator = torch.get_rng_state()

    def fail(*_: object) -> None:
        if next(numbers) == calls:
            raise InterruptionError

    handle = network.get_submodule(layer).register_forward_hook(fail)
    with unchanged(network), pytest.raises(InterruptionError):
        for _ in range(calls):  # methods of few forwards reach the call on a later image
            method.predict(network, make_images(1))
    handle.remove()
    assert torch.equal(torch.get_rng_state(), generator)
    expected = method.vary({}).predict(network, make_images(1))
    assert torch.equal(method.predict(network, make_images(1)), expected)


def test_batches_give_exactly_what_single_images_give_in_any_order(pair: tuple[Method, nn.Module]) -> None:
    (method, network), images = pair, make_images(3)
    together = method.predict(network, images)
    assert len(method.adaptations) == 3
    single = torch.cat([method.predict(network, image[None]) for image in images])
    assert torch.equal(together, single)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(method.predict(network, images[order]), single[order])
    assert torch.equal(method.predict(network, images[:2]), single[:2])
    assert not torch.equal(single[0], single[1])


def test_what_a_method_leaves_in_the_buffers_for_one_image_does_not_reach_the_next() -> None:
    class Sloppy(Method):
        def adapt(self, network: nn.Module, image: Tensor) -> Tensor:
            network.train()
            network(image)
            network.eval()
            return network(image).float().softmax(dim=1)

    network, images = TinyNetwork(), make_images(2)
    with unchanged(network):
        together = Sloppy().predict(network, images)
        single = torch.cat([Sloppy().predict(network, image[None]) for image in images])
    assert torch.equal(together, single)


def test_network_is_bit_identical_after_an_interruption_in_the_backward_pass() -> None:
    def stop(gradient: Tensor) -> None:
        raise InterruptionError

    network = TinyNetwork().train()

    def register(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(stop)

    handle = network.head.register_forward_hook(register)
    with unchanged(network), pytest.raises(InterruptionError):
        SegTTT(scales=(0.5,)).predict(network, make_images(1))
    handle.remove()


def test_dropout_is_live_in_the_steps_of_released_semantics_only_and_draws_the_same_numbers() -> None:
    network, image, live = TinyNetwork(dropout=0.5), make_images(1), []
    network.dropout.register_forward_hook(lambda module, *_: live.append(module.training))
    for semantics, in_steps in (("released", True), ("paper", False)):
        method = SegTTT(semantics=semantics, lr=0.2, num_steps=2, scales=(0.5,))
        expected = method.predict(network, image)
        assert live == [False, False, in_steps, in_steps, False]  # two views, two steps, the prediction
        torch.manual_seed(1)
        state = torch.get_rng_state()
        assert torch.equal(method.predict(network, image), expected)
        assert torch.equal(torch.get_rng_state(), state)
        live.clear()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_modes_of_autograd_around_a_prediction_do_not_change_it(method: Method, mode: Any) -> None:
    network = TinyNetwork()
    with unchanged(network), mode():
        probabilities = method.predict(network, make_images(2))  # inference mode makes it an inference tensor
    with torch.no_grad():
        assert torch.equal(probabilities, method.vary({}).predict(network, make_images(2)))


def test_logits_that_are_small_or_in_a_dict_are_found_and_upsampled(method: Method) -> None:
    network, image = TinyNetwork(upsample=False).train(), make_images(1, 31, 45)
    network.register_forward_hook(lambda module, inputs, logits: {"out": logits})  # as torchvision's
    with unchanged(network):
        probabilities = method.predict(network, image)
    assert probabilities.shape == (1, 5, 31, 45)
    assert torch.equal(probabilities, method.predict(TinyNetwork(upsample=False), image))


@pytest.mark.parametrize("method", [*METHODS.values(), AdaBN()], ids=[*METHODS, "AdaBN"])
def test_image_with_a_pixel_that_is_not_finite_falls_back_alone(method: Method) -> None:
    network, images = TinyNetwork(), make_images(3)
    expected = method.vary({}).predict(network, images[[0, 2]])
    for value in (float("nan"), -float("inf")):
        broken, repaired, method = images.clone(), images[1:2].clone(), method.vary({})
        broken[1, 2, 5, 7], repaired[0, 2, 5, 7] = value, 0
        copied = broken.clone()
        with unchanged(network), pytest.warns(UserWarning, match="NaN or infinity.*falling back to the unadapted"):
            probabilities = method.predict(network, broken)
        assert torch.equal(broken.nan_to_num(7.0), copied.nan_to_num(7.0))
        assert torch.equal(probabilities[1:2], predict_plainly(network, repaired))
        assert torch.equal(probabilities[[0, 2]], expected)
        assert [adaptation.fallback for adaptation in method.adaptations] == [False, True, False]
        assert "NaN" in method.adaptations[1].note and method.adaptations[1].to_record()["fallback"] is True


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_loss_that_becomes_nan_falls_back_to_the_plain_prediction(semantics: Any) -> None:
    network, images = TinyNetwork(), make_images(2)
    method = SegTTT(lr=1e30, num_steps=5, scales=(0.5,), semantics=semantics)
    with unchanged(network), pytest.warns(UserWarning, match="a smaller lr may help") as caught:
        probabilities = method.predict(network, images)
    assert len(caught) == 1  # not one for each image
    assert [adaptation.fallback for adaptation in method.adaptations] == [True, True]
    assert torch.equal(probabilities, torch.cat([predict_plainly(network, image[None]) for image in images]))


@pytest.mark.filterwarnings("ignore:SegTTT")
def test_no_confident_pixel_means_no_step_and_a_note() -> None:
    # One view of one colour: all pixels inside have the highest probability, so with the strict comparison none passes.
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    image = torch.full((1, 3, 8, 8), 0.5)
    for semantics, steps, note in (("paper", 10, None), ("released", 0, UNLABELLED)):
        method = SegTTT(psi=1.0, scales=(1.0,), semantics=semantics, trainable=["0"], grayscale=False)
        with unchanged(network):
            probabilities = method.predict(network, image)
        (adaptation,) = method.adaptations
        assert (adaptation.steps, adaptation.note, adaptation.fallback) == (steps, note, False)
        assert steps or torch.equal(probabilities, IaBN(0.1).predict(network, image))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["SegTTT-released", "MCDropout"])
def test_live_dropout_leaves_the_generators_alone_on_cuda(name: str) -> None:
    network, image = TinyNetwork(dropout=0.5).cuda(), make_images(1).cuda()
    states = torch.cuda.get_rng_state(), torch.get_rng_state()
    METHODS[name].predict(network, image)
    assert torch.equal(torch.cuda.get_rng_state(), states[0]) and torch.equal(torch.get_rng_state(), states[1])
