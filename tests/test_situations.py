"""What people do by mistake, tried as they would: the right numbers, or one sentence, and never other numbers."""

import os
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

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
from tests.tiny import NO_LOGGER, QUIET, arguments, place, read_results
from tests.trees import draw_ids, draw_image, write_image

CLASSES = ["sky", "road", "box"]
SIZE = (48, 64)


def draw(folder: Path, count: int = 2) -> Path:
    """Writes pairs of an image and labels of three classes."""
    for number in map(str, range(count)):
        write_image(folder / "images" / f"{number}.png", draw_image(number, SIZE))
        write_image(folder / "labels" / f"{number}.png", draw_ids(number, range(3), SIZE))
    return folder


def write_config(folder: Path, root: Path, classes: list[str] = CLASSES) -> Path:
    """Writes an experiment on a folder of one's own: a tiny network."""

    def member(role: str, **more: Any) -> dict[str, Any]:
        common = {"root": str(root), "classes": classes, "num_workers": 0, "role": role, "domain": role}
        return {"class_path": "FolderDataModule", "init_args": common | more}

    data = {"source": member("source", batch_size=2, crop_size=[32, 32])}
    data |= {"development": member("development"), "targets": [member("target")]}
    network = {"class_path": "lightning_modules.networks.DeepLabV1", "init_args": {"backbone": "resnet10", "width": 8}}
    config = {"model": {"network": network}, "data": {"class_path": "TargetsDataModule", "init_args": data}}
    path = folder / f"{'_'.join(classes)}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


