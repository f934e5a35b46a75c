"""What would fail or wait on a GPU, found without one: every method on every kind of network, training and scoring."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import TTA, IaBN, MCDropout, Method, SegTTT
from callbacks.adabn import AdaBN
from callbacks.adaptation.loss import upsampled_cross_entropy
from callbacks.blended_norm import _find_fault as find_fault
from callbacks.blended_norm import normalize_blended
from callbacks.ensemble import Ensemble
from callbacks.tent import Tent
from lightning_modules.metrics import SegmentationScores, count_overlap
from lightning_modules.networks import FCN, DeepLabV1, DeepLabV2, DeepLabV3Plus, FCN8s
from lightning_modules.networks.hrnet import HRNet
from lightning_modules.networks.resnet import ResNet
from lightning_modules.networks.segmenter import Segmenter
from lightning_modules.networks.timm_deeplab import TimmDeepLab
from lightning_modules.predictor import predict_plainly
from lightning_modules.segmentation import SegmentationModule
from tests.fake_cuda import CUDA, FakeCuda, fake_cuda

CLASSES = 5
SIZE = (65, 97)  # of images: no side divides by a stride
PRECISIONS = ("float32", "bf16")
PAIRS = [("channels_last", "bf16"), ("contiguous", "float32")]


class Foreign(nn.Module):
    """A network as torchvision's: a mapping of coarse logits, and parts of it in training alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = ResNet("resnet10", 8)
        self.classifier = nn.Sequential(nn.Conv2d(self.backbone.channels, 16, 3), nn.BatchNorm2d(16), nn.Dropout(0.1))
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(F.relu(self.classifier(self.backbone(image))))}


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "DeepLabV1": lambda: DeepLabV1("resnet10", CLASSES, dropout=0.1),
    "DeepLabV2": lambda: DeepLabV2("resnet10", CLASSES),
    "DeepLabV3Plus": lambda: DeepLabV3Plus("resnet10", CLASSES, dropout=0.1),
    "FCN": lambda: FCN("resnet10", CLASSES),
    "FCN8s": lambda: FCN8s("vgg16_bn", CLASSES),
    "HRNet": lambda: HRNet(CLASSES, "hrnet_w18_small", dropout=0.1),
    "TimmDeepLab": lambda: TimmDeepLab(CLASSES, dropout=0.1),
    "Segmenter": lambda: Segmenter(CLASSES, width=64, depth=2, dropout=0.1),
    "Foreign": lambda: Foreign(CLASSES),
}
VIEWS: dict[str, Any] = {"scales": (0.5,)}
RELEASED: dict[str, Any] = {"semantics": "released", "resampling": "device"}
# By name how often the host waits for the device per image, whatever the number of steps, and the method. It waits for
# whether the image is finite and whether the prediction is; Seg-TTT and Tent also for the losses, Seg-TTT also for
# whether a pixel is labelled, and online Tent for whether what it learned is finite.
METHODS: dict[str, tuple[int, Callable[[float, int], Method]]] = {
    "IaBN": (2, lambda alpha, steps: IaBN(alpha)),
    "IaBN refined": (2, lambda alpha, steps: IaBN(alpha, refine=2)),
    "TTA": (2, lambda alpha, steps: TTA(alpha, **VIEWS)),
    "TTA autocontrast": (2, lambda alpha, steps: TTA(alpha, autocontrast=True, **VIEWS)),
    "MCDropout": (2, lambda alpha, steps: MCDropout(2, alpha)),
    "AdaBN": (2, lambda alpha, steps: AdaBN(1.0)),
    "Ensemble": (2, lambda alpha, steps: Ensemble(["first", "second"], alpha, tta=True, **VIEWS)),
    "SegTTT": (4, lambda alpha, steps: SegTTT(alpha, num_steps=steps, **VIEWS)),
    "SegTTT released": (4, lambda alpha, steps: SegTTT(alpha, num_steps=steps, **RELEASED, **VIEWS)),
    "Tent": (3, lambda alpha, steps: Tent(1.0, steps)),
    "Tent SGD": (3, lambda alpha, steps: Tent(1.0, steps, optimizer="sgd")),
    "Tent online": (4, lambda alpha, steps: Tent(1.0, steps, episodic=False)),
}
STEPPING = {name for name in METHODS if name.startswith(("SegTTT", "Tent"))}
DEEP = {"HRNet", "TimmDeepLab"}  # hundreds of layers
NEEDS_BATCH_NORM = {"IaBN", "IaBN refined", "AdaBN", "Tent", "Tent SGD", "Tent online"}


