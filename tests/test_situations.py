"""What people do by mistake, tried as they would: the right numbers, or one sentence, and never other numbers."""

import json
import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from callbacks.run.checks import CLUSTERS, check_checkpoint, loads_weights
from callbacks.run.processes import run_to_end
from callbacks.run.training_folder import reserve_folders
from datamodules import FolderDataModule, TargetsDataModule
from datamodules.reading.dataset import FilesDataset
from experiments.describe import main as describe
from lightning_modules.checkpoints import CheckpointReader
from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.checkpoints import check_weights, fit_weights, read_checkpoint
from lightning_modules.segmentation import SegmentationModule
from main import main
from tests.fakes import write_image
from tests.tiny import EXPERIMENT, NO_LOGGER, QUIET, arguments

CLASSES = ["sky", "road", "box"]
SIZE = (48, 64)


def draw(folder: Path, count: int = 2, size: tuple[int, int] = SIZE) -> Path:
    """Writes pairs of a bright sky, a dark road and a box."""
    for number in range(count):
        ids = np.zeros(size, dtype=np.uint8)
        ids[size[0] // 2 :] = 1
        ids[10:20, 5 + number : 20 + number] = 2
        image = np.array([[200, 220, 255], [60, 60, 60], [200, 30, 30]], dtype=np.uint8)[ids]
        write_image(folder / "images" / f"{number}.png", image)
        write_image(folder / "labels" / f"{number}.png", ids)
    return folder


def write_config(folder: Path, root: Path, classes: list[str]) -> Path:
    """Writes an experiment on a folder of one's own: a tiny network."""
    member = {"class_path": "FolderDataModule"}
    common: dict[str, Any] = {"root": str(root), "classes": classes, "num_workers": 0}
    source = member | {
        "init_args": common | {"role": "source", "domain": "own", "batch_size": 2, "crop_size": [32, 32]}
    }
    development = member | {"init_args": common | {"role": "development", "domain": "development"}}
    target = member | {"init_args": common | {"role": "target", "domain": "target"}}
    network = {"class_path": "lightning_modules.networks.DeepLabV1", "init_args": {"backbone": "resnet10", "width": 8}}
    config = {
        "model": {"network": network},
        "data": {
            "class_path": "TargetsDataModule",
            "init_args": {"source": source, "development": development, "targets": [target]},
        },
    }
    path = folder / f"{'_'.join(classes)}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(subcommand: str, config: Path, folder: Path, *more: str) -> Any:
    place = [f"--trainer.default_root_dir={folder}", f"--results.folder={folder / 'results'}", "--results.report=false"]
    quiet = [word for word in QUIET if "untrained" not in word]
    return main([subcommand, f"--config={config}", *quiet, *NO_LOGGER, *place, *more])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config of a tiny training, and its checkpoint."""
    folder = tmp_path_factory.mktemp("own")
    config = write_config(folder, draw(folder / "data"), CLASSES)
    run("fit", config, folder, "--trainer.max_epochs=2")
    return config, folder / "checkpoints" / "last.ckpt"


def test_a_network_that_nobody_trained_is_not_scored(own: tuple[Path, Path], tmp_path: Path) -> None:
    for subcommand in ("test", "validate", "predict"):
        with pytest.raises(ValueError, match="there is no trained network: expected --ckpt_path"):
            run(subcommand, own[0], tmp_path)
    run("test", own[0], tmp_path, "--untrained=true")


def test_a_checkpoint_by_the_name_of_its_role_is_asked_for_by_path(own: tuple[Path, Path], tmp_path: Path) -> None:
    for subcommand in ("fit", "test"):
        with pytest.raises(ValueError, match="ckpt_path is 'last': expected the path of a file"):
            run(subcommand, own[0], tmp_path, "--ckpt_path=last")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "dog", "mouse"], "Trained with sky, road, box; the data has cat, dog, mouse"),
        (["box", "sky", "road"], r"unless ids is set, ids to \{1: sky, 2: road, 0: box\}"),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused(
    classes: list[str], said: str, own: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write_config(tmp_path, own[0].parent / "data", classes)
    with pytest.raises(ValueError, match=said):
        run("test", other, tmp_path, f"--ckpt_path={own[1]}")
    with pytest.raises(ValueError, match=f"best.ckpt .*{said}|{said}"):
        run("test", other, tmp_path, "--method=Ensemble", f"--method.checkpoints=[{own[1]}]")
    run("test", other, tmp_path, f"--ckpt_path={own[1]}", "--model.other_classes=true")


def test_a_checkpoint_that_does_not_say_its_classes_is_taken_with_a_word(own: tuple[Path, Path]) -> None:
    saved = torch.load(own[1], weights_only=True)
    del saved["class_names"], saved["origin"]
    module = SegmentationModule(DeepLabV1("resnet10", 3, width=8), 3, CLASSES)
    with pytest.warns(UserWarning, match="does not name its classes.*assumed to be sky, road, box, in this order"):
        module.on_load_checkpoint(saved)


def test_a_checkpoint_of_another_normalisation_is_refused(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderDataModule, "normalization", {"mean": [0.5] * 3, "std": [0.5] * 3})
    with pytest.raises(ValueError, match=r"was trained on images normalised by .*0.485.*the data are .*0.5"):
        run("test", own[0], tmp_path, f"--ckpt_path={own[1]}")


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "of the network": lambda state: state,
    "under model": lambda state: {"model": state, "epoch": 3},
    "of DDP": lambda state: {f"module.{name}": value for name, value in state.items()},
    "of a compiler": lambda state: {"state_dict": {f"_orig_mod.{name}": value for name, value in state.items()}},
    "of both": lambda state: {"state_dict": {f"model._orig_mod.module.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_other_programs_are_read(form: str, own: tuple[Path, Path], tmp_path: Path) -> None:
    saved = read_checkpoint(own[1])["state_dict"]
    torch.save(FORMS[form]({name.removeprefix("network."): value for name, value in saved.items()}), tmp_path / "w.pth")
    state = fit_weights(saved, read_checkpoint(tmp_path / "w.pth")["state_dict"])
    assert state.keys() == saved.keys() and all(torch.equal(value, saved[name]) for name, value in state.items())


def test_weights_of_other_programs_are_scored_but_not_trained_on(own: tuple[Path, Path], tmp_path: Path) -> None:
    weights = {"model": read_checkpoint(own[1])["state_dict"], "epoch": 3}
    torch.save(weights, tmp_path / "weights.pth")
    expected = run("test", own[0], tmp_path / "own", f"--ckpt_path={own[1]}").trainer.callback_metrics
    restore = f"--ckpt_path={tmp_path / 'weights.pth'}"
    assert run("test", own[0], tmp_path / "other", restore).trainer.callback_metrics == expected
    with pytest.raises(ValueError, match="only weights, so `fit` cannot continue from it"):
        run("fit", own[0], tmp_path / "fit", restore)


def test_whole_modules_and_files_without_weights_are_refused(own: tuple[Path, Path], tmp_path: Path) -> None:
    for value, message in (
        (torch.nn.Conv2d(3, 3, 1), r"holds a pickled module.*state_dict\(\)"),
        ({"epoch": 3, "loss": 0.1}, "holds epoch, loss: expected weights, or weights under one of state_dict, "),
        ([torch.ones(1)], "holds list: expected"),
    ):
        torch.save(value, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match=message):
            run("test", own[0], tmp_path, f"--ckpt_path={tmp_path / 'weights.pth'}")


def test_a_training_that_goes_on_for_longer_still_learns(own: tuple[Path, Path], tmp_path: Path) -> None:
    module = run("fit", own[0], tmp_path, f"--ckpt_path={own[1]}", "--trainer.max_epochs=4").model
    before = read_checkpoint(own[1])["state_dict"]
    assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items() if "weight" in name)
    schedule = module.lr_schedulers()
    assert schedule.total_iters == schedule.last_epoch == 4
    saved = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["lr_schedulers"][0]["total_iters"] == 4


def test_a_loss_that_is_nan_stops_the_training(own: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training diverged in epoch [01].*Lower the learning rate"):
        run("fit", own[0], tmp_path, "--trainer.max_epochs=3", "--model.lr=1e38")
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())


def test_a_set_without_a_labelled_pixel_is_an_error(own: tuple[Path, Path], tmp_path: Path) -> None:
    draw(tmp_path / "data")
    for path in (tmp_path / "data" / "labels").glob("*.png"):
        write_image(path, np.full(SIZE, 255, dtype=np.uint8))
    config = write_config(tmp_path, tmp_path / "data", CLASSES)
    with pytest.raises(ValueError, match="no pixel of target is labelled, all are ignored"):
        run("test", config, tmp_path, f"--ckpt_path={own[1]}")


def test_a_network_of_other_classes_labels_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "data")
    data = [
        "--data=FolderDataModule",
        f"--data.root={tmp_path / 'data'}",
        "--data.classes=[a,b,c]",
        "--data.num_workers=0",
    ]
    fixed = "tests.test_situations.Fixed"
    place = [f"--trainer.default_root_dir={tmp_path}", f"--results.folder={tmp_path / 'results'}"]
    with pytest.raises(ValueError, match="Fixed predicts 19 classes, the data has 3"):
        main(["predict", *data, f"--model.network={fixed}", *QUIET, *NO_LOGGER, *place])


class Fixed(torch.nn.Module):
    """Has 19 classes, whatever the data say."""

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 19, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


def test_a_home_folder_behind_an_equals_sign_is_found(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run("test", own[0], tmp_path, f"--ckpt_path={own[1]}", "--results.folder=~/out")
    assert (tmp_path / "out" / "results.json").exists() and not (tmp_path / "~").exists()


def test_one_batch_is_one_batch(own: tuple[Path, Path], tmp_path: Path) -> None:
    for number, words in enumerate((["--trainer.limit_test_batches=1"], ["--trainer.limit_test_batches", "1"])):
        cli = run("test", own[0], tmp_path / str(number), f"--ckpt_path={own[1]}", *words)
        assert (cli.trainer.num_test_batches, cli.trainer.limit_test_batches) == ([1], 1)
    cli = run("test", own[0], tmp_path / "all", f"--ckpt_path={own[1]}", "--trainer.limit_test_batches=1.0")
    assert cli.trainer.num_test_batches == [2]


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        NotADirectoryError, match=r"results\.folder is .*file/out, but .*file is a file: expected a folder"
    ):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'file' / 'out'}")])
    if os.geteuid() == 0:
        return  # who may write anywhere
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="you may not write to"):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'locked' / 'out'}")])


def predict(root: Path, folder: Path, *more: str) -> dict[str, Any]:
    data = ["--data=FolderDataModule", f"--data.root={root}", "--data.num_workers=0"]
    network = ["--model.network.init_args.backbone=resnet10", "--model.network.init_args.width=8"]
    place = [f"--trainer.default_root_dir={folder}", f"--results.folder={folder / 'results'}", "--seed_everything=0"]
    main(["predict", f"--config={EXPERIMENT}", *data, *network, *QUIET, *NO_LOGGER, *place, *more])
    return yaml.safe_load((folder / "results" / "predictions.json").read_text(encoding="utf-8"))


def test_a_broken_photograph_is_left_out_of_a_prediction_where_asked(tmp_path: Path) -> None:
    draw(tmp_path / "data", 3)
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"")
    (tmp_path / "data" / "images" / "2.png").write_bytes((tmp_path / "data" / "images" / "2.png").read_bytes()[:60])
    manifest = predict(tmp_path / "data" / "images", tmp_path, "--data.broken=skip")
    assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["1", "2"])


def test_a_photograph_that_was_replaced_is_predicted_anew(tmp_path: Path) -> None:
    photographs = draw(tmp_path / "data", 3) / "images"
    predict(photographs, tmp_path)
    (labels,) = (tmp_path / "results" / "labels").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photographs / "1.png")
    manifest = predict(photographs, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["1.png"]
    assert manifest["complete"] and manifest["images"] == 3


def test_a_photograph_that_is_too_small_for_a_view_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "tiny.png", np.zeros((5, 9, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="tiny: "):
        predict(tmp_path / "data", tmp_path, "--method=SegTTT", "--method.scales=[0.1]")


def test_photographs_that_cannot_be_read_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = draw(tmp_path / "data", 1) / "images"
    for name in ("1.heic", "2.AVIF", "3.gif"):
        (photographs / name).touch()
    (photographs / "again").symlink_to(photographs)
    with pytest.warns(UserWarning, match=r"skipped 3 files that cannot be read \(1\.heic, 2\.AVIF, 3\.gif\)"):
        assert predict(photographs, tmp_path)["images"] == 1
    (photographs / "locked").mkdir()
    scan = os.scandir

    def refuse(path: Any = ".") -> Any:  # as of a folder of another user: those who run tests may read any
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"images/locked cannot be listed: Permission denied\. Expected a folder that"):
        predict(photographs, tmp_path)


def test_a_photograph_that_is_too_small_is_left_out_where_asked(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "fine.png", np.zeros((64, 96, 3), dtype=np.uint8))
    write_image(tmp_path / "data" / "tiny.png", np.zeros((5, 9, 3), dtype=np.uint8))
    method = ["--method=SegTTT", "--method.scales=[0.5]", "--method.num_steps=1"]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"left out tiny: .*give a larger image"):
            manifest = predict(tmp_path / "data", tmp_path, *method, "--data.broken=skip")
        assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["tiny"])
    with pytest.raises(ValueError, match=r"tiny: .*give a larger image"):
        predict(tmp_path / "data", tmp_path, *method)


def test_a_photograph_of_the_longest_name_is_predicted_and_found_again(tmp_path: Path) -> None:
    names = ["x" * 251, "x" * 250 + "y", "ä" * 120, "short"]
    for name in names:
        write_image(tmp_path / "data" / f"{name}.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    assert predict(tmp_path / "data", tmp_path)["images"] == 4
    (labels,) = (tmp_path / "results" / "labels").iterdir()
    files = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert len(files) == 4 and "short.png" in files
    manifest = predict(tmp_path / "data", tmp_path)
    assert manifest["complete"] and manifest["runs"][-1]["found"] == 4
    assert files == {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}


def test_a_test_on_images_of_the_longest_name_keeps_its_pictures(own: tuple[Path, Path], tmp_path: Path) -> None:
    draw(tmp_path / "data", 1)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder / "0.png").rename(tmp_path / "data" / folder / f"{'x' * 251}.png")
    config = write_config(tmp_path, tmp_path / "data", CLASSES)
    run("test", config, tmp_path, f"--ckpt_path={own[1]}", "--results.report=true")
    for kind in ("panels", "gallery"):
        assert list((tmp_path / "results" / kind / "target").iterdir())


def test_adabn_on_single_images_says_what_it_is(own: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"AdaBN: the batch is a single image.*p-BN.*eval_batch_size"):
        run("test", own[0], tmp_path, f"--ckpt_path={own[1]}", "--method=AdaBN")


def test_a_checkpoint_says_what_it_is(
    own: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe([str(own[1])]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["classes"] == CLASSES and found["network"] == "lightning_modules.networks.DeepLabV1"
    assert found["arguments"]["width"] == 8 and found["epoch"] == 1 and found["step"] == 2
    assert found["normalization"]["mean"] == [0.485, 0.456, 0.406] and found["version"] == version("segadapt")
    assert found["trained_on"]["images"] == 2 and len(found["trained_on"]["fingerprint"]) == 64
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(1)}, tmp_path / "weights.pth")
    assert describe([str(tmp_path / "weights.pth")]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert "not in the file" in found["classes"] and "not in the file" in found["trained_on"]
    assert found["weights"] == "7 numbers in 2 tensors"
    assert describe([str(tmp_path / "none.ckpt")]) == 1
    assert "error: the checkpoint" in capsys.readouterr().err


def test_a_network_that_is_built_otherwise_is_said(own: tuple[Path, Path], tmp_path: Path) -> None:
    saved = torch.load(own[1], weights_only=True)
    saved["origin"]["arguments"]["output_stride"] = 16
    torch.save(saved, tmp_path / "other.ckpt")
    module = SegmentationModule(DeepLabV1("resnet10", 3, width=8), 3, CLASSES)
    module.origin = {"network": "DeepLabV1", "arguments": {"width": 8, "output_stride": 8, "dropout": 0.5}}
    with pytest.warns(UserWarning, match="differs from the one that was trained; .*: output_stride was 16, is now 8"):
        module.on_load_checkpoint(saved)


def test_two_trainings_that_start_at_once_have_a_folder_each(tmp_path: Path) -> None:
    loggers = [CSVLogger(str(tmp_path), name="csv") for _ in range(2)]
    assert loggers[0].version == loggers[1].version == 0  # both have looked before either wrote
    for logger in loggers:
        reserve_folders(SimpleNamespace(loggers=[logger], is_global_zero=True))
    assert [Path(logger.log_dir).name for logger in loggers] == ["version_0", "version_1"]
    named = CSVLogger(str(tmp_path), name="csv", version="mine")
    for _ in range(2):
        reserve_folders(SimpleNamespace(loggers=[named], is_global_zero=True))
    assert Path(named.log_dir).name == "mine"


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, path = CheckpointReader(), tmp_path / "best.ckpt"
    reader.save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, path)

    def fill(value: Any, place: Path) -> None:
        place.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match="No space left"):
        reader.save_checkpoint({"state_dict": {"weight": torch.zeros(2)}}, path)
    assert read_checkpoint(path)["state_dict"]["weight"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"class_path": "lightning_modules.networks.DeepLabV1", "init_args": {"weights": "imagenet"}}, False),
        ({"class_path": "torchvision.models.segmentation.FCN", "init_args": {"weights": "DEFAULT"}}, True),
        ({"class_path": "torchvision.models.segmentation.FCN", "init_args": {"weights": None}}, False),
        ({"class_path": "mine.Network", "init_args": {"pretrained": True}}, True),
        ({"class_path": "mine.Network"}, False),
    ],
)
def test_weights_that_a_network_brings_itself(network: dict[str, Any], expected: bool) -> None:
    assert loads_weights(network) is expected
    wrapper = {"class_path": "lightning_modules.networks.RoundedSizes", "init_args": {"network": network}}
    assert loads_weights(wrapper) is expected


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    places = [draw(tmp_path / town / "set") for town in ("a", "b")]
    with pytest.raises(ValueError, match="2 targets are called set: expected different names"):
        TargetsDataModule([FolderDataModule(str(place)) for place in places])
    TargetsDataModule([FolderDataModule(str(place), domain=place.parent.name) for place in places])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.accelerator=gpu"], r"trainer\.accelerator is gpu, but torch .* finds no GPU: expected .*=cpu"),
        (["--trainer.accelerator=cuda"], r"trainer\.accelerator is cuda, but torch .* finds no GPU"),
        (["--trainer.devices=0"], r"trainer\.devices is 0: expected 1 or more"),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], r"trainer\.strategy is ddp_spawn: expected ddp"),
    ],
)
def test_devices_that_are_not_there_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message) as caught:
        main(["test", *arguments(tmp_path, *words)])
    assert len(str(caught.value)) < 300


def test_a_batch_of_one_that_cannot_be_normalised_says_what_to_set(tmp_path: Path) -> None:
    network = ["--model.network=lightning_modules.networks.DeepLabV3Plus", "--model.network.backbone=resnet10"]
    with pytest.raises(ValueError, match=r"the batch has 1 image, but DeepLabV3Plus .*Set data\.batch_size to 2"):
        main(["fit", *arguments(tmp_path, *network, "--data.batch_size=1", "--trainer.max_epochs=1")])


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nunable to write to file </torch_7_1>: No space left (28)",
        "unable to allocate shared memory(shm) for file </torch_7_1>: Resource temporarily unavailable (11)",
    ],
)
def test_too_little_shared_memory_is_one_sentence(
    message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.run.processes.watch_parent", lambda: None)

    def fail() -> None:
        raise RuntimeError(message)

    with pytest.raises(SystemExit):
        run_to_end(fail)
    assert capsys.readouterr().err.startswith("error: the workers that read images ran out of shared memory (/dev/shm)")


NOTHING = [
    ("fit", ["--trainer.max_epochs=0"], "max_epochs"),
    ("fit", ["--trainer.max_steps=0"], "max_steps"),
    ("fit", ["--trainer.limit_train_batches=0"], "limit_train_batches"),
    ("test", ["--trainer.limit_test_batches=0.0"], "limit_test_batches"),
    ("validate", ["--trainer.limit_val_batches=0"], "limit_val_batches"),
    ("predict", ["--trainer.limit_predict_batches=0"], "limit_predict_batches"),
]


@pytest.mark.parametrize(("subcommand", "words", "name"), NOTHING)
def test_a_run_that_would_do_nothing_says_what_to_set(
    subcommand: str, words: list[str], name: str, own: tuple[Path, Path], tmp_path: Path
) -> None:
    restore = [] if subcommand == "fit" else [f"--ckpt_path={own[1]}"]
    with pytest.raises(ValueError, match=rf"trainer\.{name} is 0.*{subcommand} would do nothing: expected 1 or more"):
        run(subcommand, own[0], tmp_path, *restore, *words)


def test_a_training_that_has_no_epoch_left_says_so(own: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nothing was trained: .*last\.ckpt is already at epoch 2, step 2.*max_epochs is 2"
    ):
        run("fit", own[0], tmp_path, f"--ckpt_path={own[1]}", "--trainer.max_epochs=2")
    before = own[1].read_bytes()
    run("fit", own[0], own[1].parent.parent, f"--ckpt_path={own[1]}", "--trainer.max_epochs=2")  # its own: done before
    assert own[1].read_bytes() == before


@pytest.mark.parametrize("words", [["--trainer.check_val_every_n_epoch=5"], ["--trainer.limit_val_batches=0"]])
def test_a_training_without_validation_says_that_it_has_no_best(
    words: list[str], own: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"no validation gave val/miou, so there is no best\.ckpt, only last"):
        run("fit", own[0], tmp_path, "--trainer.max_epochs=1", *words)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, own: tuple[Path, Path], tmp_path: Path) -> None:
    saved = torch.load(own[1], weights_only=True)
    for name in ("network.head.bias", "network.head.weight"):
        saved["state_dict"][name].view(-1)[0] = value
    bad = tmp_path / "bad.ckpt"
    torch.save(saved, bad)
    words = [f"--ckpt_path={bad}"]
    if np.isinf(value):
        words = [f"--ckpt_path={own[1]}", "--method=Ensemble", f"--method.checkpoints=[{bad}]"]
    with pytest.raises(ValueError, match=r"2 of \d+ tensors of the checkpoint are NaN or infinite \(e\.g\. .*head"):
        run("test", own[0], tmp_path, *words)


def test_a_training_replaces_no_other_one(own: tuple[Path, Path], tmp_path: Path) -> None:
    place = own[1].parent.parent
    before = {path.name: path.read_bytes() for path in own[1].parent.iterdir()}
    with pytest.raises(FileExistsError, match=r"holds best\.ckpt and last\.ckpt of another training") as caught:
        run("fit", own[0], place, "--trainer.max_epochs=1")
    assert "--ckpt_path" in str(caught.value) and "--trainer.default_root_dir" in str(caught.value)
    run("fit", own[0], place, "--trainer.fast_dev_run=true")
    assert {path.name: path.read_bytes() for path in own[1].parent.iterdir()} == before
    run("fit", own[0], tmp_path, "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_learning_rate_that_changes_counts_when_a_training_goes_on(
    own: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def go_on(name: str, *words: str) -> Any:
        caplog.clear()
        with caplog.at_level("INFO", logger="pytorch_lightning"):
            return run("fit", own[0], tmp_path / name, f"--ckpt_path={own[1]}", "--trainer.max_epochs=4", *words)

    same = go_on("same").trainer.callback_metrics
    assert "other settings" not in caplog.text
    words = ["--model.lr=0.01", "--model.momentum=0.5", "--model.weight_decay=0"]
    changed = go_on("changed", *words)
    assert "lr was 0.005, is now 0.01, momentum was 0.9, is now 0.5, weight_decay was 0.0001, is now 0" in caplog.text
    assert changed.trainer.callback_metrics["train/lr"] == pytest.approx(2 * same["train/lr"].item())
    (group,) = changed.trainer.optimizers[0].param_groups
    assert (group["momentum"], group["weight_decay"], group["initial_lr"]) == (0.5, 0, 0.01)


def test_other_weights_in_a_file_are_named(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"model": state, "model_ema": state, "optimizer": {}, "epoch": 3}, tmp_path / "two.pth")
    with pytest.warns(UserWarning, match="using the weights under model; the file also holds model_ema"):
        assert list(read_checkpoint(tmp_path / "two.pth")["state_dict"]) == ["weight"]
    torch.save({"n_averaged": torch.tensor(3), "module.weight": torch.ones(2)}, tmp_path / "averaged.pth")
    assert list(read_checkpoint(tmp_path / "averaged.pth")["state_dict"]) == ["module.weight"]
    own = {"network.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"second copy of the network's weights, with names that begin with ema\."):
        check_weights(own, own | {"ema.weight": torch.ones(2)})
    check_weights(own, own | {"other.bias": torch.ones(2)})  # of another network, which is said elsewhere


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 torn", "cut off"),
        (b"notes", "not a file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"weight":{"dtype":"F32"}}', "a safetensors file"),
    ],
)
def test_files_that_are_no_checkpoints_are_told_apart(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(content)
    for read in (check_checkpoint, read_checkpoint):
        with pytest.raises(ValueError, match=rf"best.ckpt cannot be read, it is {kind}.*: expected one that `fit` wr"):
            read(path)
    for legacy in (False, True):  # torch writes zips; it wrote pickles
        torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=not legacy)
        check_checkpoint(path)
    check_checkpoint(tmp_path / "nothing.ckpt")  # the reader says that it is not there


def test_folders_and_addresses_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"is a folder: expected a file, e\.g\. .*checkpoints/last\.ckpt"):
        check_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="is a URL: expected a file"):
        read_checkpoint("https://example.org/best.ckpt")


def test_a_limit_is_said_beside_the_scores(own: tuple[Path, Path], tmp_path: Path) -> None:
    for words, limited in ((["--trainer.limit_test_batches=1"], {"images": 1, "of": 2}), ([], None)):
        folder = tmp_path / str(len(words))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run("test", own[0], folder, f"--ckpt_path={own[1]}", *words)
        assert any("1 of 2 images are scored, as a limit asks for" in str(one.message) for one in caught) is bool(words)
        results = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
        assert (results["limited"], results["complete"]) == (limited, True)


def test_machines_that_no_launcher_knows_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLUSTERS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"trainer\.num_nodes is 2, but no launcher .*leave trainer\.num_nodes out"):
        main(["test", *arguments(tmp_path, "--trainer.num_nodes=2")])


def test_the_files_of_a_training_are_looked_at_once_for_its_checkpoints(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    fingerprint = FilesDataset.fingerprint
    monkeypatch.setattr(FilesDataset, "fingerprint", lambda data: looked.append(data.domain) or fingerprint(data))
    run("fit", own[0], tmp_path, "--trainer.max_epochs=3")
    assert looked == ["own"]