class Own:
    """The config of a tiny training on a folder of one's own, and its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, draw(folder / "data")
        self.config, self.checkpoint = write_config(folder, self.data), folder / "checkpoints" / "last.ckpt"
        self.restore = f"--ckpt_path={self.checkpoint}"

    def run(self, subcommand: str, folder: Path, *more: str) -> Any:
        quiet = [word for word in QUIET if "untrained" not in word]
        common = [f"--config={self.config}", *quiet, *NO_LOGGER, *place(folder), "--results.report=false"]
        return main([subcommand, *common, *more])

    def test(self, folder: Path, *more: str) -> Any:
        return self.run("test", folder, self.restore, *more)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    made = Own(tmp_path_factory.mktemp("own"))
    made.run("fit", made.folder, "--trainer.max_epochs=2")
    return made


UNTRAINED = "there is no trained network: expected --ckpt_path"
BY_ROLE = "ckpt_path is 'last': expected the path of a file"
POOLED = "--model.network=lightning_modules.networks.DeepLabV3Plus --model.network.backbone=resnet10"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("test", UNTRAINED),
        ("validate", UNTRAINED),
        ("predict", UNTRAINED),
        ("fit --ckpt_path=last", BY_ROLE),
        ("test --ckpt_path=last", BY_ROLE),
        ("fit --trainer.max_epochs=0", r"trainer\.max_epochs is 0.*fit would do nothing: expected 1 or more"),
        ("fit --trainer.limit_train_batches=0", r"trainer\.limit_train_batches is 0.*fit would do nothing: expected 1"),
        ("test $CK --trainer.limit_test_batches=0", r"trainer\.limit_test_batches is 0.*test would do nothing"),
        ("predict $CK --trainer.limit_predict_batches=0", r"limit_predict_batches is 0.*predict would do nothing"),
        ("fit $CK --trainer.max_epochs=2", r"nothing was trained: .*last\.ckpt is already at epoch 2, step 2.* is 2"),
        (f"fit {POOLED} --data.source.init_args.batch_size=1", r"the batch has 1 image, .*Set data\.batch_size to 2"),
        ("test $CK --trainer.accelerator=gpu", r"trainer\.accelerator is gpu, but torch .* no GPU: expected .*=cpu"),
        ("test $CK --trainer.devices=0", r"trainer\.devices is 0: expected 1 or more"),
        ("test $CK --trainer.strategy=ddp_spawn --trainer.devices=2", r"trainer\.strategy is ddp_spawn: expected ddp"),
        ("test $CK --trainer.num_nodes=2", r"trainer\.num_nodes is 2, but no launcher .*omit trainer\.num_nodes"),
    ],
)
def test_a_run_that_cannot_be_meant_is_refused(
    words: str, message: str, own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in CLUSTERS:
        monkeypatch.delenv(name, raising=False)
    subcommand, *more = words.replace("$CK", own.restore).split()
    with pytest.raises(ValueError, match=message) as caught:
        own.run(subcommand, tmp_path, *more)
    assert len(str(caught.value).replace(str(own.folder), "")) < 300


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "dog", "mouse"], "Trained with sky, road, box; the data has cat, dog, mouse"),
        (["box", "sky", "road"], r"unless ids is set, ids to \{1: sky, 2: road, 0: box\}"),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused(classes: list[str], said: str, own: Own, tmp_path: Path) -> None:
    other = f"--config={write_config(tmp_path, own.data, classes)}"
    for words in ([own.restore], ["--method=Ensemble", f"--method.checkpoints=[{own.checkpoint}]"]):
        with pytest.raises(ValueError, match=said):
            own.run("test", tmp_path, other, *words)
    own.test(tmp_path, other, "--model.other_classes=true")
    fewer = f"--config={write_config(tmp_path, own.data, classes[:2])}"
    with pytest.raises(ValueError, match="was trained with other classes than the data has"):  # not: another network
        own.run("test", tmp_path, fewer, own.restore)


def test_weights_of_other_programs_are_scored_but_not_trained_on(own: Own, tmp_path: Path) -> None:
    weights = {"model": read_checkpoint(own.checkpoint)["state_dict"], "epoch": 3}
    torch.save(weights, tmp_path / "weights.pth")
    expected = own.test(tmp_path / "own").trainer.callback_metrics
    restore = f"--ckpt_path={tmp_path / 'weights.pth'}"
    tested = own.run("test", tmp_path / "other", restore)
    assert tested.trainer.callback_metrics == expected
    assert all(torch.equal(value, weights["model"][name]) for name, value in tested.model.state_dict().items())
    with pytest.raises(ValueError, match="only weights, so `fit` cannot continue from it"):
        own.run("fit", tmp_path / "fit", restore)


def test_another_normalisation_is_refused(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderDataModule, "normalization", {"mean": [0.5] * 3, "std": [0.5] * 3})
    with pytest.raises(ValueError, match=r"was trained on images normalised by .*0.485.*the data are .*0.5"):
        own.test(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, own: Own, tmp_path: Path) -> None:
    saved, bad = torch.load(own.checkpoint, weights_only=True), tmp_path / "bad.ckpt"
    for name in ("network.head.bias", "network.head.weight"):
        saved["state_dict"][name].view(-1)[0] = value
    torch.save(saved, bad)
    for words in ([f"--ckpt_path={bad}"], [own.restore, "--method=Ensemble", f"--method.checkpoints=[{bad}]"]):
        with pytest.raises(ValueError, match=r"2 of \d+ tensors of the checkpoint are NaN or infinite \(e\.g\. .*head"):
            own.run("test", tmp_path, *words)


def test_a_loss_that_is_nan_stops_the_training(own: Own, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training diverged in epoch [01].*Lower the learning rate"):
        own.run("fit", tmp_path, "--trainer.max_epochs=3", "--model.lr=1e38")
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())


def test_a_training_without_validation_says_that_it_has_no_best(own: Own, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no validation logged val/miou, so there is no best\.ckpt, only last"):
        own.run("fit", tmp_path, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"results\.folder is .*but .*file is a file: expected a folder"):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'file' / 'out'}")])
    if os.geteuid() == 0:
        return  # who may write anywhere
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="is not writable"):
        main(["test", *arguments(tmp_path, f"--results.folder={tmp_path / 'locked' / 'out'}")])


def test_a_test_on_images_of_the_longest_name_keeps_its_pictures(own: Own, tmp_path: Path) -> None:
    draw(tmp_path / "data", 1)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder / "0.png").rename(tmp_path / "data" / folder / f"{'x' * 251}.png")
    config = write_config(tmp_path, tmp_path / "data")
    own.test(tmp_path, f"--config={config}", "--results.report=true")
    for kind in ("panels", "gallery"):
        assert list((tmp_path / "results" / kind / "target").iterdir())


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    roots = [draw(tmp_path / town / "set") for town in ("a", "b")]
    with pytest.raises(ValueError, match="2 targets are called set: expected different names"):
        TargetsDataModule([FolderDataModule(str(root)) for root in roots])
    TargetsDataModule([FolderDataModule(str(root), domain=root.parent.name) for root in roots])


def test_adabn_on_single_images_says_what_it_is(own: Own, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"AdaBN: the batch is a single image.*p-BN.*eval_batch_size"):
        own.test(tmp_path, "--method=AdaBN")


def test_a_checkpoint_says_what_it_is(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe([str(own.checkpoint)]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    network = {"classes": CLASSES, "network": "lightning_modules.networks.DeepLabV1"}
    assert (network | {"epoch": 1, "step": 2, "version": version("segadapt")}).items() <= found.items()
    assert found["arguments"]["width"] == 8 and found["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert found["trained_on"]["images"] == 2 and len(found["trained_on"]["fingerprint"]) == 64
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(1)}, tmp_path / "weights.pth")
    assert describe([str(tmp_path / "weights.pth")]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert "not in the file" in found["classes"] and "not in the file" in found["trained_on"]
    assert found["weights"] == "7 numbers in 2 tensors"
    assert describe([str(tmp_path / "none.ckpt")]) == 1
    assert "error: the checkpoint" in capsys.readouterr().err


def test_a_network_that_is_built_otherwise_and_classes_that_are_not_named_are_said(own: Own) -> None:
    saved = torch.load(own.checkpoint, weights_only=True)
    saved["origin"]["arguments"]["output_stride"] = 16
    module = SegmentationModule(DeepLabV1("resnet10", 3, width=8), 3, CLASSES)
    module.origin = {"network": "DeepLabV1", "arguments": {"width": 8, "output_stride": 8, "dropout": 0.5}}
    with pytest.warns(UserWarning, match="differs from the one that was trained; .*: output_stride was 16, is now 8"):
        module.on_load_checkpoint(saved)
    del saved["class_names"], saved["origin"]
    with pytest.warns(UserWarning, match="does not name its classes.*assumed to be sky, road, box, in this order"):
        module.on_load_checkpoint(saved)


def test_two_trainings_that_start_at_once_have_a_folder_each(tmp_path: Path) -> None:
    for given, names in ((None, ["version_0", "version_1"]), ("mine", ["mine", "mine"])):
        loggers = [CSVLogger(str(tmp_path), name="csv", version=given) for _ in range(2)]
        assert loggers[0].version == loggers[1].version  # both have looked before either wrote
        for logger in loggers:
            reserve_folders(SimpleNamespace(loggers=[logger], is_global_zero=True))
        assert [Path(logger.log_dir).name for logger in loggers] == names


OF_A_WORKER = (
    "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    "  File 'x.py', line 1\nOSError: a: b\n\nThe above exception\ndatamodules.base.DataError: x: y\nand z\n"
)
NO_MEMORY = "the data loader's workers ran out of shared memory (/dev/shm)"


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
    with pytest.raises(SystemExit) as ended:
        run_to_end(Mock(side_effect=error))
    assert ended.value.code == 1 and capsys.readouterr().err.startswith(f"error: {said}")


def test_a_training_replaces_no_other_one(own: Own, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in own.checkpoint.parent.iterdir()}
    with pytest.raises(FileExistsError, match=r"has best\.ckpt and last\.ckpt of another training run") as caught:
        own.run("fit", own.folder, "--trainer.max_epochs=1")
    assert "--ckpt_path" in str(caught.value) and "--trainer.default_root_dir" in str(caught.value)
    own.run("fit", own.folder, "--trainer.fast_dev_run=true")
    own.run("fit", own.folder, own.restore, "--trainer.max_epochs=2")  # its own: done before
    assert {path.name: path.read_bytes() for path in own.checkpoint.parent.iterdir()} == before
    own.run("fit", tmp_path, "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_training_that_goes_on_learns_for_as_long_and_as_fast_as_it_is_told_now(
    own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def go_on(name: str, *words: str) -> Any:
        caplog.clear()
        with caplog.at_level("INFO", logger="pytorch_lightning"):
            return own.run("fit", tmp_path / name, own.restore, "--trainer.max_epochs=4", *words)

    same, before = go_on("same"), read_checkpoint(own.checkpoint)["state_dict"]
    assert "settings that differ" not in caplog.text
    state, schedule = same.model.state_dict(), same.model.lr_schedulers()
    assert any(not torch.equal(value, before[name]) for name, value in state.items() if "weight" in name)
    assert schedule.total_iters == schedule.last_epoch == 4
    saved = read_checkpoint(tmp_path / "same" / "checkpoints" / "last.ckpt")
    assert saved["lr_schedulers"][0]["total_iters"] == 4
    changed = go_on("changed", "--model.lr=0.01", "--model.momentum=0.5", "--model.weight_decay=0").trainer
    assert "lr was 0.005, is now 0.01, momentum was 0.9, is now 0.5, weight_decay was 0.0001, is now 0" in caplog.text
    usual = same.trainer.callback_metrics["train/lr"].item()
    assert changed.callback_metrics["train/lr"] == pytest.approx(2 * usual)
    (group,) = changed.optimizers[0].param_groups
    assert (group["momentum"], group["weight_decay"], group["initial_lr"]) == (0.5, 0, 0.01)


def test_a_limit_is_said_beside_the_scores(own: Own, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for limit, limited in (("1", {"images": 1, "of": 2}), ("1.0", None)):  # 1.0 is all
        own.test(tmp_path / limit, f"--trainer.limit_test_batches={limit}")
        results = read_results(tmp_path / limit)
        assert (results["limited"], results["complete"]) == (limited, True)
        said = [str(one.message) for one in recwarn.list if "because of a limit" in str(one.message)]
        assert len(said) == 1 and "1 of 2 images are scored" in said[0]