@pytest.fixture
def device() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


@cache
def make_once(family: str) -> nn.Module:
    with torch.device(CUDA):
        return FAMILIES[family]().eval()


def make_network(family: str, layout: str = "channels_last") -> nn.Module:
    """Returns a network on the device, in evaluation mode; the same one each time."""
    network = make_once(family)
    network.channels_last = layout == "channels_last"  # type: ignore[assignment]
    return network


def draw(*size: int) -> Tensor:
    return torch.randn(*size, device=CUDA)


def autocast(precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")


def describe(network: nn.Module) -> list[Any]:
    """Lists what a method has to leave as it was, as far as it can be told without values."""
    tensors = [(id(tensor), tensor.grad is None, tensor.requires_grad) for tensor in network.parameters()]
    modules = [(id(module), type(module), module.training) for module in network.modules()]
    return [tensors, [id(buffer) for buffer in network.buffers()], modules]


def make_module(family: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> SegmentationModule:
    """Makes a module as it is within a run."""
    module = SegmentationModule(make_network(family, layout), CLASSES)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(module, "optimizers", lambda: torch.optim.SGD(module.parameters(), lr=0.1))
    module.domains = ["target"]
    module._scores = [SegmentationScores(CLASSES).to(CUDA)]
    return module


def make_batch(images: int, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    return {
        "image": draw(images, 3, *SIZE),
        "mask": torch.zeros(images, *size, dtype=torch.int64, device=CUDA),
        "name": [str(number) for number in range(images)],
    }


@pytest.mark.parametrize(("layout", "precision"), PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_prediction_and_a_training_step_stay_on_the_device_and_never_wait(
    family: str, layout: str, precision: str, device: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = make_module(family, layout, monkeypatch), make_batch(2)
    with autocast(precision):
        for _ in range(2):  # the first makes what is made once
            device.waits.clear()
            probabilities = predict_plainly(module.network, batch["image"])
        module.network.train()
        try:
            loss = module.training_step(batch, 0)
        finally:
            module.network.eval()
    assert (probabilities.shape, probabilities.device) == ((2, CLASSES, *SIZE), CUDA)
    assert probabilities.dtype == torch.float32
    assert loss.device == CUDA and loss.requires_grad and loss.shape == ()
    assert device.waits == []


def list_cases() -> Iterator[Any]:
    """Every method on every network, in two pairs of layout and precision, on one network in all four."""
    for name, family in product(METHODS, FAMILIES):
        if family == "Segmenter" and name in NEEDS_BATCH_NORM:
            continue
        for pair in product(("contiguous", "channels_last"), PRECISIONS) if family == "DeepLabV1" else PAIRS:
            slow = family in DEEP and (pair == PAIRS[1] or name not in ("IaBN", "SegTTT"))
            yield pytest.param(name, family, *pair, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "family", "layout", "precision"), [*list_cases()])
@pytest.mark.filterwarnings("ignore:Tent")
def test_a_method_waits_equally_often(name: str, family: str, layout: str, precision: str, device: FakeCuda) -> None:
    network, (expected, make_method) = make_network(family, layout), METHODS[name]
    again = family in ("DeepLabV1", "Foreign") and (layout, precision) == PAIRS[0]
    for number, steps in enumerate((1, 1, 4) if again else (1,)):
        method = make_method(0.0 if family == "Segmenter" else 0.1, steps)
        if isinstance(method, Ensemble):
            method.members = [network, network]
        before = describe(network)
        device.waits.clear()
        with autocast(precision):
            probabilities = method.predict(network, draw(1, 3, *SIZE))
        assert (probabilities.shape, probabilities.device) == ((1, CLASSES, *SIZE), CUDA)
        assert probabilities.dtype == torch.float32 and describe(network) == before
        (adaptation,) = method.adaptations
        assert adaptation.note is None and not adaptation.fallback
        assert len(adaptation.losses) == (steps if name in STEPPING else 0)
        first = number == 0  # which also makes what is made once
        waits = [wait for wait in device.waits if not (first and "cpu to cuda" in wait)]
        assert len(waits) == expected, waits


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_search_waits_once_more_for_each_number_of_steps(precision: str, device: FakeCuda) -> None:
    network, variants = make_network("DeepLabV1", "channels_last"), [SegTTT(num_steps=n, **VIEWS) for n in (1, 3, 5)]
    for _ in range(2):
        device.waits.clear()
        with autocast(precision):
            found = [number for number, *_ in SegTTT(**VIEWS).predict_variants(network, draw(1, 3, *SIZE), variants)]
    assert found == [0, 1, 2]
    assert len(device.waits) == 2 + 2 * len(found), device.waits  # its losses, and whether it is finite


@pytest.mark.parametrize(("images", "size"), [(1, SIZE), (3, (130, 190))])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_waits_once_for_its_scores_or_labels_and_once_for_the_time(
    precision: str, images: int, size: tuple[int, int], device: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = make_module("DeepLabV1", "channels_last", monkeypatch), make_batch(images, size)
    device.waits.clear()
    with autocast(precision), torch.no_grad():
        outcome = module.test_step(batch, 0)
    assert len(outcome["scores"]) == images and outcome["scores"][0].pixels.device.type == "cpu"
    copy, clock = device.waits
    assert "a copy from cuda to cpu" in copy and "the time" in clock
    device.waits.clear()
    count_overlap(draw(CLASSES, *SIZE).softmax(dim=0), batch["mask"][0])
    assert device.waits == []
    with torch.no_grad():
        labels = module.predict_step({"image": batch["image"]}, 0)["labels"]
    assert [one.device.type for one in labels] == ["cpu"] * images and len(device.waits) == 1, device.waits


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_of_iabn_lie_as_its_input(dtype: torch.dtype, layout: torch.memory_format, device: FakeCuda) -> None:
    layer = nn.BatchNorm2d(4, device=CUDA)
    norm = layer.running_mean, layer.running_var, layer.weight, layer.bias, 0.1, 1e-5
    device.waits.clear()
    for batch, gradient_layout in product((1, 2), FORMATS):
        x = draw(batch, 4, 5, 6).to(dtype).contiguous(memory_format=layout).requires_grad_()
        output = normalize_blended(x, *norm, batch > 1)
        assert (output.dtype, output.stride()) == (x.dtype, x.stride())
        gradient = torch.empty_like(output).contiguous(memory_format=gradient_layout)
        of_x, _, _, of_weight, of_bias, *_ = output.grad_fn.apply(gradient)
        assert (of_x.dtype, of_x.device, of_x.stride()) == (x.dtype, CUDA, x.stride())
        assert of_weight.shape == of_bias.shape == (4,) and of_weight.device == CUDA
    assert device.waits == []
    assert find_fault(CUDA, dtype, layout) is None  # the check of the kernels mixes no devices


def test_the_gradient_of_the_loss_stays_on_the_device(device: FakeCuda) -> None:
    logits = draw(2, CLASSES, 9, 13).requires_grad_()
    loss = upsampled_cross_entropy(logits, torch.zeros(2, *SIZE, dtype=torch.int64, device=CUDA), align_corners=False)
    device.waits.clear()  # the matrices are uploaded once
    (gradient, *_) = loss.grad_fn.apply(torch.ones_like(loss))
    assert (gradient.shape, gradient.device) == (logits.shape, CUDA)
    assert device.waits == []


def test_what_would_fail_on_a_gpu_fails_here(device: FakeCuda) -> None:
    here, there = torch.ones(2), draw(2)
    with pytest.raises(RuntimeError, match="device"):
        here + there
    with pytest.raises(Exception, match="nonzero"):
        there.nonzero()
    with pytest.raises(AssertionError, match="statistics of"):
        torch.batch_norm_elemt(draw(1, 2, 3, 3), None, None, draw(2).double(), draw(2).double(), 1e-5)


def test_each_way_to_wait_is_counted(device: FakeCuda) -> None:
    values = draw(3)
    for wait in (
        lambda: values.tolist(),
        lambda: values[0].item(),
        lambda: bool(values.any()),
        lambda: float(values.sum()),
        lambda: values.cpu(),
        lambda: torch.equal(values, values),
        lambda: torch.ones(3).to(CUDA),
        lambda: torch.cuda.synchronize(),
    ):
        device.waits.clear()
        wait()
        assert len(device.waits) == 1, inspect.getsource(wait)
    device.waits.clear()
    values.to("cpu", non_blocking=True)
    values.add_(1).sum()
    assert device.waits == []
