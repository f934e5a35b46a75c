"""Every YAML in configs/ parses and runs one batch."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.networks import DeepLabV1
from main import main
from tests.tiny import EXPERIMENT, NO_LOGGER, QUIET, ROOT, arguments, place, read_results
from tests.trees import draw_ids, draw_image, write_bdd, write_cityscapes, write_image, write_vendors

CONFIGS = ROOT / "configs"
# Not by limit_train_batches=1, which is an int or a float (1.0: all) depending on what was imported before.
ONE_BATCH = ["--trainer.max_steps=1", "--data.num_val=1", "--data.num_test=1"]

NO_BATCH_NORM = "segmenter_small.yaml"
# Networks of other libraries, and what Seg-TTT is told to move.
FOREIGN = {"torchvision_lraspp.yaml": "classifier", "smp_unet.yaml": "decoder,segmentation_head"}

QUICK = ("street_scenes.yaml", "camvid.yaml", "photographs_19.yaml")  # `make test` runs these
RUN = (  # one of each kind: networks without BatchNorm, data of each source, with a method; the others are parsed
    "gta_resnet50.yaml", "gta_fcn_vgg16.yaml", "gta_resnet50_switchable.yaml", "gta_hrnet_w18.yaml",
    "gta_deeplabv3plus_resnet50.yaml", "synthia_resnet50_dropout.yaml", "bdd_resnet50.yaml",
    "released_synthia_resnet50.yaml",
)  # fmt: skip

OF_STREETS = {  # configs of the photographs of streets, and what they test on
    "idd_lite.yaml": ["idd_lite"],
    "streets.yaml": ["idd_lite", "cityscapes", "kitti_step"],
    "photographs.yaml": ["camvid", "bdd100k", "cityscapes", "kitti_step"],
    "photographs_19.yaml": ["camvid", "bdd100k", "cityscapes", "kitti_step"],
}


def list_configs(kind: str) -> list[str]:
    return sorted(path.name for path in (CONFIGS / kind).glob("*.yaml"))


def shrink_network(name: str) -> list[str]:
    """Returns the arguments that make the network of a file tiny, without weights, as a test downloads none."""
    changes = {"weights": "null"}
    if "hrnet" in name:
        changes["backbone"] = "hrnet_w18_small"
    elif "segmenter" in name:
        changes |= {"width": "64", "depth": "2"}
    elif "timm" not in name:
        changes["width"] = "8"
    return [f"--model.network.init_args.{argument}={value}" for argument, value in changes.items()]


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets below one folder, tiny, in their vendors' layouts; BDD100K and IDD differ in `streets`."""
    root = write_vendors(tmp_path_factory.mktemp("vendors"))
    streets = root / "streets"
    write_cityscapes(streets / "cityscapes")
    write_bdd(streets)
    for split in ("train", "val"):
        for number in range(20):  # of which a config takes 7 %
            write_pair(root / "camvid", f"images/{split}/0001TP_{number:06d}.jpg", ("images", "labels"), range(12))
        for key in ("0/024541", "1/frame0599"):
            image = f"idd_lite/leftImg8bit/{split}/{key}_image.jpg"
            label = write_pair(streets, image, ("leftImg8bit", "gtFine"), (*range(7), 255), ("_image", "_label"))
            shutil.copy(label, str(label).replace("_label", "_inst_label"))
    for key in ("0001_000000", "0001_000001"):
        write_pair(streets / "kitti_step", f"images/{key}.png", ("images", "labels"), (*range(19), 255))
    (streets / "camvid").symlink_to(root / "camvid")
    return root


def write_pair(root: Path, image: str, folders: tuple[str, str], ids: Sequence[int], ends: Any = ("", "")) -> Path:
    """Writes an image, and its labels in the folder beside; returns their path."""
    label = (root / image.replace(*folders).replace(*ends)).with_suffix(".png")
    write_image(root / image, draw_image(image, (48, 64)))
    write_image(label, draw_ids(image, ids, (48, 64)))
    return label


