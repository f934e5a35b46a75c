"""The authors' released weights: every key finds its place, and nothing else passes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.deeplab_v1 import read_released
from lightning_modules.segmentation import SegmentationModule
from main import main
from tests.fakes import TinyNetwork, randomize
from tests.tiny import NO_LOGGER, QUIET, ROOT

LISTING = ROOT / "tests" / "parity" / "released_checkpoint_keys.txt"
CONFIGS = ROOT / "configs" / "experiment"


def release(network: DeepLabV1, alpha: float = 0.1) -> dict[str, Tensor]:
    """Names a network's tensors as the authors do."""
    norms = {name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        owner, _, leaf = key.rpartition(".")
        if owner in norms:
            state[f"module.{owner}.alpha"] = torch.tensor(alpha)
            state[f"module.{owner}.batch_norm.{leaf}"] = value
        else:
            state[f"module.{key}".replace("module.head.", "module.cls_head.")] = value
    state["module.backbone.fc.weight"] = torch.zeros(1000, network.backbone.channels)
    return state | {"module.backbone.fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def network() -> DeepLabV1:
    network = DeepLabV1("resnet50", 19, width=64)
    randomize(network)
    return network


@pytest.fixture(scope="module")
def path(network: DeepLabV1, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "resnet50_gta_alpha_0.1.pth"
    torch.save(release(network), path)
    return path


def test_every_tensor_of_a_released_file_finds_its_place_in_a_network_that_fits(network: DeepLabV1, path: Path) -> None:
    state = release(network).items()
    found = [f"{key}\t{tuple(value.shape)}\t{str(value.dtype).removeprefix('torch.')}" for key, value in state]
    assert sorted(found) == sorted(LISTING.read_text().splitlines())
    loaded = DeepLabV1.from_released(path)
    assert loaded.backbone.output_stride == 8 and loaded.num_classes == 19 and not loaded.training
    assert loaded.adapted_layers == network.adapted_layers
    for (key, value), (name, expected) in zip(loaded.state_dict().items(), network.state_dict().items(), strict=True):
        assert key == name and torch.equal(value, expected), key
    for other, classes, message in (
        (DeepLabV1("resnet101", 19, width=4), 19, "resnet50 with 19 classes.*resnet101 with 19"),
        (DeepLabV1("resnet50", 16, width=4), 16, "resnet50 with 19 classes.*resnet50 with 16"),
        (TinyNetwork(), 5, "no released weights for TinyNetwork"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentationModule(other, classes, released=str(path))


def on_disk(folder: Path, backbone: str, num_classes: int, alpha: float) -> Path:
    """Saves a file of the right shapes that takes no room: every tensor is one number, repeated."""
    with torch.device("meta"):
        state = release(DeepLabV1(backbone, num_classes), alpha)
    small = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    small |= {key: torch.tensor(alpha) for key in state if key.endswith("alpha")}
    torch.save(small, folder / f"{backbone}.pth")
    return folder / f"{backbone}.pth"


def test_the_prefix_and_one_alpha_may_be_missing_and_anything_else_is_a_clear_error(tmp_path: Path) -> None:
    good = torch.load(on_disk(tmp_path, "resnet50", 19, 0.1), weights_only=True)
    other = {key.removeprefix("module."): value for key, value in good.items()}
    torch.save(other | {"backbone.bn1.alpha": torch.tensor(0.7)}, tmp_path / "other.pth")
    weights = read_released(tmp_path / "other.pth")
    assert weights.alpha is None and "backbone.conv1.weight" in weights.state
    missing = {key: value for key, value in good.items() if key != "module.backbone.layer1.0.conv1.weight"}
    wrong = good | {"module.cls_head.weight": torch.zeros(19, 1024, 1, 1)}
    for name, content, message in (
        ("tiny", TinyNetwork().state_dict(), r"0 blocks in layer3 and a cls_head: expected a released DeepLabv1"),
        ("missing", missing, r"1 tensors missing.*backbone\.layer1\.0\.conv1\.weight"),
        ("more", good | {"module.extra.weight": torch.zeros(1)}, r"1 unknown.*extra\.weight"),
        ("wrong", wrong, r"head\.weight is \(19, 1024, 1, 1\)"),
    ):
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            DeepLabV1.from_released(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        DeepLabV1.from_released(tmp_path / "nowhere.pth")


@pytest.mark.slow
def test_command_line_scores_the_released_weights(path: Path, network: DeepLabV1, tmp_path: Path) -> None:
    config = ["--config", str(CONFIGS / "released_gta_resnet50.yaml"), f"--model.released={path}"]
    tiny = ["--data", str(ROOT / "configs" / "data" / "street_scenes_small_targets.yaml")]
    tiny += ["--data.height=64", "--data.width=128", "--data.num_test=1", f"--results.folder={tmp_path / 'results'}"]
    tiny += ["--method.num_steps=1", f"--trainer.default_root_dir={tmp_path}", *QUIET, *NO_LOGGER]
    cli = main(["test", *config, *tiny])
    for key, value in network.state_dict().items():
        assert torch.equal(cli.model.network.state_dict()[key], value), key
    assert cli.trainer.callback_metrics["test/miou"] >= 0
    with pytest.raises(ValueError, match=r"ckpt_path and model\.released are both set"):
        main(["test", *config, *tiny, "--ckpt_path=some.ckpt"])


@pytest.mark.parametrize("name", [path.name for path in CONFIGS.glob("released_*.yaml")])
def test_config_of_each_released_file_takes_it(name: str, tmp_path: Path) -> None:
    backbone, classes = "resnet101" if "101" in name else "resnet50", 16 if "synthia" in name else 19
    file = on_disk(tmp_path, backbone, classes, 0.2)
    weights = read_released(file)
    assert (weights.backbone, weights.num_classes, weights.alpha) == (backbone, classes, pytest.approx(0.2))
    with pytest.raises((FileNotFoundError, ValueError), match="SEGADAPT_DATA"):  # the weights fit: only data is missing
        main(["test", "--config", str(CONFIGS / name), f"--model.released={file}", *QUIET, *NO_LOGGER])
