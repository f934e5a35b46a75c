"""What only a GPU can show; `python -m experiments.gpu_check` has the rest and the figures."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from callbacks import Method, SegTTT, Tent
from callbacks.blended_norm import fast_path_report
from experiments.gpu_check.__main__ import check_gpu
from lightning_modules.networks import DeepLabV1
from tests.fakes import Snapshot, make_images

pytestmark = pytest.mark.cuda

METHODS: dict[str, Callable[[], Method]] = {
    "SegTTT": lambda: SegTTT(num_steps=3, scales=(0.5,), lr=0.01),
    "SegTTT released": lambda: SegTTT(num_steps=3, scales=(0.5,), lr=0.01, semantics="released"),
    "Tent": lambda: Tent(num_steps=3),
    "Tent SGD": lambda: Tent(num_steps=3, optimizer="sgd", lr=1.0),
}


@pytest.mark.parametrize("precision", ["float32", "bf16", "float16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", METHODS)
def test_steps_lower_the_loss(name: str, layout: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.blended_norm._served", {})
    torch.manual_seed(0)
    network = DeepLabV1("resnet10", 5, width=8).cuda().eval()
    network.channels_last = layout == "channels_last"
    before, method = Snapshot(network), METHODS[name]()
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
    with torch.autocast("cuda", dtypes[precision], enabled=precision != "float32"):
        method.predict(network, make_images(1, 65, 97).cuda())
    before.check(network)
    (adaptation,) = method.adaptations
    assert not adaptation.fallback and adaptation.steps == 3
    assert adaptation.losses[-1] < adaptation.losses[0]
    assert set(fast_path_report().values()) == {"fast"}


@pytest.mark.parametrize("name", METHODS)
def test_contiguous_and_channels_last_predict_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, image = DeepLabV1("resnet10", 5, width=8).cuda().eval(), make_images(1, 65, 97).cuda()
    other = copy.deepcopy(network)
    network.channels_last, other.channels_last = False, True
    one, two = (METHODS[name]().predict(each, image) for each in (network, other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-2)


def test_every_check_of_gpu_check_passes_at_tiny_sizes(tmp_path: Path) -> None:
    """Fit with SyncBN on two processes of one GPU is among them."""
    steps = ["norm", "variants", "waits", "methods", "processes"]
    assert check_gpu(["--device", "cuda", "--tiny", "--folder", str(tmp_path), "--only", *steps]) == 0
