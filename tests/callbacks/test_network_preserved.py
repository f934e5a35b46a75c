"""Whatever a method does, and however it ends, the network stays as it was and no image hears of another."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks import TTA, IaBN, MCDropout, Method, SegTTT, Tent
from callbacks.iabn import convert_batch_norm
from callbacks.seg_ttt import UNLABELLED
from lightning_modules.predictor import predict_plainly
from tests.fakes import NormAct2d, Snapshot, TinyNetwork, make_images

METHODS: dict[str, Callable[[], Method]] = {
    "IaBN": lambda: IaBN(0.3),
    "IaBN-alpha-0": lambda: IaBN(0.0),
    "TTA": lambda: TTA(0.3, scales=(0.5, 1.0)),
    "SegTTT-paper": lambda: SegTTT(0.3, num_steps=3, lr=0.2, scales=(0.5, 1.0)),
    "SegTTT-released": lambda: SegTTT(0.3, num_steps=3, lr=0.2, scales=(0.5, 1.0), semantics="released"),
    "SegTTT-all-moves": lambda: SegTTT(
        0.3, num_steps=2, lr=0.2, scales=(0.5,), trainable=["stem", "stem_norm", "layer3", "layer4", "head"]
    ),
    "Tent": lambda: Tent(num_steps=3, lr=0.1),
    "MCDropout": lambda: MCDropout(3, alpha=0.3),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": TinyNetwork,
    "SyncBatchNorm": lambda: TinyNetwork(norm=nn.SyncBatchNorm),
    "NormAct2d": lambda: TinyNetwork(norm=NormAct2d),
    "shared-layer": lambda: TinyNetwork(shared=True),
    "dropout": lambda: TinyNetwork(dropout=0.5),
    "converted": lambda: convert_batch_norm(TinyNetwork(), 0.6),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]()


# Every method on one network, and every network with what does most to it.
PAIRS = [(name, "BatchNorm2d") for name in METHODS] + [("SegTTT-released", kind) for kind in list(NETWORKS)[1:]]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[Method, nn.Module]:
    name, kind = request.param
    return METHODS[name](), NETWORKS[kind]()


def test_network_is_bit_identical_after_a_method(pair: tuple[Method, nn.Module]) -> None:
    method, network = pair
    network.train()
    network.layer4.eval()  # a mixture of modes comes back as a mixture
    network.stem.weight.requires_grad_(False)
    network.layer4[0].weight.requires_grad_(False)
    before = Snapshot(network)
    probabilities = method.predict(network, make_images(2))
    before.check(network)
    assert probabilities.shape == (2, 5, 32, 48) and probabilities.dtype == torch.float32
    assert not probabilities.requires_grad and not probabilities.is_inference()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 32, 48))


@pytest.mark.parametrize(("layer", "calls"), [("layer3.0", 3), ("head", 6)])
def test_network_is_bit_identical_after_an_exception_inside_it(method: Method, layer: str, calls: int) -> None:
    network, generator, called = TinyNetwork().train(), torch.get_rng_state(), []

    def fail(*_: object) -> None:
        called.append(True)
        if len(called) == calls:
            raise RuntimeError("stop")

    handle = network.get_submodule(layer).register_forward_hook(fail)
    before = Snapshot(network)
    with pytest.raises(RuntimeError, match="stop"):
        for _ in range(calls):  # methods of few forwards reach the call on a later image
            method.predict(network, make_images(1))
    before.check(network)
    handle.remove()
    assert torch.equal(torch.get_rng_state(), generator)
    expected = type(method)(**arguments_of(method)).predict(network, make_images(1))
    assert torch.equal(method.predict(network, make_images(1)), expected)


def arguments_of(method: Method) -> dict[str, object]:
    settings = method.settings()
    settings.pop("name")
    return settings


def test_network_is_bit_identical_after_an_interruption_in_the_backward_pass() -> None:
    class Stops(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            raise KeyboardInterrupt("stop")

    network = TinyNetwork().train()
    handle = network.head.register_forward_hook(lambda module, inputs, output: Stops.apply(output))
    before = Snapshot(network)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        SegTTT(scales=(0.5,)).predict(network, make_images(1))
    before.check(network)
    handle.remove()


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


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_live_dropout_is_deterministic_and_leaves_the_global_generator_alone(semantics: str) -> None:
    network, images = TinyNetwork(dropout=0.5), make_images(2)
    expected = SegTTT(semantics=semantics, lr=0.2, scales=(0.5,), num_steps=2).predict(network, images)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = SegTTT(semantics=semantics, lr=0.2, scales=(0.5,), num_steps=2).predict(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again, expected)


def test_dropout_is_live_in_the_steps_of_released_semantics_only() -> None:
    live: list[bool] = []
    network = TinyNetwork(dropout=0.5)
    network.dropout.register_forward_hook(lambda module, inputs, output: live.append(module.training))
    SegTTT(semantics="released", num_steps=2, scales=(0.5,)).predict(network, make_images(1))
    assert live == [False, False, True, True, False]  # two views, two steps, the prediction
    live.clear()
    SegTTT(semantics="paper", num_steps=2, scales=(0.5,)).predict(network, make_images(1))
    assert live == [False] * 5


def test_modes_of_autograd_around_a_prediction_do_not_change_it(method: Method) -> None:
    network = TinyNetwork()
    before = Snapshot(network)
    expected = type(method)(**arguments_of(method)).predict(network, make_images(2))
    for mode in (torch.inference_mode, torch.enable_grad):
        with mode():
            found = method.predict(network, make_images(2))  # under inference mode the image is an inference tensor
        assert torch.equal(found, expected)
    before.check(network)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8)],
    ids=["no-batch", "gray", "uint8", "3d"],
)
def test_wrong_image_is_a_clear_error(image: Tensor) -> None:
    network, method = TinyNetwork(), IaBN()
    before = Snapshot(network)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        method.predict(network, image)
    before.check(network)


def test_image_with_a_pixel_that_is_not_finite_falls_back_alone(method: Method) -> None:
    network, images = TinyNetwork(), make_images(3)
    expected = method.predict(network, images)
    broken = images.clone()
    broken[1, 2, 5, 7] = float("nan")
    copied, repaired = broken.clone(), images[1:2].clone()
    repaired[0, 2, 5, 7] = 0
    before = Snapshot(network)
    with pytest.warns(UserWarning, match="falling back to the unadapted prediction"):
        probabilities = method.predict(network, broken)
    before.check(network)
    assert torch.equal(broken.nan_to_num(7.0), copied.nan_to_num(7.0))
    assert torch.equal(probabilities[1:2], predict_plainly(network, repaired))
    assert torch.equal(probabilities[[0, 2]], expected[[0, 2]])
    assert [adaptation.fallback for adaptation in method.adaptations] == [False, True, False]
    assert "NaN" in method.adaptations[1].note and method.adaptations[1].to_record()["fallback"] is True


@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_loss_that_becomes_nan_falls_back_to_the_plain_prediction(semantics: str) -> None:
    network, images = TinyNetwork().train(), make_images(2)
    before = Snapshot(network)
    method = SegTTT(lr=1e30, num_steps=5, scales=(0.5,), semantics=semantics)
    with pytest.warns(UserWarning, match="a smaller lr may help"):
        probabilities = method.predict(network, images)
    before.check(network)
    assert [adaptation.fallback for adaptation in method.adaptations] == [True, True]
    network.eval()
    assert torch.equal(probabilities, torch.cat([predict_plainly(network, image[None]) for image in images]))


@pytest.mark.parametrize(("semantics", "steps"), [("paper", 10), ("released", 0)])
@pytest.mark.filterwarnings("ignore:SegTTT")
def test_no_confident_pixel_means_no_step_and_a_note(semantics: Any, steps: int) -> None:
    # One view of one colour: all pixels inside have the highest probability, so with the strict comparison none passes.
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    image, before = torch.full((1, 3, 8, 8), 0.5), Snapshot(network)
    method = SegTTT(psi=1.0, scales=(1.0,), semantics=semantics, trainable=["0"], flip=True, grayscale=False)
    probabilities = method.predict(network, image)
    before.check(network)
    (adaptation,) = method.adaptations
    assert adaptation.steps == steps and not adaptation.fallback
    assert adaptation.note == (None if steps else UNLABELLED)
    assert steps or torch.equal(probabilities, IaBN(0.1).predict(network, image))


@pytest.mark.cuda
class TestOnCuda:
    @pytest.fixture(autouse=True)
    def exact(self) -> Iterator[None]:
        before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = False
        yield
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before

    def test_network_is_bit_identical_after_a_method(self, method: Method) -> None:
        network = TinyNetwork(dropout=0.5).cuda().train()
        before = Snapshot(network)
        state = torch.cuda.get_rng_state(), torch.get_rng_state()
        method.predict(network, make_images(2).cuda())
        before.check(network)
        assert torch.equal(torch.cuda.get_rng_state(), state[0]) and torch.equal(torch.get_rng_state(), state[1])
