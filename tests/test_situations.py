"""What people do by mistake, tried as they would: the right numbers, or one sentence, and never other numbers."""

import os
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning.loggers import CSVLogger

from callbacks.run.checks import CLUSTERS
from callbacks.run.processes import run_to_end
from callbacks.run.training_folder import reserve_folders
from datamodules import FolderDataModule, TargetsDataModule
from experiments.describe import main as describe
from lightning_modules.networks import DeepLabV1
from lightning_modules.networks.checkpoints import read_checkpoint
from lightning_modules.segmentation import SegmentationModule
from main import main
from tests.tiny import NO_LOGGER, QUIET, arguments, read_results
from tests.trees import write_image

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

    def member(role: str, **more: Any) -> dict[str, Any]:
        common = {"root": str(root), "classes": classes, "num_workers": 0, "role": role, "domain": role}
        return {"class_path": "FolderDataModule", "init_args": common | more}

    data = {
        "source": member("source", batch_size=2, crop_size=[32, 32]),
        "development": member("development"),
        "targets": [member("target")],
    }
    network = {"class_path": "lightning_modules.networks.DeepLabV1", "init_args": {"backbone": "resnet10", "width": 8}}
    config = {
        "model": {"network": network},
        "data": {"class_path": "TargetsDataModule", "init_args": data},
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
    with pytest.raises(ValueError, match=said):
        run("test", other, tmp_path, "--method=Ensemble", f"--method.checkpoints=[{own[1]}]")
    run("test", other, tmp_path, f"--ckpt_path={own[1]}", "--model.other_classes=true")


def test_a_checkpoint_of_another_normalisation_is_refused(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderDataModule, "normalization", {"mean": [0.5] * 3, "std": [0.5] * 3})
    with pytest.raises(ValueError, match=r"was trained on images normalised by .*0.485.*the data are .*0.5"):
        run("test", own[0], tmp_path, f"--ckpt_path={own[1]}")


def test_weights_of_other_programs_are_scored_but_not_trained_on(own: tuple[Path, Path], tmp_path: Path) -> None:
    weights = {"model": read_checkpoint(own[1])["state_dict"], "epoch": 3}
    torch.save(weights, tmp_path / "weights.pth")
    expected = run("test", own[0], tmp_path / "own", f"--ckpt_path={own[1]}").trainer.callback_metrics
    restore = f"--ckpt_path={tmp_path / 'weights.pth'}"
    tested = run("test", own[0], tmp_path / "other", restore)
    assert tested.trainer.callback_metrics == expected
    assert all(torch.equal(value, weights["model"][name]) for name, value in tested.model.state_dict().items())
    with pytest.raises(ValueError, match="only weights, so `fit` cannot continue from it"):
        run("fit", own[0], tmp_path / "fit", restore)


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


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"results\.folder is .*but .*file is a file: expected a folder"):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'file' / 'out'}")])
    if os.geteuid() == 0:
        return  # who may write anywhere
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="you may not write to"):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'locked' / 'out'}")])


def test_a_test_on_images_of_the_longest_name_keeps_its_pictures(own: tuple[Path, Path], tmp_path: Path) -> None:
    draw(tmp_path / "data", 1)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder / "0.png").rename(tmp_path / "data" / folder / f"{'x' * 251}.png")
    config = write_config(tmp_path, tmp_path / "data", CLASSES)
    run("test", config, tmp_path, f"--ckpt_path={own[1]}", "--results.report=true")
    for kind in ("panels", "gallery"):
        assert list((tmp_path / "results" / kind / "target").iterdir())


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    places = [draw(tmp_path / town / "set") for town in ("a", "b")]
    with pytest.raises(ValueError, match="2 targets are called set: expected different names"):
        TargetsDataModule([FolderDataModule(str(place)) for place in places])
    TargetsDataModule([FolderDataModule(str(place), domain=place.parent.name) for place in places])


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


