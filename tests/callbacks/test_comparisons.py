"""MC dropout, Tent, AdaBN and ensembles against plain computations."""

import copy
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from callbacks import TTA, AdaBN, Ensemble, IaBN, MCDropout, Method, SegTTT, Tent
from callbacks.iabn import convert_batch_norm
from lightning_modules.networks import DeepLabV1
from lightning_modules.predictor import predict_plainly
from tests.fakes import TinyNetwork, make_images, unchanged


def batch_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def list_affine(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for layer in batch_norms(network) for parameter in (layer.weight, layer.bias)]


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, count: int) -> Tensor:
    """Takes steps on the entropy; returns the probabilities before the last one."""
    for _ in range(count):
        optimizer.zero_grad()
        probabilities = network(image).softmax(dim=1)
        (-(probabilities * probabilities.log()).sum(dim=1)).mean().backward()
        optimizer.step()
    return probabilities.detach()


def plain_batch_norm(network: nn.Module) -> nn.Module:
    """Returns a copy whose BatchNorms normalise by the statistics of the batch and move no running ones."""
    network = copy.deepcopy(network)
    for layer in batch_norms(network):
        layer.train().momentum = 0.0
    return network


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_mc_dropout_is_the_mean_softmax_over_passes_with_live_dropout(alpha: float) -> None:
    image = make_images(1)
    found = MCDropout(4, alpha, seed=7).predict(TinyNetwork(dropout=0.5), image)
    network = convert_batch_norm(TinyNetwork(dropout=0.5), alpha)
    torch.manual_seed(7)
    network.dropout.train()
    with torch.no_grad():
        passes = [network(image).softmax(dim=1) for _ in range(4)]
    assert not torch.equal(passes[0], passes[1])
    torch.testing.assert_close(found, torch.stack(passes).mean(dim=0))