def tiny_arguments(name: str, kind: str, folder: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the arguments of a tiny run of an experiment, or of the default one with other data."""
    monkeypatch.setenv("SEGADAPT_DATA", str(vendors / "streets" if name in OF_STREETS else vendors))
    experiment = CONFIGS / "experiment" / (name if kind == "experiment" else "street_scenes.yaml")
    if name.startswith("street_scenes"):
        args = arguments(folder, *ONE_BATCH, experiment=experiment)
        return args if kind == "experiment" else [args[0], f"--data={CONFIGS / 'data' / name}", *args[1:]]
    data = [] if kind == "experiment" else [f"--data={CONFIGS / 'data' / name}"]
    source = ["batch_size=2", "num_workers=0", "crop_size=[32,32]", "repeats=2"]
    if name in ("camvid.yaml", "photographs.yaml", "photographs_19.yaml", "streets.yaml"):
        source += ["num_train=2", "height=64", "width=128"]
    tiny = [f"--data.source.init_args.{argument}" for argument in source]
    tiny += ["--data.development.init_args.num_workers=0"]
    if name == "idd_lite.yaml":  # one data set alone
        tiny = []
    tiny += ["--trainer.max_epochs=1", "--trainer.max_steps=1"]
    return [f"--config={experiment}", *data, *tiny, *QUIET, *NO_LOGGER, *place(folder)]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in RUN)])
def test_experiment_runs_one_batch(name: str, tmp_path: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = tiny_arguments(name, "experiment", tmp_path, vendors, monkeypatch)
    if name == "photographs_19.yaml":  # the images of this test are too small for its network
        args += [f"--model={CONFIGS / 'model' / 'deeplabv1_resnet10_small.yaml'}"]
    args += shrink_network("timm" if name == "camvid.yaml" else name)
    if name.startswith("released"):
        args += ["--method.scales=[0.5,1.0]"]  # the images of this test are too small for a quarter
    cli = main(["fit", *args])
    assert cli.trainer.global_step == 1
    assert main(["test", *args]).trainer.callback_metrics["test/miou"] >= 0


@pytest.mark.parametrize(
    "name",
    [
        *(f"training/{name}" for name in list_configs("training")),
        *(
            pytest.param(f"{folder}/{name}", marks=pytest.mark.slow)
            for folder in ("experiment", "experiment/street_scenes")
            for name in list_configs(folder)
            if name not in QUICK + RUN
        ),
    ],
)
def test_experiments_and_trainings_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"--config={CONFIGS / name}" if "experiment" in name else f"--training={CONFIGS / name}"
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--config={EXPERIMENT}", given, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert ended.value.code == 0 and config["trainer"]["max_epochs"]
    if "training/" in name:
        assert config["training"]["class_path"].startswith("lightning_modules.training.")


@pytest.mark.parametrize("name", list_configs("model"))
def test_model_trains_one_batch(name: str, tmp_path: Path) -> None:
    own = [] if name in FOREIGN else shrink_network(name)
    args = arguments(tmp_path, f"--model={CONFIGS / 'model' / name}", *own, *ONE_BATCH)
    assert main(["fit", *args]).trainer.global_step == 1
    if name not in (NO_BATCH_NORM, *FOREIGN):
        return
    method = ["--method=SegTTT", "--method.num_steps=1", "--method.scales=[0.5]", "--method.psi=0.1"]
    method += ["--method.alpha=0"] if name == NO_BATCH_NORM else [f"--method.trainable=[{FOREIGN[name]}]"]
    assert main(["test", *args, *method]).trainer.callback_metrics["test/miou"] >= 0
    records = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    assert {json.loads(record)["adaptation"]["steps"] for record in records} == {1}
    if name == NO_BATCH_NORM:  # a method that refuses the network leaves the results alone
        before = sorted((tmp_path / "results").rglob("*"))
        with pytest.raises(ValueError, match="has no 2d BatchNorm"):
            main(["test", *args, "--method=IaBN"])
        assert sorted((tmp_path / "results").rglob("*")) == before and read_results(tmp_path)["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list_configs("data"))
def test_data_is_tested_one_batch(name: str, tmp_path: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = main(["test", *tiny_arguments(name, "data", tmp_path, vendors, monkeypatch)])
    targets = ["haze", "dusk", "dust"] if name.startswith("street_") else ["cityscapes", "bdd", "idd", "mapillary"]
    targets = OF_STREETS.get(name, targets)
    metrics = {f"test/{target}/miou" for target in targets} if len(targets) > 1 and name != "camvid.yaml" else set()
    assert {*metrics, "test/miou"} <= set(cli.trainer.callback_metrics)


@pytest.mark.parametrize("name", list_configs("method"))
def test_method_runs_one_batch(name: str, tmp_path: Path) -> None:
    method = [f"--method={CONFIGS / 'method' / name}"]
    if name.startswith("mc_dropout"):
        method.append("--model.network.init_args.dropout=0.1")
    if name.startswith("ensemble"):
        torch.save(DeepLabV1("resnet10", 19, width=16).state_dict(), tmp_path / "member.pth")
        method.append(f"--method.checkpoints=[{tmp_path / 'member.pth'}]")
    cli = main(["test", *arguments(tmp_path, *method, *ONE_BATCH, experiment=EXPERIMENT)])
    assert cli.trainer.callback_metrics["test/miou"] >= 0


def test_the_ddp_fragment_trains_on_one_process_of_a_cpu(tmp_path: Path) -> None:
    """The GPU fragment on a CPU: what it says is parsed; devices and SyncBN need GPUs, so one process runs here."""
    more = [f"--config={CONFIGS / 'trainer' / 'ddp.yaml'}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    cli = main(["fit", *arguments(tmp_path, *more, "--trainer.sync_batchnorm=false", *ONE_BATCH)])
    assert type(cli.trainer.strategy).__name__ == "DDPStrategy" and cli.trainer.global_step == 1
