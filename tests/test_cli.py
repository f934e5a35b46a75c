"""The real command line drives fit, validate, test and predict; mistakes on it and in YAML files are one sentence."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from callbacks.run.libraries import finishing_wandb_run
from callbacks.run.parser import refuse_repeated_keys
from lightning_modules.predictor import predict_plainly
from main import main
from tests import programs
from tests.processes import wait_for
from tests.tiny import ROOT, arguments, predict_arguments, read_results
from tests.trees import draw_image, write_image


def test_fit_logs_csv_beside_offline_wandb_and_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *arguments(tmp_path, "--trainer.max_epochs=1", logger=True)])
    (run,) = (tmp_path / "outputs" / "runs" / "csv").iterdir()
    assert "val/miou" in (run / "metrics.csv").read_text()
    assert "max_epochs: 1" in (run / "config.yaml").read_text()
    assert list((tmp_path / "outputs" / "runs").glob("wandb/offline-run-*"))
    main(["fit", *arguments(tmp_path, "--trainer.max_epochs=1", logger=True)])  # a second run is no conflict
    assert len(list((tmp_path / "outputs" / "runs" / "csv").iterdir())) == 2


def test_test_scores_every_target(checkpoint: Path, tmp_path: Path) -> None:
    seg_ttt = [f"--method={ROOT}/configs/method/seg_ttt.yaml", "--method.psi=0.6", "--method.num_steps=1"]
    found = []
    for method in ([], seg_ttt):
        folder = tmp_path / str(len(method))
        cli = main(["test", *arguments(folder, f"--ckpt_path={checkpoint}", *method)])
        results = read_results(folder)
        assert results["complete"]
        assert {name: one["images"] for name, one in results["domains"].items()} == {"haze": 3, "dusk": 3, "dust": 3}
        mean = np.mean([one["miou"] for one in results["domains"].values()])
        assert results["mean"]["miou"] == pytest.approx(mean)
        assert cli.trainer.callback_metrics["test/miou"].item() == pytest.approx(mean, abs=1e-4)
        assert (folder / "results" / "records.jsonl").read_text().count("\n") == 9
        assert cli.model.predictor is predict_plainly
        found.append(results["method"])
    assert found[0] is None and {"name": "SegTTT", "psi": 0.6, "num_steps": 1}.items() <= found[1].items()


def make_photos(folder: Path, count: int) -> Path:
    """Writes photographs of odd sizes, some in a sub-folder."""
    for number in range(count):
        name = f"{'street/' if number % 2 else ''}{number:03d}.{'JPG' if number % 3 else 'png'}"
        write_image(folder / name, draw_image(name, (37 + number % 5, 53 + 2 * number % 7)))
    return folder


def read_outputs(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns what was written for images, with their lines, and the manifest."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found, json.loads(found.pop("predictions.json"))


@pytest.fixture(scope="module")
def uninterrupted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Photographs, and what is written for them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    photos = make_photos(folder / "photos", 40)
    cli = main(predict_arguments(photos, folder, f"--ckpt_path={checkpoint}", "--method=SegTTT"))
    assert cli.trainer.predict_loop.return_predictions is False  # they are on disk, and would fill the memory
    return photos, read_outputs(folder / "results")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_prediction_goes_on(
    checkpoint: Path, uninterrupted: tuple[Path, dict[str, bytes]], tmp_path: Path, number: int, code: int
) -> None:
    (photos, whole), out = uninterrupted, tmp_path / "results"
    args = predict_arguments(photos, tmp_path, f"--ckpt_path={checkpoint}", "--method=SegTTT")
    process = programs.start(["main.py", *args], tmp_path)
    wait_for(lambda: len(list(out.glob("labels/photos/**/*.png"))) >= 3)
    time.sleep(random.random() * 0.2)  # any moment will do
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    written, manifest = read_outputs(out)
    assert manifest["complete"] is False and manifest["runs"][0]["checkpoint"] == str(checkpoint)
    kept = {name: data for name, data in written.items() if name.endswith((".png", ".jpg"))}
    assert kept.items() <= whole.items()  # no half file
    assert 3 <= sum(name.startswith("labels/photos/") for name in kept) < 40
    if number != signal.SIGKILL:
        assert manifest["images"] == sum(name.startswith("overlays/photos/") for name in kept)
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    main([*args, f"--ckpt_path={copy}"])  # the same weights, wherever they lie
    written, manifest = read_outputs(out)
    assert manifest["complete"] is True and manifest["runs"][1]["found"] >= 2
    assert written == whole


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_predict_as_one(checkpoint: Path, tmp_path: Path) -> None:
    """Five images over two gloo processes, then a sixth (none is left for the second process), then none."""
    photos, out = make_photos(tmp_path / "photos", 6), tmp_path / "two" / "results"
    own = [f"--ckpt_path={checkpoint}", "--method=SegTTT", "--method.num_steps=2", "--method.scales=[0.75]"]
    args = predict_arguments(photos, out.parent, *own, *TWO)
    late = (photos / "street" / "005.JPG").rename(tmp_path / "late.jpg")
    for images in (5, 6, 6):
        if images == 6 and late.exists():
            late.rename(photos / "street" / "005.JPG")
        programs.run(["main.py", *args], tmp_path)
        written, manifest = read_outputs(out)
        assert manifest["complete"] is True and manifest["images"] == images
    assert [run["found"] for run in manifest["runs"]] == [0, 5, 6]
    main(predict_arguments(photos, tmp_path / "one", *own))
    assert written == read_outputs(tmp_path / "one" / "results")[0]
    done = programs.run(["main.py", *args, "--method.psi=0.1"], tmp_path, code=1)
    assert "method.psi was 0.7, is now 0.1" in done.stderr


@pytest.mark.slow
def test_an_error_in_a_worker_process_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    (photos / "broken.png").write_bytes((photos / "000.png").read_bytes()[:60])
    args = predict_arguments(photos, tmp_path, f"--ckpt_path={checkpoint}", "--data.num_workers=1")
    done = programs.run(["main.py", *args], tmp_path, code=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {photos / 'broken.png'} (60 bytes) cannot be decoded: expected an image")
    assert "Traceback" not in done.stderr and not read_outputs(tmp_path / "results")[1]["complete"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--training=IWS"], r"unknown training 'IWS': expected one of ASG, CSG, .*omit --training"),
        (["--method=Tnet"], r"unknown method 'Tnet': expected one of TTA, AdaBN, Ensemble, IaBN, .*SegTTT"),
        (["--method=IaBN", "--method=TTA"], r"--method is given 2 times \(IaBN, TTA\): expected one"),
        (["--data.targets=[haze,mars]"], r"unknown domain 'mars'"),
        (["--results.folder="], r"results.folder is empty"),
        (["--method=IaBN", "--method.alpha=1.5"], r"^alpha is 1\.5: expected the weight of [^\n]*$"),
        (["--method=SegTTT", "--method.trainable=[layer9]"], r"layer9.* match no parameter"),
        (["--model.network.backbone=resnet50"], r"checkpoint is from a different network"),
        (["--ckpt_path=nowhere.ckpt"], r"nowhere\.ckpt"),
        (["--data.height=16", "--data.width=16"], r"16"),
    ],
)
def test_bad_input_is_a_clear_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError, SystemExit)) as caught:
        main(["test", *arguments(tmp_path, f"--ckpt_path={checkpoint}", *wrong)])
    assert re.search(message, str(caught.value) + capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--method=SegTTT", "--method.psi=much"], "method.psi (callbacks.SegTTT) is much, expected float"),
        (["--method=SegTTT", "--method.steps=3"], "method (callbacks.SegTTT): Option 'steps' is not accepted"),
        (["--trainer.epochs=3"], "unrecognized arguments: --trainer.epochs=3"),
        (["--results.outputs=[masks]"], "results.outputs is masks, expected Literal"),
        (["--data=Foo"], "data: Foo is neither a class (package.module.Class) nor a file"),
        (["--model.network=lightning_modules.networks.Lab"], "model.network (lightning_modules.networks.Lab): module"),
    ],
)
def test_a_mistake_is_one_sentence(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["test", *arguments(tmp_path, *wrong)])
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    assert caught.value.code == 2
    assert first.startswith(f"error: {message}") and len(first) < 300
    assert second.startswith("All options: python") and second.endswith("--help")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epochs: many}", "trainer.max_epochs is many, expected int (in FILE)"),
        ("modle: 3", "does not accept option 'modle' (in FILE)"),
        ("trainer: [1\nx: }", "in FILE"),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", "FILE, line 3: the key max_epochs occurs twice"),
        ("a: [{8: sky, 010: road}]", "FILE, line 1: the key 010 occurs twice (YAML reads it as 8)"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((SystemExit, ValueError)) as caught:
        main(["test", *arguments(tmp_path), f"--config={tmp_path / 'own.yaml'}"])
    said = f"{caught.value}{capsys.readouterr().err}"
    assert message.replace("FILE", str(tmp_path / "own.yaml")) in said


def test_a_key_that_replaces_a_merged_one_is_no_repetition_and_a_date_is_text(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("a: &a {x: 0}\nb: {c: &c {<<: *a, x: 1}}\nd: {<<: *c, x: 2}\nday: 2024-02-30\n", encoding="utf-8")
    refuse_repeated_keys(path)


def test_one_batch_in_a_file_is_one_batch(tmp_path: Path) -> None:
    for value, expected in (("1", [1, 1, 1]), ("1.0", [2, 2, 2])):
        (tmp_path / "own.yaml").write_text(f"trainer: {{limit_test_batches: {value}}}", encoding="utf-8")
        more = ["--data.num_test=2", f"--config={tmp_path / 'own.yaml'}"]
        assert main(["test", *arguments(tmp_path / value, *more)]).trainer.num_test_batches == expected


def test_a_function_makes_a_network_of_the_datas_classes(tmp_path: Path) -> None:
    network = ["--model.network=torchvision.models.segmentation.lraspp_mobilenet_v3_large"]
    network += ["--model.network.weights_backbone=null", "--data.num_classes=16"]
    cli = main(["test", *arguments(tmp_path, *network, "--trainer.limit_test_batches=1")])
    assert cli.model.network.classifier.low_classifier.out_channels == 16


def test_home_is_found_in_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("results: {folder: ~/out}\nckpt_path: ~/none.ckpt", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none.ckpt"):
        main(["test", *arguments(tmp_path), f"--config={tmp_path / 'own.yaml'}"])
    (tmp_path / "own.yaml").write_text("results: {folder: ~/out}\nckpt_path: null", encoding="utf-8")
    cli = main(["test", *arguments(tmp_path), "--config=~/own.yaml"])
    assert cli.config.test.results.folder == str(tmp_path / "out")
    assert (tmp_path / "out" / "results.json").exists() and not (tmp_path / "~").exists()


@pytest.mark.slow
def test_a_search_on_two_processes_counts_as_one(checkpoint: Path, tmp_path: Path) -> None:
    """Five images over two gloo processes: unpadded, each scored once, the same sums."""
    method = {"method": {"class_path": "callbacks.IaBN"}, "grid": {"alpha": [0.1, 0.5]}}
    search = {"class_path": "callbacks.method_search.MethodSearch", "init_args": method}
    more = [f"--ckpt_path={checkpoint}", "--data.num_val=5", f"--trainer.callbacks+={json.dumps(search)}"]
    found = []
    for processes in ([], TWO):
        folder = tmp_path / str(len(processes))
        programs.run(["main.py", "validate", *arguments(folder, *more, *processes)], tmp_path)
        found.append(json.loads((folder / "results" / "search.json").read_text()))
        assert found[-1]["images"] == 5 and found[-1].pop("seconds") > 0
    assert found[0] == found[1]


# Folders of photographs as people have them: broken, tiny, unreadable, oddly named.


def make_photographs(folder: Path, *names: str, size: tuple[int, int] = (48, 64)) -> Path:
    for name in names:
        write_image(folder / f"{name}.png", draw_image(name, size))
    return folder


def predict(root: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Predicts a folder of photographs with a tiny network; returns the manifest."""
    network = ["--model.network.init_args.backbone=resnet10", "--model.network.init_args.width=8"]
    main(predict_arguments(root, folder, *network, "--seed_everything=0", *more))
    return yaml.safe_load((folder / "results" / "predictions.json").read_text(encoding="utf-8"))


