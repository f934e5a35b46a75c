"""Every YAML in configs/ parses and runs one batch."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.networks import DeepLabV1
from main import main
from tests.tiny import EXPERIMENT, NO_LOGGER, QUIET, ROOT, arguments, place
from tests.trees import draw_ids, draw_image, write_bdd, write_cityscapes, write_image, write_vendors

CONFIGS = ROOT / "configs"
# Not by limit_train_batches=1, which is an int or a float (1.0: all) depending on what was imported before.
ONE_BATCH = ["--trainer.max_steps=1", "--data.num_val=1", "--data.num_test=1"]

NO_BATCH_NORM = "segmenter_small.yaml"
FOREIGN = {  # networks of other libraries, and what Seg-TTT is told to move
    "torchvision_lraspp.yaml": "classifier",
    "smp_unet.yaml": "decoder,segmentation_head",
}

TARGETS = ["haze", "dusk", "dust"]
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
    """Names the files of one kind."""
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
    """All data sets below one folder, tiny, in their vendors' layouts."""
    root = write_vendors(tmp_path_factory.mktemp("vendors"))
    for split in ("train", "val"):
        for name in (f"0001TP_{number:06d}" for number in range(20)):  # of which a config takes 7 %
            write_image(root / "camvid" / "images" / split / f"{name}.jpg", draw_image(name, (48, 64)))
            write_image(root / "camvid" / "labels" / split / f"{name}.png", draw_ids(name, range(12), (48, 64)), "L")
    write_streets(root / "streets")
    (root / "streets" / "camvid").symlink_to(root / "camvid")
    return root


def write_streets(root: Path) -> Path:
    """Writes IDD-Lite as its vendor packs it, BDD100K and Cityscapes, and images and labels as of KITTI-STEP."""
    write_cityscapes(root / "cityscapes")
    write_bdd(root)
    for split, key in (("train", "0/024541"), ("train", "1/frame0599"), ("val", "0/024541"), ("val", "10/117363")):
        labels = root / "idd_lite" / "gtFine" / split / f"{key}_label.png"
        write_image(root / "idd_lite" / "leftImg8bit" / split / f"{key}_image.jpg", draw_image(key, (23, 32)))
        write_image(labels, draw_ids(key, (*range(7), 255), (23, 32)))
        write_image(labels.with_name(labels.name.replace("_label", "_inst_label")), draw_ids(key, range(9), (23, 32)))
    for key in ("0001_000000", "0001_000001"):
        write_image(root / "kitti_step" / "images" / f"{key}.png", draw_image(key, (24, 78)))
        write_image(root / "kitti_step" / "labels" / f"{key}.png", draw_ids(key, (*range(19), 255), (24, 78)))
    return root


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
def test_experiment_trains_and_tests_one_batch(
    name: str, tmp_path: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = tiny_arguments(name, "experiment", tmp_path, vendors, monkeypatch)
    if name == "photographs_19.yaml":  # the images of this test are too small for its network
        args += [f"--model={CONFIGS / 'model' / 'deeplabv1_resnet10_small.yaml'}"]
    args += shrink_network("timm" if name == "camvid.yaml" else name)
    if name.startswith("released"):
        args += ["--method.scales=[0.5,1.0]"]  # the images of this test are too small for a quarter
    cli = main(["fit", *args])
    assert cli.trainer.global_step == 1
    assert main(["test", *args]).trainer.callback_metrics["test/miou"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in list_configs("experiment") if name not in QUICK + RUN),
        *(f"street_scenes/{name}" for name in list_configs("experiment/street_scenes")),
    ],
)
def test_experiment_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--config={CONFIGS / 'experiment' / name}", "--print_config"])
    assert ended.value.code == 0 and "max_epochs" in capsys.readouterr().out


def test_stand_ins_are_named_like_what_they_stand_for() -> None:
    own = {name for name in list_configs("experiment/street_scenes") if name.split("_")[0] not in TARGETS}
    assert own <= set(list_configs("experiment"))


def choose_model(name: str) -> list[str]:
    """Returns the arguments that choose a network of configs/model, tiny if it is this project's."""
    return [f"--model={CONFIGS / 'model' / name}", *([] if name in FOREIGN else shrink_network(name))]


@pytest.mark.parametrize("name", list_configs("model"))
def test_model_trains_one_batch(name: str, tmp_path: Path) -> None:
    cli = main(["fit", *arguments(tmp_path, *choose_model(name), *ONE_BATCH)])
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("name", [NO_BATCH_NORM, *FOREIGN])
def test_seg_ttt_adapts_networks_of_other_libraries_and_a_transformer(name: str, tmp_path: Path) -> None:
    method = ["--method=SegTTT", "--method.num_steps=1", "--method.scales=[0.5]", "--method.psi=0.1"]
    method += ["--method.alpha=0"] if name == NO_BATCH_NORM else [f"--method.trainable=[{FOREIGN[name]}]"]
    args = arguments(tmp_path, *choose_model(name), *ONE_BATCH)
    cli = main(["test", *args, *method])
    assert cli.trainer.callback_metrics["test/miou"] >= 0
    records = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    assert {json.loads(record)["adaptation"]["steps"] for record in records} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_configs("data"))
def test_data_is_tested_one_batch(name: str, tmp_path: Path, vendors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = main(["test", *tiny_arguments(name, "data", tmp_path, vendors, monkeypatch)])
    targets = TARGETS if name.startswith("street_") else ["cityscapes", "bdd", "idd", "mapillary"]
    targets = OF_STREETS.get(name, targets)
    metrics = {f"test/{target}/miou" for target in targets} if len(targets) > 1 and name != "camvid.yaml" else set()
    assert {*metrics, "test/miou"} <= set(cli.trainer.callback_metrics)


@pytest.mark.parametrize("name", list_configs("training"))
def test_training_is_parsed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["fit", *arguments(tmp_path, f"--training={CONFIGS / 'training' / name}"), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert raised.value.code == 0 and config["training"]["class_path"].startswith("lightning_modules.training.")


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


def test_ddp_fragment_trains_on_two_processes_as_far_as_a_cpu_can(tmp_path: Path) -> None:
    """The GPU fragment on a CPU: what it says is parsed; devices and SyncBN need GPUs, so one process runs here."""
    more = [f"--config={CONFIGS / 'trainer' / 'ddp.yaml'}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    cli = main(["fit", *arguments(tmp_path, *more, "--trainer.sync_batchnorm=false", *ONE_BATCH)])
    assert type(cli.trainer.strategy).__name__ == "DDPStrategy"
    assert cli.trainer.global_step == 1
