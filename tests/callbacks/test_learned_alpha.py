"""One alpha per layer: how it is given, and how it is learned."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from callbacks.adaptation.alpha import is_blended, read_alpha, spread_alpha
from callbacks.ensemble import Ensemble
from callbacks.iabn import IaBN, InstanceAdaptiveBatchNorm2d, adaptive_batch_norm, convert_batch_norm
from callbacks.learned_alpha import change_strongly, learn_alpha
from callbacks.mc_dropout import MCDropout
from callbacks.seg_ttt import SegTTT
from callbacks.tent import Tent
from callbacks.tta import TTA
from experiments.learn_alpha import learn_file, run_learning
from lightning_modules.networks import DeepLabV1
from lightning_modules.normalization import IMAGENET
from tests.fakes import TinyNetwork, make_images, unchanged
from tests.tiny import EXPERIMENT, arguments

BY_LAYER = {"stem_norm": 0.9, "layer3": 0.2, "layer4.1": 0.0}


def list_alphas(network: nn.Module) -> list[float]:
    return [layer.alpha for layer in network.modules() if isinstance(layer, InstanceAdaptiveBatchNorm2d)]


def test_each_layer_gets_its_own_alpha_for_the_time_of_a_block_also_where_it_blends_already() -> None:
    network = TinyNetwork()
    with unchanged(network), adaptive_batch_norm(network, BY_LAYER):
        assert list_alphas(network) == [0.9, 0.2, 0.0]
    image = make_images(1)
    plain = IaBN(0.5).predict(network, image)
    converted = convert_batch_norm(network, BY_LAYER)
    layer = converted.stem_norm
    assert list_alphas(converted) == [0.9, 0.2, 0.0]
    with unchanged(converted), adaptive_batch_norm(converted, 0.5):
        assert list_alphas(converted) == [0.5, 0.5, 0.5]
    with unchanged(converted):
        assert torch.equal(IaBN(0.5).predict(converted, image), plain)
    assert convert_batch_norm(network, 0.7).stem_norm is layer and list_alphas(network) == [0.7, 0.7, 0.7]


def test_a_name_stands_for_the_layers_below_it_and_the_longest_counts() -> None:
    layers = ["a.bn", "a.b.bn", "ab.bn", "a.b.bn2"]
    assert spread_alpha({"a": 0.1, "a.b": 0.2, "ab": 0.3, "a.b.bn2": 0.4}, layers) == {
        "a.bn": 0.1, "a.b.bn": 0.2, "ab.bn": 0.3, "a.b.bn2": 0.4,
    }  # fmt: skip
    assert spread_alpha(0.7, layers) == dict.fromkeys(layers, 0.7)
    assert is_blended({"a": 0.0, "b": 0.1}) and not is_blended({"a": 0.0}) and is_blended(0.3) and not is_blended(0)


@pytest.mark.parametrize(
    "method",
    [
        IaBN(BY_LAYER), TTA(BY_LAYER, scales=[1.0]), Tent(BY_LAYER, lr=0.01), MCDropout(2, BY_LAYER),
        SegTTT(BY_LAYER, scales=[1.0], num_steps=2), SegTTT(BY_LAYER, scales=[1.0], num_steps=2, semantics="released"),
    ],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_every_method_takes_alpha_by_layer(method: IaBN) -> None:
    network, image = TinyNetwork(dropout=0.1), make_images(1)
    method.check_network(network)
    found = method.predict(network, image)
    assert not torch.equal(found, method.vary({"alpha": 0.1}).predict(network, image))
    same = method.vary({"alpha": dict.fromkeys(BY_LAYER, 0.1)}).predict(network, image)
    assert torch.equal(same, method.vary({"alpha": 0.1}).predict(network, image))
    assert method.settings()["alpha"] == BY_LAYER


def test_alpha_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "alpha.yaml"
    path.write_text(yaml.safe_dump({"alpha": BY_LAYER, "steps": 3}))
    assert read_alpha("0.25") == 0.25 and read_alpha(np.float32(0.5)) == 0.5
    assert read_alpha(str(path)) == BY_LAYER and IaBN(str(path)).settings()["alpha"] == BY_LAYER
    assert Ensemble(["a.ckpt"], alpha=str(path)).alpha == BY_LAYER
    with pytest.raises(FileNotFoundError, match=r"alpha is .*nowhere\.yaml.: expected a number in \[0, 1\], a mapping"):
        IaBN(str(tmp_path / "nowhere.yaml"))
    for text, message in (("alpha: 0.1", "has no weights"), ("a: [", "is not valid YAML"), ("- 1", "has no weights")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            IaBN(str(path))


class Tinted(nn.Module):
    """One BatchNorm in front of a classifier of gray levels: a tint is undone by the image's own statistics alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, 2, 1)
        self.head.weight.data.copy_(torch.tensor([[-4.0], [4.0]]).expand(2, 3)[..., None, None])
        self.head.bias.data.zero_()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(image))