def test_a_network_that_is_built_otherwise_and_classes_that_are_not_named_are_said(own: tuple[Path, Path]) -> None:
    saved = torch.load(own[1], weights_only=True)
    saved["origin"]["arguments"]["output_stride"] = 16
    module = SegmentationModule(DeepLabV1("resnet10", 3, width=8), 3, CLASSES)
    module.origin = {"network": "DeepLabV1", "arguments": {"width": 8, "output_stride": 8, "dropout": 0.5}}
    with pytest.warns(UserWarning, match="differs from the one that was trained; .*: output_stride was 16, is now 8"):
        module.on_load_checkpoint(saved)
    del saved["class_names"], saved["origin"]
    with pytest.warns(UserWarning, match="does not name its classes.*assumed to be sky, road, box, in this order"):
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.accelerator=gpu"], r"trainer\.accelerator is gpu, but torch .* finds no GPU: expected .*=cpu"),
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


OF_A_WORKER = (
    "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    "  File 'x.py', line 1\nOSError: a: b\n\nThe above exception\ndatamodules.base.DataError: x: y\nand z\n"
)
NO_MEMORY = "the workers that read images ran out of shared memory (/dev/shm)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error, out of shared memory."), NO_MEMORY),
        (RuntimeError("Caught RuntimeError\nunable to write to file </torch_7_1>: No space left (28)"), NO_MEMORY),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_7_1>: (11)"), NO_MEMORY),
        (ModuleNotFoundError("there is no package foo: install foo"), "there is no package foo: install foo\n"),
        (ValueError(OF_A_WORKER), "x: y\nand z\n"),
        (ValueError("Caught a cold: ValueError: no"), "Caught a cold: ValueError: no\n"),
    ],
)
def test_an_error_that_ends_a_program_is_its_message_alone(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.run.processes.watch_parent", lambda: None)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_to_end(fail)
    assert ended.value.code == 1 and capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("subcommand", "name"),
    [
        ("fit", "max_epochs"),
        ("fit", "limit_train_batches"),
        ("test", "limit_test_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
def test_a_run_that_would_do_nothing_says_what_to_set(
    subcommand: str, name: str, own: tuple[Path, Path], tmp_path: Path
) -> None:
    restore = [] if subcommand == "fit" else [f"--ckpt_path={own[1]}"]
    with pytest.raises(ValueError, match=rf"trainer\.{name} is 0.*{subcommand} would do nothing: expected 1 or more"):
        run(subcommand, own[0], tmp_path, *restore, f"--trainer.{name}=0")


def test_a_training_that_has_no_epoch_left_says_so(own: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nothing was trained: .*last\.ckpt is already at epoch 2, step 2.*max_epochs is 2"
    ):
        run("fit", own[0], tmp_path, f"--ckpt_path={own[1]}", "--trainer.max_epochs=2")
    before = own[1].read_bytes()
    run("fit", own[0], own[1].parent.parent, f"--ckpt_path={own[1]}", "--trainer.max_epochs=2")  # its own: done before
    assert own[1].read_bytes() == before


def test_a_training_without_validation_says_that_it_has_no_best(own: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no validation gave val/miou, so there is no best\.ckpt, only last"):
        run("fit", own[0], tmp_path, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0")
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


def test_a_limit_is_said_beside_the_scores(own: tuple[Path, Path], tmp_path: Path) -> None:
    for limit, limited in (("1", {"images": 1, "of": 2}), ("1.0", None)):  # a batch, and all
        folder = tmp_path / limit
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run("test", own[0], folder, f"--ckpt_path={own[1]}", f"--trainer.limit_test_batches={limit}")
        said = any("1 of 2 images are scored, as a limit asks for" in str(one.message) for one in caught)
        assert said is (limited is not None)
        results = read_results(folder)
        assert (results["limited"], results["complete"]) == (limited, True)


def test_machines_that_no_launcher_knows_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLUSTERS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"trainer\.num_nodes is 2, but no launcher .*leave trainer\.num_nodes out"):
        main(["test", *arguments(tmp_path, "--trainer.num_nodes=2")])