def test_a_broken_photograph_is_left_out_of_a_prediction_where_asked(tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "data", "0", "1", "2")
    (photographs / "1.png").write_bytes(b"")
    (photographs / "2.png").write_bytes((photographs / "2.png").read_bytes()[:60])
    manifest = predict(photographs, tmp_path, "--data.broken=skip")
    assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["1", "2"])


def test_photographs_that_cannot_be_read_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = make_photographs(tmp_path / "data", "0")
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
    with pytest.raises(ValueError, match=r"data/locked cannot be listed: Permission denied\. Expected a folder that"):
        predict(photographs, tmp_path)


def test_a_photograph_that_is_too_small_is_left_out_where_asked(tmp_path: Path) -> None:
    make_photographs(tmp_path / "data", "fine", size=(64, 96))
    make_photographs(tmp_path / "data", "tiny", size=(5, 9))
    method = ["--method=SegTTT", "--method.scales=[0.5]", "--method.num_steps=1"]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"skipped tiny: .*use a larger image"):
            manifest = predict(tmp_path / "data", tmp_path, *method, "--data.broken=skip")
        assert (manifest["images"], manifest["complete"], manifest["left_out"]) == (1, True, ["tiny"])
    with pytest.raises(ValueError, match=r"tiny: .*use a larger image"):
        predict(tmp_path / "data", tmp_path, *method)


def test_a_photograph_of_the_longest_name_is_predicted_and_found_again(tmp_path: Path) -> None:
    photographs = make_photographs(tmp_path / "data", "x" * 251, "x" * 250 + "y", "ä" * 120, "short")
    assert predict(photographs, tmp_path)["images"] == 4
    (labels,) = (tmp_path / "results" / "labels").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert len(before) == 4 and "short.png" in before
    make_photographs(photographs, "short", size=(64, 96))  # replaced: predicted anew
    manifest = predict(photographs, tmp_path)
    assert manifest["complete"] and manifest["runs"][-1]["found"] == 3
    after = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["short.png"]


def test_a_wandb_run_ends_with_the_command_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[str] = []
    fake = SimpleNamespace(run=None, finish=lambda: finished.append(fake.run))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for started in ("inner", "inner"):  # the second time it was there before
        with finishing_wandb_run():
            fake.run = started
    assert finished == ["inner"]