def draw_batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        masks = (torch.rand(2, 12, 16, generator=generator) > 0.5).long()
        masks[:, ::2] = masks[:, :1]  # the classes are not always as frequent
        levels = (0.3 + 0.4 * masks[:, None].expand(2, 3, 12, 16)).float()
        yield IMAGENET.apply(levels), masks.masked_fill(torch.rand(masks.shape, generator=generator) < 0.1, 255)


def test_what_the_image_knows_better_is_taken_from_it_and_the_network_stays() -> None:
    network = Tinted()
    with unchanged(network):
        found = learn_alpha(network, draw_batches(40))
    assert found.keys() == {"norm"} and found["norm"] > 0.3  # from 0.1
    converted = convert_batch_norm(Tinted(), 0.7)
    with torch.inference_mode():  # what blends already is learned as if it did not
        assert learn_alpha(converted, draw_batches(40)) == found
    images, masks = next(draw_batches(1))
    tinted = images + torch.tensor([0.9, 0.7, 0.8])[:, None, None]
    losses = [F.nll_loss(IaBN(a).predict(network, tinted).log(), masks, ignore_index=255) for a in (0.1, found)]
    assert losses[1] < losses[0]


def test_a_step_of_adam_goes_down_the_gradient_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.learned_alpha.change_strongly", lambda images: images)
    network, images, masks = TinyNetwork(), IMAGENET.apply(torch.rand(2, 3, 32, 48)), torch.randint(0, 5, (2, 32, 48))
    found = learn_alpha(network, [(images, masks)], lr=0.05)

    def measure_loss(name: str, alpha: float) -> float:
        alphas = {layer: alpha if layer == name else 0.1 for layer in found}
        return F.nll_loss(IaBN(alphas).predict(network, images).double().log(), masks).item()

    for name, value in found.items():
        slope = measure_loss(name, 0.12) - measure_loss(name, 0.08)
        step = torch.tensor(value).logit() - torch.tensor(0.1).logit()  # Adam's first has the length of its rate
        assert step.item() == pytest.approx(-0.05 if slope > 0 else 0.05, abs=1e-3), name


def test_changed_images_are_images() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 24, 32)
    changed = change_strongly(images)
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert (changed - images).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_a_step_may_be_taken_on_several_images_of_any_size() -> None:
    network = Tinted()
    (images, masks), _ = batches = list(draw_batches(2))
    steps = learn_alpha(network, batches, per_step=2)["norm"]
    assert steps != learn_alpha(network, batches)["norm"] and abs(steps - 0.1) < 0.01  # one step of Adam
    larger = F.interpolate(masks[:, None].float(), scale_factor=2).long()[:, 0]
    learn_alpha(network, [(images, larger), (images[:, :, :8], masks[:, :8])], per_step=2)


def test_layers_without_running_statistics_have_the_images_own() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    found = learn_alpha(network, draw_batches(2))
    assert found["2"] == 1.0 and found["0"] != 0.1
    IaBN(found).check_network(network)
    with pytest.raises(ValueError, match="no BatchNorm of Sequential has running statistics"):
        learn_alpha(network[1:], draw_batches(1))


def test_nothing_to_learn_from_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="alpha became NaN or infinite"):
        learn_alpha(TinyNetwork(), [(torch.full((2, 3, 32, 48), torch.nan), torch.zeros(2, 32, 48, dtype=torch.int64))])
    with pytest.raises(ValueError, match="no source images to learn alpha from"):
        learn_alpha(TinyNetwork(), [])
    with pytest.raises(ValueError, match="no 2d BatchNorm"):
        learn_alpha(TinyNetwork(norm=None), draw_batches(1))


@pytest.mark.slow
def test_the_program_writes_a_file_that_methods_take(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "alpha.yaml", tmp_path / "network.pth"
    torch.save(DeepLabV1("resnet10", 19, width=16).state_dict(), checkpoint)
    tiny = [argument for argument in arguments(tmp_path) if argument.startswith(("--data", "--trainer.accelerator"))]
    args = [str(EXPERIMENT), str(checkpoint), "--write", str(path), "--steps", "2", "--", *tiny]
    found = run_learning(args)
    content = yaml.safe_load(path.read_text())
    assert len(content["alpha"]) == 12 and content["learned_from"]["source"] == "source"
    summary = json.loads((tmp_path / "alpha_scores" / "IaBN" / "results.json").read_text())
    assert summary["method"]["alpha"] == content["alpha"] and summary["mean"]["miou"] == pytest.approx(found[1])
    with pytest.raises(ValueError, match="steps is 0, the batch size 2: expected 1 or more of each"):
        run_learning([str(EXPERIMENT), str(checkpoint), "--steps", "0"])


def test_devices_of_the_training_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command: list[str] = []
    monkeypatch.setattr("main.main", lambda args: command.extend(args) or sys.exit("enough"))
    with pytest.raises(SystemExit, match="enough"):
        learn_file(EXPERIMENT, Path("best.ckpt"), tmp_path / "alpha.yaml", ["--trainer.devices=2", "--data.root=x"])
    assert "--data.root=x" in command and "--trainer.devices=2" not in command