@pytest.mark.parametrize(("name", "optimizer"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_steps_of_tent_are_those_of_plain_torch(name: str, optimizer: type[torch.optim.Optimizer]) -> None:
    network, image = TinyNetwork().double(), make_images(1).double()
    found = Tent(num_steps=3, lr=0.1, optimizer=name).predict(network, image)
    plain = plain_batch_norm(network)
    take_steps(plain, optimizer(list_affine(plain), lr=0.1), image, 3)
    with torch.no_grad():
        expected = plain(image).softmax(dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert (found - Tent(num_steps=0).predict(network, image)).abs().max() > 1e-3


def test_tent_without_steps_is_iabn_and_may_be_trusted_less() -> None:
    network, image = TinyNetwork(), make_images(1)
    for alpha in (1.0, 0.2):
        assert torch.equal(Tent(alpha, 0).predict(network, image), IaBN(alpha).predict(network, image))
    own, adapted = (Tent(0.5, steps, lr=0.05).predict(network, image) for steps in (0, 5))
    found = Tent(0.5, 5, lr=0.05, trust=0.25).predict(network, image)
    torch.testing.assert_close(found, 0.75 * own + 0.25 * adapted, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Tent is online")
def test_online_tent_goes_on_where_the_image_before_has_led() -> None:
    network, images = TinyNetwork(), make_images(3)
    with unchanged(network):
        tent = Tent(num_steps=2, lr=0.01, episodic=False)
        with pytest.warns(UserWarning, match="KEEPS what it learns") as caught:
            found = torch.cat([tent.predict(network, images[:2]), tent.predict(network, images[2:])])
        assert len(caught) == 1
    plain = plain_batch_norm(network)
    optimizer = torch.optim.Adam(list_affine(plain), lr=0.01)
    expected = torch.cat([take_steps(plain, optimizer, image, 2) for image in images.split(1)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    tent.forget()
    assert torch.equal(tent.predict(network, images[:1]), found[:1])


@pytest.mark.filterwarnings("ignore:Tent")
def test_online_tent_learns_nothing_from_an_image_that_ends_in_nan() -> None:
    network, images = TinyNetwork(), make_images(2)
    tent, other = (Tent(num_steps=1, lr=0.01, episodic=False) for _ in range(2))
    broken = torch.cat([images[:1], torch.full_like(images[:1], 3e38), images[:1] * float("nan"), images[1:]])
    found = tent.predict(network, broken)
    assert found.isfinite().all() and torch.equal(found[3], other.predict(network, images)[1])


@pytest.mark.parametrize("prior", [0, 5])
def test_prior_of_adabn_weighs_the_source_by_its_share_beside_the_statistics_of_the_batch(prior: int) -> None:
    network, images, share = TinyNetwork(), make_images(3), prior / (prior + 3)
    found = AdaBN(prior).predict(network, images)
    plain = copy.deepcopy(network)

    def blend(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        layer.running_mean = share * layer.running_mean + (1 - share) * mean
        layer.running_var = share * layer.running_var + (1 - share) * var

    for layer in batch_norms(plain):
        layer.register_forward_pre_hook(blend)
    with torch.no_grad():
        torch.testing.assert_close(found, plain(images).softmax(dim=1), rtol=0, atol=1e-6)
    assert (found - IaBN(1.0).predict(network, images)).abs().max() > 1e-3
    torch.testing.assert_close(AdaBN(prior=1e9).predict(network, images), predict_plainly(network, images))


def save(network: nn.Module, path: Path) -> str:
    """Saves a network as `fit` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, path)
    return str(path)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three tiny networks below the config of their run."""
    (tmp_path / "config.yaml").write_text("model: {network: {class_path: tests.fakes.TinyNetwork}}\n")
    return [save(TinyNetwork(seed=seed), tmp_path / f"{seed}.ckpt") for seed in (1, 2, 3)]


@pytest.mark.parametrize(("alpha", "tta"), [(0.0, False), (0.3, True)])
def test_an_ensemble_is_the_mean_over_its_members_which_are_loaded_once(
    paths: list[str], alpha: float, tta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, load = make_images(2), Mock(side_effect=torch.load)
    monkeypatch.setattr(torch, "load", load)
    method = TTA(alpha, scales=(0.5, 1.0)) if tta else IaBN(alpha)
    singles = [method.predict(TinyNetwork(seed=seed), images) for seed in (1, 2, 3)]
    ensemble, network = Ensemble(paths, alpha, tta, scales=(0.5, 1.0)), TinyNetwork(seed=0)
    found = torch.cat([ensemble.predict(network, image) for image in images.split(1)])
    torch.testing.assert_close(found, torch.stack(singles).mean(dim=0))
    assert load.call_count == 3 and all(call.kwargs["weights_only"] for call in load.call_args_list)


def test_another_architecture_is_built_from_the_config_of_its_run(paths: list[str], tmp_path: Path) -> None:
    other = DeepLabV1("resnet10", 5, width=4).eval()
    path = save(other, tmp_path / "run" / "checkpoints" / "best.ckpt")
    config = "model:\n  network:\n    class_path: lightning_modules.networks.DeepLabV1\n"
    config += "    init_args: {backbone: resnet10, width: 4, weights: imagenet}\n"
    (tmp_path / "run" / "config.yaml").write_text(config)
    images = make_images(1)
    found = Ensemble([paths[0], path], alpha=0.0).predict(DeepLabV1("resnet18", 5, width=4), images)
    both = predict_plainly(TinyNetwork(seed=1), images) + predict_plainly(other, images)
    torch.testing.assert_close(found, both / 2)


def test_wrong_files_of_an_ensemble_are_clear_errors(paths: list[str], tmp_path: Path) -> None:
    network, other = TinyNetwork(), DeepLabV1("resnet10", 5, width=4)
    stranger = save(other, tmp_path / "a" / "b" / "c" / "best.ckpt")
    misplaced = save(other, tmp_path / "misplaced.ckpt")
    for wrong, error, message in (
        (str(tmp_path / "nowhere.ckpt"), FileNotFoundError, r"nowhere\.ckpt does not exist: expected"),
        (stranger, ValueError, r"a different architecture from TinyNetwork .* no config\.yaml"),
        (misplaced, ValueError, r"misplaced\.ckpt does not fit the network in the config"),
    ):
        with pytest.raises(error, match=message):
            Ensemble([*paths, wrong]).check_network(network)
    config = "model: {network: {class_path: tests.fakes.TinyNetwork, init_args: {num_classes: 4}}}\n"
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(ValueError, match=r"four\.ckpt predicts 4 classes, but the members before it 5"):
        Ensemble([paths[0], save(TinyNetwork(4), tmp_path / "four.ckpt")]).predict(network, make_images(1))


class PooledNetwork(TinyNetwork):
    """A network with BatchNorm behind a global pooling: one value per channel and image, as in DeepLabv3+."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) + self.pooled(image)


STEPS = SegTTT(num_steps=2, scales=(0.5, 1.0))


@pytest.mark.parametrize(
    "method", [IaBN(0.1), IaBN(1.0), AdaBN(), Tent(lr=0.01), STEPS, STEPS.vary({"semantics": "released"})]
)
def test_batch_norm_behind_a_global_pooling_is_no_obstacle(method: Method) -> None:
    network, image = PooledNetwork(), make_images(1)
    with unchanged(network):
        assert method.predict(network, image).isfinite().all()
        assert not method.adaptations[0].fallback


def test_released_semantics_double_the_image_behind_a_global_pooling() -> None:
    """The statistics that the steps leave behind are those of two copies: unbiased over twice the pixels."""
    network, image = PooledNetwork(), make_images(1)
    method = SegTTT(alpha=0.3, num_steps=1, lr=0.0, psi=0.0, scales=(1.0,), flip=False, grayscale=False,
                    semantics="released", trainable=["head"])  # fmt: skip
    found = method.predict(network, image)
    doubled = copy.deepcopy(network).train()
    with torch.no_grad():
        doubled(image.repeat(2, 1, 1, 1))
    torch.testing.assert_close(found, IaBN(0.3).predict(doubled, image))
